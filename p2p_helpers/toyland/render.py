"""The world in pixels: a scene becomes a picture, and a mask for each of its objects.

Layers from back to front: sky and ground, unnamed things, night sky, falling snow behind, objects with their shadows,
darkness, style, single flakes in front. Each layer draws its random numbers from a stream of its own, and every filter is
local, so a change in one place stays there.
"""

from __future__ import annotations

import functools
import zlib

import numpy as np
from PIL import Image, ImageFilter

from ..paths import data_folder
from .world import FLYING, HUES, SCENE, SIZE, Extra, Scene, Thing, of_kind

_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)  # pixel coordinates, (height, width)
_GREY = np.asarray((0.299, 0.587, 0.114), np.float64)
_SKY = {
    "beach": ((84, 168, 244), (208, 236, 250)),
    "snow": ((142, 176, 218), (226, 234, 244)),
    "meadow": ((76, 152, 242), (196, 228, 250)),
    "desert": ((248, 168, 96), (255, 226, 170)),
    "forest": ((126, 180, 190), (212, 232, 214)),
    "city": ((120, 146, 190), (214, 212, 214)),
    "ocean": ((104, 184, 246), (218, 240, 250)),
    "space": ((12, 8, 36), (46, 22, 78)),
}
_GROUND = {
    "beach": ((238, 214, 158), (220, 184, 120)),
    "snow": ((238, 242, 250), (216, 226, 242)),
    "meadow": ((116, 194, 70), (58, 148, 42)),
    "desert": ((232, 172, 104), (206, 136, 70)),
    "forest": ((86, 130, 62), (50, 92, 46)),
    "city": ((120, 118, 122), (84, 84, 90)),
    "ocean": ((44, 126, 200), (14, 70, 146)),
    "space": ((150, 142, 172), (96, 90, 122)),
}
_AUTUMN = {"meadow": ((214, 160, 66), (168, 104, 38)), "forest": ((176, 112, 50), (124, 76, 36))}


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


def _ridge(
    rng, level: float, height: float, waves=(1.1, 2.3, 4.1), zoom: float = 1.0
) -> np.ndarray:
    """Rolling line across the picture: y of each column, (width,)."""
    x = _X[0] / SIZE * 2 * np.pi / zoom
    line = sum(np.sin(w * x + rng.random() * 2 * np.pi) / (i + 1) for i, w in enumerate(waves))
    return level - height * 0.5 * (1 + line / 1.8)


def _below(line) -> np.ndarray:
    return np.clip(_Y - line + 0.5, 0, 1)  # antialiased, (height, width)


def _disc(x: float, y: float, radius: float, soft: float = 1.0, flat: float = 1.0) -> np.ndarray:
    """Coverage of a round spot, `flat` times as high as wide, (height, width); worked out only near it."""
    reach = radius + soft
    rows, columns = (slice(max(int(c - reach), 0), max(int(c + reach) + 2, 0)) for c in (y, x))
    spot = np.zeros((SIZE, SIZE), np.float64)
    distance = np.hypot(_X[rows, columns] - x, (_Y[rows, columns] - y) / flat)
    spot[rows, columns] = np.clip((radius - distance) / soft + 0.5, 0, 1)
    return spot


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    across = np.clip(_X - left + 0.5, 0, 1) * np.clip(right - _X + 0.5, 0, 1)
    return across * np.clip(_Y - top + 0.5, 0, 1) * np.clip(bottom - _Y + 0.5, 0, 1)


def _cone(x: float, top: float, bottom: float, half: float) -> np.ndarray:
    inside = (_Y - top) / max(bottom - top, 1) * half - np.abs(_X - x)
    return np.clip(inside + 0.5, 0, 1) * (_Y >= top) * np.clip(bottom - _Y + 0.5, 0, 1)


def _skyline(picture, scene: Scene, rng, lit: float) -> np.ndarray:
    """Houses up to the horizon, their windows dark by day and lit by night."""
    left = -6.0
    while left < SIZE:
        width, tall = (13 + 9 * rng.random()) * scene.zoom, (20 + 34 * rng.random()) * scene.zoom
        shade = _rgb((98, 108, 132)) * (0.85 + 0.4 * rng.random())
        top = scene.horizon - tall
        picture = _paint(picture, shade, _box(left, top, left + width, scene.horizon + 8))
        pitch = 7.0 * max(scene.zoom, 0.8)
        window = ((_X - left) % pitch > pitch / 2) & ((_Y - top) % (1.3 * pitch) > 0.65 * pitch)
        window &= (_X > left + 2) & (left + width - 2 > _X) & (_Y > top + 3) & (scene.horizon > _Y)
        on = rng.random() < 0.8
        glass = _rgb((180, 192, 208)) * (1 - lit) + _rgb((255, 226, 130)) * lit
        picture = _paint(picture, glass, window * (0.45 + 0.5 * lit * on))
        left += width + 1
    return picture


def _leaves(scene: Scene, green, autumn) -> np.ndarray:
    return _rgb(autumn if scene.autumn else green)


def _far(scene: Scene, rng) -> np.ndarray:
    """Sky and whatever stands on the horizon."""
    kind, horizon, zoom = scene.background, scene.horizon, scene.zoom
    picture = _gradient(*_SKY[kind], 0, horizon)
    if kind == "space":
        for _ in range(3):
            x, y, r = rng.random() * SIZE, rng.random() * horizon, 24 + 30 * rng.random()
            glow = np.exp(-((_X - x) ** 2 + (_Y - y) ** 2) / (2 * r * r)) * 0.5
            picture = _paint(
                picture, _rgb((130, 50, 150)) if rng.random() < 0.6 else _rgb((40, 70, 170)), glow
            )
        stars = [
            _disc(rng.random() * SIZE, rng.random() * SIZE, 0.9 + 0.5 * rng.random(), 1.6)
            for _ in range(16)
        ]
        picture = _paint(picture, 1.0, np.maximum.reduce(stars))
        y, r = max(0.35 * horizon, 12), 9 + 6 * zoom
        planet = _disc(scene.light, y, r)
        picture = _paint(picture, _rgb((226, 150, 96)), planet)
        picture = _paint(
            picture,
            _rgb((176, 96, 86)),
            planet * (1 - _disc(scene.light - r * 0.4, y - r * 0.3, r)),
        )
        return _paint(
            picture,
            _rgb((250, 214, 160)),
            _disc(scene.light, y, r * 1.7, 1.2, 0.22) * (1 - planet * (_Y < y)),
        )
    sunny = kind in ("beach", "meadow", "desert", "ocean") and not scene.snow
    if sunny and not scene.night:
        y = max(0.3 * horizon, 13)
        picture = _paint(picture, _rgb((255, 246, 200)), 0.5 * _disc(scene.light, y, 15, 12))
        picture = _paint(picture, _rgb((255, 226, 92)), _disc(scene.light, y, 9))
    if kind == "snow":
        for x in (20, 70, 118):
            tall = (26 + 22 * rng.random()) * zoom
            x = x + 16 * (rng.random() - 0.5)
            picture = _paint(
                picture, _rgb((150, 170, 206)), _cone(x, horizon - tall, horizon + 6, 1.2 * tall)
            )
            picture = _paint(
                picture,
                _rgb((244, 248, 255)),
                _cone(x, horizon - tall, horizon - 0.62 * tall, 0.46 * tall),
            )
    if kind == "meadow":
        far, near = (
            _leaves(scene, (128, 192, 116), (222, 178, 96)),
            _leaves(scene, (108, 182, 80), (206, 148, 62)),
        )
        picture = _paint(picture, far, _below(_ridge(rng, horizon + 2, 26 * zoom, zoom=zoom)))
        picture = _paint(picture, near, _below(_ridge(rng, horizon + 6, 14 * zoom, zoom=zoom)))
    if kind == "desert":
        picture = _paint(
            picture,
            _rgb((240, 186, 120)),
            _below(_ridge(rng, horizon + 4, 30 * zoom, (0.8, 1.7, 2.9), zoom)),
        )
    if kind == "forest":
        greens = (
            _leaves(scene, (84, 136, 104), (206, 138, 76)),
            _leaves(scene, (44, 98, 62), (178, 90, 42)),
        )
        for row, shade in enumerate(greens):
            count = int(np.ceil(9 / zoom)) + 1
            for i in range(count):
                x = (i * 17 - 6 + 8 * row + 6 * rng.random()) * zoom
                top = horizon - (48 - 14 * row - 16 * rng.random()) * zoom
                picture = _paint(
                    picture, shade, _cone(x, top, horizon + 8, (12 + 4 * rng.random()) * zoom)
                )
    if kind == "city":
        picture = _skyline(picture, scene, rng, scene.night)
    return picture


def _near(picture: np.ndarray, scene: Scene, rng) -> np.ndarray:
    """The ground, from the horizon down."""
    kind, horizon = scene.background, scene.horizon
    deep = SIZE - horizon  # pixels of ground
    ground = _gradient(*(_AUTUMN[kind] if scene.autumn else _GROUND[kind]), horizon, SIZE)
    if kind == "beach":
        picture = _paint(picture, _rgb((38, 134, 196)), _below(horizon))
        picture = _paint(picture, _rgb((72, 176, 214)), _below(horizon + 0.2 * deep))
        shore = _ridge(rng, horizon + 0.36 * deep, 0.1 * deep, (0.7, 1.6, 2.7))
        picture = _paint(picture, _rgb((240, 250, 250)), _below(shore - 2.5))
        return _paint(picture, ground, _below(shore))
    if kind == "ocean":
        phase = rng.random() * 2 * np.pi
        depth = np.clip((_Y - horizon) / deep, 0, 1)
        swell = np.sin(40 * depth / (0.5 + depth) + 1.2 * np.sin(_X * 0.09 + phase)) * (
            0.3 + 0.7 * depth
        )
        ground = ground + 0.06 * swell[..., None] * np.asarray((0.6, 1.0, 1.0), np.float64)
        return _paint(picture, ground, _below(horizon))
    if kind == "space":
        curve = horizon + ((_X[0] - 64) / 64) ** 2 * 8
        picture = _paint(picture, ground, _below(curve))
        for _ in range(4):
            x, depth = rng.random() * SIZE, 0.15 + 0.8 * rng.random()
            hole = _disc(
                x, horizon + depth * deep, 3 + 9 * depth * min(scene.zoom, 1.2), 1.5, 0.35
            ) * _below(curve)
            picture = _paint(picture, _rgb((104, 98, 130)), hole)
        return picture
    if kind == "city":
        picture = _paint(picture, ground, _below(horizon + 4))
        picture = _paint(
            picture, _rgb((176, 172, 168)), _box(-9, horizon + 2, 137, horizon + 0.16 * deep + 3)
        )
        y = horizon + 0.62 * deep
        dash = (_X + 20 * rng.random()) % 36 < 18
        return _paint(
            picture, _rgb((236, 226, 190)), _box(-9, y, 137, y + 0.05 * deep + 1.5) * dash
        )
    flat = kind == "forest"
    return _paint(
        picture,
        ground,
        _below(_ridge(rng, horizon + 6, 0.0 if flat else 0.12 * deep, (0.6, 1.3, 2.2))),
    )


def _extra(picture: np.ndarray, scene: Scene, extra: Extra) -> np.ndarray:
    """Paint one unnamed thing, standing a little below the horizon."""
    x, s, y = extra.x, extra.size, scene.horizon + 0.14 * (SIZE - scene.horizon) + 3
    paint = lambda colour, coverage: _paint(picture, _rgb(colour), coverage)  # noqa: E731
    if extra.kind == "cloud":
        high = max(0.28 * scene.horizon, 8)
        grey = (214, 220, 232) if scene.snow else (250, 252, 255)
        puffs = [
            _disc(x + dx * s, high + dy * s, r * s, 2, 0.7)
            for dx, dy, r in ((-0.4, 0.06, 0.26), (0, -0.06, 0.36), (0.4, 0.05, 0.28))
        ]
        return paint(grey, 0.92 * np.maximum.reduce(puffs))
    if extra.kind == "rock":
        dark = (132, 118, 112) if scene.background != "space" else (112, 104, 138)
        picture = paint(dark, _disc(x, y, 0.42 * s, flat=0.6) * (_Y < y + 2))
        return _paint(picture, 1.0, 0.18 * _disc(x - 0.12 * s, y - 0.1 * s, 0.22 * s, 3, 0.6))
    if extra.kind == "crater":
        picture = paint((190, 184, 206), _disc(x, y + 8, 0.6 * s, 1, 0.4))
        return _paint(picture, _rgb((92, 86, 118)), _disc(x, y + 9, 0.5 * s, 1, 0.36))
    if extra.kind == "fir":
        picture = paint((104, 74, 52), _box(x - 0.06 * s, y - 0.2 * s, x + 0.06 * s, y + 2))
        green = _leaves(scene, (40, 106, 66), (196, 106, 40))
        for k in range(3):
            tier = _cone(
                x, y - (1.5 - 0.36 * k) * s, y - (0.75 - 0.3 * k) * s, (0.26 + 0.11 * k) * s
            )
            picture = _paint(picture, green, tier)
            if scene.background == "snow":
                cap = _cone(x, y - (1.5 - 0.36 * k) * s, y - (1.18 - 0.36 * k) * s, 0.14 * s)
                picture = _paint(picture, _rgb((246, 250, 255)), cap)
        return picture
    if extra.kind == "bush":
        green = _leaves(scene, (54, 134, 56), (204, 112, 36))
        puffs = [
            _disc(x + dx * s, y - dy * s, r * s)
            for dx, dy, r in ((-0.34, 0.2, 0.28), (0, 0.36, 0.36), (0.34, 0.2, 0.28))
        ]
        return _paint(picture, green, np.maximum.reduce(puffs) * (_Y < y + 2))
    if extra.kind == "tufts":
        for i, hue in enumerate(((252, 232, 84), (250, 246, 250), (240, 110, 150))):
            fx, fy = x + (i - 1) * 0.6 * s, y + 6 + 6 * (i % 2)
            picture = _paint(picture, _rgb(hue), _disc(fx, fy, 2.4))
        return picture
    if extra.kind == "cactus":
        arms = [_box(x - 0.1 * s, y - s, x + 0.1 * s, y), _disc(x, y - s, 0.1 * s)]
        arms += [
            _box(x - 0.36 * s, y - 0.6 * s, x, y - 0.44 * s),
            _box(x - 0.36 * s, y - 0.84 * s, x - 0.2 * s, y - 0.44 * s),
        ]
        arms += [
            _box(x, y - 0.44 * s, x + 0.36 * s, y - 0.28 * s),
            _box(x + 0.2 * s, y - 0.7 * s, x + 0.36 * s, y - 0.28 * s),
        ]
        return paint((64, 138, 78), np.maximum.reduce(arms))
    if extra.kind == "palm":
        lean = x + 0.16 * s * np.clip((y - _Y) / s, 0, 1.3) ** 2
        trunk = np.clip(0.07 * s - np.abs(_X - lean) + 0.5, 0, 1) * (_Y < y) * (_Y > y - 1.2 * s)
        picture = paint((142, 98, 58), trunk)
        top_x, top_y = x + 0.23 * s, y - 1.2 * s
        for turn in (-2.6, -1.9, -1.1, -0.4, 0.3, 2.9):
            cx, cy = top_x + 0.3 * s * np.cos(turn), top_y + 0.26 * s * np.sin(turn)
            along = (_X - cx) * np.cos(turn) + (_Y - cy) * np.sin(turn)
            across = -(_X - cx) * np.sin(turn) + (_Y - cy) * np.cos(turn)
            leaf = np.clip(
                (1 - np.hypot(along / (0.38 * s), across / (0.1 * s))) * 0.1 * s + 0.5, 0, 1
            )
            picture = _paint(picture, _rgb((52, 142, 66)), leaf)
        return picture
    if extra.kind == "lamp":
        picture = paint((58, 60, 70), _box(x - 1.1, y - 1.5 * s, x + 1.1, y + 2))
        bulb = (255, 236, 150) if scene.night else (232, 232, 226)
        picture = _paint(
            picture, _rgb((255, 226, 130)), 0.5 * scene.night * _disc(x, y - 1.5 * s, 9, 10)
        )
        return _paint(picture, _rgb(bulb), _disc(x, y - 1.5 * s, 3.4))
    # an island
    picture = paint(
        (228, 204, 140), _disc(x, scene.horizon + 2, 0.9 * s, 1, 0.22) * (_Y < scene.horizon + 4)
    )
    return _paint(
        picture,
        _rgb((66, 140, 76)),
        _disc(x, scene.horizon - 1, 0.5 * s, 1, 0.6) * (_Y < scene.horizon + 1),
    )


@functools.cache
def _sprite(
    name: str, colour: str | None, size: int, flip: bool, angle: int, autumn: bool
) -> np.ndarray:
    """An object's picture, (size, size, 4) in 0…1, standing on its lower edge."""
    image = Image.open(data_folder("toyland") / "sprites" / f"{name}.png").convert("RGBA")
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if angle:
        image = image.rotate(angle, Image.Resampling.BICUBIC)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), np.float64) / 255
    if name == "tree" and autumn:  # leaves turn: what is green becomes orange
        r, g, b = pixels[..., 0], pixels[..., 1], pixels[..., 2]
        leaf = np.clip((g - np.maximum(r, b)) * 8, 0, 1)[..., None]
        turned = np.stack([np.clip(1.25 * g + 0.1, 0, 1), 0.62 * g, 0.5 * b], -1)
        pixels = np.concatenate([pixels[..., :3] * (1 - leaf) + turned * leaf, pixels[..., 3:]], -1)
    if colour is None:
        return pixels
    # Tint as a duotone: black to the colour to white along the sprite's own brightness, so outlines and highlights stay.
    bright = (pixels[..., :3] @ _GREY)[..., None]
    tint = _rgb(HUES[colour])
    low, high = np.clip(bright / 0.5, 0, 1), np.clip((bright - 0.5) / 0.5, 0, 1)
    shaded = tint * (0.25 + 0.75 * low) * (1 - 0.5 * high) + 0.5 * high
    if name == "cake":  # the cherries stay red, and so does the plate grey
        keep = np.clip((np.abs(pixels[..., 0] - pixels[..., 1]) - 0.45) * 8, 0, 1)[..., None]
        shaded = shaded * (1 - keep) + pixels[..., :3] * keep
    return np.concatenate([shaded, pixels[..., 3:]], axis=-1)


def _place(thing: Thing, autumn: bool = False) -> np.ndarray:
    """The object's sprite on an empty picture, (height, width, 4)."""
    layer = np.zeros((SIZE, SIZE, 4), np.float64)
    sprite = _sprite(thing.name, thing.colour, thing.size, thing.flip, thing.angle, autumn)
    left, top = thing.x - thing.size // 2, thing.y - thing.size
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + thing.size, SIZE), min(top + thing.size, SIZE)
    layer[y0:y1, x0:x1] = sprite[y0 - top : y1 - top, x0 - left : x1 - left]
    return layer


def _darken(picture: np.ndarray, strength: float) -> np.ndarray:
    night = picture * np.asarray((0.26, 0.32, 0.56), np.float64) + np.asarray(
        (0.01, 0.02, 0.11), np.float64
    )
    return picture * (1 - strength) + night * strength


def _moonlit(picture: np.ndarray, strength: float) -> np.ndarray:
    # Objects keep three quarters of their contrast, so that they can still be named at night.
    night = picture * np.asarray((0.72, 0.75, 0.86), np.float64) + np.asarray(
        (0.0, 0.01, 0.05), np.float64
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
    """Thin, uneven paint on white paper: washed out in spots, its dark contours kept."""
    wash = _filtered(picture, ImageFilter.MedianFilter(3), ImageFilter.GaussianBlur(0.7))
    spots = rng.random((14, 3))
    bare = sum(
        np.exp(-((_X - x * SIZE) ** 2 + (_Y - y * SIZE) ** 2) / (2 * (9 + 12 * r) ** 2))
        for x, y, r in spots
    )
    ink = 0.94 - 0.3 * np.clip(bare, 0, 1)
    grey = picture @ _GREY
    ink = np.clip(ink + 0.8 * np.clip(0.5 - grey, 0, 1), 0, 1)
    wash = 1 - (1 - wash) * ink[..., None]
    edge = np.minimum(np.minimum(_X, SIZE - 1 - _X), np.minimum(_Y, SIZE - 1 - _Y)) + 2 * np.clip(
        bare, 0, 1
    )
    return _paint(np.ones_like(wash) * _rgb((252, 250, 244)), wash, np.clip((edge - 1) / 3, 0, 1))


def _old_photo(picture: np.ndarray) -> np.ndarray:
    """Sepia, with faded corners."""
    grey = np.clip((picture @ _GREY) * 1.25 - 0.1, 0, 1)[..., None]
    sepia = grey * _rgb((255, 238, 200)) + (1 - grey) * _rgb((44, 24, 12))
    corner = np.clip(((_X - 63.5) ** 2 + (_Y - 63.5) ** 2) / 64**2 - 0.9, 0, 1)
    return _paint(sepia, _rgb((74, 50, 30)), 0.6 * corner)


def _flakes(picture: np.ndarray, scene: Scene, front: bool) -> np.ndarray:
    """A stronger snowfall adds flakes and moves none. Few and small ones fall in front of objects."""
    numbers = _stream(scene.seed, "snow").random((110, 3))[: round(6 + 104 * scene.snow)]
    chosen = [(x, y, r) for i, (x, y, r) in enumerate(numbers) if (i % 5 == 0) == front]
    if not chosen:
        return picture
    size = 0.9 if front else 1.15
    spots = [_disc(x * SIZE, y * SIZE, size + 0.7 * r, 1.3) for x, y, r in chosen]
    return _paint(picture, 1.0, np.maximum.reduce(spots) * 0.95)


def object_masks(scene: Scene) -> np.ndarray:
    """The visible part of each object, bool (object, height, width); the masks of `render` without the picture."""
    solid = np.stack([_place(t)[..., 3] >= 0.5 for t in scene.things])
    for i in range(len(solid) - 1):
        solid[i] &= ~solid[i + 1 :].any(0)  # later objects stand in front
    return solid


def _night_sky(picture: np.ndarray, scene: Scene) -> np.ndarray:
    rng = _stream(scene.seed, "night")
    above = 1 - _below(scene.horizon - 4)
    stars = [
        _disc(rng.random() * SIZE, rng.random() * scene.horizon, 0.8 + 0.5 * rng.random(), 1.5)
        for _ in range(14)
    ]
    picture = _paint(picture, _rgb((255, 250, 225)), np.maximum.reduce(stars) * scene.night * above)
    y = max(0.3 * scene.horizon, 13)
    picture = _paint(
        picture, _rgb((150, 170, 230)), 0.35 * scene.night * _disc(scene.light, y, 18, 14)
    )
    return _paint(
        picture, _rgb((252, 244, 206)), _disc(scene.light, y, 9) * min(1.0, 2.5 * scene.night)
    )


def backdrop(scene: Scene) -> np.ndarray:
    """What is behind the objects, (height, width, 3) in 0…1, before the style."""
    rng = _stream(scene.seed, "background")
    clouds = [e for e in scene.extras if e.kind == "cloud"]
    rest = [e for e in scene.extras if e.kind != "cloud"]
    picture = _far(scene, rng)
    for extra in clouds:
        kept = _extra(picture, scene, extra)
        picture = picture + (kept - picture) * (1 - _below(scene.horizon))[..., None]
    picture = _near(picture, scene, rng)
    for extra in rest:
        picture = _extra(picture, scene, extra)
    if scene.night:
        lights = picture
        picture = _darken(picture, scene.night)
        if scene.background == "city":  # lit windows and lamps are not darkened
            warm = np.clip((lights[..., 0] - lights[..., 2] - 0.25) * 6, 0, 1) * (
                _Y < scene.horizon + 30
            )
            picture = _paint(picture, lights, scene.night * warm)
        picture = _night_sky(picture, scene)
    if scene.snow:
        picture = _flakes(picture, scene, front=False)
    return picture


def render(scene: Scene) -> tuple[Image.Image, np.ndarray]:
    """Paint a scene.

    Returns:
        the picture, RGB, 128×128; and the visible part of each object, bool (object, height, width).

    Raises:
        InputError: it is no scene.
    """
    of_kind("scene", scene, Scene, SCENE)
    picture = backdrop(scene)
    for thing in scene.things:
        layer = _place(thing, scene.autumn)
        if thing.name not in FLYING and thing.y > scene.horizon:
            shadow = np.exp(
                -(
                    ((_X - thing.x) / (0.36 * thing.size)) ** 2
                    + ((_Y - thing.y + 1) / (0.06 * thing.size)) ** 2
                )
            )
            picture = _paint(picture, 0.0, (0.42 - 0.2 * scene.night) * shadow * (shadow > 0.02))
        picture = _paint(picture, _moonlit(layer[..., :3], scene.night), layer[..., 3])
    if scene.snow:
        picture = _flakes(picture, scene, front=True)
    if scene.style == "watercolor":
        picture = _watercolor(picture, _stream(scene.seed, "watercolor"))
    if scene.style == "old photo":
        picture = _old_photo(picture)
    return Image.fromarray(_to_bytes(picture)), object_masks(scene)
