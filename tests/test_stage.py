"""Objects of the studio's picture without a browser: what is dragged is edited as it is said, and an upload gets a prompt."""

import dataclasses
import json
import threading

import numpy as np
import pytest

import p2p_helpers as p2p
from p2p_helpers.toyland import photos
from p2p_helpers.view.settings import Place, Settings

from .test_studio import run


def dragged(studio, phrase, **place):
    """As the page does it."""
    studio.stage.places = [{"phrase": phrase, **place}]


def test_an_object_has_a_box_and_moves_as_the_copied_python_does(studio, toyland):
    run(studio)
    (cat,) = studio.stage.objects  # what is behind has none
    left, top, right, bottom = cat["box"]
    assert (cat["name"], cat["replaces"]) == ("dog", "cat")
    assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    dragged(studio, "cat", dx=0.25, scale=0.8)
    assert studio.settings.places == (Place("dog", dx=0.25, scale=0.8),) and studio.self_.disabled
    result = run(studio)
    assert "p2p.Move('dog', dx=0.25, scale=0.8)" in studio.code.value
    scope = {"pipe": toyland}
    exec(studio.code.value, scope)
    np.testing.assert_array_equal(np.asarray(scope["result"].image), np.asarray(result.image))
    exported = json.loads(json.dumps(dataclasses.asdict(studio.settings)))
    assert Settings(**exported) == studio.settings


@pytest.mark.parametrize(
    "place, said",
    [
        ({"dx": 0.25}, "    p2p.Move('cat', dx=0.25),"),
        ({"scale": 0.7}, "    p2p.Resize('cat', scale=0.7),"),
        (
            {"kind": "duplicate", "dx": -0.25, "scale": 0.6},
            "    p2p.Duplicate('cat', dx=-0.25, scale=0.6),",
        ),
        ({"kind": "remove"}, "    p2p.Remove('cat'),"),
    ],
    ids=str,
)
def test_where_the_prompts_are_the_same_the_layout_edit_stands_alone(studio, place, said):
    studio.target.value = studio.source.value
    run(studio)
    assert studio.history[-1].free is None  # it would be the source
    dragged(studio, "cat", **place)
    result = run(studio)
    assert not studio.error.value and said in studio.code.value
    assert (np.asarray(result.image) != np.asarray(result.source)).any()


def test_the_bar_moves_in_every_run_and_each_can_be_cancelled(studio):
    run(studio)
    dragged(studio, "cat", dx=0.25)
    seen = []
    studio.bar.observe(lambda change: seen.append(change["new"]), "value")
    result = run(studio)
    steps = studio.settings.steps
    runs = 3  # the swap, the move; the target without control is known
    assert studio.bar.max == runs * steps and seen[-1] == runs * steps
    assert [value for value in seen if value][: 2 * steps] == list(range(1, 2 * steps + 1))
    studio.target.value = studio.source.value  # now the source alone comes first
    studio.bar.observe(lambda change: studio.stop() if change["new"] == 2 else None, "value")
    assert run(studio) is result and studio.bar.value == 0 and not studio.error.value


def test_undo_and_another_word_keep_what_was_moved(studio):
    run(studio)
    dragged(studio, "cat", dx=0.25)
    studio.target.value = "a fox on the beach"
    assert studio.settings.places == (Place("fox", dx=0.25),)
    run(studio)
    studio._undo()
    assert not studio.stage.places and not studio.settings.places
    studio.target.value = "a dog and a cat on the beach"  # no edit can be made of it
    studio.target.value = "a dog on the beach"
    dragged(studio, "cat", dx=0.25)
    studio.blend.value = "zebra"
    run(studio)
    assert studio.error.value and not studio.stage.places  # those of the picture shown


def test_a_move_of_what_is_gone_holds_no_slider(studio):
    run(studio)
    dragged(studio, "cat", dx=0.25)
    assert studio.self_.disabled
    studio.source.value = studio.target.value = "a house in a meadow"
    assert not studio.settings.places and not studio.self_.disabled


def test_a_word_that_the_target_lacks_cannot_be_moved(studio):
    studio.kind.value, studio.target.value = "refinement", "the beach"
    run(studio)
    assert not studio.stage.objects


def test_an_uploaded_pictures_prompt_is_suggested(studio):
    photo = photos()["cat-snow"]
    studio._take([{"content": photo.path.read_bytes()}])
    studio.wait()
    assert studio.source.value == studio.target.value == "a cat in the snow"
    assert "suggestion" in studio.suggestion.value and not studio.error.value
    run(studio)
    assert [one["name"] for one in studio.stage.objects] == ["cat"]
    studio.source.value = "a yellow cat in the snow"
    assert not studio.suggestion.value


def test_a_prompt_that_the_user_writes_is_kept(studio, monkeypatch):
    written = threading.Event()

    def slow(image, pipe):
        written.wait()
        return "a cat in the snow"

    monkeypatch.setattr("p2p_helpers.view.upload.describe", slow)
    studio._take([{"content": photos()["cat-snow"].path.read_bytes()}])
    assert "looked for" in studio.suggestion.value and studio.source.continuous_update
    studio.source.value = "a fox in the snow"
    written.set()
    studio.wait()
    assert studio.source.value == "a fox in the snow" and not studio.suggestion.value


def test_without_a_network_the_user_is_asked_for_the_prompt(studio, monkeypatch):
    def offline(image, pipe):
        raise p2p.ModelError("The image-to-text model 'x' cannot be loaded.")

    monkeypatch.setattr("p2p_helpers.view.upload.describe", offline)
    studio._take([{"content": photos()["cat-snow"].path.read_bytes()}])
    studio.wait()
    assert "please write what your picture shows. The image-to-text" in studio.suggestion.value
    assert studio.source.value == Settings.source and not studio.run.disabled
