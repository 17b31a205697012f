"""Checks for the course's exercises: each says what is wrong with an answer, without giving the right one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .editing import EditResult
from .tokens import replacement_matrix


class NotYet(AssertionError):
    """An exercise's answer is not right yet; the message says what about it."""


def _need(true: bool, why: str):
    if not true:
        raise NotYet(why)


def passed(what: str) -> str:
    """The line a right answer prints."""
    return f"✓ {what}"


def check_seed(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> str:
    """Exercise 00.1: two pictures that are alike to the pixel and a third that is not, each uint8 (height, width, 3)."""
    _need(np.shape(first) == np.shape(second) == np.shape(third), "The three pictures have different sizes. Give three pictures as arrays.")
    _need(
        (first == second).all(), "The first two differ. What must be the same for the same picture, and did you make it anew for each run?"
    )
    _need((first != third).any(), "The third is the same picture again. What decides which picture a prompt gives?")
    return passed("a seed is a picture")


def check_swap_matrix(matrix: Tensor, tokenizer, source: str, target: str) -> str:
    """Exercise 02.1: the matrix M that lines up two prompts, (source token, target token)."""
    right = replacement_matrix(tokenizer, source, target)
    _need(
        isinstance(matrix, Tensor) and matrix.shape == right.shape,
        f"M should be a tensor of shape {tuple(right.shape)}: one row for each source token.",
    )
    _need((matrix >= 0).all().item(), "M has negative entries. An entry is the share of a map that is passed on.")
    rows = matrix.sum(1)
    _need(
        torch.allclose(rows, torch.ones(len(rows)), atol=1e-5),
        f"Row {int((rows - 1).abs().argmax())} does not sum to 1: that source token loses or doubles its attention.",
    )
    empty = (matrix.sum(0) == 0).nonzero().flatten().tolist()
    _need(not empty, f"Target token {empty[0] if empty else ''} gets no map at all: its column is zero.")
    count = len(tokenizer(target).input_ids)
    wrong = [j for j in range(count) if not torch.allclose(matrix[:, j], right[:, j], atol=1e-5)]
    which = f"Target token {wrong[0] if wrong else ''} takes its map from the wrong place"
    _need(not wrong, f"{which}. Which word is it, and where is that word in the source?")
    return passed("every target token looks where its word looked")


def check_schedule(result: EditResult, reading, wanted: str, limit: float) -> str:
    """Exercise 02.2: an edit after which the reader sees `wanted` and the picture changed no more than `limit` (0…1) on average."""
    from .plots import difference

    seen = [f.name for f in reading.objects]
    sees = f"The reader sees {', '.join(seen) or 'no object'}, not a {wanted}"
    _need(wanted in seen, f"{sees}. With the source's maps to the very end, who decides the shape?")
    changed = difference(result.source, result.image).mean()
    _need(changed <= limit, f"The picture changed by {changed:.1%} on average, more than {limit:.0%}. Keep the source's maps for longer.")
    return passed(f"a {wanted}, and {changed:.1%} changed")
