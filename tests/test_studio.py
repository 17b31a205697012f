"""The studio without a browser: its controls make the edit that they say, errors are shown, a second run replaces the first."""

import dataclasses
import io
import json
import threading
from datetime import datetime

import numpy as np
import pytest
import torch
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.result import EditResult
from p2p_helpers.toyland import photos
from p2p_helpers.view.settings import Settings
from p2p_helpers.view.shown import Shown
from p2p_helpers.view.studio import Studio

from .pipelines import build

FEW = dataclasses.replace(Settings(), steps=4)


def run(studio):
    studio.start()
    studio.wait()
    return studio.result


def labels(studio):
    return {line.children[0].description: line.children[1].value for line in studio.words.children}


def test_every_word_of_the_target_says_whose_map_it_takes(studio):
    assert labels(studio)["dog"] == "map of “cat”"
    studio.kind.value = "refinement"
    studio.target.value = "a cat on the beach at night"
    assert labels(studio)["night"] == "its own map: new"
    assert labels(studio)["cat"] == "map of “cat”"


@pytest.mark.parametrize("blend", ["", "cat, dog"])
def test_copied_python_makes_the_same_picture(studio, toyland, blend):
    studio.faders[1].value, studio.blend.value, studio.cross.value = 2.0, blend, 0.6
    result = run(studio)
    assert not studio.error.value
    scope = {"pipe": toyland}
    exec(studio.code.value, scope)
    np.testing.assert_array_equal(np.asarray(scope["result"].image), np.asarray(result.image))
    assert ("where it may change" in studio.pictures.value) == bool(blend)
    assert studio.bar.value == studio.bar.max == 8  # the target without control too


def test_the_mask_that_is_shown_is_the_last_steps():
    black = Image.new("RGB", (128, 128))
    masks = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    masks[0, :, :, :8] = masks[1, :, :8] = True

    def panel(masks):
        """Of an edit with these masks."""
        run = ("a cat", ["a dog"], [p2p.Replace()], 0, len(masks), 4.0, None)
        result = EditResult(black, [black], *run, p2p.LocalBlend("cat"), masks)
        return Shown(Settings(), None, result, []).panel()

    assert panel(masks) == panel(masks[1:]) != panel(masks[:1])


def test_a_word_that_occurs_twice_has_two_faders(studio, toyland):
    studio.source.value, studio.target.value = (
        "a cat and a dog in space",
        "a cat and a fox in space",
    )
    studio.faders[3].value = 3.0
    assert studio.settings.edit == p2p.Replace(cross_steps=0.8, self_steps=0.4) | p2p.Reweight(
        {("a", 2): 3.0}
    )
    scope = {"pipe": toyland}
    result = run(studio)
    exec(studio.code.value, scope)
    np.testing.assert_array_equal(np.asarray(scope["result"].image), np.asarray(result.image))


def test_errors_are_shown_in_place_and_go_away(studio):
    studio.target.value = "a cat and a dog on the beach"
    assert "same number of words" in studio.error.value
    run(studio)
    assert studio.result is None and 'role="alert"' in studio.error.value
    studio.target.value = "a dog on the beach"
    assert not studio.error.value
    studio.blend.value = "zebra"
    run(studio)
    assert "zebra" in studio.error.value
    studio.blend.value = ""
    assert run(studio) is not None and not studio.error.value


@pytest.mark.parametrize(
    "control, value", [("blend", "zebra"), ("target", "a dog and a cat on the beach")]
)
def test_after_a_refused_edit_the_controls_are_those_of_the_picture_shown(studio, control, value):
    shown = run(studio)
    said = studio.settings
    getattr(studio, control).value = value
    studio.steps.value = 3
    run(studio)
    assert studio.result is shown and studio.settings == said
    assert "was not made" in studio.error.value


def test_after_a_refused_edit_of_a_picture_the_picture_shown_is_back(studio):
    run(studio)
    studio._take([{"content": photos()["cat-snow"].path.read_bytes()}])
    studio.blend.value = "zebra"
    run(studio)
    assert studio._photo is None and not studio.settings.method and not studio.seed.disabled


def test_after_a_refused_edit_the_same_picture_can_be_chosen_again(studio):
    run(studio)
    for _ in range(2):
        studio.upload.value = chosen(photos()["cat-snow"].path.read_bytes())
        studio.wait()
        assert studio._photo is not None
        studio.blend.value = "zebra"
        run(studio)
        assert studio._photo is None and not studio.source.continuous_update


def chosen(content):
    """What the page sends of a file."""
    said = {"name": "mine.png", "type": "image/png", "size": 1, "last_modified": datetime.now()}
    return ({**said, "content": memoryview(content)},)


@pytest.mark.parametrize("refused", [True, False])
def test_a_picture_that_is_gone_leaves_the_stage(studio, refused):
    def leave():
        if refused:
            studio.upload.value = chosen(b"not a picture")
        else:
            studio.forget.click()
        assert studio.upload.value == () and bool(studio.error.value) == refused
        assert studio._photo is None and not studio.stage.objects and not studio.stage.places

    photo = photos()["cat-snow"]
    studio.upload.value = chosen(photo.path.read_bytes())
    studio.wait()
    assert studio.stage.picture
    leave()
    assert not studio.stage.picture and not studio.stage.caption
    studio.upload.value = chosen(photo.path.read_bytes())
    studio.wait()
    studio.source.value = studio.target.value = photo.prompt
    run(studio)
    assert studio.stage.objects
    studio.stage.places = [{"phrase": "cat", "dx": 0.25}]
    leave()  # the last edit in the history is one of the picture
    assert not studio.stage.picture and not studio.stage.caption and not studio.self_.disabled


def test_an_edit_that_ends_late_leaves_the_stage_to_the_next_picture(studio):
    studio.start()
    studio._take(chosen(photos()["cat-snow"].path.read_bytes()))
    studio.wait()
    assert studio.result is not None and "your picture" in studio.stage.caption
    studio.forget.click()
    assert "source: a cat" in studio.stage.caption and studio.stage.objects


def test_a_suggested_prompt_has_no_fader_and_no_blend_of_the_one_before(studio):
    studio.faders[1].value = 2.0
    studio.blend.value = "cat, dog"
    studio._take([{"content": photos()["cat-snow"].path.read_bytes()}])
    studio.wait()
    assert {fader.value for fader in studio.faders} == {1.0} and not studio.blend.value


def test_the_target_without_control_has_the_same_noise(studio, toyland):
    studio.faders[1].value = 2.0
    result = run(studio)
    free = toyland(
        [Settings.source, Settings.target],
        generator=[torch.Generator().manual_seed(result.seed) for _ in range(2)],
        num_inference_steps=4,
        guidance_scale=result.guidance_scale,
    ).images
    shown = np.asarray(studio.history[-1].free, int)
    assert np.abs(shown - np.asarray(free[1], int)).max() <= 1
    studio.faders[1].value = 0.0
    run(studio)
    assert studio.history[-1].free is studio.history[-2].free  # nothing that it depends on changed
    studio.seed.value = 4
    run(studio)
    assert studio.history[-1].free is not studio.history[-2].free


def test_a_slider_that_is_let_go_makes_a_picture(studio):
    run(studio)
    for slider in (studio.faders[1], studio.cross, studio.self_):
        slider.value = 0.25
        studio.wait()
    assert [len(studio.history), studio.result.steps] == [4, 4]
    assert studio.history[-1].settings == studio.settings
    studio.target.value = "a dog and a cat on the beach"  # a prompt that no edit can be made of
    assert studio.run.disabled
    studio.cross.value = 1.0
    assert studio.cancel.disabled and len(studio.history) == 4


def test_undo_makes_no_picture_anew(studio):
    run(studio)
    studio.faders[1].value = 2.0
    studio.wait()
    studio._undo()
    assert len(studio.history) == 1 and studio.cancel.disabled and studio.faders[1].value == 1.0


def test_the_first_picture_is_there_when_the_studio_is_shown(studio, monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda view: None)
    studio._ipython_display_()
    studio.wait()
    first = studio.result
    studio._ipython_display_()
    studio.wait()
    assert first is not None and studio.result is first


def test_unknown_words_are_said_in_place_and_the_vocabulary_is_at_hand(studio, tmp_path):
    assert not studio.note.value and "butterfly" in studio.known.value
    studio.target.value = "a zebra on the beech"
    assert "“zebra”" in studio.note.value and "“beech” (“beach”?)" in studio.note.value
    assert not studio.run.disabled
    studio.target.value = "a dog on the beach"
    assert not studio.note.value
    assert not Studio(build("sd1", tmp_path)).known.value  # a model that does not say what it knows


def test_an_uploaded_picture_is_shown_and_has_a_limit(studio):
    photo = photos()["cat-snow"].path.read_bytes()
    studio._take([{"content": memoryview(photo)}])
    assert studio.stage.picture and "your picture" in studio.stage.caption
    padded = photo + bytes(25_000_000 - len(photo))  # what follows the picture is not read
    studio._take([{"content": memoryview(padded)}])
    assert studio._photo is not None and not studio.error.value
    studio._take([{"content": memoryview(padded + b"0")}])
    assert studio._photo is None and "25 MB" in studio.error.value


def test_a_second_run_replaces_the_first_and_cancel_leaves_nothing(studio):
    studio.steps.value = 100
    studio.start()
    studio.steps.value = 3
    result = run(studio)
    assert result.steps == 3 and len(studio.history) == 1
    studio.steps.value = 100
    studio.start()
    studio.stop()
    studio.wait()
    assert studio.result is result and len(studio.history) == 1 and not studio.error.value


def test_cancel_after_the_last_step_still_counts(studio):
    studio.bar.observe(lambda change: studio.stop() if change["new"] == 4 else None, "value")
    assert run(studio) is None and not studio.history and studio.bar.value == 0


@pytest.mark.parametrize("made", ["the edit", "the picture without control"])
def test_an_error_that_nobody_foresaw_is_shown_too(studio, monkeypatch, made):
    def broken(pipe, source, *args, **more):
        if made == "the edit" or not isinstance(source, str):
            raise ZeroDivisionError("division by zero")
        return p2p.edit(pipe, source, *args, **more)

    monkeypatch.setattr("p2p_helpers.view.studio.edit", broken)
    monkeypatch.setattr("threading.excepthook", lambda args: None)  # it goes to the log as well
    assert (run(studio) is None) == (made == "the edit") and studio.cancel.disabled
    assert f"{made} was not made: " in studio.error.value
    assert "division by zero" in studio.error.value


def test_undo_goes_back(studio):
    first = np.asarray(run(studio).image)
    studio.target.value, studio.seed.value = "a fox on the beach", 7
    run(studio)
    studio.steps.value = 100
    studio.start()  # undo ends it
    studio._undo()
    assert studio.target.value == "a dog on the beach" and studio.seed.value == 3
    np.testing.assert_array_equal(np.asarray(studio.result.image), first)
    assert len(studio.history) == 1


def test_controls_can_be_used_while_an_edit_reads_its_prompts(studio, toyland):
    over, words = threading.Event(), ["cat", "dog", "fox", "cow"]

    def read():
        while not over.is_set():
            toyland.tokenizer(["a cat on the beach"] * 500, padding="max_length", truncation=True)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for i in range(50):
            studio.target.value = f"a {words[i % 4]} on the beach"
            assert not studio.error.value and words[i % 4] in labels(studio)
    finally:
        over.set()
        reader.join()


def test_the_blend_mask_is_shown_while_the_edit_runs(studio):
    seen, studio.blend.value = [], "cat, dog"
    studio.mask.observe(lambda change: seen.append(change["new"]), "value")
    run(studio)
    assert [f"step {i}: white may change" in html for i, html in enumerate(seen[:4], start=1)] == [
        True
    ] * 4
    assert not studio.mask.value and "where it may change" in studio.pictures.value


def test_null_text_inversion_can_be_cancelled(studio):
    photo = photos()["cat-snow"]
    studio._take([{"content": memoryview(photo.path.read_bytes())}])
    studio.source.value, studio.target.value, studio.method.value = (
        photo.prompt,
        "a dog in the snow",
        "null-text",
    )
    studio.bar.observe(lambda change: studio.stop() if change["new"] == 2 else None, "value")
    assert run(studio) is None and studio._inversion is None and not studio.error.value
    studio.bar.unobserve_all()
    assert run(studio) is not None and studio._inversion[1].method == "null-text"


def test_every_run_has_the_picture_that_was_there_when_it_began(studio):
    first, second = (photos()[name] for name in ("cat-snow", "fox-mushroom"))

    def upload(photo):
        studio._take([{"content": memoryview(photo.path.read_bytes())}])

    upload(first)
    studio.source.value, studio.target.value = first.prompt, "a dog in the snow"
    studio.start()
    upload(second)
    studio.wait()
    assert studio._inversion[1].prompt == first.prompt
    np.testing.assert_array_equal(studio._inversion[1].pixels, np.asarray(studio.history[0].photo))
    run(studio)
    np.testing.assert_array_equal(studio._inversion[1].pixels, np.asarray(studio._photo))
    studio.forget.click()
    assert studio.upload.value == () and not studio.settings.method
    run(studio)
    studio._undo()
    assert studio._photo is not None and studio.settings == studio.history[-1].settings


def test_settings_go_through_json(studio):
    studio.faders[1].value = -1.0
    said = studio.settings
    studio.source.value = studio.target.value = "a cat and a dog in space"
    studio.faders[3].value = 3.0
    said = studio.settings
    again = Settings(**json.loads(json.dumps(dataclasses.asdict(said))))
    assert again == said and again.edit == said.edit


def test_a_word_is_turned_down_as_well_as_up():
    for weight in (-2.0, 0.0, 2.0):
        settings = Settings(weights=(1.0, weight), phrases=("a", "dog"))
        assert settings.edit == Settings().edit | p2p.Reweight({"dog": weight})
        assert f"p2p.Reweight({{'dog': {weight}}}" in settings.python()


def test_a_weight_without_its_word_is_said():
    assert Settings(weights=(1.0, 1.0)).edit == Settings().edit
    with pytest.raises(p2p.InputError, match="0 phrases.*phrases="):
        Settings(weights=(1.0, 2.0)).edit  # noqa: B018
    with pytest.raises(p2p.InputError, match="1 phrases"):
        Settings(weights=(1.0, 2.0), phrases=("a",)).python()


def test_an_uploaded_picture_is_inverted_once_and_edited(studio):
    photo = photos()["cat-snow"]
    studio._take([{"content": memoryview(photo.path.read_bytes())}])
    studio.source.value, studio.target.value = photo.prompt, "a dog in the snow"
    assert studio.seed.disabled and studio.settings.method == "direct"
    result = run(studio)
    assert result.source_prompt == photo.prompt and result.seed is None
    made = studio._inversion[1]
    studio.cross.value = 0.5
    run(studio)
    assert studio._inversion[1] is made
    assert "p2p.invert(" in studio.code.value
    broken = io.BytesIO(b"not a picture").getvalue()
    studio._take([{"content": broken}])
    assert 'role="alert"' in studio.error.value and not studio.settings.method
