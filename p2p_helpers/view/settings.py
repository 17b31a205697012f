"""All that decides a picture of the studio, as one value."""

from __future__ import annotations

import functools
import operator
import re
from dataclasses import dataclass, field

from ..blend import LocalBlend
from ..edits.edit import Edit
from ..edits.layout import Duplicate, Move, Placement, Remove, Resize
from ..edits.words import Refine, Replace, Reweight
from ..errors import InputError
from ..prompts.words import Phrase
from ..values import shown

KINDS = {"word swap": Replace, "refinement": Refine}


@dataclass(frozen=True)
class Place:
    """Where an object goes.

    Args:
        phrase: the object.
        kind: what happens to it: "move", "duplicate" or "remove".
        dx, dy, scale: as for `Move`.
    """

    phrase: Phrase
    kind: str = "move"
    dx: float = 0.0
    dy: float = 0.0
    scale: float = 1.0

    def __post_init__(self):
        if not isinstance(self.phrase, str):
            object.__setattr__(self, "phrase", tuple(self.phrase))

    def placement(self, cross_steps: float) -> Placement | None:
        """The layout edit, or None where everything stays."""
        if self.kind == "remove":
            return Remove(self.phrase, cross_steps=cross_steps)
        if self.kind == "duplicate":
            return Duplicate(self.phrase, self.dx, self.dy, self.scale, cross_steps=cross_steps)
        if self.dx or self.dy:
            return Move(self.phrase, self.dx, self.dy, self.scale, cross_steps=cross_steps)
        return None if self.scale == 1 else Resize(self.phrase, self.scale, cross_steps=cross_steps)


@dataclass(frozen=True)
class Settings:
    """All that decides a picture of the studio.

    `json.dumps(dataclasses.asdict(settings))` is its export.
    """

    source: str = "a cat on the beach"
    target: str = "a dog on the beach"
    kind: str = "word swap"
    weights: tuple[float, ...] = ()  # one for each word of the target; words beyond are 1
    cross_steps: float = 0.8
    self_steps: float = 0.4
    blend: str = ""  # words of local blend with commas between; none for no blend
    seed: int = 3
    steps: int = 20
    method: str = ""  # of inversion, if a picture was uploaded
    # The target's words as Reweight takes them, one for each weight.
    phrases: tuple = field(default=(), compare=False)
    places: tuple[Place, ...] = ()  # where the target's objects go

    def __post_init__(self):  # JSON knows neither tuples nor classes
        object.__setattr__(self, "weights", tuple(self.weights))
        phrases = tuple(p if isinstance(p, str) else tuple(p) for p in self.phrases)
        object.__setattr__(self, "phrases", phrases)
        places = tuple(p if isinstance(p, Place) else Place(**p) for p in self.places)
        object.__setattr__(self, "places", places)

    @property
    def edit(self) -> Edit:
        """The edit; where the prompts are the same and something is moved, the move alone.

        Raises:
            InputError: a weight other than 1 has no phrase.
        """
        nameless = self.weights[len(self.phrases) :]
        if any(weight != 1 for weight in nameless):
            raise InputError(
                f"weights={shown(self.weights)} with {len(self.phrases)} phrases: name the words that they turn, one for each weight, "
                'e.g. phrases=("a", "dog") for weights=(1, 2).'
            )
        swap = KINDS[self.kind](cross_steps=self.cross_steps, self_steps=self.self_steps)
        wanted = [place.placement(self.cross_steps) for place in self.places]
        moves = [move for move in wanted if move is not None]
        turned = {p: c for p, c in zip(self.phrases, self.weights, strict=False) if c != 1}
        alone = moves and self.source == self.target
        parts = [*([] if alone else [swap]), *moves, *([Reweight(turned)] if turned else [])]
        return functools.reduce(operator.or_, parts)

    @property
    def start(self) -> tuple:
        """What decides the source, beside an uploaded picture."""
        return self.source, self.seed, self.steps, self.method

    @property
    def frees(self) -> bool:
        """Whether the target without control is another picture than the source."""
        return self.source != self.target

    @property
    def local_blend(self) -> LocalBlend | None:
        """The local blend, if any."""
        found = tuple(word.strip() for word in self.blend.split(",") if word.strip())
        return LocalBlend(found) if found else None

    def python(self) -> str:
        """The exact call, to paste into a notebook that has `pipe`."""
        change = re.sub(r"(^|\| )([A-Z])", r"\1p2p.\2", repr(self.edit))
        lines = ["import p2p_helpers as p2p", ""]
        start = repr(self.source)
        if self.method:
            lines += ['image = p2p.load_image("my-photo.png", pipe)']
            lines += [
                f"inversion = p2p.invert(pipe, image, {self.source!r}, method={self.method!r}, "
                f"steps={self.steps})"
            ]
            start = "inversion"
        end = [f"    seed={self.seed},", f"    steps={self.steps},"] if not self.method else []
        blend = []
        if self.local_blend:
            blend = [f"    local_blend=p2p.LocalBlend({self.local_blend.words!r}),"]
        return "\n".join(
            [
                *lines,
                "result = p2p.edit(",
                "    pipe,",
                f"    {start},",
                f"    {self.target!r},",
                f"    {change},",
                *blend,
                *end,
                ")",
            ]
        )
