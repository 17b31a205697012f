"""Several text encoders whose tokens stand one after another in one sequence, as in SD3: CLIP's, then T5's."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError


def sized(tokenizer, length: int):
    """The tokenizer with the number of positions that the pipeline gives it, which T5's own does not say."""
    twin = copy.copy(tokenizer)
    twin.model_max_length = length
    return twin


@dataclass(frozen=True, eq=False)
class Tokenizers:
    """The tokenizers of several text encoders. It takes a tokenizer's place in this package.

    A word is in every encoder, so its tokens are several groups of positions, and a matrix over
    tokens has one block for each encoder.

    Args:
        parts: in the order of the sequence, each with the `model_max_length` that the pipeline gives
            it; or a number of positions that no encoder fills (SD3 without T5).
    """

    parts: Sequence[Any]

    @property
    def model_max_length(self) -> int:
        """Positions of the whole sequence."""
        return sum(length for _, _, length in parts_of(self))


def check_tokenizer(tokenizer):
    """Raise InputError for what is no tokenizer."""
    if not hasattr(tokenizer, "model_max_length"):
        raise InputError(
            f"{type(tokenizer).__name__} is no tokenizer. Give a pipeline's: pipe.tokenizer."
        )


def parts_of(tokenizer) -> Iterator[tuple[Any, int, int]]:
    """Each tokenizer, or None for positions that no encoder fills; its first position; how many it has.

    Raises:
        InputError: it is no tokenizer.
    """
    first = 0
    for part in tokenizer.parts if isinstance(tokenizer, Tokenizers) else [tokenizer]:
        empty = isinstance(part, int)
        if not empty:
            check_tokenizer(part)
        length = part if empty else part.model_max_length
        yield None if empty else part, first, length
        first += length


def readers(tokenizer) -> list[Any]:
    """The tokenizers alone."""
    return [part for part, _, _ in parts_of(tokenizer) if part is not None]
