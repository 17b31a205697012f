"""Edits whose result is known: what changes, changes; the rest stays to the pixel; and the reader judges them rightly."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

import p2p_helpers as p2p
from benchmarks import inversion as benchmark
from p2p_helpers.toyland import (
    EDITS,
    SceneError,
    caption,
    counterfactual,
    load_reader,
    photos,
    render,
    scene_at,
)


def drawn(index: int, kind: str):
    """An edit of one kind for the first test scene from `index` on that allows it."""
    while True:
        try:
            return counterfactual(scene_at("test", index), kind, np.random.default_rng(index))
        except SceneError:
            index += 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 50_000), st.sampled_from(EDITS))
def test_outside_the_changed_region_the_true_edit_changes_nothing(index, kind):
    wanted = drawn(index, kind)
    before, after = (np.asarray(picture, int) for picture in wanted.pictures)
    assert wanted.changed.any() and wanted.source != wanted.target
    if kind in (
        "swap",
        "recolour",
        "add",
    ):  # one object is another one: with its shadow it stays near its place
        masks = [mask for scene in (wanted.before, wanted.after) for mask in render(scene)[1]]
        wide = Image.fromarray(np.any(masks, 0)).convert("L").filter(ImageFilter.MaxFilter(41))
        near = np.array(wide) > 0
        for thing in (
            *wanted.before.things,
            *wanted.after.things,
        ):  # and its shadow, which is wider
            reach = int(0.75 * thing.size)
            rows = slice(max(thing.y - 24, 0), thing.y + 24)
            near[rows, max(thing.x - reach, 0) : thing.x + reach] = True
        assert np.abs(before - after)[~near].max(initial=0) <= 8


@pytest.mark.parametrize("kind", EDITS)
def test_the_edit_lines_up_its_prompts(tokenizer, kind):
    for index in range(0, 2000, 200):
        wanted = drawn(index, kind)
        s, t = wanted.edit.matrices(tokenizer, wanted.source, wanted.target, 10)
        assert s.any() and len(s) == len(t) == 10
        if kind in ("night", "snow"):
            assert wanted.local_blend is None


@pytest.mark.parametrize("kind", EDITS)
def test_the_reader_sees_true_edits_and_not_their_sources(kind):
    reader = load_reader()
    edits = [drawn(index, kind) for index in range(0, 3000, 100)]
    before, after = (reader.read([e.pictures[i] for e in edits]) for i in (0, 1))
    assert np.mean([e.seen(reading) for e, reading in zip(edits, after, strict=True)]) >= 0.9
    assert np.mean([e.seen(reading) for e, reading in zip(edits, before, strict=True)]) < 0.1


def test_an_edit_that_does_not_fit_says_why():
    for index, kind, says in [
        (1010, "night", "neither"),
        (1004, "night", "already"),
        (1000, "add", "two objects"),
        (1000, "magic", "swap, rec"),
    ]:
        with pytest.raises(SceneError, match=says):
            counterfactual(scene_at("test", index), kind, np.random.default_rng(0))


def test_photos_are_renders_of_test_scenes_with_masks_and_true_edits():
    described = json.loads((next(iter(photos().values())).path.parent / "photos.json").read_text())
    assert len(photos()) >= 6
    for name, photo in photos().items():
        assert photo.scene == scene_at("test", described[name]["test scene"])
        assert photo.prompt == described[name]["prompt"] == caption(photo.scene)
        picture, masks = render(photo.scene)
        np.testing.assert_array_equal(np.asarray(p2p.load_image(photo.path)), np.asarray(picture))
        for thing, mask in zip(photo.scene.things, masks, strict=True):
            stored = Image.open(photo.path.with_name(f"{name}.mask-{thing.name}.png"))
            np.testing.assert_array_equal(np.asarray(stored), mask)
        for wanted, entry in zip(photo.edits, described[name]["edits"], strict=True):
            assert wanted.target == entry["prompt"]
            stored = p2p.load_image(photo.path.with_name(f"{name}.{wanted.kind}.png"))
            np.testing.assert_array_equal(np.asarray(stored), np.asarray(wanted.pictures[1]))


def test_the_benchmark_list_is_fixed_balanced_and_held_out():
    cases = json.loads(benchmark.LIST.read_text())
    assert cases == benchmark.draw(len(cases))
    used = [case["kind"] for case in cases[:64]]
    assert {kind: used.count(kind) for kind in EDITS} == dict.fromkeys(EDITS, 8)


def test_every_benchmark_measure_of_the_true_edit_is_perfect():
    bench = benchmark.Bench()
    wanted = drawn(5000, "swap")
    perfect = bench.judge(wanted, wanted.pictures[1])
    assert perfect["seen"] and perfect["error"] == 0
    assert perfect["background psnr"] > 45 and perfect["background ssim"] > 0.99
    unchanged = bench.judge(wanted, wanted.pictures[0])
    assert not unchanged["seen"] and unchanged["error"] > 0.01
