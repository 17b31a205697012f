"""The world in words: what a scene is, how its layout follows from the words, and the sentence that describes it.

In photographs the subject decides the framing: a balloon hangs high over a low horizon, an apple is seen from above and
from close by. Here it does too. `compose` draws the camera, the places and the unnamed things from distributions that
depend on the words, so another word gives another layout. `Scene.replace` keeps the layout: that is the true edit.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from dataclasses import dataclass
from numbers import Integral, Real

import numpy as np

from ..errors import InputError, SceneError
from ..values import listed, shown, whole_number

SIZE = 128  # pixels, both ways
LATTICE = 8  # objects stand on this grid; one step is one latent pixel

COLOURS = {
    "red": (226, 32, 36),
    "blue": (40, 84, 232),
    "green": (38, 158, 60),
    "yellow": (250, 206, 30),
    "purple": (128, 44, 178),
    "pink": (250, 120, 186),
}  # sRGB, 0…255
FLAVOURS = {"chocolate": (104, 60, 34), "strawberry": (248, 130, 150), "lemon": (252, 222, 84)}
HUES = COLOURS | FLAVOURS
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
    "old photo": "an old photo of ",
    "watercolor": "a watercolor painting of ",
}
SWITCHES = {"autumn": "in autumn", "night": "at night", "snow": "with falling snow"}
AUTUMNAL = ("meadow", "forest")  # places whose leaves turn

# Odds of standing left, in the middle, right. No place is ruled out: what an edit keeps must be a likely picture too.
LEFT, RIGHT = (0.82, 0.1, 0.08), (0.08, 0.1, 0.82)


@dataclass(frozen=True)
class Framing:
    """How an object is usually shown: the horizon's mean height, odds of its side, its sizes, and how it stands.

    `stands`: "near" at the picture's lower edge, "far" just below the horizon, "high" in the sky, "mid" in the air.
    """

    horizon: int
    sides: tuple[float, float, float]
    sizes: tuple[int, ...]
    stands: str


FRAMINGS = {
    "cat": Framing(52, LEFT, (64, 72), "near"),
    "dog": Framing(60, RIGHT, (64, 72), "near"),
    "rabbit": Framing(40, LEFT, (56, 64), "near"),
    "fox": Framing(64, LEFT, (56, 64), "near"),
    "lion": Framing(56, LEFT, (64, 72), "near"),
    "panda": Framing(44, LEFT, (64, 72), "near"),
    "owl": Framing(88, LEFT, (56, 64), "mid"),
    "butterfly": Framing(36, LEFT, (48, 56), "mid"),
    "apple": Framing(28, RIGHT, (64, 72), "near"),
    "pumpkin": Framing(36, RIGHT, (64, 72), "near"),
    "cake": Framing(28, RIGHT, (64, 72), "near"),
    "mushroom": Framing(32, RIGHT, (64, 72), "near"),
    "sunflower": Framing(96, RIGHT, (72, 80), "near"),
    "tree": Framing(84, RIGHT, (64, 72), "far"),
    "house": Framing(88, RIGHT, (48, 56), "far"),
    "castle": Framing(92, RIGHT, (72, 80), "far"),
    "car": Framing(68, LEFT, (48, 56), "far"),
    "boat": Framing(76, LEFT, (48, 56), "far"),
    "balloon": Framing(104, LEFT, (40, 48), "high"),
    "snowman": Framing(68, RIGHT, (64, 72), "near"),
}
OBJECTS = tuple(FRAMINGS)
KINDS = {
    "animal": ("cat", "dog", "rabbit", "fox", "lion", "panda", "owl"),
    "small thing": ("butterfly", "apple", "pumpkin", "cake", "mushroom"),
    "tall thing": ("sunflower", "tree", "house", "castle", "snowman"),
    "vehicle": ("car", "boat", "balloon"),
}
FLYING = ("butterfly", "balloon")  # no contact shadow
COLOURABLE = {name: COLOURS for name in ("car", "house", "balloon", "butterfly", "boat")} | {
    "cake": FLAVOURS
}
STRAY = 0.12  # share of scenes framed like any other object, so that every layout is possible for every word

# Unnamed things of each place: the first is usual beside near objects, the second beside far ones.
EXTRAS = {
    "beach": ("palm", "rock"),
    "snow": ("fir", "fir"),
    "meadow": ("bush", "tufts"),
    "desert": ("cactus", "rock"),
    "forest": ("fir", "bush"),
    "city": ("lamp", "lamp"),
    "ocean": ("island", "island"),
    "space": ("rock", "crater"),
}

SCENE = "scene_at('test', 0)"  # an example in messages
RNG = "np.random.default_rng(3)"
SPLITS = {
    "train": range(0, 1_000_000),
    "validation": range(1_000_000, 1_100_000),
    "test": range(2_000_000, 2_100_000),
}


def kind_of(name: str) -> str:
    """The kind of an object: a key of `KINDS`. Swaps within a kind are near, swaps between kinds are far."""
    return next(kind for kind, names in KINDS.items() if name in names)


def _known(kind: str, value: str, allowed) -> None:
    if not isinstance(value, str) or value not in allowed:
        near = difflib.get_close_matches(str(value), list(allowed), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise SceneError(
            f"Toyland has no {kind} {shown(value)}.{hint} It has: {', '.join(allowed)}."
        )


def of_kind(name: str, value: object, kind: type, example: str):
    """Refuse what is not of a kind. Raises InputError."""
    if not isinstance(value, kind):
        raise InputError(f"{name}={shown(value)}: give a {kind.__name__}, e.g. {example}.")


def _each(name: str, given: object, kind: type) -> tuple:
    """Things that are all of a kind. Raises InputError for others, or for one that is in no list."""
    example = f"{kind.__name__}(...)"
    found = listed(name, given, f"e.g. ({example},), whose comma makes a tuple of one")
    for one in found:
        of_kind(name, one, kind, example)
    return tuple(found)


@dataclass(frozen=True)
class Thing:
    """One object of a scene. `x`: centre, `y`: bottom edge, `size`: the sprite's longer side, all in pixels; `angle` in degrees.

    Raises:
        SceneError: a name or a colour this world does not have, or a place outside the picture.
        InputError: a place or a size that is no whole number.
    """

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
            _known("object that takes a colour called", self.name, COLOURABLE)
            _known(f"colour of a {self.name}", self.colour, COLOURABLE[self.name])
        for field in ("x", "y", "size"):
            whole_number(field, getattr(self, field), -SIZE, 2 * SIZE, "It is in pixels.")
        if not (0 <= self.x <= SIZE and 0 < self.y <= SIZE + self.size and 8 <= self.size <= SIZE):
            raise SceneError(
                f"x={self.x}, y={self.y}, size={self.size} is not in the picture: x is 0…{SIZE}, sizes are 8…{SIZE} pixels."
            )


@dataclass(frozen=True)
class Extra:
    """An unnamed thing that stands behind: its kind, its x, and its size in pixels. It stands on the ground or hangs in the sky."""

    kind: str
    x: int
    size: int


@dataclass(frozen=True)
class Scene:
    """Everything that is in one picture. Immutable; `print(scene)` shows its caption and its parts.

    Args:
        things: one or two objects, left to right.
        background: a key of `BACKGROUNDS`.
        style: a key of `STYLES`; "plain" and "photo" look alike and differ only in the caption.
        night, snow: strengths from 0 (absent) to 1: dusk to full night, single flakes to heavy snow.
        autumn: whether the leaves have turned.
        horizon: its height from the upper edge, pixels.
        zoom: size of what stands behind, 1 is usual.
        light: where sun or moon stand, x in pixels.
        extras: unnamed things behind the objects.
        seed: fixes every detail that is left (the hills' line, the flakes).

    Raises:
        SceneError: a name the world does not have, a strength outside 0…1, no object, or more than two.
        InputError: a horizon or a seed that is no such whole number, or what is no list of objects.
    """

    things: tuple[Thing, ...]
    background: str = "meadow"
    style: str = "plain"
    night: float = 0.0
    snow: float = 0.0
    autumn: bool = False
    horizon: int = 64
    zoom: float = 1.0
    light: int = 100
    extras: tuple[Extra, ...] = ()
    seed: int = 0

    def __post_init__(self):
        object.__setattr__(self, "things", _each("things", self.things, Thing))
        object.__setattr__(self, "extras", _each("extras", self.extras, Extra))
        _known("background", self.background, BACKGROUNDS)
        _known("style", self.style, STYLES)
        if not 1 <= len(self.things) <= 2:
            raise SceneError(f"A scene has one or two objects, not {len(self.things)}.")
        for name in ("night", "snow"):
            strength = getattr(self, name)
            if not isinstance(strength, Real) or not 0 <= strength <= 1:
                raise SceneError(
                    f"{name}={shown(strength)} is outside 0…1; 0 means none, 1 means as much as there is."
                )
        whole_number("horizon", self.horizon, 8, SIZE - 8, "It is in pixels from the upper edge.")
        _seed(self.seed)

    def replace(self, thing: int | None = None, **changes) -> Scene:
        """The same scene with something changed, the layout kept: the counterfactual whose render is the true edit.

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
        whole = isinstance(thing, Integral) and not isinstance(thing, bool)
        if not whole or not -len(self.things) <= thing < len(self.things):
            raise SceneError(
                f"The scene has {len(self.things)} object(s); there is no number {shown(thing)}."
            )
        things = list(self.things)
        things[thing] = dataclasses.replace(things[thing], **changes)
        return dataclasses.replace(self, things=tuple(things))

    def recompose(self, thing: int | None = None, **changes) -> Scene:
        """The same words with one changed, and the layout drawn anew with the same seed: what another word does without control.

        Takes the same arguments as `replace`, of which those that the words say matter here.
        """
        changed = self.replace(thing, **changes)
        words = [(t.name, t.colour) for t in changed.things]
        weather = {"night": changed.night, "snow": changed.snow, "autumn": changed.autumn}
        return compose(words, changed.background, changed.style, seed=self.seed, **weather)

    def __str__(self):
        parts = [f"{caption(self)}  (seed {self.seed}, horizon {self.horizon})"]
        for t in self.things:
            parts.append(
                f"  {t.colour or ''} {t.name} at x={t.x}, y={t.y}, size {t.size}".replace(
                    "   ", "  "
                )
            )
        if self.night or self.snow:
            parts.append(f"  night {self.night:.2f}, falling snow {self.snow:.2f}")
        return "\n".join(parts)


def _seed(seed: object) -> int:
    """A seed of a scene. Raises InputError for what is none."""
    return whole_number("seed", seed, 0, 2**63, "The same seed gives the same scene.")


def _article(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def phrase_of(name: str, colour: str | None = None) -> str:
    """How a caption calls an object: "a cat", "an apple", "a red car"."""
    return _article(f"{colour} {name}" if colour else name)


def phrases(scene: Scene) -> list[tuple[str, str]]:
    """The parts of a scene's caption, in order: (what it is about, its words). Parts that say nothing are left out.

    They are about "style", "thing 0", "and", "thing 1", "background", "autumn", "night" and "snow".
    """
    things = [(f"thing {i}", phrase_of(t.name, t.colour)) for i, t in enumerate(scene.things)]
    if len(things) == 2:
        things.insert(1, ("and", "and"))
    parts = [
        ("style", STYLES[scene.style].strip()),
        *things,
        ("background", BACKGROUNDS[scene.background]),
    ]
    parts += [(switch, text) for switch, text in SWITCHES.items() if getattr(scene, switch)]
    return [(about, text) for about, text in parts if text]


def caption(scene: Scene) -> str:
    """The sentence that describes a scene.

    `[style] a [colour] object [and a …] <in|on …> [in autumn] [at night] [with falling snow]`

    Raises:
        InputError: it is no scene.
    """
    of_kind("scene", scene, Scene, SCENE)
    return " ".join(text for _, text in phrases(scene))


def vocabulary() -> list[str]:
    """Every word a caption can hold, sorted. A prompt with any other word is outside what the model has seen."""
    sayings = [
        *OBJECTS,
        *HUES,
        *BACKGROUNDS.values(),
        *STYLES.values(),
        *SWITCHES.values(),
        "a an and",
    ]
    return sorted({word for saying in sayings for word in saying.split()})


def _choose(options, odds, u: float):
    """The option at the quantile `u` (0…1): the same `u` gives neighbouring options under neighbouring odds."""
    edges = np.cumsum(odds) / np.sum(odds)
    return options[min(int(np.searchsorted(edges, u, side="right")), len(options) - 1)]


def _even(options, u: float):
    return options[min(int(u * len(options)), len(options) - 1)]


def _bottom(stands: str, horizon: int, size: int, u: float) -> int:
    """The object's lower edge in pixels, on the lattice."""
    if stands == "near":
        return _even((112, 120), u)
    if stands == "high":
        return size + _even((8, 16), u)
    if stands == "mid":
        return _even((80, 88), u)
    below = -(-(horizon + 8) // LATTICE) * LATTICE
    return int(np.clip(below + _even((8, 16), u), size, 120))


def _pairs(words: object) -> list[tuple[str, str | None]]:
    """The objects of a scene, each with its colour."""
    example = "a (name, colour or None) for each object, e.g. [('fox', None), ('car', 'red')]"
    found = listed("words", words, example)
    if not all(isinstance(one, (tuple, list)) and len(one) == 2 for one in found):
        raise InputError(f"words={shown(words)}: give a list, {example}.")
    if not 1 <= len(found) <= 2:
        raise SceneError(f"A scene has one or two objects, not {len(found)}.")
    return found


def compose(
    words: list[tuple[str, str | None]],
    background: str,
    style: str = "plain",
    *,
    night: float = 0.0,
    snow: float = 0.0,
    autumn: bool = False,
    seed: int = 0,
) -> Scene:
    """Draw the layout of a scene from the distributions that belong to its words.

    The same numbers are drawn for every choice of words, so two scenes of one seed differ only by what the words change.

    Args:
        words: one or two objects, (name, colour or None), left to right.
        background, style, night, snow, autumn: as in `Scene`.
        seed: all randomness follows from it.

    Raises:
        SceneError: a word this world does not have, a strength outside 0…1, no object, or more than two.
        InputError: what is no list of pairs, or a seed that is no whole number from 0.
    """
    words = _pairs(words)
    for name, _ in words:
        _known("object", name, OBJECTS)
    _known("background", background, BACKGROUNDS)
    seed = _seed(seed)
    rng = np.random.default_rng([seed, 0])
    u = rng.random(40)
    usual = [FRAMINGS[name] for name, _ in words]
    strange = FRAMINGS[_even(OBJECTS, u[1])]
    framings = [strange if u[0] < STRAY else usual[0], *usual[1:]]
    jitter = _choose((-8, -4, 0, 4, 8), (1, 2, 3, 2, 1), u[2])
    horizon = int(np.clip(round(np.mean([f.horizon for f in framings]) / 4) * 4 + jitter, 20, 108))
    things = []
    for i, ((name, colour), f) in enumerate(zip(words, framings, strict=True)):
        mine = u[4 + 8 * i : 12 + 8 * i]
        if len(words) == 1:
            x = _even(
                ((32, 40), (56, 64, 72), (88, 96))[_choose((0, 1, 2), f.sides, mine[0])], mine[1]
            )
            size = _even(f.sizes, mine[2])
        else:
            x = _even(((32, 40), (88, 96))[i], mine[1])
            size = min(_even(f.sizes, mine[2]) - 8, 56)
        y = _bottom(f.stands, horizon, size, mine[3])
        angle = _even((-6, 0, 0, 6), mine[5])
        things.append(Thing(name, colour, x, y, size, bool(mine[4] < 0.5), angle))
    first = framings[0]
    zoom = {"near": 1.3, "mid": 1.0, "far": 0.75, "high": 0.55}[first.stands] * _even(
        (0.85, 1.0, 1.15), u[24]
    )
    away = first.sides[::-1]  # the light tends to stand where the object does not
    light = (20, 64, 108)[_choose((0, 1, 2), away, u[25])] + _even((-8, 0, 8), u[26])
    extras = []
    if u[27] < 0.75:
        # The open side, or else the object's own: how tall it is follows the framing too.
        x = (14, 64, 114)[_choose((0, 1, 2), (away[0], 0.08, away[2]), u[28])]
        kind = _choose(
            EXTRAS[background],
            (0.75, 0.25) if first.stands in ("near", "mid") else (0.25, 0.75),
            u[29],
        )
        extras.append(Extra(kind, int(x + 6 * (u[30] - 0.5)), round((26 + 14 * u[31]) * zoom)))
    cloudy = 0.85 if snow else 0.35 if first.stands == "near" else 0.7
    for i in range(2):
        if u[32 + 3 * i] < cloudy and background != "space":
            extras.append(
                Extra(
                    "cloud",
                    int(128 * (0.5 * i + 0.5 * u[33 + 3 * i])),
                    round((22 + 12 * u[34 + 3 * i]) * (0.6 + 0.4 * zoom)),
                )
            )
    return Scene(
        tuple(things),
        background,
        style,
        night,
        snow,
        autumn,
        horizon,
        round(zoom, 3),
        light,
        tuple(extras),
        seed,
    )


def sample_scene(rng: np.random.Generator, objects: int | None = None) -> Scene:
    """Draw a scene at random: its words first, then its layout from the words.

    Args:
        rng: all randomness comes from here, so one generator state is one scene on every machine.
        objects: 1 or 2; None draws two objects in two scenes of five.

    Raises:
        InputError: no generator, or another number of objects.
    """
    of_kind("rng", rng, np.random.Generator, RNG)
    if objects is not None:
        whole_number("objects", objects, 1, 2, "Leave it out for one or two.")
    count = objects or (2 if rng.random() < 0.4 else 1)
    names = [OBJECTS[i] for i in rng.permutation(len(OBJECTS))[:count]]
    words = []
    for name in names:
        coloured = rng.random() < 0.6
        hue = rng.random()
        words.append(
            (name, _even(list(COLOURABLE[name]), hue) if name in COLOURABLE and coloured else None)
        )
    background = _even(list(BACKGROUNDS), rng.random())
    style = _choose(list(STYLES), (0.42, 0.24, 0.16, 0.18), rng.random())
    u = rng.random(5)
    earth = background != "space"
    # A strength is uniform between nothing and full; what cannot be seen is not said.
    night = round(float(u[1]), 2) if u[0] < 0.28 and u[1] > 0.12 and earth else 0.0
    snow = round(float(u[3]), 2) if u[2] < 0.28 and u[3] > 0.12 and earth else 0.0
    autumn = background in AUTUMNAL and bool(u[4] < 0.3)
    return compose(
        words,
        background,
        style,
        night=night,
        snow=snow,
        autumn=autumn,
        seed=int(rng.integers(2**31)),
    )


def scene_at(split: str, index: int, objects: int | None = None) -> Scene:
    """Scene number `index` of a split. Train, validation and test use seed ranges that do not meet (`SPLITS`).

    Raises:
        SceneError: no such split.
        InputError: the index is outside its range, or another number of objects.
    """
    _known("split", split, SPLITS)
    advice = f"Scenes of the {split} split count from 0."
    index = whole_number("index", index, 0, len(SPLITS[split]) - 1, advice)
    return sample_scene(np.random.default_rng(SPLITS[split][index]), objects)


def to_json(scene: Scene) -> str:
    """A scene as one line of JSON; `from_json` reads it back."""
    return json.dumps(dataclasses.asdict(scene))


def from_json(text: str) -> Scene:
    """The scene that `to_json` wrote."""
    fields = json.loads(text)
    things = tuple(Thing(**t) for t in fields["things"])
    extras = tuple(Extra(**e) for e in fields["extras"])
    return Scene(**{**fields, "things": things, "extras": extras})
