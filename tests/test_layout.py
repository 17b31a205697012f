"""Layout edits: where objects go, by geometry alone, on pipelines, and with each other."""

import functools
import operator

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionImg2ImgPipeline,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.attention.layers import Layer
from p2p_helpers.attention.phases import Wish
from p2p_helpers.edits.edit import Composition
from p2p_helpers.edits.layout import placements, without
from p2p_helpers.layout import Continuation, Layout, Placed, signals, widened, without_specks
from p2p_helpers.masks import on_latent
from p2p_helpers.placing import composed, others_of
from p2p_helpers.request import checked
from p2p_helpers.stages import runs_of, stages_of
from p2p_helpers.toyland import photos
from p2p_helpers.toyland.reader import load_reader

CAT = "a cat on the beach"


def blob(rows, columns, size=(16, 16)):
    """A map that is 1 in a rectangle."""
    found = torch.zeros(size)
    found[rows, columns] = 1.0
    return found


@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(2, 9))
@settings(max_examples=60, deadline=None)
def test_a_continuation_is_a_mean_of_what_surrounds_the_hole(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    hole = torch.rand(rows, columns, generator=generator) < 0.5
    values = torch.rand(2, rows, columns, generator=generator)
    filled = Continuation.of(hole).fill(values)
    assert torch.equal(filled[:, ~hole], values[:, ~hole])
    if hole.any() and not hole.all():
        around = values[:, ~hole]
        assert filled.min() >= around.min() - 1e-5 and filled.max() <= around.max() + 1e-5
        ramp = torch.arange(float(columns)).expand(1, rows, columns)
        inner = torch.zeros_like(hole)
        inner[1:-1, 1:-1] = True  # a slope goes on as a slope, away from the picture's edges
        if inner.any():
            assert torch.allclose(Continuation.of(inner).fill(ramp), ramp, atol=1e-4)


@pytest.mark.parametrize(
    ("hole", "other"),
    [
        (blob(slice(4, 9), slice(4, 8)), blob(slice(3, 10), slice(8, 12))),  # side by side
        (blob(slice(4, 9), slice(4, 8)), blob(slice(4, 9), slice(2, 4))),
        (blob(slice(0, 4), slice(0, 4)), blob(slice(4, 6), slice(0, 8))),  # in a corner
    ],
)
def test_a_hole_continues_what_lies_behind_and_not_another_object(hole, other):
    hole, other = hole > 0, other > 0
    filled = Continuation.of(hole, other).fill(torch.where(other, 5.0, 1.0))
    assert (filled[hole] - 1).abs().max() < 0.05
    alone = Continuation.of(hole, ~hole).fill(torch.where(other, 5.0, 1.0))
    assert alone[hole].max() > 1.5  # where nothing else is there, the other objects


RIVALS = {
    ("a photo of a cat and a dog", "cat"): ["dog"],
    ("a cat in front of a dog", "dog"): ["cat", "front"],
    ("a cat and a dog in front of a house", "cat"): ["dog", "front", "house"],
    ("an old photo of a red cat on the beach", "cat"): ["beach"],
    ("an oil painting of a cat", "cat"): [],
    ("red car and a dog", "car"): ["dog"],
    ("a dog wearing sunglasses on the beach", "sunglasses"): ["dog", "beach"],
    ("a dog wearing sunglasses on the beach", "dog"): ["sunglasses", "beach"],
    ("a cat behind flowers, a small house", "cat"): ["flowers", "small", "house"],
    ("a cat and a tall building", "cat"): ["tall", "building"],
    ("your cat under two trees", "trees"): ["cat"],
    ("a cat next to a dog", "dog"): ["cat"],
}


@pytest.mark.parametrize(("prompt", "phrase"), RIVALS)
@pytest.mark.filterwarnings("ignore::p2p_helpers.UnknownWordWarning")
def test_the_other_objects_of_a_prompt(toyland, prompt, phrase):
    with p2p.record(toyland) as maps:
        toyland([prompt], num_inference_steps=1, output_type="latent")
    others = others_of(maps.of(0), maps.of(0)[phrase])
    assert [heat.name for heat in others] == RIVALS[prompt, phrase]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_specks_are_no_part_of_an_object(seed):
    generator = torch.Generator().manual_seed(seed)
    specks = torch.rand(16, 16, generator=generator) < 0.05
    object_ = blob(slice(3, 9), slice(2, 8)) > 0
    kept = without_specks(object_ | specks)
    assert kept[object_].all() and not (kept & ~(object_ | specks)).any()
    apart = specks & ~widened(widened(widened(object_)))
    assert not (kept & apart).any()
    two = object_ | (blob(slice(11, 15), slice(9, 13)) > 0)
    assert torch.equal(without_specks(two), two)


def test_an_object_that_leaves_takes_nothing_of_its_neighbour():
    cat, dog = blob(slice(4, 12), slice(2, 8)), 0.9 * blob(slice(4, 12), slice(8, 14))
    for edit in (p2p.Move("cat", dy=0.2), p2p.Remove("cat"), p2p.Resize("cat", 0.6)):
        layout = Layout([edit], [cat], [[dog]])
        assert layout.old[cat > 0].all() and not layout.old[dog > 0].any()
        assert torch.equal(layout.others, dog > 0)
    rim = cat + 0.3 * blob(slice(4, 12), slice(8, 10))  # its word looks at the dog a little
    moved = Layout([p2p.Move("cat", dy=0.25)], [rim], [[dog]])
    assert moved.new[0][8:, 2:8].all() and not moved.new[0][:, 8:].any()
    both = Layout([p2p.Remove("cat"), p2p.Remove("dog")], [cat, dog], [[dog], [cat]])
    assert both.old[cat + dog > 0].all() and not both.others.any()


@given(st.integers(-6, 6), st.integers(-3, 3), st.sampled_from([(16, 16), (8, 8), (4, 4)]))
@settings(max_examples=40, deadline=None)
def test_rows_of_the_matrix_are_means_of_the_source(right, down, grid):
    map_ = blob(slice(5, 9), slice(6, 10))
    layout = Layout([p2p.Move("cat", dx=right / 16, dy=down / 16)], [map_])
    matrix = layout.matrix(grid)
    assert (
        torch.allclose(matrix.sum(1), torch.ones(len(matrix)), atol=1e-4) and matrix.min() >= -1e-6
    )
    if not right and not down:
        assert torch.allclose(layout.matrix((16, 16)), torch.eye(256), atol=1e-5)


def test_a_moved_object_takes_its_cells_along():
    map_ = blob(slice(5, 9), slice(2, 6))
    layout = Layout([p2p.Move("cat", dx=0.5)], [map_])
    assert torch.equal(layout.new[0], blob(slice(5, 9), slice(10, 14)) > 0)
    values = torch.arange(256.0)
    moved = (layout.matrix((16, 16)) @ values).reshape(16, 16)
    assert torch.allclose(moved[5:9, 10:14], values.reshape(16, 16)[5:9, 2:6])
    assert layout.left[4:10, 1:7].all() and not layout.left[:, 8:].any()
    twice = Layout([p2p.Duplicate("cat", dx=0.5)], [map_])
    assert not twice.left.any() and not twice.old.any()
    gone = Layout([p2p.Remove("cat")], [map_])
    assert not gone.new[0].any() and torch.equal(gone.left, gone.old)


def test_only_what_the_source_lends_moves_and_the_targets_own_stays():
    layout = Layout([p2p.Move("cat", dx=0.5)], [blob(slice(5, 9), slice(2, 6))])
    wish = Wish((torch.eye(8), torch.eye(8)), 0.0, layout=layout)
    layer = Layer("down.0", "cross", "down", 0, 4)
    lent, own = wish.terms(layer, (16, 16), 0, 1)
    assert lent.queries is layout.matrix((16, 16)) and own.queries == "same"


def test_a_smaller_object_is_smooth():
    """Of black and white lines grey ones are made."""
    soft, lines = blob(slice(4, 12), slice(4, 12)), np.zeros((128, 128, 3), np.uint8)
    lines[:, ::2] = 255
    layout = Layout([p2p.Resize("cat", 0.6)], [soft])
    whole, opaque = composed(Image.fromarray(lines), layout, [soft])
    inside = pixels(whole)[pixels(opaque) == 255]
    assert len(inside) > 1000 and ((inside > 10) & (inside < 245)).any()


def test_a_resized_object_keeps_its_foot():
    map_ = blob(slice(4, 12), slice(4, 12))
    small = Layout([p2p.Resize("cat", 0.5)], [map_]).new[0]
    rows, columns = torch.where(small.any(1))[0], torch.where(small.any(0))[0]
    assert rows.max() == 11 and 4 <= len(rows) <= 5 and 4 <= len(columns) <= 5
    assert abs(float(columns.float().mean()) - 7.5) <= 0.5


def test_two_objects_share_no_cell():
    left, right = blob(slice(4, 12), slice(2, 9)), 0.9 * blob(slice(4, 12), slice(7, 14))
    edits = [p2p.Move("cat", dx=0.4), p2p.Move("dog", dx=-0.4)]
    layout = Layout(edits, [left, right], [[right], [left]])
    assert layout.new[0].any() and layout.new[1].any()
    assert layout.left.sum() < layout.old.sum()


WITHOUT = {
    ("a red cat and a dog on the beach", "cat"): "a dog on the beach",
    ("a cat and a red dog on the beach", "dog"): "a cat on the beach",
    ("a photo of a cat on the beach", "cat"): "a photo on the beach",
    ("a cat on the beach", "beach"): "a cat",
    ("a photo of a cat", "cat"): "a photo",
    ("a photo of a cat, highly detailed", "cat"): "a photo, highly detailed",
    ("a photo of a cat, a dog and a fox", "cat"): "a photo of a dog and a fox",
    ("a photo of a cat and a dog", "dog"): "a photo of a cat",
    ("a cat next to a dog in snow", "dog"): "a cat in snow",
    ("a cat next to a dog in snow", "cat"): "next to a dog in snow",
    ("a cat next to a dog and a fox", "dog"): "a cat next to a fox",
    ("a cat on a mat in a house", "mat"): "a cat in a house",
    ("a cat in front of a dog in snow", "dog"): "a cat in front in snow",
    ("a photo of (a fox) and a cat", "fox"): "a photo of a cat",
    ("on a mat a cat sleeps", "mat"): "a cat sleeps",
    ("a cat, fox, and dog in snow", "fox"): "a cat and dog in snow",
    ("a cat, fox, and dog in snow", "dog"): "a cat, fox in snow",
    ("a cat, fox, and dog in snow", "cat"): "fox, and dog in snow",
    ("(a fox) in a forest", "fox"): "in a forest",
    ("a photo of ((a fox)) in a forest", "fox"): "a photo in a forest",
    ("a dog (a fox) and a cat", "fox"): "a dog and a cat",
    ("a cat and a dog and a cat on the beach", "cat"): "a dog on the beach",
    ("a cat and a dog and a cat on the beach", ("cat", 2)): "a cat and a dog on the beach",
    ("a cat on a sofa and a cat in a box", "cat"): "on a sofa in a box",
    ("a cat, a dog", "cat"): "a dog",
    ("a fox, a cat and a dog in a forest", "cat"): "a fox and a dog in a forest",
    ("a fox, a cat and a dog in a forest", "dog"): "a fox, a cat in a forest",
    ("a fox, a cat, and a dog", "dog"): "a fox, a cat",
    ("a cat or a dog", "dog"): "a cat",
    ("a dog wearing sunglasses on the beach", "sunglasses"): "a dog on the beach",
    ("a dog wearing sunglasses and a cat", "sunglasses"): "a dog and a cat",
    ("a red flying balloon and a cat", "balloon"): "a cat",
    ("a photo of a cute smiling dog and a cat", "dog"): "a photo of a cat",
    ("a dog. A cat. A fox.", "cat"): "a dog. A fox.",
    ("a dog wearing a hat on the beach", "wearing a hat"): "a dog on the beach",
    ("a dog wearing a hat and a cat", "wearing a hat"): "a dog and a cat",
    ("a dog chasing cats", "cats"): "a dog",
    ("a cat behind flowers on the beach", "flowers"): "a cat on the beach",
    ("a red tower. cats below", "cats"): "a red tower. below",
    ("a red tower. cats below", "tower"): "cats below",
    ("a sleeping cat and a tall building", "cat"): "a tall building",
    ("a sleeping cat and a tall building", "building"): "a sleeping cat",
    ("a red king and a 3.5 m tower", "tower"): "a red king",
    ("a red king and a 3.5 m tower", "king"): "a 3.5 m tower",
    ('a 3.5 m tower and a "red" cat', "cat"): "a 3.5 m tower",
    ('a 3.5 m tower and a "red" cat', "tower"): 'a "red" cat',
    ("a dog (small) and a cat", "cat"): "a dog (small)",
    ("a dog (small) and a cat", "dog"): "(small) and a cat",
    ("(a cat and a dog) at f/1.8", "cat"): "(a dog) at f/1.8",
    ("(a cat and a dog) at f/1.8", "dog"): "(a cat) at f/1.8",
    ("a cat, a  dog,\n1,000 stars", "cat"): "a  dog,\n1,000 stars",
    ("your cat on the beach", "cat"): "on the beach",
    ("the two cats and a dog", "cats"): "a dog",
    ("red car and a dog", "car"): "a dog",
}


@pytest.mark.parametrize("prompt, phrase", WITHOUT)
def test_a_prompt_without_an_object(toyland, prompt, phrase):
    assert without(toyland.tokenizer, prompt, phrase) == WITHOUT[prompt, phrase]


def test_a_prompt_that_says_nothing_else(toyland):
    with pytest.raises(p2p.PromptError, match="says nothing"):
        without(toyland.tokenizer, "a cat", "cat")


@pytest.fixture(scope="module")
def moved(toyland):
    return p2p.edit(toyland, CAT, CAT, p2p.Move("cat", dx=0.25), seed=3, steps=8, progress=False)


def pixels(image):
    return np.asarray(image, int)


def test_a_generated_object_takes_its_own_pixels_along(moved, toyland):
    maps = p2p.edit(toyland, CAT, CAT, record=True, seed=3, steps=8, progress=False).maps
    sure = maps["cat"].refine((16, 16)).numpy() > 0.6
    rows, columns = np.nonzero(sure[:, :12].repeat(8, 0).repeat(8, 1))
    there = pixels(moved.image)[rows, columns + 32]
    assert (np.abs(there - pixels(moved.source)[rows, columns]).max(-1) <= 2).mean() > 0.9


def test_the_source_is_the_plain_pictures(toyland, moved):
    plain = toyland(
        CAT, generator=torch.Generator().manual_seed(3), num_inference_steps=8, guidance_scale=4.0
    ).images[0]
    assert np.abs(pixels(plain) - pixels(moved.source)).max() <= 1
    assert (pixels(moved.image) != pixels(moved.source)).any()


def test_a_move_by_nothing_changes_nothing(toyland):
    stays = p2p.edit(toyland, CAT, CAT, p2p.Move("cat"), seed=3, steps=8, progress=False)
    assert np.abs(pixels(stays.image) - pixels(stays.source)).max() <= 2


@pytest.mark.parametrize(
    "target, change",
    [
        (CAT, p2p.Resize("cat", 0.7)),
        (CAT, p2p.Duplicate("cat", dx=-0.3, scale=0.6)),
        (CAT, p2p.Remove("cat")),
        ("a dog on the beach", p2p.Replace() | p2p.Move("dog", dx=0.2)),
        ("a cat on the beach at night", p2p.Refine() | p2p.Move("cat", dy=-0.1)),
        (CAT, p2p.Move("cat", dx=0.1) | p2p.Reweight({"beach": 2.0})),
    ],
    ids=str,
)
def test_layout_edits_compose(toyland, target, change):
    """Each gives another picture than the source, and than what its edits of words give alone."""
    how = {"seed": 3, "steps": 4, "progress": False}
    result = p2p.edit(toyland, CAT, target, change, **how)
    assert (pixels(result.image) != pixels(result.source)).any()
    if isinstance(change, Composition):
        own = next(part for part in (change.first, change.second) if not placements(part))
        words = p2p.edit(toyland, CAT, target, own, **how)
        assert (pixels(result.image) != pixels(words.image)).any()


TWO = "a cat and a dog on the beach"


@pytest.mark.parametrize(
    ("target", "change", "said"),
    [
        (TWO, p2p.Move("cat", dx=0.2) | p2p.Remove("dog"), CAT),
        (TWO, p2p.Remove("dog") | p2p.Move("cat", dx=0.2), CAT),
        (TWO, p2p.Resize("dog", 0.7) | p2p.Move("cat", dx=0.2) | p2p.Remove("dog"), None),
        (
            "a cat and a fox on the beach",
            p2p.Replace() | p2p.Move("cat", dx=0.2) | p2p.Remove("fox"),
            CAT,
        ),
    ],
    ids=str,
)
def test_what_is_removed_may_come_last(toyland, target, change, said):
    def make():
        return p2p.edit(toyland, TWO, target, change, seed=3, steps=2, progress=False)

    if said is None:
        with pytest.raises(p2p.InputError, match="at once"):
            make()
    else:
        assert make().target_prompts == [said]


def test_a_blend_is_for_the_words_that_a_change_has(toyland):
    dog = "a dog on the beach"
    how = {"seed": 3, "steps": 2, "progress": False, "local_blend": ("cat", "dog")}
    last = p2p.Replace() | p2p.Move("dog", dx=0.2) | p2p.Reweight({"dog": 2})
    first = p2p.Reweight({"cat": 2}) | p2p.Move("cat", dx=0.2) | p2p.Replace()
    for change in (last, first):
        result = p2p.edit(toyland, CAT, dog, change, **how)
        assert result.masks.shape[:2] == (2, 1) and result.target_prompts == [dog]


def test_a_word_that_is_swapped_is_another_object_in_its_new_place(toyland):
    swap = p2p.Replace() | p2p.Move("dog", dx=0.25)
    result = p2p.edit(toyland, CAT, "a dog on the beach", swap, seed=3, steps=10, progress=False)
    before, after = (seen[0] for seen in map(objects, (result.source, result.image)))
    assert (before.name, after.name) == ("cat", "dog")
    assert 2 <= middle(after) - middle(before) <= 6  # of 16 columns; 4 are asked for


def test_what_follows_goes_on_from_the_picture_before(toyland):
    """First the words and then the places, and the other way round: each time both are seen, and the whole picture is the new one."""
    run = {"seed": 3, "steps": 10, "progress": False}
    night = "a cat on the beach at night"
    for change in (
        p2p.Refine() | p2p.Move("cat", dx=0.25),
        p2p.Move("cat", dx=0.25) | p2p.Refine(),
    ):
        both = p2p.edit(toyland, CAT, night, change, **run)
        words = p2p.edit(toyland, CAT, night, p2p.Refine(), **run)
        assert np.abs(pixels(both.source) - pixels(words.source)).max() <= 2
        sky = np.s_[:32]
        assert np.abs(pixels(both.image)[sky] - pixels(words.image)[sky]).mean() < 15
        assert np.abs(pixels(both.image)[sky] - pixels(both.source)[sky]).mean() > 25
        before, after = (seen[0] for seen in map(objects, (both.source, both.image)))
        assert 2 <= middle(after) - middle(before) <= 6


@pytest.mark.parametrize("record", [True, p2p.Record(everything=True)], ids=str)
def test_maps_are_of_the_source_and_of_the_last_picture(toyland, record):
    run = {"seed": 3, "steps": 5, "progress": False, "record": record}
    night = "a cat on the beach at night"
    change = p2p.Refine() | p2p.Move("cat", dx=0.25)
    maps = p2p.edit(toyland, CAT, night, change, **run).maps
    plain = p2p.edit(toyland, CAT, night, p2p.Refine(), **run).maps
    assert maps.prompts == [CAT, night] and "night" in maps
    np.testing.assert_allclose(maps["cat"], plain["cat"], atol=1e-4)
    np.testing.assert_allclose(maps["cat"].at(step=1), plain["cat"].at(step=1), atol=1e-3)
    assert np.abs(np.asarray(maps.of(1)["cat"]) - np.asarray(plain.of(1)["cat"])).max() > 0.01


OTHER_RECORDS = [p2p.Record(before=True), p2p.Record(everything=True)]


@pytest.mark.parametrize("record", OTHER_RECORDS, ids=str)
def test_what_is_recorded_does_not_say_where_an_object_goes(toyland, record):
    fox, panda = "a fox on the beach", "a panda on the beach"
    run = {"seed": 10, "steps": 3, "progress": False}
    change = p2p.Replace() | p2p.Move("panda", dx=0.25)
    plain, recorded = (
        p2p.edit(toyland, fox, panda, change, record=one, **run) for one in (False, record)
    )
    assert recorded.maps.record == record and recorded.maps.prompts == [fox, panda]
    move = p2p.Move("fox", dx=0.25)
    alone = p2p.edit(toyland, fox, fox, move, **run)
    again = p2p.edit(toyland, recorded, fox, move, progress=False)
    for one, other in [(plain, recorded), (alone, again)]:
        assert np.abs(pixels(one.image).astype(int) - pixels(other.image)).max() <= 2


def test_each_stage_has_the_arguments_of_its_prompts(toyland):
    """In a list with one for each prompt: the source's before words change, the target's from then on."""
    pipe = StableDiffusionImg2ImgPipeline(**toyland.components, requires_safety_checker=False)
    dog, move = "a dog on the beach", p2p.Move(("cat", 1), dx=0.2)
    change = move | p2p.Replace() | p2p.Move("dog", dx=0.2)
    pictures = [Image.new("RGB", (128, 128), name) for name in ("red", "blue")]
    usual = dict.fromkeys(("generator", "guidance_scale", "negative_prompt"))
    usual |= {"seed": 0, "steps": 4}
    request = checked(pipe, CAT, dog, change, arguments={"image": pictures}, **usual)
    red, blue = pictures
    taken = [one.arguments["image"] for one in request.in_stages(pipe)]
    assert taken == [[red, red], [red, blue], [blue, blue]]
    latents = torch.stack([torch.zeros(8, 16, 16), torch.ones(8, 16, 16)])
    request = checked(toyland, CAT, dog, change, arguments={"latents": latents}, **usual)
    taken = [one.arguments["latents"].mean((1, 2, 3)) for one in request.in_stages(toyland)]
    assert torch.stack(taken).tolist() == [[0, 0], [0, 1], [1, 1]]


def test_the_words_of_every_stage_are_looked_for_before_the_first_run(toyland, monkeypatch):
    monkeypatch.setattr("p2p_helpers.run.run", None)
    dog = "a dog on the beach"
    for change, target, kind, said in [
        (p2p.Replace() | p2p.Move("cat", dx=0.1), dog, p2p.PromptError, "cat"),
        (p2p.Move("dog", dx=0.1) | p2p.Replace(), dog, p2p.PromptError, "dog"),
        (p2p.Move("cat", dx=0.1), dog, p2p.PromptMismatch, r"Replace\(\) \| Move"),
        (p2p.Move("cat", dx=0.1) | p2p.Reweight({"sea": 2}), CAT, p2p.PromptError, "sea"),
        (p2p.Replace() | p2p.Remove("cat"), dog, p2p.PromptError, "cat"),
        (p2p.Move("cat", dx=0.1) | p2p.Resize("cat", 0.7), CAT, p2p.InputError, "scale=0.7"),
        (p2p.Remove("cat") | p2p.Move("cat", dx=0.1), CAT, p2p.InputError, "at once"),
    ]:
        with pytest.raises(kind, match=said):
            p2p.edit(toyland, CAT, target, change, progress=False)
    move = p2p.Replace() | p2p.Move("dog", dx=0.1)
    for change, blend, said in [
        (move, "fox", "found it in none"),
        (p2p.Move("cat", dx=0.1) | p2p.Replace(layers="nowhere"), None, "fits no layer"),
        (move | p2p.Reweight({"dog": 2}), "cat", "Add one that says where"),
    ]:
        with pytest.raises(p2p.InputError, match=said):
            p2p.edit(toyland, CAT, dog, change, local_blend=blend, progress=False)
    mixed = [p2p.Replace() | p2p.Move("dog", dx=0.1), p2p.Replace()]
    with pytest.raises(p2p.InputError, match="for each target"):
        p2p.edit(toyland, CAT, [dog, dog], mixed, progress=False)


def test_two_objects_change_places_in_one_run(toyland):
    edit = p2p.Move("lion", dx=0.5) | p2p.Move("mushroom", dx=-0.5)
    both = "a lion and a mushroom in a forest"
    assert [stage.edit for stage in stages_of(toyland.tokenizer, both, both, edit)] == [edit]
    result = p2p.edit(toyland, both, both, edit, seed=0, steps=20, progress=False)
    before, after = (
        [one.name for one in sorted(objects(picture), key=middle)]
        for picture in (result.source, result.image)
    )
    assert before == ["lion", "mushroom"] and after == ["mushroom", "lion"]


@pytest.mark.parametrize(
    ("change", "pictures"),
    [
        (p2p.Reweight({"cat": 2}), [2]),
        (p2p.Move("cat", dx=0.2), [1, 2]),
        (p2p.Reweight({"cat": 2}) | p2p.Move("cat", dx=0.2), [2, 2]),
        (p2p.Move("cat", dx=0.2) | p2p.Reweight({"cat": 2}), [1, 2, 2]),
    ],
)
def test_the_callback_sees_every_run(toyland, change, pictures):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, len(tensors["latents"])))
        return tensors

    p2p.edit(toyland, CAT, CAT, change, steps=2, callback=callback, progress=False)
    assert seen == [(step, count) for count in pictures for step in range(2)]
    assert runs_of(change) == len(pictures)


def test_a_generator_moves_on_as_in_one_run(toyland):
    states = []
    for target, change in [
        (CAT, p2p.Reweight({"cat": 2})),
        (CAT, p2p.Move("cat", dx=0.2) | p2p.Reweight({"cat": 2})),
    ]:
        generator = torch.Generator().manual_seed(5)
        p2p.edit(toyland, CAT, target, change, generator=generator, steps=2, progress=False)
        states.append(generator.get_state())
    assert torch.equal(*states)


def objects(picture):
    return load_reader().read([picture])[0].objects


def middle(seen):
    """The column of an object's middle."""
    return np.argwhere(seen.cells)[:, 1].mean()


PHOTO = photos()["cat-snow"]


@pytest.fixture(scope="module")
def painted(toyland):
    """A painted picture, and its inversion."""
    picture = p2p.load_image(PHOTO.path, toyland)
    how = {"method": "direct", "steps": 4, "progress": False}
    return picture, p2p.invert(toyland, picture, PHOTO.prompt, **how)


def test_a_painted_picture_keeps_its_own_pixels_elsewhere(toyland, painted):
    picture, inversion = painted
    result = p2p.edit(toyland, inversion, PHOTO.prompt, p2p.Move("cat", dx=0.2), progress=False)
    same = (pixels(result.image) == pixels(picture)).all(-1)
    assert 0.2 < same.mean() < 1


def test_a_move_keeps_what_the_words_have_made_of_a_painted_picture(toyland, painted):
    """The night stays outside of where the cat is and was: the photo's day does not come back."""
    night, move = f"{PHOTO.prompt} at night", p2p.Refine() | p2p.Move("cat", dx=0.2)
    both, words = (
        p2p.edit(toyland, painted[1], night, change, progress=False)
        for change in (move, p2p.Refine())
    )
    sky = np.s_[:16]
    assert np.abs(pixels(both.image)[sky] - pixels(words.image)[sky]).mean() < 2
    assert np.abs(pixels(both.image)[sky] - pixels(painted[0])[sky]).mean() > 10


def test_a_moved_object_stays_inside_of_the_blends_mask(toyland, painted):
    """The mask ends in column 64; the decoder sees two latent pixels beyond it."""
    picture, inversion = painted
    left = np.zeros((128, 128), bool)
    left[:, :64] = True
    move, blend = p2p.Move("cat", dx=0.25), p2p.LocalBlend(mask=left)
    run = {"local_blend": blend, "progress": False}
    result = p2p.edit(toyland, inversion, PHOTO.prompt, move, **run)
    assert (pixels(result.image)[:, 80:] == pixels(picture)[:, 80:]).all()
    assert (pixels(result.image)[:, :64] != pixels(picture)[:, :64]).any()


@pytest.mark.parametrize("edit", [p2p.Move("cat", dx=0.25), p2p.Duplicate("cat", dx=0.25)])
def test_an_object_of_a_painted_picture_takes_its_own_pixels_along(toyland, painted, edit):
    picture, inversion = painted
    result = p2p.edit(toyland, inversion, PHOTO.prompt, edit, progress=False)
    mask = pixels(Image.open(PHOTO.path.with_suffix(".mask-cat.png"))) > 0
    rows, columns = np.nonzero(mask[:, :96])
    moved = pixels(result.image)[rows, columns + 32]
    assert (moved == pixels(picture)[rows, columns]).all(-1).mean() > 0.6


def test_a_mask_says_where_the_object_is(toyland, painted):
    mask = Image.open(PHOTO.path.with_suffix(".mask-cat.png"))
    picture, inversion = painted
    move = p2p.Move("cat", dx=0.25, mask=mask)
    result = p2p.edit(toyland, inversion, PHOTO.prompt, move, progress=False)
    rows, columns = np.nonzero((pixels(mask) > 0)[:, :96])
    moved = pixels(result.image)[rows, columns + 32]
    own = pixels(picture)[rows, columns]
    np.testing.assert_allclose(moved, own, atol=1, rtol=0)  # a soft edge may round otherwise
    sky = blob(slice(1, 4), slice(2, 6))  # on the latent's grid
    elsewhere = p2p.Move("cat", dx=0.25, mask=sky)
    other = p2p.edit(toyland, inversion, PHOTO.prompt, elsewhere, progress=False)
    assert (pixels(other.image) != pixels(result.image)).any()


def test_a_thin_object_has_its_cells():
    """A pole of two pixels of a picture whose latent's cells have eight; and two pieces, of which one is small."""
    pole = np.zeros((128, 128), bool)
    pole[40:90, 60:62] = pole[10:14, 100:104] = True
    soft = on_latent(pole, (16, 16), (128, 128))
    layout = Layout([p2p.Move("pole", dx=0.25, mask=pole)], [soft / soft.max()])
    assert layout.new[0][5:11, 11].all() and layout.old[5:11, 7].all() and layout.old[1, 12]


def test_img2img_begins_later_in_the_schedule(toyland):
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(5)
    soft = blob(slice(5, 9), slice(4, 8))
    layout = Layout([p2p.Resize("cat", 0.5)], [soft])
    known = torch.stack([torch.zeros(4, 16, 16), torch.ones(4, 16, 16)])  # two of five steps
    empty = Image.new("L", (8, 8))
    placed = Placed(layout, known, empty, empty, torch.full((4, 16, 16), 3.0))
    made = placed.after(torch.zeros(4, 16, 16), 0, scheduler)
    a = signals(scheduler)[3]  # after the fourth step of the schedule; noise is 0 − a · 1
    assert made[:, layout.new[0]].unique().tolist() == pytest.approx([a * 3 - a], abs=1e-5)


def test_a_hole_is_filled_in_the_first_three_tenths_of_the_steps():
    scheduler = DDIMScheduler()
    scheduler.set_timesteps(10)
    layout = Layout([p2p.Remove("cat")], [blob(slice(5, 9), slice(4, 8))])
    empty = Image.new("L", (8, 8))
    placed = Placed(layout, torch.ones(10, 4, 16, 16), empty, empty)
    made = [placed.after(torch.zeros(4, 16, 16), turn, scheduler) for turn in range(10)]
    assert [bool(one[:, layout.left].any()) for one in made] == [True] * 2 + [False] * 8


@pytest.mark.usefixtures("untyped")
def test_masks_that_cannot_be(toyland):
    with pytest.raises(p2p.InputError, match="is empty"):
        p2p.Move("cat", mask=np.zeros((128, 128)))
    for wrong in (np.zeros((128, 128, 3)), [["a"]], [[1], [1, 2]]):
        with pytest.raises(p2p.InputError, match="one finite number for each pixel"):
            p2p.Remove("cat", mask=wrong)
    with pytest.raises(p2p.InputError, match=r"Image.open\('cat.png'\)"):
        p2p.Remove("cat", mask="cat.png")
    small = p2p.Resize("cat", 0.7, mask=np.ones((20, 20)))
    with pytest.raises(p2p.InputError, match=r"\(20, 20\).*\(128, 128\).*\(16, 16\)"):
        p2p.edit(toyland, CAT, CAT, small, steps=1, progress=False)
    assert repr(small) == "Resize('cat', mask=<20×20>, scale=0.7)"
    with pytest.raises(p2p.InputError, match="cannot be read"):
        p2p.read_edit(repr(small))


def rows_computed(pipe, run):
    """How many rows the UNet computes in a run."""
    counted = []
    hook = pipe.unet.register_forward_pre_hook(
        lambda module, args, kwargs: counted.append(len(args[0])), with_kwargs=True
    )
    try:
        result = run()
    finally:
        hook.remove()
    return sum(counted), result


def test_what_they_cost(toyland):
    """In rows of the UNet, against a word swap, as `Placement` says."""
    run = {"seed": 3, "steps": 10, "progress": False}
    move, dog = p2p.Move("cat", dx=0.25), "a dog on the beach"

    def cost(source, target, change, **more):
        return rows_computed(
            toyland, lambda: p2p.edit(toyland, source, target, change, **run | more)
        )

    swap, recorded = cost(CAT, dog, p2p.Replace(), record=True)
    alone, moved = cost(CAT, CAT, move)
    assert alone / swap == pytest.approx(1.2, abs=0.01)
    before = cost(CAT, dog, p2p.Replace() | p2p.Move("dog", dx=0.25))[0]
    assert before / swap == pytest.approx(1.7, abs=0.01)
    assert cost(CAT, dog, move | p2p.Replace())[0] / swap == pytest.approx(1.95, abs=0.01)
    again, found = cost(recorded, CAT, move)
    assert again / swap == pytest.approx(0.7, abs=0.01)
    assert np.abs(pixels(found.image) - pixels(moved.image)).max() <= 2


@pytest.mark.parametrize("words", ["at night", "in autumn", "with falling snow"])
def test_a_global_change_has_no_border(toyland, words):
    """Across the edge of what the move has painted anew pixels differ as they do in the picture before it."""
    run = {"seed": 3, "steps": 6, "progress": False}
    target, move = f"{CAT} {words}", p2p.Move("cat", dx=0.25)
    change = p2p.Refine(cross_steps=0.4, self_steps=0.2)
    plain = p2p.edit(toyland, CAT, target, change, record=True, **run)
    both = p2p.edit(toyland, CAT, target, change | move, **run)
    free = Layout([move], [plain.maps.of(1)["cat"].refine((16, 16))]).free
    inside = free.numpy().repeat(8, 0).repeat(8, 1)
    jumps = []
    for picture in (plain.image, both.image):
        found = []
        for axis in (0, 1):
            step = np.abs(np.diff(pixels(picture), axis=axis)).mean(-1)
            found.append(step[np.diff(inside, axis=axis)])
        jumps.append(np.concatenate(found).mean())
    assert 0 < inside.mean() < 1 and jumps[1] < jumps[0] + 5  # of 255 grey levels


def test_several_targets_and_an_edit_that_moves_nothing(toyland):
    edits = [p2p.Move("cat", dx=0.25), p2p.Replace()]
    both = p2p.edit(
        toyland, CAT, [CAT, "a dog on the beach"], edits, seed=3, steps=4, progress=False
    )
    alone = p2p.edit(toyland, CAT, CAT, edits[0], seed=3, steps=4, progress=False)
    assert np.abs(pixels(both.images[0]) - pixels(alone.image)).max() <= 2


PAIR_OF_CATS = "a cat and a cat on the beach"


@pytest.mark.parametrize(
    ("prompt", "change"),
    [
        (CAT, p2p.Move("cat", dx=0.2) | p2p.Move("Cat", dx=-0.2)),
        (CAT, p2p.Remove("cat") | p2p.Move(("cat", 1), dx=-0.2)),
        (CAT, p2p.Resize("a cat", 0.5) | p2p.Move("cat", dx=-0.2)),
        (PAIR_OF_CATS, p2p.Move("cat", dx=0.2) | p2p.Remove(("cat", 2))),
        (CAT, p2p.Refine() | p2p.Move("cat", dx=0.2) | p2p.Move(" CAT", dx=-0.2)),
    ],
    ids=str,
)
def test_one_object_however_it_is_named_goes_to_one_place(toyland, prompt, change):
    with pytest.raises(p2p.InputError, match="of one object.*Say it at once"):
        stages_of(toyland.tokenizer, prompt, prompt, change)


def test_other_objects_and_second_ones_go_where_they_like(toyland):
    for change in (
        p2p.Move(("cat", 1), dx=0.2) | p2p.Remove(("cat", 2)),
        p2p.Move(("cat", 1), dx=0.2) | p2p.Duplicate("cat", dx=0.4),
    ):
        assert stages_of(toyland.tokenizer, PAIR_OF_CATS, PAIR_OF_CATS, change)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda: p2p.Move("cat", dx=3), "dx of Move"),
        (lambda: p2p.Move("cat", dy=float("nan")), "dy of Move"),
        (lambda: p2p.Resize("cat", 0.0), "scale"),
        (lambda: p2p.Duplicate("cat", scale=1e9), "scale of Duplicate"),
    ],
)
def test_wrong_places_are_refused(change, said):
    with pytest.raises(p2p.InputError, match=said):
        change()


def test_a_place_outside_of_the_picture_is_refused(toyland):
    with pytest.raises(p2p.InputError, match="outside of the picture"):
        p2p.edit(toyland, CAT, CAT, p2p.Move("cat", dx=1.0), steps=2, progress=False)
    for less in (p2p.Move("cat", dx=0.02), p2p.Duplicate("cat", dy=-0.03)):
        with pytest.raises(p2p.InputError, match=r"less than half a latent pixel.*0\.062"):
            p2p.edit(toyland, CAT, CAT, less, steps=2, progress=False)
    with pytest.raises(p2p.PromptError, match="zebra"):
        p2p.edit(toyland, CAT, CAT, p2p.Move("zebra"), steps=2, progress=False)


def test_how_much_of_the_picture_is_in_a_latent():
    """As much as the scheduler itself leaves of it, where it adds noise."""
    picture, noise = torch.ones(1), torch.zeros(1)
    for scheduler, noisy in [
        (DDIMScheduler(), lambda s, t: s.add_noise(picture, noise, t)),
        (DPMSolverMultistepScheduler(), lambda s, t: s.add_noise(picture, noise, t)),
        (EulerDiscreteScheduler(), lambda s, t: s.add_noise(picture, noise, t)),
        (FlowMatchEulerDiscreteScheduler(), lambda s, t: s.scale_noise(picture, t, noise)),
    ]:
        scheduler.set_timesteps(5)
        left = [float(noisy(scheduler, t[None])) for t in scheduler.timesteps[1:]]
        assert signals(scheduler) == pytest.approx([*left, 1.0], abs=1e-3)


TWICE = "a red cat, a blue cat and a white cat on a sofa"
FIRST, SECOND = p2p.Remove(("cat", 1)), p2p.Remove(("cat", 2))
REMOVED = [
    (TWICE, [FIRST, SECOND], "a white cat on a sofa"),
    (TWICE, [p2p.Remove(("cat", 3))], "a red cat, a blue cat on a sofa"),
    ("a blue cat on a sofa", [FIRST], "a blue cat on a sofa"),  # it is left out already
    ("a cat on a sofa", [p2p.Remove("cat")], "on a sofa"),
    (TWICE, [FIRST, p2p.Reweight({"sofa": 2}), FIRST], "a white cat on a sofa"),
    (
        TWICE.replace("red cat", "red dog"),
        [p2p.Replace(), SECOND],
        "a red dog, a blue cat on a sofa",
    ),
]


@pytest.mark.parametrize(("target", "edits", "left"), REMOVED)
def test_numbers_of_removed_words_are_those_of_the_picture_before(toyland, target, edits, left):
    change = functools.reduce(operator.or_, edits)
    *_, stage = stages_of(toyland.tokenizer, TWICE, target, change)
    assert stage.after == left
