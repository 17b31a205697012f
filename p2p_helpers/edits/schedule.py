"""When an edit is on: shares of the denoising steps, one for all words or each word its own."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import InputError
from ..prompts.words import find_words
from ..values import whole_number

# A share of the steps: 0.8 is the first 80 %, (0.2, 0.8) leaves out the first fifth too.
Interval = float | tuple[float, float]
# Or each word its own: {"default": 0.8, "dog": (0.1, 0.5), ("dog", 2): 0.3}.
Schedule = Interval | Mapping[Any, Interval]


def active_steps(schedule: Interval, steps: int, *, of: int | None = None) -> Bool[Tensor, " step"]:
    """The steps in which a schedule is on.

    A share x ends before step int(x · (steps + 1)), as the authors' code counts for
    cross-attention.

    Args:
        schedule: 0.8 means the first 80 % of the steps; (0.2, 0.8) leaves out the first fifth too.
        steps: number of denoising steps.
        of: what the share is taken of; steps + 1 when not given. The authors take it of `steps` for
            self-attention.

    Raises:
        InputError: outside 0…1, an interval that ends before it begins, or no such number of steps.
    """
    steps = whole_number("steps", steps, 1, 100_000, "30 are usual.")
    whole = steps + 1
    if of is not None:
        whole = whole_number("of", of, 1, 100_000, "Give the number of steps, or leave it out.")
    ends = schedule if isinstance(schedule, (tuple, list)) else (0.0, schedule)
    are_two = len(ends) == 2 and all(isinstance(end, numbers.Real) for end in ends)
    if not are_two or not 0 <= ends[0] <= ends[1] <= 1:
        raise InputError(
            f"A schedule is a share of the steps: 0 ≤ start ≤ end ≤ 1, not {schedule!r}. 0.8 means "
            "the first 80 %."
        )
    step = torch.arange(steps)
    return (step >= int(ends[0] * whole)) & (step < int(ends[1] * whole))


def word_schedule(
    tokenizer, prompt: str, schedule: Schedule, steps: int
) -> Float[Tensor, "step token"]:
    """α: for each token of the target prompt, 1 in the steps in which its schedule is on, else 0.

    Args:
        tokenizer, prompt: the target prompt's.
        schedule: one for all, or a mapping from words and phrases to theirs; the others get its
            "default", or all steps without one.
        steps: number of denoising steps.

    Raises:
        InputError: a schedule outside 0…1 or reversed.
        PromptError: a word that is not in the prompt.
    """
    per_word = dict(schedule) if isinstance(schedule, Mapping) else {"default": schedule}
    usual = active_steps(per_word.pop("default", 1.0), steps).float()
    alpha = usual[:, None].repeat(1, tokenizer.model_max_length)
    for phrase, interval in per_word.items():
        tokens = find_words(tokenizer, prompt, phrase)
        alpha[:, tokens] = active_steps(interval, steps).float()[:, None]
    return alpha
