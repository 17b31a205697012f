"""The world is deterministic, its layout follows its words, its counterfactuals are exact, and its splits never mix."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from transformers import CLIPTokenizer

from p2p_helpers.errors import InputError, ModelError, SceneError
from p2p_helpers.toyland import evaluate, layout, sheets, world
from p2p_helpers.toyland.counterfactual import EDITS, counterfactual, swap
from p2p_helpers.toyland.evaluate import painted_cases
from p2p_helpers.toyland.reader import Reading, load_reader, truth
from p2p_helpers.toyland.render import object_masks, render
from p2p_helpers.toyland.tokenizer import MAX_TOKENS, write_tokenizer
from p2p_helpers.toyland.training.captions import Captions, mixed
from p2p_helpers.toyland.training.damage import damaged
from p2p_helpers.toyland.world import (
    OBJECTS,
    SIZE,
    SPLITS,
    Scene,
    Thing,
    caption,
    compose,
    from_json,
    kind_of,
    scene_at,
    to_json,
)

RNG = np.random.default_rng(0)
scenes = st.integers(0, 5000).map(lambda i: scene_at("test", i))


def pixels(scene):
    return np.asarray(render(scene)[0]).astype(int)


@given(scenes)
@settings(max_examples=30, deadline=None)
def test_a_scene_survives_json_and_paints_the_same(scene):
    assert from_json(to_json(scene)) == scene
    assert (pixels(scene) == pixels(from_json(to_json(scene)))).all()


@given(scenes, st.sampled_from(OBJECTS))
@settings(max_examples=30, deadline=None)
def test_another_object_changes_no_pixel_far_from_it(scene, name):
    plain = dataclasses.replace(scene, style="plain")
    other = plain.replace(0, name=name, colour=None)
    t = plain.things[0]
    near = np.zeros((128, 128), bool)
    near[max(t.y - t.size - 8, 0) : t.y + 16, max(t.x - t.size - 8, 0) : t.x + t.size + 8] = True
    assert (pixels(plain) == pixels(other)).all(-1)[~near].all()
    assert (other.horizon, other.extras, other.light) == (plain.horizon, plain.extras, plain.light)


def test_layout_follows_the_words():
    """Most seeds move the horizon and the object when the word is of another kind; no layout is impossible for a word."""
    pairs = [
        (compose([("cat", None)], "meadow", seed=i), compose([("castle", None)], "meadow", seed=i))
        for i in range(200)
    ]
    assert np.mean([abs(a.horizon - b.horizon) >= 20 for a, b in pairs]) > 0.8
    assert np.mean([abs(a.things[0].x - b.things[0].x) >= 24 for a, b in pairs]) > 0.6
    for side in ((32, 40), (56, 64, 72), (88, 96)):
        for name in OBJECTS:
            assert any(
                compose([(name, None)], "meadow", seed=i).things[0].x in side for i in range(300)
            )


def test_recompose_keeps_the_words_that_stay():
    scene = scene_at("test", 3)
    again = scene.recompose(0, name="castle", colour=None)
    assert again.background == scene.background
    assert again.seed == scene.seed
    assert scene.recompose() == scene


def test_snow_and_night_have_every_strength():
    drawn = [scene_at("train", i) for i in range(3000)]
    for name in ("night", "snow"):
        strengths = [getattr(s, name) for s in drawn if getattr(s, name)]
        counts, _ = np.histogram(strengths, bins=4, range=(0.12, 1))
        assert counts.min() > 0.5 * counts.max()


def test_captions():
    scene = compose(
        [("apple", None), ("cake", "lemon")],
        "forest",
        "old photo",
        autumn=True,
        night=0.5,
        snow=0.5,
    )
    said = (
        "an old photo of an apple and a lemon cake in a forest in autumn at night with falling snow"
    )
    assert caption(scene) == said
    assert set(said.split()) <= set(world.vocabulary())
    assert kind_of("castle") != kind_of("cat")


@pytest.mark.parametrize(
    "wrong",
    [{"name": "unicorn"}, {"colour": "chocolate", "name": "car"}, {"colour": "red", "name": "cat"}],
)
def test_words_the_world_does_not_have(wrong):
    with pytest.raises(SceneError, match="Toyland has no"):
        scene_at("test", 0).replace(0, **wrong)


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Captions(CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS))


@given(scenes, st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_an_exchanged_caption_lends_every_token_but_the_phrase_s_own(captions, scene, seed):
    line = captions.line(scene)
    row = captions.row(line)
    theirs, lenders, own = captions.exchanged(scene, line, np.random.default_rng(seed))
    assert len(row) == len(theirs) == MAX_TOKENS
    for p in range(MAX_TOKENS):
        if p not in own:
            assert row[p] == theirs[lenders[p]]  # the same word stands there
    assert len(own) < MAX_TOKENS / 2
    if not own:  # the other caption says what is not there
        end = captions.end
        assert theirs.index(end) > row.index(end)


def test_rows_are_what_the_tokenizer_makes(captions, tmp_path):
    write_tokenizer(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path, model_max_length=MAX_TOKENS)
    for i in range(300):
        scene = scene_at("test", i)
        expected = tokenizer(caption(scene), padding="max_length", max_length=MAX_TOKENS).input_ids
        assert captions.row(captions.line(scene)) == expected


def test_mixed_takes_from_both():
    own, other = torch.zeros(1, 4, 2), torch.arange(8.0).reshape(1, 4, 2)
    out = mixed(
        own, other, torch.tensor([[0, 0, 3, 3]]), torch.tensor([[False, True, False, False]])
    )
    assert out[0, :, 0].tolist() == [0, 0, 6, 6]


def test_truth_names_what_the_masks_show():
    scene = compose([("cat", None), ("car", "red")], "beach", seed=4)
    masks = object_masks(scene)
    answer = truth(scene, masks)
    assert set(np.unique(answer["objects"])) == {
        0,
        1 + OBJECTS.index("cat"),
        1 + OBJECTS.index("car"),
    }


def test_damage_stays_near_the_object():
    scene = compose([("fox", None)], "meadow", seed=2)
    picture, masks = render(scene)
    before = np.asarray(picture)
    after = damaged(before, masks[0], before[::-1], np.random.default_rng(0))
    rows, columns = np.nonzero((before != after).any(-1))
    inside = np.argwhere(masks[0])
    assert rows.min() >= inside[:, 0].min() - 12
    assert columns.max() <= inside[:, 1].max() + 12
    assert (before != after).any(-1)[masks[0]].mean() > 0.3


def digest(count: int = 8) -> str:
    """Of the decoded pixels of the first test scenes."""
    pictures = (np.asarray(render(scene_at("test", i))[0]).tobytes() for i in range(count))
    return hashlib.sha256(b"".join(pictures)).hexdigest()[:16]


def test_the_world_stays_as_the_model_learned_it():
    assert digest() == "35dc6d405e4edca2"


def test_another_process_paints_the_same():
    code = "from tests.test_toyland import *; print(digest(2))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == digest(2)


def test_a_blind_sheet_is_scored(tmp_path):
    key = {"swaps": [{"object": "rabbit", "reader": ["rabbit"]}, {"object": "car", "reader": []}]}
    one, other = (
        {"swaps": [["Bunny", 3], ["boat", 1]]},
        {"swaps": [["rabbit", 2], ["Automobile", 2]]},
    )
    figures = sheets.score(key, [one])["swaps"]
    assert figures == {"person": 0.5, "reader": 0.5, "looks": 2.0, "pictures": 2}
    assert sheets.score(key, [one, other, {}])["swaps"]["person"] == 0.75
    assert sheets.score(key, [{}]) == {}
    with pytest.raises(InputError, match="2 pictures, and there are 1 answers"):
        sheets.score(key, [one, {"swaps": [["rabbit", 3]]}])


def test_sheets_are_pages_of_sixteen_numbered_pictures(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", lambda pen, place, s, **_: written.append(s))
    blank = Image.new("RGB", (SIZE, SIZE))
    sheets.draw([(blank, "car", "")] * 17, tmp_path, "swaps")
    assert written == [str(number) for number in range(1, 18)]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["swaps-1.png", "swaps-2.png"]


class Told:
    """A reader that says snow of pictures that are `True`, and finds no objects."""

    def read(self, pictures):
        return [Reading([], "city", "plain", False, one is True, False) for one in pictures]


def test_sheets_are_drawn_with_a_key_by_which_answers_are_scored(tmp_path, monkeypatch, capsys):
    def made(pipe, count, steps):
        assert (pipe, steps) == ("toyland", 3)
        return [(Image.new("RGB", (SIZE, SIZE)), "car", "a car")] * count

    monkeypatch.setattr("p2p_helpers.pipelines.load_pipeline", lambda name: name)
    monkeypatch.setattr(sheets, "load_reader", lambda file: Told())
    monkeypatch.setattr(sheets, "SHEETS", {"swaps": made})
    sheets.main(["--count", "2", "--steps", "3", "--out", str(tmp_path)])
    key = json.loads((tmp_path / "key.json").read_text())
    assert key == {"swaps": [{"object": "car", "how": "a car", "reader": []}] * 2}
    assert (tmp_path / "swaps-1.png").exists()
    (tmp_path / "mine.json").write_text('{"swaps": [["Car", 3], ["boat", 2]]}')
    sheets.main(["--out", str(tmp_path), "--score", str(tmp_path / "mine.json")])
    assert json.loads(capsys.readouterr().out)["swaps"]["person"] == 0.5
    assert json.loads((tmp_path / "answers.json").read_text())["key"] == key


def test_snow_is_turned_down_phrase_by_phrase_and_weight_by_weight(monkeypatch):
    """Where weights above 0.2 of the two words leave snow, and the preposition leaves none."""

    def edited(pipe, source, targets, edits, **_):
        assert set(targets) == {source} and "with falling snow" in source
        left = [
            (*edit.weights,) == ("falling snow",) and edit.weights["falling snow"] > 0.2
            for edit in edits
        ]
        return SimpleNamespace(images=left)

    monkeypatch.setattr("p2p_helpers.run.edit", edited)
    shares = evaluate.judge_faders(None, Told(), 2)
    none = dict.fromkeys(("1.0", "0.5", "0.0", "-2.0"), 0.0)
    assert shares == {
        "falling snow": {**none, "1.0": 1.0, "0.5": 1.0},
        "with falling snow": none,
    }


@pytest.mark.parametrize("count", [1, 12])  # one scene has one object or two, and often no colour
def test_all_is_measured_and_reported(tmp_path, monkeypatch, capsys, count):
    one = {"seen": 0.5, "overlap": None, "background": 20.0, "kept": 30.0, "edits": 4}
    snow = {"falling snow": {"1.0": 1.0}, "with falling snow": {"1.0": 0.5}}
    monkeypatch.setattr("p2p_helpers.pipelines.load_pipeline", lambda name: None)
    for name, gives in [
        ("load_reader", Told()),
        ("generate", [None] * count),
        ("autoencoder_psnr", 35.0),
        ("swap_cases", []),
        ("painted_cases", []),
        ("judge_swaps", one),
        ("judge_painted", one),
        ("judge_faders", snow),
    ]:
        monkeypatch.setattr(evaluate, name, lambda *_, gives=gives, **__: gives)
    evaluate.main(["--scenes", str(count), "--swaps", "1", "--out", str(tmp_path)])
    figures = json.loads((tmp_path / "evaluation.json").read_text())
    assert figures["generated"]["scenes"] == count and figures["autoencoder"] == 35.0
    assert evaluate.report(figures) in capsys.readouterr().out


def test_the_scenes_of_sheets_are_none_of_the_evaluations():
    assert next(sheets.one_object_scenes(1)) == scene_at("test", sheets.FIRST, objects=1)


def test_prompt_number_n_gets_seed_n(random_pipe, monkeypatch):
    """However many of them there are in one call."""
    seeds = []

    def sampled(pipe, prompts, generator, **_):
        seeds.extend(one.initial_seed() for one in generator)
        return SimpleNamespace(images=prompts)

    monkeypatch.setattr(type(random_pipe), "__call__", sampled)
    prompts = [f"a cat {n}" for n in range(18)]
    assert evaluate.generate(random_pipe, prompts, 1, 4.0) == prompts
    assert seeds == [*range(18)]


def test_what_is_kept_is_measured_where_nothing_should_change(monkeypatch):
    (case,) = painted_cases(1, "swap")
    before, true = (np.asarray(picture) for picture in case.pictures)
    made = Image.fromarray(np.where(case.changed[..., None], before, true))
    monkeypatch.setattr(evaluate, "edit_painted", lambda *_, **__: SimpleNamespace(image=made))
    judged = evaluate.judge_painted(None, Told(), [case])
    assert judged["kept"] == 60 > judged["truth"]
    assert (judged["seen"], judged["edits"]) == (0, 1)


def test_a_painted_picture_is_edited_in_its_kinds_own_way_or_another(monkeypatch):
    (case,) = painted_cases(1, "swap")
    seen = []
    for where in ("inversion.methods.invert", "run.edit"):
        monkeypatch.setattr(f"p2p_helpers.{where}", lambda *a, **more: seen.append((a, more)))
    for change, made in ((None, case.edit), (evaluate.NO_CONTROL, evaluate.NO_CONTROL)):
        evaluate.edit_painted("pipe", case, change, steps=3)
        (inverted, how), ((_, _, target, edit), more) = seen[-2:]
        assert inverted == ("pipe", case.pictures[0], case.source)
        assert (how["method"], how["steps"]) == ("direct", 3)
        assert (target, edit, more["local_blend"]) == (case.target, made, case.local_blend)


def test_two_boxes_overlap_by_their_intersection_over_their_union():
    assert layout.overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert layout.overlap((0, 0, 2, 2), (0, 0, 2, 2)) == 1
    assert layout.overlap((0, 0, 2, 2), (2, 0, 4, 2)) == 0


def test_behind_an_object_is_two_cells_away_from_it():
    """One cell and its neighbours' neighbours, side by side, are thirteen cells."""
    mask = np.zeros((SIZE, SIZE), bool)
    mask[64:72, 64:72] = True
    assert layout.behind(mask).sum() == SIZE**2 - 13 * 64


@pytest.mark.parametrize("kind", EDITS)
def test_painted_cases_are_of_their_kind(kind):
    cases = painted_cases(2, kind)
    assert all(case.kind == kind and case.source != case.target for case in cases)


def test_masks_are_where_the_object_is():
    scene = Scene((Thing("apple", x=40), Thing("panda", x=88)), seed=1)
    picture, masks = render(scene)
    without_panda = render(scene.replace(things=scene.things[:1]))[0]
    changed = (np.asarray(picture) != np.asarray(without_panda)).any(-1)
    assert masks.shape == (2, 128, 128)
    assert not (masks[0] & masks[1]).any()
    assert changed[masks[1]].mean() > 0.99


def test_splits_never_mix():
    ranges = list(SPLITS.values())
    assert all(set(a).isdisjoint(b) for i, a in enumerate(ranges) for b in ranges[i + 1 :])
    assert scene_at("train", 0) != scene_at("validation", 0) != scene_at("test", 0)
    with pytest.raises(InputError, match="from 0 to 999999. Scenes of the train split"):
        scene_at("train", len(SPLITS["train"]))


def test_a_scene_prints_itself():
    scene = Scene((Thing("car", "blue", x=48),), "city", night=0.7, seed=9)
    assert str(scene).startswith("a blue car in the city at night  (seed 9, horizon 64)")
    assert "x=48" in str(scene)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Thing("kat"), "Did you mean 'cat'"),
        (lambda: Thing("cat", "red"), "takes a colour"),
        (lambda: Thing("car", "rad"), "Did you mean 'red'"),
        (lambda: Scene((Thing("cat"),), background="moon"), "no background 'moon'"),
        (lambda: Scene((Thing("cat"),), night=2), "night=2 is outside 0…1"),
        (lambda: Scene(()), "one or two objects"),
        (lambda: Scene((Thing("cat"),)).replace(1, name="dog"), "no number 1"),
    ],
)
def test_impossible_scenes_are_explained(make, says):
    with pytest.raises(InputError, match=says):
        make()


FOX = Scene((Thing("fox"),))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: counterfactual(FOX, "swap", 3), r"rng=3.*default_rng\(3\)"),
        (lambda: counterfactual("a fox", "swap", RNG), "scene='a fox'.*scene_at"),
        (lambda: counterfactual(FOX, 3, RNG), "the kinds of edit are swap"),
        (lambda: swap(FOX, 3), "rng=3"),
        (lambda: render("a fox"), "scene='a fox'.*scene_at"),
        (lambda: caption(Thing("fox")), "scene=a Thing"),
        (lambda: scene_at("test", 1, 5), "objects=5.*from 1 to 2"),
        (lambda: scene_at("test", 1, 0), "objects=0"),
        (lambda: scene_at("test", 1.5), "index=1.5.*from 0 to 99999"),
        (lambda: scene_at("tests", 1), "Did you mean 'test'"),
        (lambda: compose([("fox", None)] * 3, "forest"), "one or two objects, not 3"),
        (lambda: compose([], "forest"), "one or two objects, not 0"),
        (lambda: compose("fox", "forest"), r"words='fox'.*\('fox', None\)"),
        (lambda: compose(["fox"], "forest"), r"words=\['fox'\].*\('fox', None\)"),
        (lambda: compose([(["fox"], None)], "forest"), "no object \\['fox'\\]"),
        (lambda: compose([("fox", None)], "forrest"), "Did you mean 'forest'"),
        (lambda: compose([("fox", None)], "forest", seed=-1), "seed=-1.*from 0"),
        (lambda: compose([("fox", None)], "forest", night="full"), "night='full'"),
        (lambda: Scene(Thing("fox")), "things=a Thing.*comma"),
        (lambda: Scene(("fox",)), "things='fox'.*Thing"),
        (lambda: Scene((Thing("fox"),), extras=("fir",)), "extras='fir'.*Extra"),
        (lambda: Scene((Thing("fox"),), horizon="high"), "horizon='high'"),
        (lambda: Scene((Thing("fox"),), seed=0.5), "seed=0.5"),
        (lambda: Thing("fox", x=40.5), "x=40.5"),
        (lambda: Thing("fox", size="large"), "size='large'"),
        (lambda: FOX.replace("fox", name="dog"), "no number 'fox'"),
        (lambda: load_reader(3), "folder=3"),
        (lambda: load_reader().read(Image.new("RGB", (SIZE, SIZE))), "images=an Image.*list"),
        (lambda: load_reader().read(["fox.png"]), "'fox.png'.*load_image"),
    ],
)
def test_what_toyland_cannot_use_is_explained(call, says):
    with pytest.raises(InputError, match=says):
        call()


def test_a_reader_comes_from_a_folder_by_its_name(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        load_reader(str(tmp_path))


@settings(max_examples=20, deadline=None)
@given(scenes, st.floats(0.1, 1))
def test_more_snow_only_adds_flakes(scene, strength):
    """Flakes are painted last and in order, so away from them nothing moves."""
    clear, some = (
        np.asarray(render(scene.replace(snow=s))[0]).astype(int) for s in (0.0, strength)
    )
    changed = (clear != some).any(-1)
    assert 0 < changed.mean() < 0.35
