"""When an edit is on: shares of the denoising steps, one for all words or each word its own."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import InputError
from ..prompts.words import find_words
from ..values import whole_number

# A share of the steps: 0.8 is the first 80 %, (0.2, 0.8) leaves out the first fifth too.
Interval = float | tuple[float, float]
# Or each word its own: {"default": 0.8, "dog": (0.1, 0.5), ("dog", 2): 0.3}, where a number goes before the word alone.
Schedule = Interval | Mapping[Any, Interval]
Value = TypeVar("Value")


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


def of_tokens(tokenizer, prompt: str, values: Mapping[Any, Value]) -> dict[int, Value]:
    """For each token of a prompt that phrases have, what they say: of several phrases the one of the fewest tokens counts.

    So ("fox", 2) goes before "fox", and "fox" before "a red fox".

    Raises:
        InputError: two phrases of as many tokens share one, and say different things.
        PromptError: a phrase that is not in the prompt.
    """
    found = [(find_words(tokenizer, prompt, phrase), phrase) for phrase in values]
    by: dict[int, tuple[int, Any]] = {}
    for tokens, phrase in sorted(found, key=lambda one: len(one[0])):
        for token in tokens:
            count, first = by.setdefault(token, (len(tokens), phrase))
            if count == len(tokens) and values[first] != values[phrase]:
                raise InputError(
                    f"{first!r} and {phrase!r} name the same word of {prompt!r}, and say {values[first]!r} and {values[phrase]!r}. Say "
                    "one of them, or name the word alone: that goes before longer phrases."
                )
    return {token: values[phrase] for token, (_, phrase) in by.items()}


def word_schedule(
    tokenizer, prompt: str, schedule: Schedule, steps: int
) -> Float[Tensor, "step token"]:
    """α: for each token of the target prompt, 1 in the steps in which its schedule is on, else 0.

    Args:
        tokenizer, prompt: the target prompt's.
        schedule: one for all, or a mapping from words and phrases to theirs; the others get its
            "default", or all steps without one. Of several phrases the shortest counts (see `of_tokens`).
        steps: number of denoising steps.

    Raises:
        InputError: a schedule outside 0…1 or reversed, or two for one word.
        PromptError: a word that is not in the prompt.
    """
    per_word = dict(schedule) if isinstance(schedule, Mapping) else {"default": schedule}
    usual = active_steps(per_word.pop("default", 1.0), steps).float()
    alpha = usual[:, None].repeat(1, tokenizer.model_max_length)
    for token, interval in of_tokens(tokenizer, prompt, per_word).items():
        alpha[:, token] = active_steps(interval, steps).float()
    return alpha
