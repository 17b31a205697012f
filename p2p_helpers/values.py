"""What a user gives, checked: each check says what was wrong, what was expected, what to try."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from .errors import InputError

MOST_GUIDANCE = 1000.0  # far above what any model bears; float16 ends at 65 504
MOST_WEIGHT = 1000.0
PICTURES = (  # how their files end
    ".png",
    ".jpg",
    ".jpeg",
    ".webp",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".ppm",
    ".avif",
    ".heic",
)
FILES = (".safetensors", *PICTURES)  # that are easily given in a prompt's place


def shown(value: object) -> str:
    """A value as a message shows it, not too long."""
    plain = value is None or isinstance(value, (str, Path, bool, Integral, Real, list, tuple, dict))
    kind = type(value).__name__
    text = repr(value) if plain else f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"
    text = f"the class {value.__name__}" if isinstance(value, type) else text
    return text if len(text) <= 60 else text[:59] + "…"


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line; its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


class Frozen(dict):
    """A copy of a mapping that an edit holds. It is not to be changed, so it has a hash."""

    def __hash__(self):  # type: ignore[override]
        return hash(frozenset(self.items()))


def plain(value: Any) -> Any:
    """A value with Python's own numbers in place of NumPy's, which print as np.float64(0.5)."""
    if isinstance(value, Mapping):
        return {plain(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(one) for one in value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def whole_number(name: str, value: object, least: int, most: int, advice: str) -> int:
    """A whole number within limits.

    Raises:
        InputError: it is something else; `advice` ends the message.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not least <= int(value) <= most:  # type: ignore[call-overload]
        raise InputError(
            f"{name}={shown(value)}: it must be a whole number from {least} to {most}. {advice}"
        )
    return int(value)  # type: ignore[call-overload]


def finite_number(
    name: str, value: object, most: float, advice: str, least: float | None = None
) -> float:
    """A number from `least`, or −most when it is not given, to `most`.

    Raises:
        InputError: it is something else; `advice` ends the message.
    """
    real = isinstance(value, Real) and not isinstance(value, bool)
    try:
        number = float(value) if real else math.nan  # type: ignore[arg-type]
    except OverflowError:
        number = math.inf
    least = -most if least is None else least
    if not least <= number <= most:
        limits = f"{least:g} to {most:g}".replace("-", "−")
        raise InputError(
            f"{name}={shown(value)}: it must be a finite number from {limits}. {advice}"
        )
    return number


def listed(name: str, given: object, what: str) -> list:
    """The members of what a user gave; a text is one thing, and no list of letters.

    Raises:
        InputError: it has no members; `what` says what they are.
    """
    try:
        if not isinstance(given, str):
            return list(given)  # type: ignore[call-overload]
    except TypeError:
        pass
    raise InputError(f"{name}={shown(given)}: give a list, {what}.")


def check_callback(callback: object, takes: str):
    """Refuse what cannot be called; `takes` says what it is called with. Raises InputError."""
    if callback is not None and not callable(callback):
        raise InputError(f"callback={shown(callback)}: give a function of {takes}.")


def file_path(name: str, value: object, example: str = "cat.safetensors") -> Path:
    """A path that the user named, with `~` for the home folder.

    Raises:
        InputError: it is no path, or in the home folder of nobody.
    """
    if not isinstance(value, (str, Path)):
        raise InputError(f"{name}={shown(value)}: give the name of a file, e.g. {example!r}.")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        raise InputError(
            f"{name}={shown(value)}: this machine has no such home folder. Write the whole path."
        ) from None
