"""Checks for moving things."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...toyland import Reading
from .base import given, need, numbers, passed


def check_shift_matrix(answer: Callable[[int, int], Tensor]) -> str:
    """Exercise 10.1: G that moves a picture of one row to the right.

    A function of the number of cells and the shift; what comes in from outside is the first cell's.
    """
    for cells, shift in ((5, 0), (5, 1), (8, 3), (4, 4)):
        made = numbers(given(answer, cells, shift)).float()
        need(
            made.shape == (cells, cells),
            f"{cells} cells gave {tuple(made.shape)}: a row and a column for each.",
        )
        values = torch.arange(1.0, cells + 1)
        right = values[(torch.arange(cells) - shift).clamp(min=0)]
        got = made @ values
        backwards = values[(torch.arange(cells) + shift).clamp(max=cells - 1)]
        need(
            not shift or not torch.equal(got, backwards),
            "It moves to the left. Row n of G says where cell n of the new picture came from.",
        )
        need(
            torch.equal(got, right),
            f"A shift of {shift} makes {values.tolist()} {got.tolist()}, and it should be {right.tolist()}.",
        )
        need(
            bool(((made == 0) | (made == 1)).all()),
            "A row mixes several cells. Each row picks one, with a single 1.",
        )
        need(
            torch.equal(made.sum(1), torch.ones(cells)),
            "The rows do not sum to 1: a pixel would look more, or less, than it did.",
        )
    return passed("every row picks the cell that it came from")


def check_fill(answer: Callable[[float, float, int], Tensor]) -> str:
    """Exercise 10.2: the smoothest values between two, of a function of both and their number."""
    for left, right, cells in ((0.0, 1.0, 1), (2.0, -1.0, 2), (1.0, 5.0, 3), (3.0, 3.0, 6)):
        made = numbers(given(answer, left, right, cells)).float()
        need(
            made.shape == (cells,),
            f"A hole of {cells} cells got {tuple(made.shape)} values.",
        )
        whole = torch.cat([torch.tensor([left]), made, torch.tensor([right])])
        means = (whole[:-2] + whole[2:]) / 2
        need(
            torch.allclose(made, means, atol=1e-5),
            f"Between {left:g} and {right:g} you have {[round(v, 3) for v in made.tolist()]}. Every "
            "value should be the mean of its two neighbours.",
        )
    return passed("every value is the mean of its neighbours")


def check_places(before: Reading, after: Reading, names: Sequence[str]) -> str:
    """Exercise 10.3: two objects have changed places, as the reader sees them."""
    places = []
    for reading, when in ((before, "before"), (after, "after")):
        found = {one.name: (one.box[0] + one.box[2]) / 2 for one in reading.objects}
        missing = [name for name in names if name not in found]
        need(
            not missing,
            f"The reader sees no {missing[0] if missing else ''} {when}. Was it pushed out of the picture, or "
            "into the other one?",
        )
        places.append([found[name] for name in names])
    (first, second), (moved, other) = places
    need(
        (first < second) != (moved < other),
        f"The {names[0]} is still on the same side of the {names[1]}.",
    )
    far = max(abs(moved - second), abs(other - first))
    need(
        far <= 20,
        f"One of them is {far:.0f} pixels from where the other one was; 20 are near enough.",
    )
    rise = max(
        abs(was.box[3] - now.box[3])
        for was in before.objects
        for now in after.objects
        if was.name == now.name and was.name in names
    )
    need(
        rise <= 20,
        f"One of them has gone {rise:.0f} pixels up or down. Is there a dy that nobody asked for?",
    )
    return passed(f"{names[0]} and {names[1]} have changed places")
