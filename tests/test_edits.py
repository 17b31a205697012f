"""S and T of every edit, their schedules, and their algebra. No model is run."""

import copy
import functools
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import p2p_helpers as p2p
from p2p_helpers.edits.schedule import word_schedule
from p2p_helpers.toyland import vocabulary

WORDS = vocabulary()
prompts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join)
shares = st.floats(0, 1)
intervals = shares | st.tuples(shares, shares).map(lambda pair: tuple(sorted(pair)))
many = settings(max_examples=250, deadline=None)
MORE = "a cat on the beach"


@pytest.mark.parametrize(
    ("schedule", "steps", "on"),
    [
        (0.8, 50, range(40)),
        (0.4, 50, range(20)),
        (1.0, 50, range(50)),
        (0.0, 50, ()),
        ((0.2, 0.8), 50, range(10, 40)),
        (1, 1, range(1)),
    ],
)
def test_schedules_as_published(schedule, steps, on):
    assert p2p.active_steps(schedule, steps).nonzero().flatten().tolist() == list(on)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("steps", ["4", -1, 0, 4.0, True, None])
def test_steps_of_a_schedule_are_a_whole_number(steps):
    with pytest.raises(p2p.InputError, match=re.escape(f"steps={steps!r}")):
        p2p.active_steps(0.8, steps)
    if steps is not None:
        with pytest.raises(p2p.InputError, match=re.escape(f"of={steps!r}")):
            p2p.active_steps(0.8, 4, of=steps)


@many
@given(shares, st.integers(1, 100))
def test_a_longer_schedule_never_loses_a_step(end, steps):
    shorter, longer = p2p.active_steps(end / 2, steps), p2p.active_steps(end, steps)
    assert (longer | ~shorter).all()


def test_each_word_has_its_schedule(tokenizer):
    wanted = {"default": 0.5, "snowman": (0.2, 1.0), ("a", 2): 0.0}
    alpha = word_schedule(tokenizer, "a snowman and a cat", wanted, 9)
    assert wanted == {
        "default": 0.5,
        "snowman": (0.2, 1.0),
        ("a", 2): 0.0,
    }  # the caller's mapping stays as it was
    assert alpha[:, 1].tolist() == [1] * 5 + [0] * 4
    assert alpha[:, 2].tolist() == alpha[:, 3].tolist() == [0] * 2 + [1] * 7
    assert alpha[:, 5].tolist() == [0] * 9
    rest = word_schedule(tokenizer, "a cat", {"cat": 0.0}, 20)
    assert (
        rest[:, 2].sum() == 0 and rest.sum() == 20 * 31
    )  # without a default the others are always lent, as in the authors' code


def test_replace_moves_maps_while_on_and_keeps_the_targets_own_afterwards(tokenizer):
    s, t = p2p.Replace(cross_steps=0.5).matrices(tokenizer, "a cat", "a snowman", 10)
    mapping, eye = (
        p2p.replacement_matrix(tokenizer, "a cat", "a snowman"),
        torch.eye(tokenizer.model_max_length),
    )
    for step in range(10):
        on = step < 5
        torch.testing.assert_close(s[step], mapping * on)
        torch.testing.assert_close(t[step], eye * (not on))


def test_refine_lends_old_words_and_leaves_new_ones_alone(tokenizer):
    s, t = p2p.Refine(cross_steps=1.0).matrices(
        tokenizer, "a cat in space", "a red cat in space", 1
    )
    assert s[0, 1, 1] == s[0, 2, 3] == s[0, 3, 4] == s[0, 4, 5] == 1
    assert s[0, :, 2].sum() == 0 and t[0, 2, 2] == 1 and t[0].sum() == 1


def test_reweight_scales_columns(tokenizer):
    s, t = p2p.Reweight({"snowman": 3, ("a", 2): -1}, cross_steps=1.0).matrices(
        *[tokenizer] + ["a snowman and a cat"] * 2, 1
    )
    assert s[0].diagonal()[:7].tolist() == [1, 1, 3, 3, 1, -1, 1]
    assert s[0].sum() == s[0].diagonal().sum() and not t.any()


@many
@given(prompts, intervals, st.integers(1, 60))
def test_a_prompt_edited_into_itself_is_the_identity(tokenizer, prompt, schedule, steps):
    """Source and target maps are equal then, so only S + T counts."""
    for change in (
        p2p.Replace(cross_steps=schedule),
        p2p.Refine(cross_steps=schedule),
        p2p.Reweight({}, cross_steps=schedule),
    ):
        s, t = change.matrices(tokenizer, prompt, prompt, steps)
        torch.testing.assert_close(s + t, torch.eye(len(s[0])).expand_as(s))
        s, t = type(change)(
            *([{}] if isinstance(change, p2p.Reweight) else []), cross_steps=1.0
        ).matrices(tokenizer, prompt, prompt, 1)
        torch.testing.assert_close(s[0], torch.eye(len(s[0])))
        assert not t.any()


@st.composite
def edits_of(draw, target: str):
    """An edit of `MORE` into a target: the first may be any, those that follow may reweight."""
    options = [
        st.builds(p2p.Refine, cross_steps=intervals),
        st.builds(p2p.Replace, cross_steps=intervals),
    ]
    weights = st.dictionaries(st.sampled_from(target.split()), st.floats(-4, 4), max_size=2)
    reweight = st.builds(
        p2p.Reweight, weights, cross_steps=intervals, self_steps=st.none() | shares
    )
    return (
        draw(st.sampled_from(options[: 1 + (len(target.split()) == 5)]).flatmap(lambda s: s)),
        draw(reweight),
        draw(reweight),
    )


@many
@given(
    st.data(),
    st.sampled_from([MORE, "a snowman on the beach", "a pink car on the beach at night"]),
    st.integers(1, 12),
)
def test_composition_is_associative(tokenizer, data, target, steps):
    a, b, c = data.draw(edits_of(target))
    left, right = (a | b) | c, a | (b | c)
    for x, y in zip(
        left.matrices(tokenizer, MORE, target, steps),
        right.matrices(tokenizer, MORE, target, steps),
        strict=True,
    ):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
    assert (left.self_schedule(steps) == right.self_schedule(steps)).all()
    assert left == right and repr(left) == repr(right)


@many
@given(prompts, st.data(), st.integers(1, 20))
def test_reweighting_after_an_edit_scales_its_columns_inside_the_schedule(
    tokenizer, target, data, steps
):
    """The table of the method: S diag(c) and T where the schedules are one; T diag(c) where the weights' schedule is longer."""
    word, c = data.draw(st.sampled_from(target.split())), data.draw(st.floats(-4, 4))
    column = torch.ones(tokenizer.model_max_length)
    column[p2p.find_words(tokenizer, target, word)] = c
    first = p2p.Refine(cross_steps=0.5)
    s, t = first.matrices(tokenizer, MORE, target, steps)
    on = p2p.active_steps(0.5, steps)[:, None, None]
    inside_s, inside_t = (first | p2p.Reweight({word: c}, cross_steps=0.5)).matrices(
        tokenizer, MORE, target, steps
    )
    torch.testing.assert_close(inside_s, s * column)
    torch.testing.assert_close(inside_t, torch.where(on, t * column, t))
    _, outside_t = (first | p2p.Reweight({word: c}, cross_steps=1.0)).matrices(
        tokenizer, MORE, target, steps
    )
    torch.testing.assert_close(outside_t, t * column)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_queries_and_keys_are_injected_in_few_steps_too(steps):
    """One step at least, of an interval its first; other edits count as the authors do."""
    for change in (p2p.InjectQK(), p2p.InjectQK(self_steps=0.01) | p2p.Reweight({})):
        assert change.self_schedule(steps).tolist() == [True] + [False] * (steps - 1)
    late = p2p.InjectQK(self_steps=(0.9, 0.95)).self_schedule(steps)
    assert late.tolist() == [False] * (steps - 1) + [True]
    for nothing in (0.0, 1.0):
        none = p2p.InjectQK(self_steps=(nothing, nothing)).self_schedule(steps)
        assert not none.any()
    assert not p2p.Replace(self_steps=0.2).self_schedule(steps).any()
    assert p2p.InjectQK().self_schedule(28).sum() == 5


def test_of_the_self_schedules_the_last_that_is_said_counts():
    assert (p2p.Replace(self_steps=0.9) | p2p.Reweight({})).self_schedule(10).sum() == 9
    assert (p2p.Replace(self_steps=0.9) | p2p.Reweight({}, self_steps=0.2)).self_schedule(
        10
    ).sum() == 2
    assert (p2p.Replace() | p2p.Reweight({}, self_size=1.0)).self_size == 1.0
    assert (p2p.InjectQK() | p2p.Reweight({})).self_schedule(10).sum() == 2
    assert (p2p.Refine() | p2p.Reweight({})).self_schedule(10).sum() == 4
    assert not p2p.Move("cat", dx=0.2).self_schedule(10).any()  # the old layout would come back
    assert (p2p.Replace(layers="up") | p2p.Reweight({})).layers == ("up",)
    assert (p2p.Replace(layers="up") | p2p.Reweight({}, layers=["down"])).layers == ("down",)
    for layers in ([3], [""], ["up", None]):
        with pytest.raises(p2p.InputError, match="names of layers"):
            p2p.Replace(layers=layers)


OVERLAP = [  # of these the phrase of the fewest tokens counts
    {("cat", 2): 0.0, "cat": 1.0},
    {("cat", 1): 1.0, ("cat", 2): 0.0},
    {"a cat": 0.5, ("cat", 2): 0.0, "cat": 1.0, "a": 0.5},
    {"CAT and a cat": 0.0, ("Cat", 1): 1.0, ("a", 2): 0.5, "a": 0.5, "and": 0.5},
]


@pytest.mark.parametrize("each", OVERLAP, ids=str)
@pytest.mark.parametrize("flip", [False, True])
def test_of_phrases_that_overlap_the_shortest_counts_in_any_order(tokenizer, each, flip):
    prompt, each = "a cat and a cat", dict(reversed(each.items()) if flip else each.items())
    s, _ = p2p.Reweight(each, cross_steps=1.0).matrices(tokenizer, prompt, prompt, 1)
    assert s[0].diagonal()[[2, 5]].tolist() == [1, 0]
    assert word_schedule(tokenizer, prompt, each, 9)[:, [2, 5]].sum(0).tolist() == [9, 0]


@pytest.mark.parametrize(
    "each", [{"cat": 1.0, "Cat": 0.0}, {("cat", 2): 0.0, "cat in": 0.5, "in a": 1.0}], ids=str
)
def test_two_sayings_of_one_word_are_refused(tokenizer, each):
    prompt = "a red cat in a house"
    prompt = prompt if "Cat" in each else f"a cat and {prompt}"
    for edit in (p2p.Reweight(each), p2p.Replace(cross_steps=each)):
        with pytest.raises(p2p.InputError, match="name the same word.*Say one of them"):
            edit.matrices(tokenizer, prompt, prompt, 1)
    same = dict.fromkeys(each, 0.5)
    p2p.Reweight(same, cross_steps=same).matrices(tokenizer, prompt, prompt, 1)


def test_edits_print_themselves():
    change = p2p.Replace(self_steps=0.2) | p2p.Reweight({"dog": 2})
    assert (
        repr(change)
        == "Replace(cross_steps=0.8, self_steps=0.2) | Reweight({'dog': 2}, cross_steps=0.8)"
    )
    assert eval(repr(change), vars(p2p)) == change


def test_an_edit_keeps_its_own_copy_of_what_it_was_given():
    weights, steps = {"dog": 2.0}, {"default": 0.5}
    change = p2p.Reweight(weights, cross_steps=steps)
    weights["dog"] = steps["default"] = float("nan")
    assert change.weights == {"dog": 2.0} and change.cross_steps == {"default": 0.5}


def own_edit(change):
    """An edit of one's own: the source's maps, as `change` gives its two matrices."""

    class Own(p2p.Edit):
        def matrices(self, tokenizer, source, target, steps):
            side = tokenizer.model_max_length
            return change(torch.eye(side).repeat(steps, 1, 1), torch.zeros(steps, side, side))

    return Own()


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "composed"])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s, t: (s * float("nan"), t), r"\(1, 32, 32\) and \(1, 32, 32\) for 1 steps"),
        (lambda s, t: (s[:, 1:], t), r"\(1, 31, 32\) and"),
        (lambda s, t: (s[0], t[0]), r"\(32, 32\) and"),
        (lambda s, t: (s, None), r"and None for"),
        (lambda s, t: (s.tolist(), t), r"\[\[\["),
        (lambda s, t: None, "gave None for"),
        (lambda s, t: s, r"gave \(1, 32, 32\) for"),
        (lambda s, t: (s, t, t), "gave 3 things"),
    ],
)
def test_a_wrong_edit_of_ones_own_is_explained(random_pipe, change, says, alone):
    edit = own_edit(change) if alone else own_edit(change) | p2p.Reweight({"cat": 2})
    with pytest.raises(
        p2p.InputError, match=rf"Own\(.*{says}.*S and T, each an array \(1, 32, 32\)"
    ):
        p2p.edit(random_pipe, MORE, MORE, edit, steps=2, progress=False)


@pytest.mark.parametrize("kind", [torch.Tensor.double, torch.Tensor.half, torch.Tensor.numpy])
def test_an_edit_of_ones_own_gives_arrays_of_any_kind(random_pipe, kind):
    for then in (p2p.Reweight({"cat": 1}), own_edit(lambda s, t: (kind(s), kind(t)))):
        edit = own_edit(lambda s, t: [kind(s), kind(t)]) | then
        made = p2p.edit(random_pipe, MORE, MORE, edit, steps=2, progress=False)
        assert p2p.difference(made.source, made.image).max() <= 0.01


def test_a_new_kind_of_edit_needs_matrices_only(random_pipe):
    """Here: whatever the target says, it looks at the source's maps in reverse order of tokens."""

    class Backwards(p2p.Edit):
        def matrices(self, tokenizer, source, target, steps):
            return torch.eye(tokenizer.model_max_length).flip(0).repeat(steps, 1, 1), torch.zeros(
                steps, *[tokenizer.model_max_length] * 2
            )

    first = p2p.edit(random_pipe, MORE, MORE, Backwards(), steps=2, progress=False)
    twice = p2p.edit(random_pipe, MORE, MORE, Backwards() | Backwards(), steps=2, progress=False)
    assert p2p.difference(first.source, first.image).max() > 0.02
    assert p2p.difference(twice.source, twice.image).max() <= 0.01  # backwards twice is forwards


def test_edits_can_be_kept_in_sets_and_nobody_changes_them():
    edits = [
        p2p.Replace(cross_steps={"dog": 0.3}) | p2p.Reweight({"dog": 2, ("cat", 2): 0.5}),
        p2p.Replace(cross_steps=[0.2, 0.8], self_steps=[0.0, 0.5]),
        p2p.Move("cat", dx=0.2),
    ]
    assert len({*edits, *map(copy.deepcopy, edits)}) == len(edits)
    share = [0.2, 0.8]
    edit = p2p.Replace(cross_steps={"dog": share})
    share[1] = 5
    assert edit == p2p.Replace(cross_steps={"dog": (0.2, 0.8)})
    assert p2p.read_edit(repr(edits[0])) == edits[0]


@pytest.mark.parametrize("kind", [p2p.Remove, functools.partial(p2p.Move, dx=0.2), p2p.LocalBlend])
def test_what_has_another_mask_is_another(kind):
    left, right = np.eye(2), np.eye(2)[::-1]
    masks = [None, left, left.copy(), right, left.repeat(2, 0)]
    made = [kind("fox", mask=mask) for mask in masks]
    assert made[1] == made[2] and hash(made[1]) == hash(made[2])
    assert len({*made, *map(copy.deepcopy, made)}) == 4
    assert "_contents" not in repr(made[1])


def test_a_number_of_numpy_names_an_occurrence():
    blend = p2p.LocalBlend(("cat", np.int64(2)))
    assert blend.words == (("cat", 2),)
