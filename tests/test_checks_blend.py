"""The checks of notebook 05: right answers pass, plausible wrong ones are told what is wrong."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.course.checks import (
    NotYet,
    check_blend,
    check_only_first,
    check_own_mask,
    check_word_mask,
)
from p2p_helpers.result import EditResult
from p2p_helpers.toyland.reader import Found, Reading


def refused(check, *answers):
    """Every (answer, what the message says) is told what is wrong."""
    for answer, says in answers:
        with pytest.raises(NotYet, match=says):
            check(*answer)


def test_blend_exercise():
    def where(latents, mask):
        return torch.cat([latents[:1], torch.where(mask[:, None], latents[1:], latents[:1])])

    def equation(latents, mask):
        return torch.cat([latents[:1], latents[:1] + mask[:, None] * (latents[1:] - latents[:1])])

    def in_place(latents, mask):
        latents[1:] = torch.where(mask[:, None], latents[1:], latents[:1])
        return latents

    assert check_blend(where).startswith("✓") and check_blend(equation).startswith("✓")
    refused(
        check_blend,
        ((lambda latents, mask: latents,), "Outside its mask target 1"),
        ((lambda latents, mask: where(latents, ~mask),), "Inside its mask target 1"),
        ((lambda latents, mask: where(latents, mask[:1].expand_as(mask)),), "target 2"),
        ((lambda latents, mask: where(latents, mask)[1:],), "source and targets"),
        (
            (
                lambda latents, mask: torch.cat(
                    [torch.zeros_like(latents[:1]), where(latents, mask)[1:]]
                ),
            ),
            "The source changed",
        ),
        (
            (lambda latents, mask: torch.cat([latents[:1], mask[:, None] * latents[1:]]),),
            "Outside its mask",
        ),
        ((in_place,), "Return new ones"),
    )


def test_word_mask_exercise():
    def pooled(heat, side=3):
        return F.max_pool2d(heat[None, None], side, stride=1, padding=side // 2)[0, 0]

    def mean(heat):
        return F.avg_pool2d(heat[None, None], 3, stride=1, padding=1)[0, 0]

    def cut_first(heat, threshold):
        return pooled((heat > threshold * heat.max()).float()) > 0

    assert check_word_mask(
        lambda heat, threshold: pooled(heat) > threshold * heat.max()
    ).startswith("✓")
    assert check_word_mask(cut_first).startswith("✓")
    refused(
        check_word_mask,
        ((lambda heat, threshold: heat > threshold * heat.max(),), "A single bright cell"),
        ((lambda heat, threshold: pooled(heat) > threshold,), "fifty times fainter"),
        ((lambda heat, threshold: pooled(heat, 5) > threshold * heat.max(),), "neighbourhood"),
        (
            (lambda heat, threshold: mean(heat) > threshold * mean(heat).max(),),
            "what is taken of it",
        ),
        ((lambda heat, threshold: pooled(heat),), "should be bool"),
        (
            (
                lambda heat, threshold: (
                    F.max_pool2d(heat[None, None], 3, stride=1)[0, 0] > threshold
                ),
            ),
            "at the border",
        ),
        ((lambda heat, threshold: pooled(heat) > 0.3 * heat.max(),), "Is it used"),
    )


LEFT, RIGHT = np.zeros((2, 16, 16), bool)
LEFT[8:14, 1:7] = RIGHT[8:14, 9:15] = True


def reading(**objects):
    return Reading(
        [Found(name, "natural", cells) for name, cells in objects.items()],
        "beach",
        "plain",
        night=False,
        snow=False,
        autumn=False,
    )


def result(picture, blend):
    grey = Image.new("RGB", (128, 128), (200,) * 3)
    return EditResult(
        grey,
        [picture],
        "a lion and a cat",
        ["a dog and a cat"],
        [p2p.Replace()],
        3,
        20,
        4.0,
        None,
        blend,
    )


def painted(*cells):
    """Grey, and darker where one of the cells is."""
    values = np.full((128, 128, 3), 200, np.uint8)
    values[np.kron(np.any(cells, axis=0), np.ones((8, 8), bool))] = 100
    return Image.fromarray(values)


def test_only_first_exercise():
    words = p2p.LocalBlend(("lion", "dog"))
    before = reading(cat=LEFT, lion=RIGHT)

    def answer(cells=(RIGHT,), blend=words, before=before, **seen):
        return result(painted(*cells), blend), before, reading(**seen), "lion", "dog", "cat", 0.01

    assert check_only_first(*answer(cat=LEFT, dog=RIGHT)).startswith("✓")
    refused(
        check_only_first,
        (answer(blend=None, cat=LEFT, dog=RIGHT), "no local blend"),
        (answer(blend=p2p.LocalBlend(mask=RIGHT), cat=LEFT, dog=RIGHT), "mask of your own"),
        (answer(cat=LEFT, lion=RIGHT), "sees cat, lion.*The lion should be gone"),
        (answer(cat=LEFT), "should be a dog"),
        (answer(dog=RIGHT), "The cat is gone"),
        (answer((LEFT, RIGHT), cat=LEFT, dog=RIGHT), "The cat changed by 39.2%"),
        (answer(before=reading(lion=RIGHT), cat=LEFT, dog=RIGHT), "no cat in the source"),
    )


def test_own_mask_exercise():
    before, around = reading(cat=LEFT), ~LEFT

    def answer(picture, mask=around, **more):
        return (
            result(picture, p2p.LocalBlend(mask=mask, **more) if mask is not None else None),
            before,
            "cat",
            0.03,
            0.05,
        )

    assert check_own_mask(*answer(painted(around))).startswith("✓")
    refused(
        check_own_mask,
        (answer(painted(around), None), "no mask of your own"),
        (answer(painted(around), words="cat"), "uses words as well"),
        (answer(painted(around, LEFT), np.ones((16, 16))), "lets 100% of the picture change"),
        (answer(painted(LEFT), LEFT), "The cat changed by 39%"),
        (answer(painted(np.zeros_like(LEFT)), np.eye(16) > 0), "Where may night fall"),
    )


def test_exercises_on_the_model(toyland):
    """The starting cells of the notebook fail and its solutions pass, on the pictures themselves."""
    from p2p_helpers.toyland import load_reader

    reader, prompts = (
        load_reader(),
        ("a fox and a panda in a forest", "a lion and a panda in a forest"),
    )

    def judged(words, **blend):
        made = p2p.edit(
            toyland,
            *prompts,
            local_blend=p2p.LocalBlend(words, **blend),
            seed=0,
            steps=20,
            progress=False,
        )
        return made, *reader.read([made.source, made.image]), "fox", "lion", "panda", 0.01

    assert check_only_first(*judged(("fox", "lion"), threshold=0.5)).startswith("✓")
    refused(check_only_first, (judged("panda"), "The fox should be gone"))
