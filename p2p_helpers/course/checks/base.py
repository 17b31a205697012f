"""What all checks use."""

from __future__ import annotations

from ...errors import P2PError


class NotYet(P2PError, AssertionError):
    """An exercise's answer is not right yet; the message says what about it."""


def need(true: bool, why: str):
    """Raise NotYet with this message unless something is true."""
    if not true:
        raise NotYet(why)


def given(made):
    """What an answer returned; a function without `return` gives None."""
    need(made is not None, "It returned nothing. Does it end in `return ...`?")
    return made


def passed(what: str) -> str:
    """The line a right answer prints."""
    return f"✓ {what}"
