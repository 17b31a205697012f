"""What a run changes, each change with the way back: one ExitStack, and one for each block within."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from .interrupts import block, shielded

_MISSING = object()


class Changes:
    """Changes that say first how they are put back. No Ctrl-C falls into one."""

    def __init__(self):
        self._stacks = [contextlib.ExitStack()]

    @shielded
    def undo(self, function: Callable, *args):
        """Call this at the end of the session, or of the block within it; the last one first."""
        self._stacks[-1].callback(function, *args)

    @shielded
    def set(self, owner: Any, name: str, value: Any):
        """Give an object another attribute for the length of the session."""
        self.undo(_restore, owner, name, vars(owner).get(name, _MISSING))
        if isinstance(owner, nn.Module):
            vars(owner)[name] = (
                value  # as it is, past torch's bookkeeping and torch.compile's wrapper
            )
        else:
            setattr(owner, name, value)

    @shielded
    def put_back(self):
        """Put everything back, the last change first; an error on the way stops none of the others."""
        with contextlib.ExitStack() as everything:
            while self._stacks:
                everything.callback(self._stacks.pop(0).close)

    @block
    def within(self) -> Iterator[Changes]:
        """A `with` block within the session, at whose end what was changed in it is put back."""
        stack = contextlib.ExitStack()
        self._stacks.append(stack)
        try:
            yield self
        finally:
            while stack in self._stacks:
                self._stacks.pop().close()


def _restore(owner: Any, name: str, value: Any):
    if value is _MISSING:
        vars(owner).pop(name, None)
    elif isinstance(owner, nn.Module):
        vars(owner)[name] = value
    else:
        setattr(owner, name, value)
