"""The world is deterministic, its counterfactuals are exact, and its splits never mix."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p_helpers.toyland import (
    BACKGROUNDS,
    COLOURABLE,
    COLOURS,
    OBJECTS,
    Scene,
    SceneError,
    Thing,
    caption,
    render,
    scene_at,
    vocabulary,
)
from p2p_helpers.toyland.world import SPLITS, from_json, to_json

HASHES = (
    "be0157927f141484",
    "8b54e6f07e885e15",
    "c175f342d3acd77c",
    "e6125598baa87ec1",
    "aa23b69ccb81f086",
    "7008dfe04801ee46",
    "1b80feb1b0862c00",
    "f6d5e4654d5d7e1d",
)


def digest(image) -> str:
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("index", range(8))
def test_pictures_are_the_stored_ones(index):
    """Hashes of decoded pixels: a change of the world would silently make the shipped model wrong."""
    assert digest(render(scene_at("test", index))[0]) == HASHES[index]


def test_another_process_paints_the_same():
    code = "from tests.test_toyland import *; print(digest(render(scene_at('test', 3))[0]))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest(render(scene_at("test", 3))[0])


indices = st.integers(
    0, 100_000
)  # of training scenes; they are drawn in the test, since the type checker uses `random`


@settings(max_examples=40, deadline=None)
@given(indices, st.sampled_from(OBJECTS))
def test_a_swapped_object_changes_nothing_elsewhere(index, name):
    scene = scene_at("train", index)
    if name in {t.name for t in scene.things}:
        return
    thing = scene.things[0]
    after = scene.replace(0, name=name, colour=thing.colour if name in COLOURABLE else None)
    a, b = (np.asarray(render(s)[0]).astype(int) for s in (scene, after))
    reach = 4  # a style's filters look so far, in pixels
    x, y, half = thing.x, thing.y, thing.size // 2
    far = np.ones(a.shape[:2], bool)
    far[
        max(y - thing.size - reach, 0) : y + thing.size // 3 + reach,
        max(x - 2 * half - reach, 0) : x + 2 * half + reach,
    ] = False
    assert (a[far] == b[far]).all()
    assert (a != b).any()


@settings(max_examples=20, deadline=None)
@given(indices, st.floats(0.1, 1))
def test_more_snow_only_adds_flakes(index, strength):
    """Flakes are painted last and in order, so away from them nothing moves."""
    scene = scene_at("train", index)
    clear, some = (
        np.asarray(render(scene.replace(snow=s))[0]).astype(int) for s in (0.0, strength)
    )
    changed = (clear != some).any(-1)
    assert 0 < changed.mean() < 0.35


def test_masks_are_where_the_object_is():
    scene = Scene((Thing("apple", x=40), Thing("panda", x=88)), seed=1)
    picture, masks = render(scene)
    without_panda = render(scene.replace(things=scene.things[:1]))[0]
    changed = (np.asarray(picture) != np.asarray(without_panda)).any(-1)
    assert masks.shape == (2, 128, 128)
    assert not (masks[0] & masks[1]).any()
    assert changed[masks[1]].mean() > 0.99


@settings(deadline=None)
@given(indices)
def test_captions_stay_in_the_vocabulary_and_scenes_survive_json(index):
    scene = scene_at("train", index)
    assert set(caption(scene).split()) <= set(vocabulary())
    assert from_json(to_json(scene)) == scene
    assert all(t.colour in COLOURS for t in scene.things if t.colour)
    assert scene.background in BACKGROUNDS


def test_splits_never_mix():
    ranges = list(SPLITS.values())
    assert all(set(a).isdisjoint(b) for i, a in enumerate(ranges) for b in ranges[i + 1 :])
    assert scene_at("train", 0) != scene_at("validation", 0) != scene_at("test", 0)
    with pytest.raises(SceneError, match="train split holds scenes"):
        scene_at("train", len(SPLITS["train"]))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Thing("kat"), "Did you mean 'cat'"),
        (lambda: Thing("cat", "red"), "takes a colour"),
        (lambda: Thing("car", "rad"), "Did you mean 'red'"),
        (lambda: Scene((Thing("cat"),), background="moon"), "no background 'moon'"),
        (lambda: Scene((Thing("cat"),), night=2), "outside 0…1"),
        (lambda: Scene(()), "one or two objects"),
        (lambda: Scene((Thing("cat"),)).replace(1, name="dog"), "no number 1"),
    ],
)
def test_impossible_scenes_are_explained(make, says):
    with pytest.raises(SceneError, match=says):
        make()


def test_a_scene_prints_itself():
    scene = Scene((Thing("car", "blue", x=48),), "city", night=0.7, seed=9)
    assert str(scene).startswith("a blue car in the city at night  (seed 9)")
    assert "x=48" in str(scene)
