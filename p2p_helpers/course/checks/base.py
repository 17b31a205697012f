"""What all checks use."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...errors import P2PError
from ...values import shown


class NotYet(P2PError, AssertionError):
    """An exercise's answer is not right yet; the message says what about it."""


def need(true: bool, why: str):
    """Raise NotYet with this message unless something is true."""
    if not true:
        raise NotYet(why)


def given(answer: Callable, *arguments: object) -> Any:
    """What an answer returns for these arguments; a function without `return` gives None."""
    need(callable(answer), f"Give the function itself, without calling it, not {shown(answer)}.")
    made = answer(*arguments)
    need(made is not None, "It returned nothing. Does it end in `return ...`?")
    return made


def numbers(made: object, like: Tensor | None = None) -> Tensor:
    """An answer's numbers as a tensor, of the kind of another one; lists and arrays are as good."""
    try:
        found = made if isinstance(made, Tensor) else torch.from_numpy(np.array(made))
    except (TypeError, ValueError, RuntimeError):  # words, or rows of several lengths
        raise NotYet(f"A tensor of numbers is needed, not {shown(made)}.") from None
    return found.detach().cpu() if like is None else found.detach().to(like)


def number(made: object, why: str) -> Any:
    """An answer's one finite number, also where it is an array's or a tensor's. Raises NotYet with this message."""
    alone = made.item() if hasattr(made, "item") and np.shape(made) == () else made
    real = isinstance(alone, Real) and not isinstance(alone, bool)
    need(real and math.isfinite(alone), why)
    return alone


def several(made: object, count: int, why: str) -> list:
    """An answer's parts, so many. Raises NotYet with this message."""
    try:
        found = list(made)  # type: ignore[call-overload]
    except TypeError:
        raise NotYet(why) from None
    need(len(found) == count, why)
    return found


def of_kind(made: object, kind: type, advice: str):
    """Raise NotYet with this advice unless an answer is of this kind."""
    need(isinstance(made, kind), f"It is {shown(made)}. {advice}")


def passed(what: str) -> str:
    """The line a right answer prints."""
    return f"✓ {what}"
