"""Make the README's pictures and data/photos: `python -m benchmarks.pictures`.

Chosen by hand are the README's prompts and seeds, and which test scenes became photos.
"""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import p2p_helpers as p2p
from p2p_helpers.toyland import caption, counterfactual, render, scene_at
from p2p_helpers.toyland.evaluate import NO_CONTROL, RECOMMENDED
from p2p_helpers.toyland.world import phrase_of, to_json
from p2p_helpers.view.figures import figure_png, grid

DATA = Path(__file__).parent.parent / "data"
OUT = DATA / "pictures"
SWAPS = (  # source, old and new word, seed
    ("a fox in a forest", "fox", "castle", 10),
    ("a house in a meadow", "house", "mushroom", 3),
    ("a lion in the city", "lion", "owl", 7),
    ("a castle in a meadow", "castle", "cake", 3),
    ("a rabbit in the snow", "rabbit", "panda", 0),
)
BY_TRANSFORMER = (
    ("a fox in a forest", "fox", "castle", 2),
    ("a house in a meadow", "house", "mushroom", 4),
    ("a lion in the city", "lion", "owl", 7),
    ("a castle in a meadow", "castle", "cake", 3),
)
PHOTOS = {  # test scenes, each with the kinds of edit it is used for
    "rabbit-beach": (8127, ("swap", "night")),
    "snowman-desert": (7969, ("background", "swap")),
    "car-snow": (6572, ("recolour", "night")),
    "cat-snow": (14546, ("add", "swap")),
    "pumpkin-meadow": (8685, ("restyle", "snow")),
    "dog-ocean": (13911, ("swap", "snow")),
    "fox-mushroom": (2390, ("swap", "restyle")),
    "balloon-forest": (8482, ("recolour", "background")),
    "fox-forest": (1819, ("swap", "autumn")),
    "castle-meadow": (4256, ("autumn", "night")),
    "cake-city": (3930, ("recolour", "night")),
}


def word_swaps(pipe, swaps=SWAPS):
    """Chosen swaps: the source, the same seed with the new word alone, and the word swap."""
    rows, titles = [[], [], []], []
    for source, old, new, seed in swaps:
        target = source.replace(phrase_of(old), phrase_of(new))
        edits = [NO_CONTROL, RECOMMENDED]
        made = p2p.edit(pipe, source, [target] * 2, edits, seed=seed, steps=20, progress=False)
        for row, image in zip(rows, (made.source, *made.images), strict=True):
            row.append(image)
        titles.append(f"{old} → {new}")
    return grid(rows, ["source", "same seed,\nchanged word", "word swap"], titles, width=10)


def refinements_and_faders(pipe):
    """One source refined in six ways, and one word of another prompt turned from 0 to 2."""
    source = "a fox in a forest"
    targets = [
        f"{source} at night",
        f"{source} with falling snow",
        f"{source} in autumn",
        f"a watercolor painting of {source}",
        f"an old photo of {source}",
        f"{source} at night with falling snow",
    ]
    added = p2p.Refine(cross_steps=0.4, self_steps=0.2)
    refined = p2p.edit(pipe, source, targets, added, seed=10, steps=20, progress=False)
    prompt, weights = f"{source} with falling snow", (0, 0.25, 0.5, 0.75, 1, 1.5, 2)
    words = {"default": 0.3, "falling snow": 1.0}
    edits = [p2p.Reweight({"falling snow": w}, cross_steps=words, self_steps=0.2) for w in weights]
    faded = p2p.edit(pipe, prompt, [prompt] * len(edits), edits, seed=10, steps=20, progress=False)
    titles = [source, *(t.replace(source, "…") for t in targets)]
    titles += [f"snow × {w}" for w in weights]
    return p2p.gallery(
        [refined.source, *refined.images, *faded.images], titles, columns=7, width=10
    )


def moves(pipe):
    """One source with its object moved, resized, doubled and removed; moved at night; and another with two objects that change places."""
    fox, two = "a fox in a forest", "a lion and a mushroom in a forest"
    right = p2p.Move("fox", dx=0.3)
    edits = [
        right,
        p2p.Resize("fox", 0.7),
        p2p.Duplicate("fox", dx=0.42, scale=0.7),
        p2p.Remove("fox"),
    ]
    places = p2p.Move("lion", dx=0.5) | p2p.Move("mushroom", dx=-0.5)
    placed = p2p.edit(pipe, fox, [fox] * 4, edits, seed=10, steps=20, progress=False)
    chain = p2p.Refine(cross_steps=0.4, self_steps=0.2) | right
    night = p2p.edit(pipe, fox, f"{fox} at night", chain, seed=10, steps=20, progress=False)
    both = p2p.edit(pipe, two, two, places, seed=0, steps=20, progress=False)
    pictures = [placed.source, *placed.images, night.image, both.source, both.image]
    titles = ["source", "moved", "smaller", "doubled", "removed", "night, and moved"]
    return p2p.gallery(pictures, [*titles, "source", "places swapped"], columns=8, width=11)


def film(pipe, file: Path):
    """The two runs of the first swap, step by step: source, map of the old word, map of the new word, target. An animated WebP."""
    source, old, new, seed = SWAPS[0]
    latents = []

    def keep(pipe, step, timestep, tensors):
        latents.append(tensors["latents"].clone())
        return tensors

    target = source.replace(phrase_of(old), phrase_of(new))
    made = p2p.edit(
        pipe,
        source,
        target,
        RECOMMENDED,
        seed=seed,
        steps=20,
        record=True,
        callback=keep,
        progress=False,
    )
    side, gap, head = 176, 12, 26
    names = (source, f"where “{old}” is heard", f"where “{new}” is heard", target)
    font, frames = ImageFont.load_default(size=14), []
    for step, both in enumerate(latents):
        with torch.no_grad():
            pixels = pipe.vae.decode(both / pipe.vae.config.scaling_factor).sample
        pictures = pipe.image_processor.postprocess(pixels)
        maps = [made.maps[old], made.maps.of(1)[new]]
        shown = [pictures[0], *(heat.at(step=step).image() for heat in maps), pictures[1]]
        frame = Image.new("RGB", (4 * side + 5 * gap, side + 2 * head + gap), "white")
        pen = ImageDraw.Draw(frame)
        for place, (picture, name) in enumerate(zip(shown, names, strict=True)):
            left = gap + place * (side + gap)
            frame.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (left, head + 4))
            pen.text((left + side / 2, head / 2 + 2), name, "black", font, anchor="mm")
        lent = RECOMMENDED.cross_steps * len(latents) > step
        said = f"step {step + 1} of {len(latents)}: " + (
            "the map is lent" if lent else "its own map"
        )
        pen.text((frame.width / 2, head + side + 20), said, "black", font, anchor="mm")
        frames.append(frame)
    durations = [300] * (len(frames) - 1) + [3000]
    frames[0].save(
        file, save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=70
    )


def write_photos(folder: Path):
    """Paint data/photos: every picture, its objects' masks, the true result of each of its edits, and photos.json, which describes them."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {}
    for name, (index, kinds) in PHOTOS.items():
        scene = scene_at("test", index)
        picture, masks = render(scene)
        picture.save(folder / f"{name}.png")
        for thing, mask in zip(scene.things, masks, strict=True):
            Image.fromarray(mask).save(folder / f"{name}.mask-{thing.name}.png")
        edits = [counterfactual(scene, kind, np.random.default_rng(index)) for kind in kinds]
        for e in edits:
            e.pictures[1].save(folder / f"{name}.{e.kind}.png")
        described[name] = {
            "test scene": index,
            "prompt": caption(scene),
            "scene": json.loads(to_json(scene)),
            "edits": [
                {
                    "kind": e.kind,
                    "prompt": e.target,
                    "words": e.words,
                    "after": json.loads(to_json(e.after)),
                }
                for e in edits
            ],
        }
    (folder / "photos.json").write_text(json.dumps(described, indent=1) + "\n")


def main():
    """Write all."""
    write_photos(DATA / "photos")
    pipe = p2p.load_pipeline("toyland")
    OUT.mkdir(exist_ok=True)
    made = {
        "word-swap": word_swaps,
        "refine-and-reweight": refinements_and_faders,
        "moving": moves,
    }
    for name, make in made.items():
        (OUT / f"{name}.png").write_bytes(figure_png(make(pipe)))
    swapped = word_swaps(p2p.load_pipeline("toyland-transformer"), BY_TRANSFORMER)
    (OUT / "transformer.png").write_bytes(figure_png(swapped))
    film(pipe, OUT / "two-runs.webp")


if __name__ == "__main__":
    main()
