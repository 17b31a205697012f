"""Checks for the course's exercises: each says what is wrong with an answer, without giving the right one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .editing import EditResult
from .errors import P2PError
from .tokens import replacement_matrix


class NotYet(P2PError, AssertionError):
    """An exercise's answer is not right yet; the message says what about it."""


def _need(true: bool, why: str):
    if not true:
        raise NotYet(why)


def passed(what: str) -> str:
    """The line a right answer prints."""
    return f"✓ {what}"


def check_seed(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> str:
    """Exercise 00.1: two pictures that are alike to the pixel and a third that is not, each uint8 (height, width, 3)."""
    first, second, third = (np.asarray(picture) for picture in (first, second, third))
    _need(np.shape(first) == np.shape(second) == np.shape(third), "The three pictures have different sizes. Give three pictures as arrays.")
    _need(
        (first == second).all(), "The first two differ. What must be the same for the same picture, and did you make it anew for each run?"
    )
    _need((first != third).any(), "The third is the same picture again. What besides the prompt decides the picture?")
    return passed("prompt and seed fix the picture")


def check_swap_matrix(matrix: Tensor, tokenizer, source: str, target: str) -> str:
    """Exercise 02.1: the matrix M that lines up two prompts, (source token, target token)."""
    right = replacement_matrix(tokenizer, source, target)
    _need(
        isinstance(matrix, Tensor) and matrix.shape == right.shape,
        f"M should be a tensor of shape {tuple(right.shape)}: one row for each source token.",
    )
    matrix = matrix.to(right.dtype)
    _need((matrix >= 0).all().item(), "M has negative entries. An entry is the share of a map that is passed on.")
    rows = matrix.sum(1)
    _need(
        torch.allclose(rows, torch.ones(len(rows)), atol=1e-5),
        f"Row {int((rows - 1).abs().argmax())} does not sum to 1: that source token loses or doubles its attention.",
    )
    empty = (matrix.sum(0) == 0).nonzero().flatten().tolist()
    _need(not empty, f"Target token {empty[0] if empty else ''} gets no map at all: its column is zero.")
    wrong = [j for j in range(len(right)) if not torch.allclose(matrix[:, j], right[:, j], atol=1e-5)]
    which = f"Target token {wrong[0] if wrong else ''} takes its map from the wrong place"
    _need(not wrong, f"{which}. Which word does it belong to, and which source word stands in that word's place?")
    return passed("every target token looks where its word looked")


def check_schedule(result: EditResult, reading, source: str, target: str, old: str, new: str, limit: float) -> str:
    """Exercise 02.2: an edit of `source` into `target`, with every self-attention layer lent, after which the reader sees the new
    object and not the old one, and the picture changed by no more than `limit` (0…1) on average.
    """
    from .plots import difference

    _need((result.source_prompt, result.target_prompts) == (source, [target]), "The prompts are other ones. Change the schedules only.")
    _need(result.edits[0].self_size == 1.0, "self_size is not 1.0. The exercise lends every layer.")
    seen = [f.name for f in reading.objects]
    sees = f"The reader sees {', '.join(seen) or 'no object'}"
    _need(new in seen and old not in seen, f"{sees}; it should be a {new} and no {old}. Does the source speak for too long?")
    changed = difference(result.source, result.image).mean()
    _need(changed <= limit, f"The picture changed by {changed:.1%} on average, more than {limit:.0%}. Keep the source's maps for longer.")
    return passed(f"a {new}, and the rest kept")
