"""A batch with fewer rows on its way into a model, and with all of them again on its way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def narrowed(
    args: tuple, kwargs: dict, names: Sequence[str], keep: Tensor, rows: int
) -> tuple[tuple, dict]:
    """A call on some rows only.

    Args:
        args: positional arguments; all that have a row for each of the batch are narrowed.
        names: of the keyword arguments that may have a row for each of the batch.
        keep: row numbers.
        rows: of the batch.
    """

    def chosen(value):
        if isinstance(value, Tensor):
            return value[keep] if value.dim() and len(value) == rows else value
        if isinstance(value, dict):
            return {key: chosen(one) for key, one in value.items()}
        return (
            type(value)(chosen(one) for one in value) if isinstance(value, (list, tuple)) else value
        )

    changed = {name: chosen(kwargs[name]) for name in names if name in kwargs}
    return tuple(chosen(value) for value in args), {**kwargs, **changed}


def widened(output: Any, keep: Tensor, rows: int) -> Any:
    """A model's result with all rows again; those that did not run are zeros."""

    def wide(noise: Tensor) -> Tensor:
        return noise.new_zeros(rows, *noise.shape[1:]).index_copy_(0, keep, noise)

    if isinstance(output, tuple):
        return (wide(output[0]), *output[1:])
    return type(output)(sample=wide(output.sample))
