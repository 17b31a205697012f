"""The world in pixels: a scene becomes a picture, and a mask for each of its objects.

Layers from back to front: background, night sky, objects with their shadows, darkness, style, falling snow. Each layer draws
its random numbers from a stream of its own, and every filter is local, so a change in one place stays there.
"""

from __future__ import annotations

import functools
import zlib

import numpy as np
from PIL import Image, ImageFilter

from ..paths import data_folder
from .world import COLOURS, FLYING, SIZE, Scene, Thing

_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)  # pixel coordinates, (height, width)
_HORIZON = {
    "beach": 56,
    "snow": 64,
    "meadow": 64,
    "desert": 64,
    "forest": 72,
    "city": 72,
    "ocean": 56,
    "space": 128,
}
_SKY = {
    "beach": ((96, 176, 244), (206, 234, 250)),
    "snow": ((150, 178, 214), (224, 232, 242)),
    "meadow": ((76, 150, 240), (186, 222, 250)),
    "desert": ((250, 170, 92), (254, 220, 160)),
    "forest": ((120, 164, 150), (190, 214, 196)),
    "city": ((128, 140, 162), (190, 190, 198)),
    "ocean": ((110, 186, 246), (214, 238, 250)),
    "space": ((14, 8, 38), (40, 20, 66)),
}
_GROUND = {
    "beach": ((232, 206, 150), (216, 180, 116)),
    "snow": ((236, 240, 248), (220, 228, 242)),
    "meadow": ((104, 186, 62), (60, 150, 40)),
    "desert": ((228, 164, 96), (210, 140, 74)),
    "forest": ((74, 116, 62), (50, 88, 46)),
    "city": ((112, 110, 112), (88, 86, 90)),
    "ocean": ((34, 112, 186), (14, 66, 140)),
    "space": ((14, 8, 38), (40, 20, 66)),
}


def _stream(seed: int, layer: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(layer.encode())])


def _rgb(colour) -> np.ndarray:
    return np.asarray(colour, np.float64) / 255


def _gradient(top, bottom, start: float, end: float) -> np.ndarray:
    t = np.clip((_Y - start) / max(end - start, 1), 0, 1)[..., None]
    return _rgb(top) * (1 - t) + _rgb(bottom) * t  # (height, width, 3)


def _paint(picture: np.ndarray, colour, coverage: np.ndarray) -> np.ndarray:
    """`colour` over `picture` where `coverage` (height, width) is 1."""
    c = np.clip(coverage, 0, 1)[..., None]
    return picture * (1 - c) + np.asarray(colour, np.float64) * c


def _ridge(rng, level: float, height: float, waves=(1.1, 2.3, 4.1)) -> np.ndarray:
    """Rolling line across the picture: y of each column, (width,)."""
    x = _X[0] / SIZE * 2 * np.pi
    line = sum(np.sin(w * x + rng.random() * 2 * np.pi) / (i + 1) for i, w in enumerate(waves))
    return level - height * 0.5 * (1 + line / 1.8)


def _below(line: np.ndarray) -> np.ndarray:
    return np.clip(_Y - line + 0.5, 0, 1)  # antialiased, (height, width)


def _disc(x: float, y: float, radius: float, soft: float = 1.0) -> np.ndarray:
    """Coverage of a round spot, (height, width); worked out only near it, since a snowfall is sixty of them."""
    reach = radius + soft
    rows, columns = (slice(max(int(c - reach), 0), max(int(c + reach) + 2, 0)) for c in (y, x))
    spot = np.zeros((SIZE, SIZE), np.float64)
    spot[rows, columns] = np.clip(
        (radius - np.hypot(_X[rows, columns] - x, _Y[rows, columns] - y)) / soft + 0.5, 0, 1
    )
    return spot


def _background(scene: Scene) -> np.ndarray:
    kind, rng = scene.background, _stream(scene.seed, "background")
    horizon = _HORIZON[kind]
    picture = _gradient(*_SKY[kind], 0, horizon)
    if kind == "space":
        for _ in range(3):  # nebulae: wide soft glows
            x, y, r = rng.random() * SIZE, rng.random() * SIZE, 24 + 30 * rng.random()
            glow = np.exp(-((_X - x) ** 2 + (_Y - y) ** 2) / (2 * r * r)) * 0.5
            picture = _paint(
                picture, _rgb((120, 50, 140)) if rng.random() < 0.6 else _rgb((40, 60, 150)), glow
            )
        stars = [
            _disc(rng.random() * SIZE, rng.random() * SIZE, 0.9 + 0.5 * rng.random(), 1.6)
            for _ in range(14)
        ]
        picture = _paint(picture, 1.0, np.maximum.reduce(stars))
        x, y, r = 16 + 96 * rng.random(), 14 + 16 * rng.random(), 8 + 5 * rng.random()
        picture = _paint(picture, _rgb((178, 140, 200)), _disc(x, y, r))
        return _paint(
            picture, _rgb((96, 70, 130)), _disc(x, y, r) * (1 - _disc(x - r * 0.4, y - r * 0.3, r))
        )
    if kind == "snow":
        picture = _paint(picture, _rgb((176, 190, 216)), _below(_ridge(rng, horizon + 4, 26)))
    if kind == "meadow":
        picture = _paint(picture, _rgb((124, 188, 108)), _below(_ridge(rng, horizon + 2, 26)))
        picture = _paint(picture, _rgb((108, 178, 78)), _below(_ridge(rng, horizon + 6, 14)))
    if kind == "desert":
        picture = _paint(
            picture, _rgb((236, 178, 112)), _below(_ridge(rng, horizon + 4, 28, (0.8, 1.7, 2.9)))
        )
    if kind == "city":
        left = -4.0
        while left < SIZE:
            width, top = 12 + 10 * rng.random(), 20 + 34 * rng.random()
            shade = _rgb((104, 110, 126)) * (0.85 + 0.35 * rng.random())
            box = (
                np.clip(_X - left + 0.5, 0, 1)
                * np.clip(left + width - _X + 0.5, 0, 1)
                * np.clip(_Y - top + 0.5, 0, 1)
            )
            picture = _paint(picture, shade, box)
            window = (
                ((_X - left) % 7 > 3)
                & ((_Y - top) % 10 > 5)
                & (_X > left + 2)
                & (left + width - 2 > _X)
                & (_Y > top + 3)
            )
            picture = _paint(picture, _rgb((168, 172, 176)), box * window * 0.4)
            left += width + 1
    if kind == "forest":
        for row, shade in ((0, (72, 118, 88)), (1, (42, 88, 58))):
            for i in range(9):
                x, top, half = (
                    i * 17 - 4 + 8 * row + 6 * rng.random(),
                    18 + 16 * row + 20 * rng.random(),
                    12 + 4 * rng.random(),
                )
                inside = (_Y - top) / (horizon + 8 - top) * half - np.abs(_X - x)
                picture = _paint(picture, _rgb(shade), np.clip(inside + 0.5, 0, 1) * (_Y >= top))
    ground = _gradient(*_GROUND[kind], horizon, SIZE)
    if kind == "beach":
        picture = _paint(picture, _rgb((38, 130, 190)), _below(np.full(SIZE, horizon, np.float64)))
        shore = _ridge(rng, horizon + 26, 8, (0.7, 1.6, 2.7))
        picture = _paint(picture, _rgb((236, 246, 246)), _below(shore - 2.5))
        return _paint(picture, ground, _below(shore))
    if kind == "ocean":
        phase = rng.random() * 2 * np.pi
        depth = np.clip((_Y - horizon) / (SIZE - horizon), 0, 1)
        swell = np.sin(_Y * 0.55 / (0.35 + depth) + 1.2 * np.sin(_X * 0.09 + phase)) * (
            0.3 + 0.7 * depth
        )
        ground = ground + 0.05 * swell[..., None] * np.asarray((0.6, 1.0, 1.0), np.float64)
        return _paint(picture, ground, _below(np.full(SIZE, horizon, np.float64)))
    flat = kind in ("city", "forest")
    return _paint(
        picture, ground, _below(_ridge(rng, horizon + 6, 0.0 if flat else 10, (0.6, 1.3, 2.2)))
    )


@functools.cache
def _sprite(name: str, colour: str | None, size: int, flip: bool, angle: int) -> np.ndarray:
    """An object's picture, (size, size, 4) in 0…1, standing on its lower edge."""
    image = Image.open(data_folder("toyland") / "sprites" / f"{name}.png").convert("RGBA")
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if angle:
        image = image.rotate(angle, Image.Resampling.BICUBIC)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), np.float64) / 255
    if colour is None:
        return pixels
    # Tint as a duotone: black to the colour to white along the sprite's own brightness, so outlines and highlights stay.
    bright = (pixels[..., :3] @ np.asarray((0.299, 0.587, 0.114), np.float64))[..., None]
    tint = _rgb(COLOURS[colour])
    low, high = np.clip(bright / 0.5, 0, 1), np.clip((bright - 0.5) / 0.5, 0, 1)
    return np.concatenate(
        [tint * (0.25 + 0.75 * low) * (1 - 0.45 * high) + 0.45 * high, pixels[..., 3:]], axis=-1
    )


def _place(thing: Thing) -> np.ndarray:
    """The object's sprite on an empty picture, (height, width, 4)."""
    layer = np.zeros((SIZE, SIZE, 4), np.float64)
    sprite = _sprite(thing.name, thing.colour, thing.size, thing.flip, thing.angle)
    left, top = thing.x - thing.size // 2, thing.y - thing.size
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + thing.size, SIZE), min(top + thing.size, SIZE)
    layer[y0:y1, x0:x1] = sprite[y0 - top : y1 - top, x0 - left : x1 - left]
    return layer


def _darken(picture: np.ndarray, strength: float) -> np.ndarray:
    night = picture * np.asarray((0.34, 0.40, 0.66), np.float64) + np.asarray(
        (0.01, 0.02, 0.10), np.float64
    )
    return picture * (1 - strength) + night * strength


def _to_bytes(picture: np.ndarray) -> np.ndarray:
    # Double precision, and a hair off the halves, so that the last bit of a processor's sine never decides a rounding.
    return np.round(np.clip(picture, 0, 1) * 255 + 1e-6).astype(np.uint8)


def _filtered(picture: np.ndarray, *filters) -> np.ndarray:
    image = Image.fromarray(_to_bytes(picture))
    for f in filters:
        image = image.filter(f)
    return np.asarray(image, np.float64) / 255


def _watercolor(picture: np.ndarray, rng) -> np.ndarray:
    wash = _filtered(picture, ImageFilter.MedianFilter(3), ImageFilter.GaussianBlur(0.8))
    pigment = (
        sum(np.sin(_X * a + _Y * b + c) for a, b, c in rng.random((4, 3)) * (0.12, 0.12, 6.3)) / 4
    )
    wash = 1 - (1 - wash) * (
        0.78 + 0.14 * pigment[..., None]
    )  # thin paint: the paper shows through
    edge = np.minimum(np.minimum(_X, SIZE - 1 - _X), np.minimum(_Y, SIZE - 1 - _Y)) + 3 * pigment
    return _paint(np.ones_like(wash) * _rgb((252, 250, 244)), wash, np.clip((edge - 3) / 6, 0, 1))


def _sketch(picture: np.ndarray) -> np.ndarray:
    grey = picture @ np.asarray((0.299, 0.587, 0.114), np.float64)
    soft = _filtered(np.repeat(grey[..., None], 3, -1), ImageFilter.GaussianBlur(0.9))[..., 0]
    dy, dx = np.gradient(np.pad(soft, 1, mode="edge"))
    line = np.clip((np.hypot(dx, dy)[1:-1, 1:-1] - 0.012) * 6, 0, 0.7)
    paper = 0.70 + 0.26 * soft  # shading keeps a little of the tone, enough for night to be dark
    return np.repeat((paper * (1 - line))[..., None], 3, -1) * _rgb((255, 254, 250))


def _snow(picture: np.ndarray, scene: Scene) -> np.ndarray:
    flakes = _stream(scene.seed, "snow").random((64, 3))
    ink = _rgb((150, 150, 150)) if scene.style == "sketch" else 1.0
    flakes = flakes[: round(10 + 50 * scene.snow)]  # a stronger snowfall adds flakes and moves none
    return _paint(
        picture,
        ink,
        np.maximum.reduce([_disc(x * SIZE, y * SIZE, 1.4 + 1.2 * r, 1.5) for x, y, r in flakes])
        * 0.95,
    )


def object_masks(scene: Scene) -> np.ndarray:
    """The visible part of each object, bool (object, height, width); the masks of `render` without the picture."""
    solid = np.stack([_place(t)[..., 3] >= 0.5 for t in scene.things])
    for i in range(len(solid) - 1):
        solid[i] &= ~solid[i + 1 :].any(0)  # later objects stand in front
    return solid


def render(scene: Scene) -> tuple[Image.Image, np.ndarray]:
    """Paint a scene.

    Returns:
        the picture, RGB, 128×128; and the visible part of each object, bool (object, height, width).
    """
    picture = _background(scene)
    layers = [_place(t) for t in scene.things]
    for thing, layer in zip(scene.things, layers, strict=True):
        if thing.name not in FLYING and scene.background != "space":
            shadow = np.exp(
                -(
                    ((_X - thing.x) / (0.36 * thing.size)) ** 2
                    + ((_Y - thing.y + 1) / (0.07 * thing.size)) ** 2
                )
            )
            picture = _paint(picture, 0.0, 0.45 * shadow * (shadow > 0.02))
        picture = _paint(picture, layer[..., :3], layer[..., 3])
    if scene.night:
        dark = _darken(picture, scene.night)
        lit = np.maximum.reduce(
            [layer[..., 3] for layer in layers]
        )  # objects keep a little of their own light
        picture = _paint(dark, _darken(picture, 0.7 * scene.night), lit)
        rng = _stream(scene.seed, "night")
        sky = (1 - lit) * scene.night
        stars = [
            _disc(rng.random() * SIZE, rng.random() * 44, 0.8 + 0.4 * rng.random(), 1.6)
            for _ in range(10)
        ]
        picture = _paint(picture, _rgb((255, 250, 225)), np.maximum.reduce(stars) * sky)
        moon = _disc(12 + 104 * rng.random(), 12 + 10 * rng.random(), 8)
        picture = _paint(picture, _rgb((250, 240, 200)), moon * sky)
    if scene.style == "watercolor":
        picture = _watercolor(picture, _stream(scene.seed, "watercolor"))
    if scene.style == "sketch":
        picture = _sketch(picture)
    if scene.snow:
        picture = _snow(picture, scene)
    return Image.fromarray(_to_bytes(picture)), object_masks(scene)
