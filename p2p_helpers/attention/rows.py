"""A batch with fewer rows on its way into a model, and with all of them again on its way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import AttentionControlError


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


def first_row(pipe, rows: int, prompts: int) -> int:
    """Where the rows with prompts begin in a batch [negative prompts, prompts], or prompts alone.

    Raises:
        AttentionControlError: the batch is not the prompts.
    """
    guided = getattr(pipe, "do_classifier_free_guidance", None)  # some pipelines do not say
    expected = [prompts, 2 * prompts] if guided is None else [(1 + bool(guided)) * prompts]
    if rows not in expected:
        raise other_rows(rows, prompts)
    return rows - prompts


def other_rows(rows: int, prompts: int) -> AttentionControlError:
    """What to say of a batch that is not the prompts."""
    return AttentionControlError(
        f"The model got {rows} rows for {prompts} prompts. Run the controlled pipeline on exactly those prompts, with one "
        "picture for each, and with classifier-free guidance or none."
    )
