"""Checks for word swap."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...attention.columns import attention_maps
from ...prompts.words import find_words
from .base import given, need, numbers, passed


def check_exchange(matrix: Tensor, tokenizer, prompt: str, one: str, other: str) -> str:
    """Exercise 02.1: a matrix M that lets two words of a prompt change places, (source token, target token).

    A word of several tokens takes the other's map in equal parts, and gives each of its own maps whole.
    """
    length = tokenizer.model_max_length
    right = torch.eye(length)
    matrix = numbers(matrix, right)
    need(
        matrix.shape == right.shape,
        f"M should be a tensor of shape {(length, length)}: one row for each source token.",
    )
    places = [find_words(tokenizer, prompt, name) for name in (one, other)]
    right[places[0] + places[1]] = 0
    for lent, taken in (places, places[::-1]):
        right[torch.tensor(lent)[:, None], torch.tensor(taken)] = 1 / len(taken)
    need(not torch.equal(matrix, torch.eye(length)), "Every word keeps its own place.")
    need(
        torch.equal(right, right.T) or not torch.allclose(matrix, right.T, atol=1e-5),
        "Rows and columns are mixed up: a row is a source token, a column is a target token.",
    )
    rows = matrix.sum(1)
    need(
        torch.allclose(rows, torch.ones(length), atol=1e-5),
        f"Row {int((rows - 1).abs().argmax())} does not sum to 1: that source token loses or "
        "doubles its attention.",
    )
    for name, tokens in ((one, places[0]), (other, places[1])):
        own = matrix[:, list(tokens)]
        need(
            torch.allclose(own, right[:, list(tokens)], atol=1e-5),
            f"What {name} is given is not the other word's map: look at its column.",
        )
    need(
        torch.allclose(matrix, right, atol=1e-5),
        "Another word has moved, too. Only these two shall change places.",
    )
    return passed(f"{one} and {other} have changed places")


def check_edit_rule(answer: Callable[..., Tensor]) -> str:
    """Exercise 02.2: the paper's Edit(A_s, A_t, t) for word swap, from both maps, M, the step and τ."""
    generator = torch.Generator().manual_seed(0)
    source, target = torch.rand(2, 6, 4, generator=generator).softmax(-1)
    M = torch.eye(4)[[1, 2, 0, 3]]  # not its own transpose
    kept = source.clone(), target.clone()
    for step, tau in ((0, 3), (2, 3), (3, 3), (9, 3), (0, 0)):
        made = numbers(given(answer, source, target, M, step, tau), target)
        case = f"At step {step} with τ = {tau}"
        need(
            made.shape == (6, 4),
            f"{case} a map of 6 pixels and 4 tokens became {tuple(made.shape)}.",
        )
        early = step < tau
        whose = "the source's map, lined up by M" if early else "the target's own map"
        right = source @ M if early else target
        need(
            not early or not torch.allclose(made, source @ M.T, atol=1e-5),
            f"{case}: nearly: M is turned about. Its rows are source tokens.",
        )
        need(torch.allclose(made, right, atol=1e-5), f"{case} it should be {whose}.")
        need(
            torch.equal(source, kept[0]) and torch.equal(target, kept[1]),
            "A map that you were given has changed. Return a new one.",
        )
    return passed("first the place, then the new object's own shape")


class Called(TorchFunctionMode):
    """The names of torch's functions that are called in a `with` block."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


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
    with Called() as called:
        made = given(answer, q_s, k_s, q_t, k_t, v_t, M)
    made = numbers(made, v_t)
    need(
        made.shape == (9, 8),
        f"9 pixels of width 8 gave {tuple(made.shape)}.",
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
    need(
        called.names.count("scaled_dot_product_attention") == 1 and "softmax" not in called.names,
        "The numbers are right, but a map was written down. Let one call of "
        "F.scaled_dot_product_attention do all of it.",
    )
    return passed("the old word's places, the new word's looks, and no map")
