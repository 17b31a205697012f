"""Checks of notebooks 02 to 04: word swap, refinement, reweighting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ...attention.terms import attention_maps
from ...edits.words import Reweight
from ...prompts.align import _matches, replacement_matrix
from ...result import EditResult
from ...toyland import Reading
from ...view.figures import difference
from .base import need, passed


def check_swap_matrix(matrix: Tensor, tokenizer, source: str, target: str) -> str:
    """Exercise 02.1: the matrix M that lines up two prompts, (source token, target token)."""
    right = replacement_matrix(tokenizer, source, target)
    need(
        isinstance(matrix, Tensor) and matrix.shape == right.shape,
        f"M should be a tensor of shape {tuple(right.shape)}: one row for each source token.",
    )
    matrix = matrix.to(right.dtype)
    need(
        (matrix >= 0).all().item(),
        "M has negative entries. An entry is the share of a map that is passed on.",
    )
    rows = matrix.sum(1)
    need(
        torch.allclose(rows, torch.ones(len(rows)), atol=1e-5),
        f"Row {int((rows - 1).abs().argmax())} does not sum to 1: that source token loses or "
        "doubles its attention.",
    )
    empty = (matrix.sum(0) == 0).nonzero().flatten().tolist()
    need(
        not empty,
        f"Target token {empty[0] if empty else ''} gets no map at all: its column is zero.",
    )
    wrong = [
        j for j in range(len(right)) if not torch.allclose(matrix[:, j], right[:, j], atol=1e-5)
    ]
    which = f"Target token {wrong[0] if wrong else ''} takes its map from the wrong place"
    padding = wrong and wrong[0] >= len(tokenizer(target).input_ids)
    help = (
        "It is padding, after the end token."
        if padding
        else "Which word does it belong to, and which source word stands there?"
    )
    need(not wrong, f"{which}. {help}")
    return passed("every target token looks where its word looked")


def check_schedule(
    result: EditResult, reading, source: str, target: str, old: str, new: str, limit: float
) -> str:
    """Exercise 02.2.

    An edit of `source` into `target`, with every self-attention layer lent, after which the reader
    sees the new object and not the old one, and the picture changed by no more than `limit` (0…1)
    on average.
    """
    need(
        (result.source_prompt, result.target_prompts) == (source, [target]),
        "The prompts are other ones. Change the schedules only.",
    )
    need(result.edits[0].self_size == 1.0, "self_size is not 1.0. The exercise lends every layer.")
    seen = [f.name for f in reading.objects]
    sees = f"The reader sees {', '.join(seen) or 'no object'}"
    need(
        seen == [new],
        f"{sees}; it should be a {new} and nothing else. Does the source speak for too long?",
    )
    changed = difference(result.source, result.image).mean()
    need(
        changed <= limit,
        f"The picture changed by {changed:.2%} on average, more than {limit:.0%}. Keep the "
        "source's maps for longer.",
    )
    return passed(f"a {new}, and the rest kept")


def check_open_swap(answer: Callable[..., Tensor]) -> str:
    """Exercise 02.3.

    A word swap's output from queries, keys, the target's values and M, each of one head.
    """
    generator = torch.Generator().manual_seed(0)
    q_s, q_t = (2 * torch.randn(9, 8, generator=generator) for _ in range(2))
    k_s, k_t, v_t = (2 * torch.randn(5, 8, generator=generator) for _ in range(3))
    M = torch.eye(5)[[0, 2, 1, 3, 4]]
    M[4] = torch.tensor([0.0, 0.0, 0.0, 0.5, 0.5])
    source, target = (
        attention_maps(q[None, None], k[None, None])[0, 0] for q, k in ((q_s, k_s), (q_t, k_t))
    )
    made = answer(q_s, k_s, q_t, k_t, v_t, M)
    need(
        isinstance(made, Tensor) and made.shape == (9, 8),
        f"9 pixels of width 8 gave {tuple(getattr(made, 'shape', ()))}.",
    )
    mistakes = {
        "This is the target's own attention. Whose maps should it use?": target @ v_t,
        "The maps are the source's, but the words are not lined up yet.": source @ v_t,
        "The words are lined up, but the maps are the target's own.": target @ (M @ v_t),
        "Nearly: M is turned about. Its rows are source tokens.": source @ (M.T @ v_t),
    }
    for says, wrong in mistakes.items():
        need(not torch.allclose(made, wrong, atol=1e-4), says)
    need(
        torch.allclose(made, source @ M @ v_t, atol=1e-4),
        "This is not (A_s M) V_t. Try it with M the identity first.",
    )
    return passed("the old word's places, the new word's looks, and no map")


def check_line_up(answer: Sequence[int | None], source: str, target: str) -> str:
    """Exercise 03.1.

    For each word of the target the number of the source word that it is, or None for a new one.
    """
    s, t = source.split(), target.split()
    pairs = {j: i for i, j in _matches(s, t)}
    need(
        len(answer) == len(t),
        f"There are {len(t)} words in the target and {len(answer)} numbers. Give one for each, "
        "None for a new word.",
    )
    lined = [(i, j) for j, i in enumerate(answer) if i is not None]
    need(all(0 <= i < len(s) for i, _ in lined), f"The source has words 0 to {len(s) - 1}.")
    for i, j in lined:
        need(
            s[i] == t[j],
            f"Target word {j}, “{t[j]}”, is not source word {i}, “{s[i]}”. A word is lined up with "
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
        [pairs.get(j) for j in range(len(t))] == list(answer),
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
        for gap in (0.0, 0.5):
            rows, columns = s.split(), t.split()
            made = np.asarray(answer(rows, columns, gap), float)
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
        s, t = answer(P.clone(), P.any(0).float(), alpha)
        for name, made in (("S", s), ("T", t)):
            need(
                isinstance(made, Tensor) and made.shape == (4, 4),
                f"{name} should be a matrix (4, 4): a token for each row and column.",
            )
        given = s.sum(0) + t.sum(0)
        lost = (given < 1 - 1e-5).nonzero().flatten().tolist()
        new = lost and lost[0] == 2
        need(
            not lost,
            f"{'A new token' if new else 'A token'} is left without a map: its columns in S and T "
            "sum to less than 1.",
        )
        need(
            (given < 1 + 1e-5).all().item(),
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
    the picture changed by no more than `limit` (0…1) on average. `readings` are the source's and
    the target's.
    """
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
    return passed(f"a {colour} {name}, and the rest as it was")


def check_fader_matrices(
    s: Tensor, t: Tensor, tokenizer, prompt: str, weights: dict[str, float]
) -> str:
    """Exercise 04.1: S and T of a fader while it is on, both (token, token)."""
    right_s = Reweight(weights, cross_steps=1.0).matrices(tokenizer, prompt, prompt, 1)[0][0]
    need(
        all(isinstance(m, Tensor) and m.shape == right_s.shape for m in (s, t)),
        f"S and T should be tensors of shape {tuple(right_s.shape)}.",
    )
    need(
        not t.any(),
        "T is not zero, so the target adds its own maps. Whose maps does it use while the edit is "
        "on?",
    )
    need(
        torch.equal(s, torch.diag(s.diagonal())),
        "S has entries off its diagonal: a word would look where another looked.",
    )
    wrong = (s.diagonal() != right_s.diagonal()).nonzero().flatten().tolist()
    need(
        not wrong,
        f"The entry of token {wrong[0] if wrong else ''} is wrong. Which tokens are turned, and "
        "what do the others have?",
    )
    return passed("one word turned, all others as they were")


def check_row_sums(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Exercise 04.2: the sums of each pixel's scaled attention.

    A function of a map (pixel, token) and faders (token,).
    """
    maps = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).softmax(1)
    for c in (
        torch.ones(5),
        torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0]),
        torch.tensor([0.0, 1.0, -2.0, 1.0, 4.0]),
    ):
        made = answer(maps.clone(), c)
        need(
            isinstance(made, Tensor) and made.shape == (7,),
            f"7 pixels gave {tuple(getattr(made, 'shape', ()))}: one number for each pixel.",
        )
        which = "With all faders at 1 every" if (c == 1).all() else f"With faders {c.tolist()} a"
        need(
            torch.allclose(made, maps @ c, atol=1e-5),
            f"{which} row sums to something else. Scale each column first.",
        )
    return passed("where a word is loud, the layer is louder than it was")


def check_compose(answer: Callable[..., tuple[Tensor, Tensor]]) -> str:
    """Exercise 04.3: S and T of two edits in turn, from S₁, T₁, S₂, T₂, each (token, token)."""
    s1, t1, s2, t2, source, target = torch.randn(
        6, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    s, t = answer(s1, t1, s2, t2)
    after = (source @ s1 + target @ t1) @ s2 + target @ t2
    need(
        torch.allclose(source @ s, source @ s1 @ s2),
        "S is not yet what stands behind A_s. In which order do the two act?",
    )
    need(
        torch.allclose(target @ t, after - source @ s1 @ s2),
        "T is not yet what stands behind A_t. What does the second edit do to T₁?",
    )
    return passed("two edits are one")


def check_fader(weight: float, mine: Reading, gentler: Reading, style: str, name: str) -> str:
    """Exercise 04.4.

    The highest weight of a style's word, up to a half, at which the reader no longer sees the
    style, but the object.

    `mine` is what the reader sees at the weight, `gentler` at half a point more.
    """
    need(
        any(f.name == name for f in mine.objects),
        f"At {weight:g} the reader sees no {name} any more. That was too much.",
    )
    need(mine.style != style, f"At {weight:g} it is still a {style}.")
    need(
        gentler.style == style,
        f"At {weight:g} it is no {style} any more, but at {weight + 0.5:g} neither. Be gentler.",
    )
    return passed(f"at {weight:g} the {style} is gone, and the {name} stays")
