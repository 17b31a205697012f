"""Wrong answers that look right: each check of an exercise tells them what is wrong."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

import p2p_helpers as p2p
from p2p_helpers.course.capstone import PARTS, Handin, variant
from p2p_helpers.course.checks import (
    check_bdia_inverse,
    check_blend,
    check_boxes,
    check_ceiling,
    check_compose,
    check_counterfactual,
    check_edit_rule,
    check_fader,
    check_fill,
    check_fit,
    check_frugal,
    check_guidance,
    check_handin,
    check_joint_rule,
    check_last_steps,
    check_line_up,
    check_local_edit,
    check_map,
    check_map_bytes,
    check_mask,
    check_only_first,
    check_open_swap,
    check_own_edit,
    check_own_mask,
    check_places,
    check_plan,
    check_put_back,
    check_refine_matrices,
    check_reverse_euler,
    check_row_sums,
    check_scores,
    check_seed,
    check_shift_matrix,
    check_size,
    check_text_share,
    check_word_mask,
)
from p2p_helpers.result import EditResult
from p2p_helpers.toyland import photos
from p2p_helpers.toyland.reader import Found, Reading

from .test_checks import refused
from .test_checks_blend import LEFT, painted, reading, result

EVERYWHERE = np.ones((16, 16), bool)


RETURN = [  # checks of functions
    check_bdia_inverse,
    check_compose,
    check_fill,
    check_joint_rule,
    check_map,
    check_refine_matrices,
    check_reverse_euler,
    check_shift_matrix,
    check_text_share,
    check_word_mask,
]


@pytest.mark.parametrize("check", RETURN)
def test_a_forgotten_return_is_said(check):
    refused(check, ((lambda *_: None,), "returned nothing"))


def always(made):
    """An answer that returns the same for anything."""
    return lambda *_: made


PAIR = ("a cat in space", "a dog in space")


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("check", "answer", "says"),
    [
        *((check, (torch.ones(2, 2),), "the function itself") for check in RETURN),
        (check_refine_matrices, (always(torch.eye(4)),), "two matrices.*return S, T"),
        (check_compose, (always(torch.eye(5)),), "two matrices.*return S, T"),
        (check_compose, (always((torch.eye(4), torch.eye(4))),), r"\(5, 5\) each"),
        (check_refine_matrices, (always(("S", "T")),), "numbers is needed, not 'S'"),
        (check_line_up, (None, *PAIR), "4 words"),
        (check_line_up, (3, *PAIR), "4 words"),
        (check_line_up, (["a", None, "in", "space"], *PAIR), "words 0 to 3"),
        (check_line_up, ([0, None, 2.5, 3], *PAIR), "words 0 to 3"),
        *(
            (check, (always("an answer"),), "numbers is needed, not 'an answer'")
            for check in (
                check_bdia_inverse,
                check_blend,
                check_edit_rule,
                check_fill,
                check_guidance,
                check_joint_rule,
                check_map,
                check_open_swap,
                check_put_back,
                check_reverse_euler,
                check_row_sums,
                check_scores,
                check_shift_matrix,
                check_text_share,
                check_word_mask,
            )
        ),
        (check_joint_rule, (always([1.0]),), "gave one of"),
        (check_bdia_inverse, (always(1.0),), "z_i has the shape"),
        (check_mask, ([[1], [1, 2]], EVERYWHERE, 0.5), "numbers is needed"),
        (check_seed, (None, None, None), "numbers is needed, not None"),
        (check_boxes, (*PAIR, {n: "box" for n in range(10)}, None, None), "numbers is needed"),
        (check_boxes, (None, None, {}, None, None), "two prompts"),
        (check_map_bytes, (always("ten"),), "returned 'ten'.*one number"),
        (check_fit, (always("ten"),), "returned 'ten'.*one number"),
        (check_last_steps, (torch.tensor(4),), "Give 3 numbers"),
        (check_last_steps, (["a", "b", "c"],), "say 'a'"),
        (check_size, (torch.tensor(4),), "two numbers"),
        (check_size, ("ab",), "no sides"),
        (check_fader, ("loud", None, None, "sketch", "cat"), "'loud' is no weight"),
        (check_frugal, (None, None, 30.0, 40), "p2p.invert returned"),
        (check_counterfactual, (EVERYWHERE, None, None, 0.1), "take .image"),
        (check_own_edit, (None, None, None), "p2p.edit returned"),
        (check_only_first, (None,) * 7, "p2p.edit returned"),
        (check_own_mask, (None,) * 5, "p2p.edit returned"),
        (check_local_edit, (None,) * 7, "p2p.edit returned"),
        (check_plan, ("Ada", None, None, None), "variant.name"),
        (check_handin, (None,), "not the page yet"),
    ],
)
def test_an_answer_of_another_kind_is_said(check, answer, says):
    refused(check, (answer, says))


@pytest.mark.usefixtures("untyped")
def test_no_number_of_decibels(toyland):
    picture = p2p.load_image(photos()["fox-forest"].path, toyland)
    refused(check_ceiling, *(((no, toyland, picture), "no PSNR") for no in (None, "30", [30])))


@pytest.mark.parametrize("kind", [torch.Tensor.double, torch.Tensor.numpy, torch.Tensor.tolist])
def test_right_numbers_are_right_of_any_kind(kind):
    for check, right in (
        (check_bdia_inverse, lambda b, h, up, down, g: (b - (1 - g) * h + g * up - down) / g),
        (check_edit_rule, lambda s, t, M, step, tau: s @ M if step < tau else t),
        (check_row_sums, lambda A, c: (A * c).sum(1)),
        (check_text_share, lambda scores, n: scores.softmax(-1)[:, -n:].sum(-1)),
    ):
        assert check(lambda *given, right=right: kind(right(*given))).startswith("✓")
    single = check_bdia_inverse(
        lambda b, h, *rest: (rest[0] * rest[2] + b - (1 - rest[2]) * h - rest[1]).float() / rest[2]
    )
    assert single.startswith("✓")
    compose = check_compose(lambda s1, t1, s2, t2: [kind(s1 @ s2), kind(t1 @ s2 + t2)])
    assert compose.startswith("✓")


def test_eulers_steps_in_the_wrong_order():
    def mine(velocity, x, sigmas):
        for before, after in itertools.pairwise(sigmas):
            x = x - (after - before) * velocity(x, after)
        return x

    refused(check_reverse_euler, ((mine,), "wrong order"))


def test_columns_that_are_picked_and_not_shared():
    def mine(source, target, mapping, pixels_too):
        pixels = (source if pixels_too else target)[:, : len(source)]
        return torch.cat([pixels, source[:, len(source) :][:, mapping.argmax(0)]], 1)

    refused(check_joint_rule, ((mine,), "times M"))


def test_a_share_of_the_range_and_not_of_the_maximum():
    def mine(heat, threshold):
        unit = (heat - heat.min()) / (heat.max() - heat.min())
        return F.max_pool2d(unit[None, None], 3, 1, 1)[0, 0] > threshold

    refused(check_word_mask, ((mine,), "cells are wrong"))


def test_rows_that_mix_neighbours():
    def mine(cells, shift):
        moved = torch.eye(cells)[(torch.arange(cells) - shift).clamp(min=0)]
        for n in range(shift + 1, cells - 1):
            if 0 < n - shift < cells - 1:
                moved[n] = 0
                moved[n, n - shift - 1] = moved[n, n - shift + 1] = 0.5
        return moved

    refused(check_shift_matrix, ((mine,), "mixes"))


def seen(*names, **more):
    """What a reader says of a picture with these objects."""
    said = {"background": "ocean", "style": "plain", "night": False, "snow": False, "autumn": False}
    found = [one if isinstance(one, Found) else Found(one, "natural", EVERYWHERE) for one in names]
    return Reading(found, **{**said, **more})


def test_a_picture_with_what_is_new_and_without_what_was_there():
    snow = photos()["dog-ocean"].edits[1]
    there, gone = seen("dog", snow=True), seen(snow=True)
    assert check_counterfactual(snow.pictures[1], snow, there, 0.08).startswith("✓")
    refused(check_counterfactual, ((snow.pictures[1], snow, gone, 0.08), "sees no dog"))


def test_a_change_that_leaves_nothing_as_it_was_can_be_right():
    paint = photos()["pumpkin-meadow"].edits[0]
    right = seen("pumpkin", background="meadow", style=paint.after.style)
    assert check_counterfactual(paint.pictures[1], paint, right, 0.08).startswith("✓")


@pytest.mark.parametrize("kind", ["swap", "recolour", "background", "autumn", "night", "restyle"])
def test_a_plan_is_of_the_kind_that_its_prompts_ask_for(tokenizer, monkeypatch, kind):
    for name in map(str, range(8)):
        task = variant(name, kinds=(kind,))
        monkeypatch.setattr("p2p_helpers.course.checks.capstone.variant", lambda _, t=task: t)
        swaps = len(task.source.split()) == len(task.target.split())
        right, other = (p2p.Replace(), p2p.Refine()) if swaps else (p2p.Refine(), None)
        assert check_plan(name, task, right, tokenizer).startswith("✓")
        moves = p2p.Move(task.before.things[0].name, dx=0.1)
        refused(check_plan, ((name, task, moves, tokenizer), "moves things"))
        if other is not None:
            refused(check_plan, ((name, task, other, tokenizer), "lends no map"))


def test_the_right_thing_in_the_wrong_colour():
    task = variant("Grace")
    before, truth = task.pictures
    given = (task.source, [task.target], [p2p.Replace()], 0, 20, 4.0, None)
    made = EditResult(before, [truth], *given)
    place = task.after.background
    right, wrong = (
        seen(Found("boat", colour, EVERYWHERE), background=place) for colour in ("green", "red")
    )
    assert check_own_edit(made, task, right).startswith("✓")
    refused(check_own_edit, ((made, task, wrong), "is red"))


def test_a_light_that_is_nearly_everywhere():
    light = Image.new("L", (128, 128), 255)
    ImageDraw.Draw(light).ellipse((0, 0, 127, 127), fill=0)
    night = result(painted(~LEFT), p2p.LocalBlend(mask=light))
    refused(check_own_mask, ((night, reading(cat=LEFT), "cat", 0.03, 0.02), "22%"))


def test_pages_with_other_peoples_work():
    grey, light = (Image.new("RGB", (8, 8), (value,) * 3) for value in (0, 9))
    made = EditResult(grey, [light], "a cat", ["a dog"], [p2p.Replace()], 0, 20, 4.0, None)
    words = " ".join(f"word{n}" for n in range(30))
    said = {part: f"{part} {number} {words}" for number, part in enumerate(PARTS)}
    mine = "def mine():\n    return p2p.edit(1)"

    def page(code=mine, said=said):
        return Handin("<p>", "t", 900, author="Ada", code=code, said=said, result=made)

    assert check_handin(page()).startswith("✓")
    refused(
        check_handin,
        ((page(said=dict.fromkeys(PARTS, "bla " * 30 + "1")),), "again and again"),
        ((page(said=dict.fromkeys(PARTS)),), "is missing"),
        ((page(code="def vera(p, t):\n    return p2p.edit(1)"),), "Vera's function"),
    )


def test_a_place_that_is_right_from_left_to_right_only():
    def at(**places):
        found = []
        for name, (x, y) in places.items():
            cells = np.zeros((16, 16), bool)
            cells[y // 8 - 2 : y // 8 + 2, x // 8 - 2 : x // 8 + 2] = True
            found.append(Found(name, "natural", cells))
        return seen(*found)

    before, names = at(fox=(32, 96), rabbit=(96, 96)), ("fox", "rabbit")
    assert check_places(before, at(rabbit=(32, 96), fox=(96, 104)), names).startswith("✓")
    refused(check_places, ((before, at(rabbit=(32, 96), fox=(96, 32)), names), "up or down"))
