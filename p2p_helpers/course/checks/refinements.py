"""Checks for refinement."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...prompts.align import _matches
from ...result import EditResult
from ...toyland import Reading
from ...view.figures import difference
from .base import given, need, number, numbers, of_kind, passed, several

LEAK = 0.1  # of the picture far from an object that its mask may let change


def check_line_up(answer: Sequence[int | None], source: str, target: str) -> str:
    """Exercise 03.1.

    For each word of the target the number of the source word that it is, or None for a new one.
    """
    s, t = source.split(), target.split()
    pairs = {j: i for i, j in _matches(s, t)}
    answer = several(
        answer,
        len(t),
        f"There are {len(t)} words in the target. Give one number for each, None for a new word.",
    )
    why = f"The source has words 0 to {len(s) - 1}. Give their numbers, None for a new word."
    lined = [(number(i, why), j) for j, i in enumerate(answer) if i is not None]
    need(all(i in range(len(s)) for i, _ in lined), why)
    for i, j in lined:
        need(
            s[int(i)] == t[j],
            f"Target word {j}, “{t[j]}”, is not source word {i}, “{s[int(i)]}”. A word is lined up with "
            "itself only.",
        )
    used = [i for i, _ in lined]
    need(
        used == sorted(set(used)),
        "Two pairs cross, or one source word is used twice. Both prompts are read from left to "
        "right.",
    )
    need(
        len(lined) == len(pairs),
        f"{len(lined)} words are lined up; it can be done with {len(pairs)}.",
    )
    need(
        {j: i for i, j in lined} == pairs,
        "As many as can be, but an article stands away from its noun.",
    )
    return passed("every old word found again")


def check_scores(answer: Callable[[list[str], list[str], float], np.ndarray]) -> str:
    """Exercise 03.2: the table of Needleman–Wunsch with a price for gaps.

    A function of two lists of words and the price.
    """
    for s, t in [
        ("a b", "a c b"),
        ("a cat on the beach", "a cat at night on the beach"),
        ("b a", "a b"),
    ]:
        for gap in (0.0, 0.5, 1.0):
            rows, columns = s.split(), t.split()
            made = numbers(given(answer, rows, columns, gap)).double().numpy()
            need(
                made.shape == (len(rows) + 1, len(columns) + 1),
                f"The table is {made.shape}; each side has one more than words.",
            )
            right = np.zeros_like(made)
            right[0], right[:, 0] = -gap * np.arange(made.shape[1]), -gap * np.arange(made.shape[0])
            need(
                np.allclose(made[0], right[0]) and np.allclose(made[:, 0], right[:, 0]),
                f"With gap {gap} the first row or column is wrong.",
            )
            for i, j in np.ndindex(len(rows), len(columns)):
                match = 1 if rows[i] == columns[j] else -1
                right[i + 1, j + 1] = max(
                    right[i, j] + match, right[i, j + 1] - gap, right[i + 1, j] - gap
                )
                need(
                    np.isclose(made[i + 1, j + 1], right[i + 1, j + 1]),
                    f"“{s}” against “{t}”, gap {gap}: the cell of “{rows[i]}” and “{columns[j]}” "
                    f"is {made[i + 1, j + 1]:g}. "
                    "Which of the three ways into it is the best, and what does each cost?",
                )
    return passed("gaps have their price")


def check_refine_matrices(answer: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> str:
    """Exercise 03.3: S and T of refinement from P, m and α.

    A function (source token, target token), (target token,), (target token,).
    """
    P = torch.zeros(4, 4)
    P[0, 0] = P[1, 1] = P[2, 3] = 1.0  # token 2 of the target is new
    for alpha in (torch.ones(4), torch.zeros(4), torch.tensor([1.0, 0.5, 1.0, 0.0])):
        made = given(answer, P.clone(), P.any(0).float(), alpha)
        both = several(made, 2, "It should return two matrices, as in `return S, T`.")
        s, t = (numbers(matrix, P) for matrix in both)
        for name, matrix in (("S", s), ("T", t)):
            need(
                matrix.shape == (4, 4),
                f"{name} should be a matrix (4, 4): a token for each row and column.",
            )
        sums = s.sum(0) + t.sum(0)
        lost = (sums < 1 - 1e-5).nonzero().flatten().tolist()
        new = lost and lost[0] == 2
        need(
            not lost,
            f"{'A new token' if new else 'A token'} is left without a map: its columns in S and T "
            "sum to less than 1.",
        )
        need(
            (sums < 1 + 1e-5).all().item(),
            "A token gets two maps: its columns in S and T sum to more than 1.",
        )
        need(
            torch.allclose(s, P * alpha),
            "S passes on other maps than those of the old words while the schedule is on.",
        )
        need(
            torch.allclose(t, torch.diag(1 - alpha * P.any(0))),
            "T is not diagonal: a token keeps its own map, not another's.",
        )
    return passed("old words lend, new words keep their own")


def check_local_edit(
    result: EditResult,
    readings: Sequence[Reading],
    source: str,
    target: str,
    name: str,
    colour: str,
    limit: float,
) -> str:
    """Exercise 03.4.

    An edit after which the reader sees the object in its new colour, and outside the object's cells
    the picture changed by no more than `limit` (0…1) on average, held by a mask that hardly goes beyond
    the object. `readings` are the source's and the target's.
    """
    of_kind(result, EditResult, "Give what p2p.edit returned.")
    need(
        (result.source_prompt, result.target_prompts) == (source, [target]),
        "The prompts are other ones. Change the edit only.",
    )
    before, after = ([f for f in reading.objects if f.name == name] for reading in readings)
    need(bool(before), f"The reader sees no {name} in the source. Take another seed.")
    need(bool(after), f"The reader sees no {name} any more.")
    need(
        after[0].colour == colour,
        f"The {name} is {after[0].colour}, not {colour}. Do its old maps hold too long, or is the "
        "mask too small?",
    )
    cells = before[0].cells | after[0].cells
    outside = ~np.kron(
        cells, np.ones([side // cells.shape[0] for side in result.source.size[::-1]], bool)
    )
    changed = difference(result.source, result.image)[outside].mean()
    need(
        changed <= limit,
        f"Outside the {name} the picture changed by {changed:.1%}, more than {limit:.1%}. What "
        "keeps an edit local?",
    )
    blend = result.local_blend
    need(
        blend is not None and int(blend.start * result.steps) < result.steps,
        f"Outside the {name} little has changed, but nothing keeps it: with another seed or schedule "
        "it may move. What puts the source back after every step?",
    )
    wide = F.max_pool2d(torch.tensor(cells)[None].float(), 5, stride=1, padding=2)[0] > 0
    leak = result.masks[-1, 0].cpu()[~wide].float()  # more than two cells away
    need(leak.numel() > 0, f"The {name} fills the picture. Take another seed.")
    need(
        leak.mean().item() <= LEAK,
        f"The mask lets {leak.mean():.0%} of the picture far from the {name} change. Which words "
        f"look only at the {name}?",
    )
    return passed(f"a {colour} {name}, and the rest as it was")
