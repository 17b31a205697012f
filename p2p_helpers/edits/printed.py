"""Read an edit from its printed form: `Replace(cross_steps=0.5) | Reweight({'dog': 2.0})`.

The text is parsed, never run: only the kinds of edit below, `|` and plain values may stand in it.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from ..errors import InputError
from ..values import shown
from .edit import Edit
from .layout import Duplicate, Move, Remove, Resize
from .words import InjectQK, Refine, Replace, Reweight

KINDS = {
    kind.__name__: kind
    for kind in (Replace, Refine, Reweight, InjectQK, Move, Resize, Duplicate, Remove)
}
MOST_CHARACTERS = 10_000
EXAMPLE = "Write it as it prints, e.g. Replace(cross_steps=0.5) | Reweight({'dog': 2.0})."


def read_edit(text: str) -> Edit:
    """The edit that prints as this text: `read_edit(repr(edit)) == edit`.

    Safe for texts of strangers: nothing in them is run.

    Args:
        text: a kind of edit with its values, or several joined by `|`.

    Raises:
        InputError: the text is something else; the message names the part that cannot be read. Or
            see `Edit`, for a value that an edit refuses.
    """
    expression = parsed(text, EXAMPLE)
    try:
        return _edit(expression)
    except RecursionError:
        raise InputError(f"{shown(text)} joins too many edits. Take fewer.") from None


def parsed(text: str, example: str) -> ast.expr:
    """The expression that a text is. Raises InputError, which ends with the example."""
    if not isinstance(text, str):
        raise InputError(f"{shown(text)} is no text. {example}")
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"The text has {len(text)} characters, more than {MOST_CHARACTERS}.")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = getattr(error, "msg", None) or error
        raise InputError(f"{shown(text)} cannot be read: {why}. {example}") from None


def made(call: ast.expr, kinds: Mapping[str, type], example: str):
    """The object of a call such as `Replace(cross_steps=0.5)`, whose values are plain.

    Raises:
        InputError: another name, a value that is not plain, or values that the kind does not take.
    """
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise InputError(f"{_said(call)} is none of {', '.join(kinds)}. {example}")
    name = call.func.id
    if name not in kinds:
        raise InputError(f"{name!r} is none of {', '.join(kinds)}. {example}")
    positional = [_plain(value, name) for value in call.args]
    named = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise InputError(f"{name}(**…) cannot be read. Write every value by its name.")
        named[keyword.arg] = _plain(keyword.value, name)
    try:
        return kinds[name](*positional, **named)
    except TypeError as error:
        said = str(error).replace("__init__() ", "").replace(f"{name}.", "")
        raise InputError(f"{_said(call)} cannot be made: {said}. {example}") from None


def _edit(expression: ast.expr) -> Edit:
    """One edit, or several joined."""
    if isinstance(expression, ast.BinOp) and isinstance(expression.op, ast.BitOr):
        return _edit(expression.left) | _edit(expression.right)
    return made(expression, KINDS, EXAMPLE)


def _said(expression: ast.expr) -> str:
    """An expression as a message quotes it."""
    try:
        return shown(ast.unparse(expression))
    except RecursionError:
        return "A part that is nested too deeply"


def _plain(value: ast.expr, name: str):
    """A number, text, tuple, list or dictionary."""
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError, RecursionError, MemoryError, SyntaxError):
        raise InputError(
            f"{_said(value)} in {name}(…) is no plain value. Write numbers, texts in "
            "quotes, tuples, lists and dictionaries of them."
        ) from None
