"""Edits whose true result is known: the scene before, the scene after, both sentences, and the edit that leads from one to the other."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageFilter

from ..blend import LocalBlend
from ..edits.edit import Edit
from ..edits.words import Refine, Replace, Reweight
from ..errors import SceneError
from ..paths import data_folder
from .reader import LOOKS, Reading
from .render import render
from .world import (
    AUTUMNAL,
    BACKGROUNDS,
    COLOURABLE,
    OBJECTS,
    RNG,
    SCENE,
    SIZE,
    Scene,
    Thing,
    caption,
    from_json,
    kind_of,
    of_kind,
    phrase_of,
)

EDITS = ("swap", "recolour", "background", "autumn", "night", "snow", "restyle", "add")
NEAR = 8  # pixels: a latent pixel's width around what changed counts as changed


def swap(
    scene: Scene, rng: np.random.Generator, far: bool | None = None
) -> tuple[Scene, int, str, str]:
    """A word swap for a scene: the scene after it, which object, the old and the new word.

    The colour is kept where both take it.

    Args:
        far: whether the new object is of another kind (see `world.KINDS`); None is any.

    Raises:
        SceneError: nothing fits, as when no other object takes the old one's colour.
        InputError: no scene, or no generator.
    """
    of_kind("scene", scene, Scene, SCENE)
    of_kind("rng", rng, np.random.Generator, RNG)
    i = int(rng.integers(len(scene.things)))
    taken = {t.name for t in scene.things}
    old = scene.things[i]

    def fits(name: str) -> bool:
        keeps = old.colour is None or old.colour in COLOURABLE.get(name, ())
        return (
            name not in taken
            and keeps
            and (far is None or far == (kind_of(name) != kind_of(old.name)))
        )

    choices = [name for name in OBJECTS if fits(name)]
    if not choices:
        raise SceneError(
            f"No other object can take the place of {phrase_of(old.name, old.colour)} in “{caption(scene)}”."
        )
    new = choices[int(rng.integers(len(choices)))]
    return scene.replace(i, name=new), i, old.name, new


@dataclass(frozen=True)
class Counterfactual:
    """A scene, the scene that the edit should give, and the usual edit for its kind; `words` are the old and the new one."""

    kind: str
    before: Scene
    after: Scene
    words: tuple[str, ...]

    @property
    def source(self) -> str:
        """The prompt before."""
        return caption(self.before)

    @property
    def target(self) -> str:
        """The prompt after."""
        return caption(self.after)

    @property
    def edit(self) -> Edit:
        """Word swap where a word is another one, refinement where words are new, with the schedules that suit this world best.

        What shall have a shape of its own, or another manner all over, needs shorter ones. Falling snow is weak where the other
        words keep their places, so it is turned up.
        """
        if self.kind in ("swap", "recolour", "background"):
            return Replace(cross_steps=0.3 if self.kind == "swap" else 0.5, self_steps=0.2)
        if self.kind == "add":
            return Refine(cross_steps=0.1, self_steps=0.0)
        added = Refine(cross_steps=0.2 if self.kind == "restyle" else 0.4, self_steps=0.2)
        return added | Reweight({"falling snow": 2.0}) if self.kind == "snow" else added

    @property
    def local_blend(self) -> LocalBlend | None:
        """On the object where one object changes or comes; all but the objects where the background does; none where everything may."""
        if self.kind in ("swap", "recolour", "add"):
            return LocalBlend(self.words)
        if self.kind == "background":
            return LocalBlend(
                exclude=[t.name for t in self.before.things], mask=np.ones((SIZE, SIZE))
            )
        return None

    @functools.cached_property
    def pictures(self) -> tuple[Image.Image, Image.Image]:
        """The scene as it is and as the edit should make it."""
        return render(self.before)[0], render(self.after)[0]

    @functools.cached_property
    def changed(self) -> Bool[np.ndarray, "height width"]:
        """Where the two pictures differ by more than 8 of 255 in a channel, and a latent pixel around it."""
        before, after = (np.asarray(picture, int) for picture in self.pictures)
        differs = Image.fromarray(np.abs(before - after).max(-1) > 8).convert("L")
        return np.asarray(differs.filter(ImageFilter.MaxFilter(2 * NEAR + 1))) > 0

    def seen(self, reading: Reading) -> bool:
        """Whether a picture shows what is new and no longer what was old, as the reader has it."""
        found = {f.name: f.colour for f in reading.objects}
        old, new = self.words[0], self.words[-1]
        return {
            "swap": lambda: new in found and old not in found,
            "recolour": lambda: new in [c for name, c in found.items() if name == self._recoloured],
            "background": lambda: reading.background == self.after.background,
            "night": lambda: reading.night,
            "snow": lambda: reading.snow,
            "autumn": lambda: reading.autumn,
            "restyle": lambda: reading.style == self.after.style,
            "add": lambda: all(t.name in found for t in self.after.things),
        }[self.kind]()

    @property
    def _recoloured(self) -> str | None:
        pairs = zip(self.before.things, self.after.things, strict=False)
        return next((a.name for a, b in pairs if a.colour != b.colour), None)


def counterfactual(scene: Scene, kind: str, rng: np.random.Generator) -> Counterfactual:
    """An edit of one kind for a scene, its details drawn at random.

    Raises:
        SceneError: no such kind, or the scene does not allow it: nothing to recolour, leaves in an old photo, night already, no
            room for a second object.
        InputError: no scene, or no generator.
    """
    of_kind("scene", scene, Scene, SCENE)
    of_kind("rng", rng, np.random.Generator, RNG)

    def need(true: bool, why: str):
        if not true:
            raise SceneError(f"{kind!r} does not fit “{caption(scene)}”: {why}.")

    def pick(options):
        return options[int(rng.integers(len(options)))]

    need(kind in EDITS, f"the kinds of edit are {', '.join(EDITS)}")
    if kind == "swap":
        after, _, old, new = swap(scene, rng)
        return Counterfactual(kind, scene, after, (old, new))
    if kind == "recolour":
        need(scene.style != "old photo", "an old photo has no colours")
        coloured = [i for i, t in enumerate(scene.things) if t.colour]
        need(bool(coloured), "nothing in it has a colour's name")
        i = pick(coloured)
        old = scene.things[i].colour
        new = pick(
            [
                c
                for c in COLOURABLE[scene.things[i].name]
                if c not in [t.colour for t in scene.things]
            ]
        )
        return Counterfactual(kind, scene, scene.replace(i, colour=new), (old, new))
    if kind == "background":
        long = [name for name, phrase in BACKGROUNDS.items() if len(phrase.split()) == 3]
        need(scene.background in long, "word swap needs as many words as before")
        need(not scene.autumn, "the leaves have turned")
        after = scene.replace(background=pick([b for b in long if b != scene.background]))
        return Counterfactual(kind, scene, after, (scene.background,))
    if kind in ("night", "snow"):
        need(scene.background != "space", "space has neither")
        need(not getattr(scene, kind), "it is there already")
        return Counterfactual(kind, scene, scene.replace(**{kind: 0.8}), (kind,))
    if kind == "autumn":
        need(scene.background in AUTUMNAL, "no leaves turn there")
        need(scene.style != "old photo", "an old photo has no colours")
        need(not scene.autumn, "it is there already")
        return Counterfactual(kind, scene, scene.replace(autumn=True), (kind,))
    if kind == "restyle":
        need(scene.style == "plain", "it has a style already")
        return Counterfactual(kind, scene, scene.replace(style=pick(LOOKS[1:])), ("style",))
    need(len(scene.things) == 1, "it has two objects")
    first = scene.things[0]
    need(abs(first.x - SIZE // 2) >= 24 and first.size <= 64, "there is no room")
    name = pick([o for o in OBJECTS if o != first.name])
    second = Thing(name, None, 28 if first.x > SIZE // 2 else 100, 112, 48)
    return Counterfactual(
        kind,
        scene,
        scene.replace(things=tuple(sorted((first, second), key=lambda t: t.x))),
        (name,),
    )


@dataclass(frozen=True)
class Photo:
    """One of the pictures in data/photos, a render of a scene that training never saw, and edits of it with their true results."""

    name: str
    path: Path
    scene: Scene
    edits: tuple[Counterfactual, ...]

    @property
    def prompt(self) -> str:
        """What it shows."""
        return caption(self.scene)


@functools.cache
def photos() -> dict[str, Photo]:
    """The pictures of data/photos by name."""
    folder, found = data_folder("photos"), {}
    for name, entry in json.loads((folder / "photos.json").read_text(encoding="utf-8")).items():
        scene = from_json(json.dumps(entry["scene"]))
        edits = [
            Counterfactual(e["kind"], scene, from_json(json.dumps(e["after"])), tuple(e["words"]))
            for e in entry["edits"]
        ]
        found[name] = Photo(name, folder / f"{name}.png", scene, tuple(edits))
    return found
