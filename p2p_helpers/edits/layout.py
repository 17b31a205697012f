"""Edits of where things are: move, resize, duplicate. Rows of a map are pixels; here a matrix acts on them, as S and T on tokens."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError, PromptError
from ..masks import Mask, as_mask, mask_contents
from ..prompts.nouns import DETERMINERS, JOINS, noun_phrases
from ..prompts.split import Span
from ..prompts.words import Phrase, find_words, words_and_spans
from ..values import finite_number, plain
from .edit import Composition, Edit, Matrices
from .schedule import Interval
from .words import Refine

LINKS = ("and", "or", "&", ",", ";")  # of equals
STOPS = (*LINKS, ".", ":", "!", "?")  # what no prompt begins with
EMPTY = ("()", "[]", "{}", "(())", "[[]]")


@dataclass(frozen=True, repr=False)
class Placement(Edit):
    """What layout edits have in common: Â_t = G A_s, with G a matrix over pixels.

    In the object's new place a row of G picks the source's pixel that the object came from; where it
    left, a row is the mean of what surrounds the hole; elsewhere G is the identity. The object's
    latents and pixels go along. `edit` makes the source first, to find the object by its word's map.

    Chained with edits of words, each goes on from the picture before it: `Replace() | Move("dog")`
    moves the dog that the cat has become, `Move("cat") | Replace()` makes the moved cat a dog. That
    is a run more for every change from words to places or back. In evaluations of the network, with
    the usual schedules, the first costs 1.7 plain edits, the second 1.95, and places alone 1.2, or
    0.7 of an earlier result that was made with `record=True`.

    Args:
        phrase: the object, in the prompt of the picture before.
        mask: where the object is in that picture, if you know it, as for `LocalBlend`; its word's map says so otherwise. An
            edit with a mask prints as what cannot be read back.
        self_steps: as for `Edit`; none when not given, since self-attention maps hold the old layout.

    Raises:
        InputError: a place that is no number; a mask that is none, that is empty, or of another size than the picture; or
            see `Edit`.
    """

    phrase: Phrase
    mask: Mask | None = dataclasses.field(default=None, kw_only=True, compare=False)
    self_steps: Interval | None = dataclasses.field(default=0.0, kw_only=True)
    _contents: object = dataclasses.field(default=mask_contents, init=False, repr=False)

    scale = 1.0  # times the size
    stays = False  # whether the old one stays where it was
    goes = False  # whether it is nowhere afterwards

    def __post_init__(self):
        super().__post_init__()
        kind = type(self).__name__
        if self.mask is not None:
            object.__setattr__(self, "mask", as_mask(self.mask))
            if not self.mask.any():
                raise InputError(
                    f"The mask of {self!r} is empty. Give one that is true where the object is."
                )
        for name, value in zip(("dx", "dy"), self.shift, strict=True):
            finite_number(f"{name} of {kind}", value, 1, "0.25 is a quarter of the picture.")
        finite_number(f"scale of {kind}", self.scale, 4, "0.7 makes it smaller.")
        if not self.scale > 0.1:
            raise InputError(f"{self!r}: the scale must be above 0.1; 0.7 makes it smaller.")

    @property
    def shift(self) -> tuple[float, float]:
        """To the right, as a share of the picture's width; down, as a share of its height."""
        return 0.0, 0.0

    def matrices(self, tokenizer, source: str, target: str, steps: int) -> Matrices:
        """S and T for every step: the words that both prompts have keep the source's maps."""
        return Refine(cross_steps=self.cross_steps).matrices(tokenizer, source, target, steps)

    def __repr__(self):
        said = [repr(plain(self.phrase))]
        for field in dataclasses.fields(self):
            value = plain(getattr(self, field.name))
            if field.name == "mask":
                said += [] if value is None else ["mask=<{}×{}>".format(*value.shape)]
            elif field.name != "phrase" and field.repr and value != field.default:
                said.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(said)})"


@dataclass(frozen=True, repr=False)
class Move(Placement):
    """An object somewhere else: `Move("cat", dx=0.25)`.

    Args:
        phrase: the object.
        dx: to the right, as a share of the picture's width; it is rounded to a latent pixel.
        dy: down, as a share of the height.
        scale: its size there, as for `Resize`.
        mask, self_steps and the rest: as for `Placement`, which says what is raised, too.
    """

    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0

    @property
    def shift(self) -> tuple[float, float]:
        """Right and down."""
        return self.dx, self.dy


@dataclass(frozen=True, repr=False)
class Duplicate(Move):
    """A second one of an object: `Duplicate("cat", dx=0.4, scale=0.6)`.

    Args:
        phrase: the object.
        dx, dy: where the second one is, seen from the first, as for `Move`.
        scale: its size, as for `Resize`.
        mask, self_steps and the rest: as for `Placement`, which says what is raised, too.
    """

    stays = True


@dataclass(frozen=True, repr=False)
class Resize(Placement):
    """An object larger or smaller, its foot where it was: `Resize("cat", 0.7)`.

    Args:
        phrase: the object.
        scale: times its size, above 0.1 and at most 4.
        mask, self_steps and the rest: as for `Placement`, which says what is raised, too.
    """

    scale: float = 1.0


@dataclass(frozen=True, repr=False)
class Remove(Placement):
    """An object that is not there: `Remove("cat")`.

    The place that it leaves reads the target prompt, which does not name the object: where yours
    does, its words are left out, with their article. `target_prompts` of the result says what is left.

    Args:
        phrase: the object.
        mask, self_steps and the rest: as for `Placement`, which says what is raised, too.
    """

    goes = True


def without(tokenizer, prompt: str, *phrases: Phrase) -> str:
    """A prompt without objects: "a red cat and a dog in the snow" without "cat" is "a dog in the snow".

    What goes is each phrase, what is said of it before (see `noun_phrases`), and an "and", a comma or a "wearing" beside it; wherever the
    prompt has the phrase. An "on" or "of" before it goes too, unless a list gives it another object: "a photo of a cat in the snow" is
    "a photo in the snow" then, and "a photo of a cat and a dog" is "a photo of a dog". So do brackets around it alone. Of "a black and
    white cat" the black stays: no dictionary is asked. What stays is spelled as it was.

    Raises:
        PromptError: the prompt has no such phrase, or says nothing else.
    """
    gone = {token for phrase in phrases for token in find_words(tokenizer, prompt, phrase)}
    found, spans = words_and_spans(tokenizer, prompt)
    said = [word.text.lower() for word in found]
    numbers = [n for n, word in enumerate(found) if set(word.tokens) & gone]
    lasts = [n for n in numbers if n + 1 not in numbers]
    firsts = [n for n in numbers if n - 1 not in numbers]
    kept = list(range(len(said)))
    for first, last in zip(reversed(firsts), reversed(lasts), strict=True):
        kept = _cut(said, kept, first, last)
    if not kept:
        raise PromptError(
            f"Without {', '.join(map(repr, phrases))} the prompt {prompt!r} says nothing. Give a target prompt that says what the picture "
            "shows then."
        )
    return _written(prompt, spans, kept)


def _cut(said: list[str], kept: list[int], first: int, last: int) -> list[int]:
    """What is kept of words without those from the first to the last, what is said of them, and what linked them to others."""
    begins = {n: phrase[0] for phrase in noun_phrases(said) for n in phrase}
    does = first < last and begins.get(first + 1) == first + 1  # "wearing a hat"
    start = first if does else begins.get(first, first)
    if start and start - 1 not in begins and said[start - 1].endswith("ing"):
        start, does = start - 1, True  # "a dog wearing" without what it wears
    left = [n for n in kept if n < start]
    right = [n for n in kept if n > last]
    before = len(left)
    while left and right and said[left[-1]] + said[right[0]] in EMPTY:
        left.pop()
        right.pop(0)
    ends = LINKS if _lists(said, right) else (*LINKS, *JOINS)
    while left and said[left[-1]] in ends:
        left.pop()
    bound = does or len(left) < before
    while right[1:] and said[right[0]] in LINKS and said[right[1]] in LINKS:  # ", and"
        right.pop(0)
    idle: tuple[str, ...] = ()
    if not left or said[left[-1]] in STOPS:
        idle = STOPS
    elif said[left[-1]] in JOINS or not bound:
        idle = LINKS
    while right and said[right[0]] in idle:
        right.pop(0)
    return left + right


def _lists(said: Sequence[str], right: Sequence[int]) -> bool:
    """Whether what comes after an object takes its place in a list: after an "and", or after a comma with an article."""
    links = [said[n] for n in itertools.takewhile(lambda n: said[n] in LINKS, right)]
    follows = "".join(said[n] for n in right[len(links) :][:1])
    paused = set(links) <= {",", ";"}
    return bool(links) and (follows in DETERMINERS if paused else follows not in JOINS)


def _written(prompt: str, spans: Sequence[Span], kept: Sequence[int]) -> str:
    """Words of a prompt as they stand there, with one space where others were; none at a bracket or comma that had none."""
    text, done = "", 0
    for before, number in itertools.pairwise([-1, *kept]):
        start, end = spans[number]
        if number == before + 1:
            text += prompt[done:end]
        else:
            opened = spans[before + 1][0] == done and not prompt[done - 1].isalnum()
            closed = spans[number - 1][1] == start and not prompt[start].isalnum()
            text += ("" if opened or closed else " ") + prompt[start:end]
        done = max(done, end)
    return text.strip()


def placements(edit: Edit) -> list[Placement]:
    """The layout edits in an edit, in their order."""
    if isinstance(edit, Composition):
        return placements(edit.first) + placements(edit.second)
    return [edit] if isinstance(edit, Placement) else []
