"""Checks for word swap."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...attention.columns import attention_maps
from ...prompts.align import replacement_matrix
from ...result import EditResult
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
