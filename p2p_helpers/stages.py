"""Edits of words and of places follow each other in stages: each is a run of its own, from the picture before."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .edits.edit import Composition, Edit, matrices_of
from .edits.layout import Placement, placements, without
from .edits.words import Reweight
from .errors import InputError, PromptError, PromptMismatch
from .prompts.align import read_alike
from .prompts.words import contains, find_words


@dataclass(frozen=True)
class Stage:
    """One of them: the prompt of the picture before, the prompt after, what is done, and whose arguments the two have.

    Args:
        rows: for each of the two, 0 where it has the source's of arguments that are one for each prompt, 1 where the target's.
    """

    before: str
    after: str
    edit: Edit
    rows: tuple[int, int]

    @property
    def places(self) -> bool:
        """Whether it is one of places."""
        return bool(placements(self.edit))


def _parts(edit: Edit) -> list[Edit]:
    """The edits that were chained with `|`."""
    if isinstance(edit, Composition):
        return _parts(edit.first) + _parts(edit.second)
    return [edit]


def _grouped(edit: Edit) -> list[Edit]:
    """Neighbours of a kind together: objects change places at once, and words, too."""
    groups: list[list[Edit]] = []
    for part in _parts(edit):
        if groups and isinstance(groups[-1][0], Placement) == isinstance(part, Placement):
            groups[-1].append(part)
        else:
            groups.append([part])
    return [functools.reduce(operator.or_, group) for group in groups]


def takes_several_runs(edit: Edit) -> bool:
    """Whether an edit is one of words and of places."""
    return len(_grouped(edit)) > 1


def runs_of(edit: Edit) -> int:
    """How often the pipeline runs: once for each stage, and for the source alone before a layout edit that comes first."""
    groups = _grouped(edit)
    return len(groups) + bool(placements(groups[0]))


def _rewords(edit: Edit) -> bool:
    """Whether an edit lines up two prompts: all but layout edits and faders."""
    return not all(isinstance(part, (Placement, Reweight)) for part in _parts(edit))


def stages_of(tokenizer, source: str, target: str, edit: Edit) -> list[Stage]:
    """What is done to one target, and with which prompts.

    The first edit of words that is no fader leads from the source's prompt to the target's; before it all read the source's, from
    then on the target's. What is removed is in no prompt from then on.

    Raises:
        PromptMismatch: the prompts differ, and the edit has layout edits alone.
        PromptError: an edit cannot find its words.
        InputError: an object has two layout edits in one step.
    """
    groups = _grouped(edit)
    reworded = [number for number, group in enumerate(groups) if _rewords(group)]
    gone: list[list[Placement]] = []  # by group

    def times(prompt: str, text: str) -> int:
        return next(n for n in itertools.count() if not contains(tokenizer, prompt, (text, n + 1)))

    def kept(prompt: str, gone: Sequence[Sequence[Placement]]) -> str:
        """What is left of a prompt after groups of removals. A user's own target may lack what goes before it is read."""
        was = source
        for number, removed in enumerate(gone):
            named = [one.phrase for one in removed if contains(tokenizer, prompt, one.phrase)]
            if not reworded or number < reworded[0]:  # their numbers are the source's
                named = [
                    one
                    for one in named
                    if isinstance(one, str) or times(prompt, one[0]) >= times(was, one[0])
                ]
                own = [one.phrase for one in removed if contains(tokenizer, was, one.phrase)]
                with contextlib.suppress(PromptError):  # nothing may be left of it
                    was = without(tokenizer, was, *own) if own else was
            prompt = without(tokenizer, prompt, *named) if named else prompt
        return prompt

    if not reworded:
        _check_alike(tokenizer, source, target, groups, kept)
    turn = reworded[0] if reworded else 0
    found, now = [], source
    for number, group in enumerate(groups):
        _check_once(tokenizer, now, placements(group))  # an error now, before anything is run
        gone.append([one for one in placements(group) if one.goes])
        after = kept(target if number >= turn else source, gone)
        if len(groups) > 1:
            matrices_of(group, tokenizer, now, after, 1)  # and its words
        found.append(Stage(now, after, group, (int(number > turn), int(number >= turn))))
        now = after
    return found


def _check_once(tokenizer, prompt: str, moved: list[Placement]):
    """One object goes to one place, however it is named. Raises PromptError for one that the prompt does not name."""
    named = [(one, set(find_words(tokenizer, prompt, one.phrase))) for one in moved]
    for (one, own), (other, theirs) in itertools.combinations(named, 2):
        if own & theirs and not (one.stays or other.stays):
            raise InputError(
                f"{one!r} and {other!r} are two layout edits of one object in one step, and it is in one place only. Say it at "
                f"once: Move({one.phrase!r}, dx=0.25, scale=0.7)."
            )


def _check_alike(
    tokenizer,
    source: str,
    target: str,
    groups: Sequence[Edit],
    kept: Callable[[str, Sequence[Sequence[Placement]]], str],
):
    """Layout edits alone change no words, but for those of what is removed."""
    moved = [placements(group) for group in groups]
    gone = [[one for one in own if one.goes] for own in moved]
    if sum(map(len, moved)) == sum(map(len, gone)):
        return  # nothing moves, and what is removed may leave anything
    if not read_alike(tokenizer, kept(source, gone), kept(target, gone)):
        edit = functools.reduce(operator.or_, groups)
        raise PromptMismatch(
            f"{edit!r} changes places and no words, but source and target differ: {source!r} and {target!r}. Say how to line "
            "them up: Replace() | Move(...) where words are swapped, Refine() | Move(...) where some are added."
        )
