"""How much of the layout one word decides: overlaps of boxes and what is behind objects, measured on the world itself."""

from __future__ import annotations

import contextlib

import numpy as np

from ..errors import SceneError
from ..metrics import psnr
from .counterfactual import swap
from .reader import CELL
from .render import render
from .world import SIZE, scene_at

AROUND = 2  # cells around the objects that do not count as background
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0…1."""
    left, top, right, bottom = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    common = max(right - left, 0) * max(bottom - top, 0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return common / (areas - common)


def behind(mask: np.ndarray) -> np.ndarray:
    """The pixels at least two cells from all that a mask covers, bool (height, width)."""
    cells = mask.reshape(SIZE // CELL, CELL, SIZE // CELL, CELL).any((1, 3))
    for _ in range(AROUND):
        padded = np.pad(cells, 1)
        cells = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:] | cells
    return ~cells.repeat(CELL, 0).repeat(CELL, 1)


def box_of(mask: np.ndarray) -> Box:
    """Left, top, right, bottom in pixels of what a mask covers."""
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def world_figures(count: int = 200, split: str = "validation") -> dict[str, dict[str, float | int]]:
    """What one changed word does to the world itself, when the rest is drawn anew with the same seed.

    By kind of change: the overlap of the object's boxes before and after, and the PSNR (dB) of what is behind, medians over
    one-object scenes without a style.
    """
    rows: dict[str, list[tuple[float, float]]] = {}
    scenes = (scene_at(split, i, objects=1) for i in range(10 * count))
    for i, scene in enumerate([s for s in scenes if s.style in ("plain", "photo")][:count]):
        rng = np.random.default_rng(i)
        changes = {
            "night": {"night": 0.0 if scene.night else 0.8},
            "snow": {"snow": 0.0 if scene.snow else 0.8},
        }
        if scene.background == "space":
            changes = {}
        after = {name: scene.recompose(**change) for name, change in changes.items()}
        for name, far in (("near swap", False), ("far swap", True)):
            with contextlib.suppress(SceneError):
                after[name] = swap(scene, rng, far)[0].recompose()
        before, masks = render(scene)
        for name, other in after.items():
            picture, others = render(other)
            where = behind(masks[0] | others[0])
            figures = (
                overlap(box_of(masks[0]), box_of(others[0])),
                psnr(np.asarray(before), np.asarray(picture), where),
            )
            rows.setdefault(name, []).append(figures)
    return {
        name: {
            "overlap": float(np.median([a for a, _ in found])),
            "behind": float(np.median([b for _, b in found])),
            "scenes": len(found),
        }
        for name, found in rows.items()
    }
