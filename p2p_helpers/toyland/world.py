"""The world in words: what a scene is, how one is drawn at random, and the sentence that describes it.

A `Scene` is a small immutable description. Everything random in its picture follows from `Scene.seed`, and every layer of
the picture has a random stream of its own, so changing one thing with `Scene.replace` leaves the rest pixel for pixel.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass

import numpy as np

from ..errors import SceneError

SIZE = 128  # pixels, both ways
LATTICE = 8  # objects are placed on this grid: one step is one latent pixel, so a shift in the picture is a shift in the latent

OBJECTS = (
    "cat", "dog", "rabbit", "fox", "lion", "panda", "butterfly", "apple",
    "pumpkin", "mushroom", "tree", "house", "car", "boat", "balloon", "snowman",
)  # fmt: skip
FLYING = ("butterfly", "balloon")  # hover above the ground, no contact shadow
COLOURABLE = ("car", "house", "balloon", "butterfly", "boat")
COLOURS = {
    "red": (226, 32, 36),
    "blue": (40, 84, 232),
    "green": (38, 158, 60),
    "yellow": (250, 206, 30),
    "purple": (128, 44, 178),
    "pink": (250, 120, 186),
}  # sRGB, 0…255
BACKGROUNDS = {
    "beach": "on the beach",
    "snow": "in the snow",
    "meadow": "in a meadow",
    "desert": "in the desert",
    "forest": "in a forest",
    "city": "in the city",
    "ocean": "on the ocean",
    "space": "in space",
}
STYLES = {
    "plain": "",
    "photo": "a photo of ",
    "watercolor": "a watercolor painting of ",
    "sketch": "a pencil sketch of ",
}

SPLITS = {
    "train": range(0, 1_000_000),
    "validation": range(1_000_000, 1_100_000),
    "test": range(2_000_000, 2_100_000),
}


def _known(kind: str, value: str, allowed) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), list(allowed), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SceneError(f"Toyland has no {kind} {value!r}.{hint} It has: {', '.join(allowed)}.")


@dataclass(frozen=True)
class Thing:
    """One object of a scene. `x`: centre, `y`: bottom edge, `size`: the sprite's longer side, all in pixels; `angle` in degrees."""

    name: str
    colour: str | None = None
    x: int = 64
    y: int = 112
    size: int = 64
    flip: bool = False
    angle: int = 0

    def __post_init__(self):
        _known("object", self.name, OBJECTS)
        if self.colour is not None:
            _known("colour", self.colour, COLOURS)
            _known("object that takes a colour called", self.name, COLOURABLE)
        if not (0 <= self.x <= SIZE and 0 < self.y <= SIZE + self.size and 8 <= self.size <= SIZE):
            raise SceneError(
                f"x={self.x}, y={self.y}, size={self.size} is not in the picture: x is 0…{SIZE}, sizes are 8…{SIZE} pixels."
            )


@dataclass(frozen=True)
class Scene:
    """Everything that is in one picture. Immutable; `print(scene)` shows its caption and its parts.

    Args:
        things: one or two objects, left to right.
        background: a key of `BACKGROUNDS`.
        style: a key of `STYLES`; "plain" and "photo" look alike and differ only in the caption.
        night, snow: strengths from 0 (absent) to 1.
        seed: fixes what the caption does not say (hills, clouds, flakes, the moon's place).

    Raises:
        SceneError: a name the world does not have, or a strength outside 0…1.
    """

    things: tuple[Thing, ...]
    background: str = "meadow"
    style: str = "plain"
    night: float = 0.0
    snow: float = 0.0
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "things", tuple(self.things))
        _known("background", self.background, BACKGROUNDS)
        _known("style", self.style, STYLES)
        if not 1 <= len(self.things) <= 2:
            raise SceneError(f"A scene has one or two objects, not {len(self.things)}.")
        for name in ("night", "snow"):
            if not 0 <= getattr(self, name) <= 1:
                raise SceneError(
                    f"{name}={getattr(self, name)} is outside 0…1; 0 means none, 1 means as much as there is."
                )

    def replace(self, thing: int | None = None, **changes) -> Scene:
        """The same scene with something changed: the counterfactual whose render is the true edit.

        Args:
            thing: which object to change (0 is the left one); None changes the scene itself.
            **changes: fields of `Thing` or of `Scene`, e.g. `scene.replace(0, name="dog")`, `scene.replace(night=1.0)`.

        Returns:
            a new scene; its picture equals this one's, pixel for pixel, outside what changes.

        Raises:
            SceneError: no such object, or a value this world does not have.
        """
        if thing is None:
            return dataclasses.replace(self, **changes)
        if not -len(self.things) <= thing < len(self.things):
            raise SceneError(
                f"The scene has {len(self.things)} object(s); there is no number {thing}."
            )
        things = list(self.things)
        things[thing] = dataclasses.replace(things[thing], **changes)
        return dataclasses.replace(self, things=tuple(things))

    def __str__(self):
        parts = [f"{caption(self)}  (seed {self.seed})"]
        for t in self.things:
            parts.append(
                f"  {t.colour or ''} {t.name} at x={t.x}, y={t.y}, size {t.size}".replace(
                    "   ", "  "
                )
            )
        if self.night or self.snow:
            parts.append(f"  night {self.night:.2f}, falling snow {self.snow:.2f}")
        return "\n".join(parts)


def caption(scene: Scene) -> str:
    """The sentence that describes a scene: `[style] a [colour] object [and a …] <in|on …> [at night] [with falling snow]`."""
    things = " and ".join(f"a {t.colour + ' ' if t.colour else ''}{t.name}" for t in scene.things)
    text = f"{STYLES[scene.style]}{things} {BACKGROUNDS[scene.background]}"
    return (
        text + (" at night" if scene.night else "") + (" with falling snow" if scene.snow else "")
    )


def vocabulary() -> list[str]:
    """Every word a caption can hold, sorted. A prompt with any other word is outside what the model has seen."""
    phrases = [
        *OBJECTS,
        *COLOURS,
        *BACKGROUNDS.values(),
        *STYLES.values(),
        "a and at night with falling snow",
    ]
    return sorted({word for phrase in phrases for word in phrase.split()})


def sample_scene(rng: np.random.Generator, objects: int | None = None) -> Scene:
    """Draw a scene at random.

    Args:
        rng: all randomness comes from here, so one generator state is one scene on every machine.
        objects: 1 or 2; None draws two objects in two scenes of five.
    """
    pick = lambda options: options[int(rng.integers(len(options)))]  # noqa: E731
    count = objects or (2 if rng.random() < 0.4 else 1)
    background = pick(list(BACKGROUNDS))
    style = ("plain", "photo", "watercolor", "sketch")[
        int(np.searchsorted([0.4, 0.64, 0.82], rng.random(), side="right"))
    ]
    names = [OBJECTS[i] for i in rng.permutation(len(OBJECTS))[:count]]
    # one shared step of the left half and the right half, so that two objects never overlap by more than their corners
    columns = (
        [pick((40, 48, 56, 64, 72, 80, 88))] if count == 1 else [pick((32, 40)), pick((88, 96))]
    )
    things = []
    for name, x in zip(names, columns, strict=True):
        size = pick((56, 64, 72)) if count == 1 else pick((48, 56))
        y = pick((104, 112, 120)) if name not in FLYING else pick((80, 88, 96))
        colour = pick(list(COLOURS)) if name in COLOURABLE and rng.random() < 0.7 else None
        things.append(
            Thing(name, colour, x, y, size, bool(rng.random() < 0.5), int(pick((-6, 0, 0, 6))))
        )
    night = (
        0.0
        if background == "space" or rng.random() >= 0.25
        else round(0.6 + 0.4 * float(rng.random()), 2)
    )
    snow = (
        0.0
        if background == "space" or rng.random() >= 0.25
        else round(0.3 + 0.7 * float(rng.random()), 2)
    )
    return Scene(tuple(things), background, style, night, snow, seed=int(rng.integers(2**31)))


def scene_at(split: str, index: int, objects: int | None = None) -> Scene:
    """Scene number `index` of a split. Train, validation and test use seed ranges that do not meet (`SPLITS`).

    Raises:
        SceneError: no such split, or the index is outside its range.
    """
    _known("split", split, SPLITS)
    if not 0 <= index < len(SPLITS[split]):
        raise SceneError(
            f"The {split} split holds scenes 0…{len(SPLITS[split]) - 1}; there is no scene {index}."
        )
    return sample_scene(np.random.default_rng(SPLITS[split][index]), objects)


def to_json(scene: Scene) -> str:
    """A scene as one line of JSON; `from_json` reads it back."""
    return json.dumps(dataclasses.asdict(scene))


def from_json(text: str) -> Scene:
    """The scene that `to_json` wrote."""
    fields = json.loads(text)
    return Scene(**{**fields, "things": tuple(Thing(**t) for t in fields["things"])})
