"""Objects as a weak model paints them: what the reader must learn to call unknown.

A person who sees a ragged lump does not name it. A network that has seen only clean objects does, and every figure that
rests on it is too good. So the reader is shown objects that are bent, torn, blurred, blended or painted in wrong colours.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter


def _smooth_noise(rng: np.random.Generator, side: int, coarse: int) -> np.ndarray:
    """A smooth random field with deviation near 1, (side, side)."""
    small = rng.standard_normal((coarse, coarse))
    image = Image.fromarray(small.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float64)


def bend(picture: np.ndarray, rng: np.random.Generator, pixels: float) -> np.ndarray:
    """Every pixel comes from a place some pixels away, neighbours from neighbouring places."""
    side = len(picture)
    y, x = np.mgrid[0:side, 0:side]
    dy, dx = (_smooth_noise(rng, side, 12) * pixels for _ in range(2))
    rows = np.clip(np.round(y + dy), 0, side - 1).astype(int)
    columns = np.clip(np.round(x + dx), 0, side - 1).astype(int)
    return picture[rows, columns]


def tear(picture: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Squares of the object change places."""
    size = int(rng.choice([8, 12, 16]))
    torn = picture.copy()
    rows, columns = np.nonzero(mask)
    top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    corners = [
        (y, x)
        for y in range(top, bottom - size + 1, size)
        for x in range(left, right - size + 1, size)
    ]
    for (y, x), j in zip(corners, rng.permutation(len(corners)), strict=True):
        v, u = corners[j]
        torn[y : y + size, x : x + size] = picture[v : v + size, u : u + size]
    return torn


def blur(picture: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur, radius in pixels."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


def damaged(
    picture: np.ndarray, mask: np.ndarray, other: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """A picture of which one object can no longer be named.

    Args:
        picture: uint8 (height, width, 3).
        mask: where the object is, bool (height, width).
        other: another picture; parts of it show through.
    """
    ways = rng.permutation(5)[: int(rng.integers(1, 4))]
    spoilt = picture
    for way in ways:
        if way == 0:
            spoilt = bend(spoilt, rng, 5 + 4 * rng.random())
        if way == 1:
            spoilt = tear(spoilt, mask, rng)
        if way == 2:
            share = 0.35 + 0.3 * rng.random()
            spoilt = (spoilt * (1 - share) + other * share).astype(np.uint8)
        if way == 3:
            spoilt = blur(spoilt, 4.5 + 3 * rng.random())
        if way == 4:
            swapped = spoilt[..., rng.permutation(3)]
            spoilt = bend(blur(swapped, 1.5 + rng.random()), rng, 4)
    soft = np.asarray(
        Image.fromarray((mask * 255).astype(np.uint8))
        .filter(ImageFilter.MaxFilter(7))
        .filter(ImageFilter.GaussianBlur(2))
    )
    share = soft[..., None] / 255
    return (picture * (1 - share) + spoilt * share).round().astype(np.uint8)


def harmless(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a person forgives: a light bend, a little blur."""
    out = bend(picture, rng, 1.4 * rng.random())
    return blur(out, 1.4 * rng.random())
