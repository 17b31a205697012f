"""Make the sprites anew: `python -m p2p_helpers.toyland.sprites NotoColorEmoji.ttf`.

Most are glyphs of Noto Color Emoji (SIL OFL 1.1), cropped and resized. The cake and the butterfly are drawn here, since
their glyphs' candles and veins are finer than the autoencoder keeps.
"""

from __future__ import annotations

import sys

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ..paths import data_folder

SIDE = 112  # pixels of a stored sprite
GLYPHS = {
    "cat": "🐈", "dog": "🐕", "rabbit": "🐰", "fox": "🦊", "lion": "🦁", "panda": "🐼", "owl": "🦉",
    "apple": "🍎", "pumpkin": "🎃", "mushroom": "🍄", "sunflower": "🌻", "tree": "🌳", "house": "🏠",
    "castle": "🏰", "car": "🚗", "boat": "⛵", "balloon": "🎈", "snowman": "⛄",
}  # fmt: skip
SCALE = 4  # drawings are made so many times larger


def glyph(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One glyph, cropped to what is seen."""
    image = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(image).text((12, 12), text, font=font, embedded_color=True)
    return image.crop(image.getbbox())


def cake() -> Image.Image:
    """Two layers of sponge under dripping icing, with three cherries."""
    image = Image.new("RGBA", (SIDE * SCALE, SIDE * SCALE))
    draw = ImageDraw.Draw(image)

    def box(*xy):
        return [v * SCALE for v in xy]

    sponge, shade, icing, cherry = (
        (224, 168, 98, 255),
        (190, 130, 70, 255),
        (255, 246, 236, 255),
        (214, 30, 46, 255),
    )
    draw.ellipse(box(2, 92, 110, 111), fill=(176, 186, 200, 255))  # plate
    draw.rounded_rectangle(box(12, 52, 100, 102), 9 * SCALE, fill=sponge)
    draw.rectangle(box(12, 76, 100, 84), fill=shade)
    draw.rounded_rectangle(box(10, 36, 102, 62), 13 * SCALE, fill=icing)
    for x, low in ((14, 74), (33, 84), (52, 72), (69, 86), (87, 76)):
        draw.rounded_rectangle(box(x, 50, x + 12, low), 6 * SCALE, fill=icing)
    for x in (26, 56, 86):
        draw.line(box(x, 24, x + 6, 8), fill=(70, 110, 50, 255), width=3 * SCALE)
        draw.ellipse(box(x - 11, 18, x + 11, 40), fill=cherry)
        draw.ellipse(box(x - 6, 22, x, 28), fill=(255, 170, 176, 255))
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def butterfly() -> Image.Image:
    """Four wings in one colour with a dark rim and one pale spot each."""
    image = Image.new("RGBA", (SIDE * SCALE, SIDE * SCALE))
    draw = ImageDraw.Draw(image)
    rim, wing, inner, spot = (
        (58, 34, 30, 255),
        (240, 130, 30, 255),
        (255, 184, 70, 255),
        (255, 246, 220, 255),
    )
    wings = (((2, 12, 54, 64), (36, 38)), ((14, 56, 54, 100), (42, 66)))
    for box, root in wings:
        for shrink, fill in ((0, rim), (5, wing), (13, inner)):
            x0, y0, x1, y1 = (box[0] + shrink, box[1] + shrink, box[2] - shrink, box[3] - shrink)
            draw.ellipse([v * SCALE for v in (x0, y0, x1, y1)], fill=fill)
            points = [(x1 - 6, y0 + 12), root, (x0 + 12, y1 - 6)]
            if shrink < 13:
                draw.polygon([(px * SCALE, py * SCALE) for px, py in points], fill=fill)
    draw.ellipse([v * SCALE for v in (11, 22, 23, 34)], fill=spot)
    draw.ellipse([v * SCALE for v in (22, 80, 32, 90)], fill=spot)
    half = image.crop((0, 0, 56 * SCALE, SIDE * SCALE))
    image.paste(half.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (56 * SCALE, 0))
    draw = ImageDraw.Draw(image)
    for x in (38, 74):
        draw.line([56 * SCALE, 30 * SCALE, x * SCALE, 6 * SCALE], fill=rim, width=3 * SCALE)
        draw.ellipse([(x - 4) * SCALE, 2 * SCALE, (x + 4) * SCALE, 10 * SCALE], fill=rim)
    draw.rounded_rectangle([50 * SCALE, 22 * SCALE, 62 * SCALE, 96 * SCALE], 6 * SCALE, fill=rim)
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def stand(image: Image.Image, soften: float = 0.0) -> Image.Image:
    """A square sprite: the longer side fills it, the lower edge touches its lower edge."""
    scale = SIDE / max(image.size)
    size = tuple(max(1, round(v * scale)) for v in image.size)
    small = image.resize(size, Image.Resampling.LANCZOS)
    if soften:
        small = small.filter(ImageFilter.GaussianBlur(soften))
    square = Image.new("RGBA", (SIDE, SIDE))
    square.paste(small, ((SIDE - size[0]) // 2, SIDE - size[1]))
    return square


def main(font_file: str):
    """Write every sprite into data/toyland/sprites."""
    font = ImageFont.truetype(font_file, 109)
    folder = data_folder("toyland") / "sprites"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {name: glyph(text, font) for name, text in GLYPHS.items()}
    drawn |= {"cake": cake(), "butterfly": butterfly()}
    for name, image in drawn.items():
        stand(image.crop(image.getbbox())).save(folder / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
