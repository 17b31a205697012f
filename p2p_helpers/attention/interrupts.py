"""Ctrl-C waits while a session changes a pipeline or puts it back, and comes right after."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from types import CodeType, FrameType
from typing import ParamSpec, TypeVar

Function = TypeVar("Function", bound=Callable)
_shielded: set[CodeType] = set()  # code in which no interrupt is raised


def shielded(function: Function) -> Function:
    """Mark a function that no Ctrl-C may leave half done, with all that it calls."""
    _shielded.add(function.__code__)
    return function


class Interrupts:
    """Python's handler of Ctrl-C, with shielded functions left out. In other threads than the main one, none is needed."""

    def __init__(self):
        self.waiting = False
        self._before = None

    def begin(self):
        """Put the handler in place. Call it from a shielded function."""
        if threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGINT)
        if callable(before):
            self._before = before
            signal.signal(signal.SIGINT, self._handle)

    def end(self):
        """Put back the handler that was there, and raise the interrupt that waited, if any."""
        before = self._before
        if before is not None and signal.getsignal(signal.SIGINT) == self._handle:
            self._before = None  # kept otherwise: a later session hands on to this one
            signal.signal(signal.SIGINT, before)
        if self.waiting:
            self.waiting = False
            signal.raise_signal(signal.SIGINT)

    def check(self):
        """Raise the interrupt that waited, if any. Call it where nothing is half done."""
        if self.waiting and threading.current_thread() is threading.main_thread():
            self.waiting = False
            signal.raise_signal(signal.SIGINT)

    def _handle(self, number: int, frame: FrameType | None):
        outer = frame
        while outer is not None:
            if outer.f_code in _shielded:
                self.waiting = True
                return
            outer = outer.f_back
        if self._before is not None:
            self._before(number, frame)


P, T = ParamSpec("P"), TypeVar("T")


def block(function: Callable[P, Iterator[T]]) -> Callable[P, AbstractContextManager[T]]:
    """`contextlib.contextmanager`, but a Ctrl-C never falls between the generator and its `with` statement."""

    @functools.wraps(function)
    def made(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[T]:
        return _Block(contextlib.contextmanager(function)(*args, **kwargs))

    return made


class _Block:
    def __init__(self, inner):
        self.inner = inner

    @shielded
    def __enter__(self):
        return self.inner.__enter__()

    @shielded
    def __exit__(self, *error):
        return self.inner.__exit__(*error)
