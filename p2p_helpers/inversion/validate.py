"""Check what a file of an inversion says, field by field, before anything is made of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch

from ..errors import InversionError
from ..values import shown
from .files import Stored, damaged
from .samplers import noise_schedule, takes

Check = Callable[[object], bool]


def is_text(value: object) -> bool:
    """Whether a value is a text with something in it."""
    return isinstance(value, str) and bool(value.strip())


def is_count(value: object) -> bool:
    """Whether a value is a whole number, at least 1."""
    return type(value) is int and 1 <= value <= 1_000_000


def is_number(value: object) -> bool:
    """Whether a value is a number, and neither infinite nor NaN."""
    return type(value) in (int, float) and -1e6 < value < 1e6


def _is_hex(value: object, length: int) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(rf"[0-9a-f]{{{length}}}", value))


def _is_digests(value: object) -> bool:
    if not isinstance(value, dict) or not set(value) <= {"float16", "bfloat16"}:
        return False
    return "float16" in value and all(_is_hex(digest, 16) for digest in value.values())


def _is_adapters(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != {"shown", "float16", "bfloat16"}:
        return False
    return all(_is_list(texts, lambda text: isinstance(text, str)) for texts in value.values())


def _is_list(value: object, fits: Check) -> bool:
    return isinstance(value, list) and all(map(fits, value))


def _is_setting(value: object) -> bool:
    return value is None or type(value) is bool or is_number(value) or _is_list(value, is_number)


FACTS: dict[str, Check] = {
    "model": lambda value: isinstance(value, str),
    "package": lambda value: isinstance(value, str),
    "image sha256": lambda value: _is_hex(value, 64),
    "weights": _is_digests,
    "text encoders": _is_digests,
    "prompt tokens": _is_digests,
    "adapters": _is_adapters,
    "FreeU": lambda value: value is None or (_is_list(value, is_number) and len(value) == 4),
    "settings": lambda value: isinstance(value, dict) and all(map(_is_setting, value.values())),
    "noise schedule": lambda value: isinstance(value, dict),
}
# An inversion that an older version made knows less, and is compared by what it knows.
NEEDED = ("weights", "noise schedule")


def check_fields(stored: Stored, fits: Mapping[str, Check]):
    """Check the values that a file holds beside its tensors, and its facts."""
    fits = {**fits, "facts": lambda value: isinstance(value, dict)}
    _check(stored, stored.said, fits, needed=fits)
    facts = stored.said["facts"]
    _check(stored, facts, FACTS, needed=NEEDED)
    try:
        facts["noise schedule"] = noise_schedule(facts["noise schedule"])
    except InversionError as error:
        raise damaged(stored.path, "noise schedule", f"cannot be used: {error}") from None
    if not takes(facts["noise schedule"], stored.said["steps"]):
        raise damaged(stored.path, "steps", "are more than its noise schedule has")


def _check(stored: Stored, values: Mapping, fits: Mapping[str, Check], needed: Iterable[str]):
    """Check that values are all there, that no others are, and that each can be as it is."""
    for field in sorted(set(values) | set(needed)):
        if field not in fits:
            raise damaged(stored.path, field, "does not belong in it")
        if field not in values:
            raise damaged(stored.path, field, "is missing")
        if not fits[field](values[field]):
            raise damaged(stored.path, field, f"cannot be {shown(values[field])}")


def check_shapes(stored: Stored, axes: Mapping[str, str], sizes: Mapping[str, int]):
    """Check that a file holds certain tensors and no others, and that equal axes are equally long.

    Args:
        stored: what the file holds.
        axes: the names of every tensor's axes, as in jaxtyping, e.g. {"pixels": "height width 3"}.
            What ends in 3 is a picture of uint8; all else is float32.
        sizes: the lengths of some axes, known from elsewhere.
    """
    known = dict(sizes)
    for name in sorted(set(axes) | set(stored.tensors)):
        if name not in axes:
            raise damaged(stored.path, name, "does not belong in it")
        if name not in stored.tensors:
            raise damaged(stored.path, name, "is missing")
        tensor = stored.tensors[name]
        dtype = torch.uint8 if axes[name].endswith(" 3") else torch.float32
        if tensor.dtype != dtype:
            raise damaged(stored.path, name, f"holds {tensor.dtype} and not {dtype}")
        shape, wanted = tuple(tensor.shape), axes[name].split()
        if len(shape) == len(wanted):
            for axis, length in zip(wanted, shape, strict=True):
                known.setdefault(axis, int(axis) if axis.isdigit() else max(1, length))
        if shape != tuple(known.get(axis) for axis in wanted):
            told = ", ".join(f"{axis} is {known[axis]}" for axis in wanted if axis in known)
            why = f"has the shape {shape} and not ({', '.join(wanted)}), where {told or 'all are'}"
            raise damaged(stored.path, name, why)


def check_finite(stored: Stored, *names: str):
    """Check that tensors hold numbers, and neither infinities nor NaN."""
    for name in names:
        if not stored.tensors[name].isfinite().all():
            raise damaged(stored.path, name, "holds infinities or NaN")


def check_losses(stored: Stored, name: str, done: int):
    """Check a curve of losses: none below 0, and NaN only after a step's last."""
    losses = stored.tensors[name]
    known = ~losses[:done].isnan()
    falling = known[:, 1:] <= known[:, :-1]  # once NaN, always NaN
    if not (known[:, :1].all() and falling.all() and losses[done:].isnan().all()):
        raise damaged(stored.path, name, "lacks losses of steps that were made")
    if not ((losses[:done][known] >= 0) & losses[:done][known].isfinite()).all():
        raise damaged(stored.path, name, "holds losses below 0 or infinite ones")
