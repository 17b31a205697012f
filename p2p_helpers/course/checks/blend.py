"""Checks of notebook 05: local blend."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ...result import EditResult
from ...toyland import Reading
from ...view.figures import difference
from .base import given, need, numbers, of_kind, passed


def check_blend(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Exercise 05.1.

    A function of latents (prompt, channel, height, width), source first, and of masks (target,
    height, width), bool.
    """
    latents = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, 5, 6, dtype=torch.bool)
    mask[0, :3, :2] = mask[1, 2:, 3:] = True
    copy = latents.clone()
    made = numbers(given(answer, latents, mask), latents)
    need(torch.equal(latents, copy), "It changed the latents that it was given. Return new ones.")
    need(
        made.shape == latents.shape,
        f"It should return a tensor {tuple(latents.shape)}, source and targets; it returned "
        f"{tuple(made.shape)}.",
    )
    need(
        torch.equal(made[0], latents[0]),
        "The source changed. It comes first, and nothing may happen to it.",
    )
    for number in (1, 2):
        inside = mask[number - 1].expand_as(made[0])
        name = f"target {number}"
        need(
            torch.allclose(made[number][inside], latents[number][inside]),
            f"Inside its mask {name} lost its own latents.",
        )
        need(
            torch.allclose(made[number][~inside], latents[0][~inside]),
            f"Outside its mask {name} differs from the source.",
        )
    return passed("outside each target's mask, the source")


def check_word_mask(answer: Callable[[Tensor, float], Tensor]) -> str:
    """Exercise 05.2.

    A function of a word's map (row, column) and a threshold that gives the mask, bool (row,
    column).
    """
    heat = torch.full((7, 9), 0.1)
    heat[1:3, 1:3] = 1.0  # an island of four cells, one of one cell, and one below the threshold
    heat[4, 6], heat[6, 8] = 0.35, 0.2
    expected = torch.zeros(7, 9, dtype=torch.bool)
    expected[0:4, 0:4] = expected[3:6, 5:8] = True
    made = numbers(given(answer, heat.clone(), 0.3))
    need(
        made.shape == (7, 9),
        f"A map of (7, 9) gave a mask of {tuple(made.shape)}. What happens to the cells at the border?",
    )
    need(
        made.dtype == torch.bool,
        f"The mask is {made.dtype}; it should be bool: a cell may change, or it may not.",
    )
    need(
        not torch.equal(made, heat > 0.3),
        "A single bright cell stayed a single cell. Widen the map before you cut it.",
    )
    wrong = int((made != expected).sum())
    need(
        wrong == 0,
        f"{wrong} of 63 cells are wrong. How large is the neighbourhood, and what is taken of it?",
    )
    dim = numbers(given(answer, heat / 50, 0.3))
    need(
        torch.equal(dim, expected),
        "The same map, fifty times fainter, gave another mask. What is the threshold a share of?",
    )
    need(
        not torch.equal(numbers(given(answer, heat.clone(), 0.7)), expected),
        "Another threshold gave the same mask. Is it used?",
    )
    return passed("a mask, however faint the map")


def _cells(reading: Reading, name: str, result: EditResult) -> np.ndarray:
    """The pixels of an object that the reader saw in the source picture, bool (height, width)."""
    found = {f.name: f.cells for f in reading.objects}
    need(
        name in found,
        f"The reader sees no {name} in the source picture. Use the prompts and the seed of the "
        "exercise.",
    )
    height, width = np.asarray(result.source).shape[:2]
    rows, columns = found[name].shape
    return np.kron(found[name], np.ones((height // rows, width // columns), bool))


def check_only_first(
    result: EditResult, before: Reading, after: Reading, old: str, new: str, kept: str, limit: float
) -> str:
    """Exercise 05.3.

    By words alone, the first object became a new one and the second changed by no more than `limit`
    (0…1) on average.
    """
    of_kind(result, EditResult, "Give what p2p.edit returned.")
    blend = result.local_blend
    need(blend is not None, "There is no local blend in this edit.")
    need(
        blend.mask is None,
        "It uses a mask of your own. This exercise is about words, exclude and the thresholds.",
    )
    second = _cells(before, kept, result)
    seen = [f.name for f in after.objects]
    sees = f"The reader sees {', '.join(seen) or 'no object'}"
    need(
        old not in seen,
        f"{sees}. The {old} should be gone: is its place in the mask, where the picture may change?",
    )
    need(new in seen, f"{sees}. There should be a {new}: is the mask large enough for it?")
    need(kept in seen, f"{sees}. The {kept} is gone.")
    changed = difference(result.source, result.image)[second].mean()
    need(
        changed <= limit,
        f"The {kept} changed by {changed:.1%} on average, more than {limit:.1%}. How much of it is "
        "in the mask?",
    )
    return passed(f"a {new}, and the {kept} as it was")


def check_own_mask(
    result: EditResult, before: Reading, kept: str, limit: float, darker: float
) -> str:
    """Exercise 05.4.

    With a mask of one's own alone, the object changed by no more than `limit` on average and the
    rest darkened by at least `darker` (both 0…1).
    """
    of_kind(result, EditResult, "Give what p2p.edit returned.")
    blend = result.local_blend
    need(blend is not None and blend.mask is not None, "There is no mask of your own in this edit.")
    need(
        not blend.words and not blend.exclude,
        "It uses words as well. This exercise is about a mask of your own alone.",
    )
    thing = _cells(before, kept, result)
    changed = difference(result.source, result.image)[thing].mean()
    lets = f"your mask lets {blend.mask.mean():.0%} of the picture change"
    need(changed <= limit, f"The {kept} changed by {changed:.0%}, more than {limit:.0%}; {lets}.")
    source, image = (np.asarray(p, float).mean(-1) / 255 for p in (result.source, result.image))
    fell = (source - image)[~thing].mean()
    need(
        fell >= darker,
        f"Outside the {kept} it became darker by {max(fell, 0):.0%}, less than {darker:.0%}. Where "
        "may night fall?",
    )
    need(
        blend.mask.mean() >= 0.4,
        f"Night may fall in {blend.mask.mean():.0%} of the picture only. Leave it two fifths at least: is "
        "the light larger than it has to be?",
    )
    return passed(f"night, and a light on the {kept}")
