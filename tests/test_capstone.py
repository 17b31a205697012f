"""The capstone: tasks drawn from names, the page that is handed in, and its checks."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.course.capstone import KINDS, PARTS, handin, variant
from p2p_helpers.course.checks import (
    NotYet,
    check_counterfactual,
    check_handin,
    check_line_up,
    check_own_edit,
    check_plan,
)
from p2p_helpers.toyland.counterfactual import EDITS
from p2p_helpers.toyland.reader import Found, Reading

SAID = {
    part: f"{part}: I have looked at {number} pictures, " + "and I say what I saw in them " * 4
    for number, part in enumerate(PARTS)
}


def edited(pipe, task):
    """A result from the picture of a task."""
    inversion = p2p.invert(pipe, task.pictures[0], task.source, method="direct", steps=2)
    return p2p.edit(pipe, inversion, task.target, task.edit, progress=False)


@pytest.fixture(scope="module")
def task():
    return variant("Grace")


@pytest.fixture(scope="module")
def result(random_pipe, task):
    return edited(random_pipe, task)


def page_of(result, pipe, **more):
    given = {"author": "Ada <b>", "code": "def mine():\n    return p2p.edit(1 < 2)", "said": SAID}
    return handin(result=result, pipe=pipe, **given | more)


@settings(deadline=None, max_examples=25)
@given(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip))
def test_a_name_gives_one_task_that_its_usual_edit_fits(name):
    first, second = variant(name), variant(f" {name} ")
    assert first.kind in KINDS and (first.before, first.after) == (second.before, second.after)
    assert first.source != first.target and len(first.before.things) == 1


def test_thirty_names_give_thirty_tasks():
    tasks = [variant(f"student {number}") for number in range(30)]
    assert len({(one.source, one.target, one.before.seed) for one in tasks}) == 30
    assert {one.kind for one in tasks} == set(KINDS)


def test_a_task_can_be_of_one_kind_and_of_two_objects():
    assert {variant(name, kinds=("swap",)).kind for name in "abcd"} == {"swap"}
    assert len(variant("a", kinds=("night",), objects=2).before.things) == 2
    assert variant("a", kinds="night").kind == "night"
    assert {variant(f"student {n}", kinds=None).kind for n in range(60)} == set(EDITS)


def test_a_task_that_no_scene_allows_is_said():
    with pytest.raises(p2p.InputError, match="it has two objects"):
        variant("Ada", kinds=("add",), objects=2)


@pytest.mark.parametrize(
    "name, kinds, says",
    [(" ", KINDS, "no name"), ("Ada", (), "No kind"), ("Ada", ("paint",), "no edit 'paint'")],
)
def test_a_task_that_cannot_be_drawn_is_refused(name, kinds, says):
    with pytest.raises(p2p.InputError, match=says):
        variant(name, kinds)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    "more, says",
    [
        ({"objects": 3}, "objects=3.*from 1 to 2"),
        ({"objects": None}, "objects=None"),
        ({"kinds": 5}, "kinds=5"),
    ],
)
def test_a_scene_has_one_object_or_two_and_an_edit_is_named(more, says):
    with pytest.raises(p2p.InputError, match=says):
        variant("Ada", **more)


def test_exercises_take_a_task_of_ones_own():
    task = variant("Ada", kinds=("night",))
    right = [*range(len(task.source.split())), None, None]
    assert check_line_up(right, task.source, task.target).startswith("✓")
    coloured = variant("Ada", kinds=("recolour",))
    reading = seen(coloured, [(t.name, t.colour) for t in coloured.after.things])
    assert check_counterfactual(coloured.pictures[1], coloured, reading, 0.01).startswith("✓")


def test_a_plan(tokenizer, task):
    plan = p2p.Replace(cross_steps=0.5)
    ada = variant("Ada Lovelace")  # a style: words are new
    assert check_plan("Ada Lovelace", ada, p2p.Refine(), tokenizer).startswith("✓")
    for answer, says in [
        (("vera ", task, plan), "is the example"),
        (("Ada Lovelace", task, plan), "not the one of this name"),
        (("Ada Lovelace", ada, "swap"), "is no edit"),
        (("Ada Lovelace", ada, plan), "does not fit your prompts"),
        (("Ada Lovelace", ada, p2p.Refine(cross_steps=0.0)), "takes nothing from the source"),
    ]:
        with pytest.raises(NotYet, match=says):
            check_plan(*answer, tokenizer)


def seen(task, things):
    found = [Found(name, colour or "natural", np.ones((16, 16), bool)) for name, colour in things]
    return Reading(found, task.after.background, task.after.style, False, False, False)


def test_an_edit_of_ones_own(result, task):
    before, truth = task.pictures
    right = dataclasses.replace(result, images=[truth])
    boat, car = seen(task, [("boat", "green")]), seen(task, [("car", "green")])
    assert check_own_edit(right, task, boat).startswith("✓")
    grey = Image.new("RGB", before.size, (128, 128, 128))
    inverted = Image.fromarray(np.where(task.changed[..., None], 255 - np.asarray(before), before))
    other = variant("Emmy")
    for answer, says in [
        ((right, other, boat), "not your task's picture"),
        ((right, task, car), "does not see .* yet"),
        ((dataclasses.replace(result, images=[grey]), task, boat), "The rest of the picture"),
        ((dataclasses.replace(result, images=[inverted]), task, boat), "in another way"),
    ]:
        with pytest.raises(NotYet, match=says):
            check_own_edit(*answer)


def test_an_object_that_is_lost_is_named(random_pipe):
    night = variant("Emmy")
    assert night.kind == "night"
    reading = dataclasses.replace(seen(night, []), night=True)
    right = dataclasses.replace(edited(random_pipe, night), images=[night.pictures[1]])
    with pytest.raises(NotYet, match=f"sees no {night.after.things[0].name}"):
        check_own_edit(right, night, reading)


def test_a_page_holds_all_and_loads_nothing(result, random_pipe, task, tmp_path, browser):
    page = page_of(result, random_pipe, truth=task.pictures[1])
    page.save(tmp_path / "page.html")
    tab = browser.new_page()
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((tmp_path / "page.html").as_uri())
    text = tab.locator("body").inner_text()
    assert tab.locator("img").count() == 3 and "return p2p.edit(1 < 2)" in text
    for said in ("Ada <b>", *PARTS, task.target, "Replace(", "direct", "torch"):
        assert said in text
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    tab.close()


def test_the_code_is_a_functions_own_text(result, random_pipe):
    assert page_of(result, random_pipe, code=page_of).code.startswith("def page_of(")
    with pytest.raises(p2p.InputError, match="cannot be found"):
        page_of(result, random_pipe, code=print)
    with pytest.raises(p2p.InputError, match="what p2p.edit returned"):
        page_of("a picture", random_pipe)


def test_a_page_that_lacks_something(result, random_pipe):
    assert check_handin(page_of(result, random_pipe)).startswith("✓")
    same = dataclasses.replace(result, images=[result.source])
    first, *_ = PARTS
    for more, says in [
        ({"author": "Vera"}, "whose it is"),
        ({"result": same}, "What did the edit change"),
        ({"code": "p2p.edit("}, "is no Python"),
        ({"code": "p2p.invert(1)"}, "never calls edit"),
        ({"said": SAID | {first: " "}}, f"The text under “{first}” is missing"),
        ({"said": SAID | {first: "A boat."}}, "there are 2 words"),
        ({"said": dict.fromkeys(PARTS, SAID[first])}, "are the same"),
        ({"said": {k: re.sub(r"\d", "", v) for k, v in SAID.items()}}, "no number"),
    ]:
        page = page_of(**{"result": result, "pipe": random_pipe} | more)
        with pytest.raises(NotYet, match=says):
            check_handin(page)
    with pytest.raises(NotYet, match="not the page yet"):
        check_handin(p2p.Page("", ""))


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"said": "A dog in place of the cat."}, "said='A dog"),
        ({"said": dict.fromkeys(PARTS)}, "give a text under each heading"),
        ({"said": {}}, f"said has the headings {', '.join(PARTS)}; '{PARTS[0]}' is missing"),
        ({"said": SAID | {"Where it failed": "Nowhere."}}, "'Where it failed' is none of them"),
        ({"author": None}, "author=None"),
        ({"author": " "}, "author=' ': give a name"),
        ({"code": ""}, "The text of '' cannot be found"),
        ({"truth": variant("Ada")}, "truth=a Counterfactual: give a picture"),
        ({"truth": np.zeros((8, 8, 3), np.uint8)}, "ndarray: give a picture"),
        ({"truth": "true.png"}, "truth='true.png'"),
    ],
)
def test_a_page_that_would_not_be_whole_is_said(result, random_pipe, more, says):
    with pytest.raises(p2p.InputError, match=says):
        page_of(result, random_pipe, **more)


def test_a_page_names_the_pipeline_that_made_the_result(result, toyland):
    with pytest.raises(p2p.InputError, match="was made with another pipeline"):
        page_of(result, toyland)


@pytest.mark.usefixtures("untyped")
def test_a_page_wants_a_pipeline(result):
    with pytest.raises(p2p.AttentionControlError, match="is no diffusers pipeline"):
        page_of(result, "toyland")


def test_a_page_of_several_targets_names_all_of_them(random_pipe):
    prompts = "a dog on the beach", "a fox on the beach"
    edits = [p2p.Replace(), p2p.Replace(cross_steps=0.5)]
    several = p2p.edit(random_pipe, "a cat on the beach", prompts, edits, steps=2, progress=False)
    page = page_of(several, random_pipe).page
    for number, (prompt, edit) in enumerate(zip(prompts, edits, strict=True), 1):
        assert f"<th>target {number}</th><td>{prompt}</td>" in page
        assert f"<th>edit {number}</th><td>{edit!r}</td>" in page
