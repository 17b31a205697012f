"""The exercises' checks: right answers pass, plausible wrong ones are told what is wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.checks import (
    NotYet,
    check_bdia_inverse,
    check_ceiling,
    check_counterfactual,
    check_frugal,
    check_head,
    check_map,
    check_mask,
    check_put_back,
    check_schedule,
    check_seed,
    check_swap_matrix,
)
from p2p_helpers.editing import EditResult
from p2p_helpers.toyland import load_reader, photos
from p2p_helpers.toyland.reader import Found, Reading

from .test_model import ceiling

PAIR = ("a butterfly in space", "a cat in space")


def test_seed_exercise():
    a, b = np.zeros((4, 4, 3), np.uint8), np.ones((4, 4, 3), np.uint8)
    assert check_seed(a, a, b).startswith("✓")
    with pytest.raises(NotYet, match="first two differ"):
        check_seed(a, b, b)
    with pytest.raises(NotYet, match="same picture again"):
        check_seed(a, a, a)


def wrong_matrices(tokenizer):
    right = p2p.replacement_matrix(tokenizer, *PAIR)
    length = len(right)
    shared = right.clone()
    shared[2:5, 2] = 1 / 3  # averages the three tokens instead of passing all of each on
    early = torch.eye(length)
    early[3:, :] = early[3:, :].roll(-1, 1)  # shifted by one place instead of two
    first_only = right.clone()
    first_only[3:5] = 0  # forgets two of the three tokens
    return [
        (torch.eye(length), "wrong place"),
        (shared, "does not sum to 1"),
        (early, "."),
        (first_only, "does not sum to 1"),
        (right[:5], "shape"),
    ]


def test_matrix_exercise(tokenizer):
    assert check_swap_matrix(p2p.replacement_matrix(tokenizer, *PAIR), tokenizer, *PAIR).startswith("✓")
    for answer, says in wrong_matrices(tokenizer):
        with pytest.raises(NotYet, match=says):
            check_swap_matrix(answer, tokenizer, *PAIR)


def test_schedule_exercise():
    black, grey = (Image.new("RGB", (128, 128), (v,) * 3) for v in (0, 40))
    cells = np.ones((16, 16), bool)

    def answer(image, *seen, target="a dog", size=1.0):
        result = EditResult(black, [image], "a cat", [target], [p2p.Replace(self_size=size)], 0, 30, 4.0, None)
        reading = Reading([Found(name, "natural", cells) for name in seen], "beach", "plain", False, False)
        return check_schedule(result, reading, "a cat", "a dog", "cat", "dog", 0.05)

    assert answer(black, "dog").startswith("✓")
    for wrong, says in [
        (lambda: answer(black, "cat"), "sees cat; it should be a dog"),
        (lambda: answer(black, "cat", "dog"), "no cat"),
        (lambda: answer(grey, "dog"), "changed by"),
        (lambda: answer(black, "dog", target="a fox"), "prompts"),
        (lambda: answer(black, "dog", size=0.25), "self_size"),
    ]:
        with pytest.raises(NotYet, match=says):
            wrong()


def refused(check, *answers):
    """Every (answer, what the message says) is told what is wrong."""
    for answer, says in answers:
        with pytest.raises(NotYet, match=says):
            check(*answer)


def test_ceiling_exercise(toyland):
    fox = p2p.load_image(photos()["fox-mushroom"].path, toyland)
    right = ceiling(toyland, fox)
    assert check_ceiling(right, toyland, fox).startswith("✓")
    answers = [(60.0, "better than"), (right - 8, "too low"), (float("nan"), "no PSNR"), (0.0004, "too low")]
    refused(check_ceiling, *(((answer, toyland, fox), says) for answer, says in answers))


def test_frugal_exercise():
    def answer(method="null-text", guidance=4.0, steps=20, short=0.5):
        picture = np.zeros((8, 8, 3), np.uint8)
        noisy = picture + np.uint8(255 * 10 ** (-(30 - short) / 20))
        curve = torch.full((20, 10), torch.nan)
        curve.flatten()[:steps] = 1.0
        return p2p.Inversion(method, "a cat", 20, guidance, torch.zeros(21, 4, 1, 1), None, curve, picture, noisy, {}), 30.0, 40

    assert check_frugal(*answer()).startswith("✓")
    refused(
        check_frugal,
        (answer(method="direct"), "about null-text"),
        (answer(guidance=1.5), "asks for 4"),
        (answer(steps=200), "200 optimiser steps"),
        (answer(short=4.0), "below the ceiling"),
    )


def test_counterfactual_exercise():
    balloon, reader = photos()["balloon-forest"].edits[0], load_reader()
    before, after = balloon.pictures

    def answer(image):
        return image, balloon, reader.read([image.resize((128, 128))])[0], 0.01

    assert check_counterfactual(*answer(after)).startswith("✓")
    brighter = Image.fromarray((np.asarray(after) * 0.9).astype(np.uint8))
    refused(
        check_counterfactual,
        (answer(before), "does not see"),
        (answer(brighter), "The rest of the picture"),
        (answer(after.resize((64, 64))), "64"),
    )


def test_put_back_exercise():
    assert check_put_back(lambda z, pivot, i: torch.cat([pivot[i + 1 : i + 2], z[1:]])).startswith("✓")

    def in_place(z, pivot, i):
        z[0] = pivot[i + 1]
        return z

    refused(
        check_put_back,
        ((lambda z, pivot, i: z,), "where it was"),
        ((lambda z, pivot, i: torch.cat([pivot[i : i + 1], z[1:]]),), "another moment"),
        ((lambda z, pivot, i: pivot[i + 1].expand_as(z),), "another row"),
        ((lambda z, pivot, i: pivot[i + 1],), "all rows"),
        ((in_place,), "changed what it was given"),
    )


def test_bdia_exercise():
    assert check_bdia_inverse(lambda below, here, up, down, g: (below - (1 - g) * here + g * up - down) / g).startswith("✓")
    refused(
        check_bdia_inverse,
        ((lambda below, here, up, down, g: below + up - down,), "γ = 0.5.*At γ = 1 it is right"),
        ((lambda below, here, up, down, g: below - (1 - g) * here + g * up - down,), "γ = 0.5"),
        ((lambda below, here, up, down, g: below - up + down,), "γ = 1.0"),
    )


def test_map_exercise():
    assert check_map(lambda q, k: (q @ k.T / 4).softmax(-1)).startswith("✓")
    refused(
        check_map,
        ((lambda q, k: q @ k.T,), "negative"),
        ((lambda q, k: (q @ k.T).softmax(-1),), "too decided"),
        ((lambda q, k: (q @ k.T / 4).softmax(0),), "do not sum to 1"),
        ((lambda q, k: (k @ q.T).softmax(-1),), "a row for each pixel"),
    )


def test_mask_exercise():
    truth = np.zeros((16, 16), bool)
    truth[4:12, 4:12] = True
    assert check_mask(torch.from_numpy(truth), truth, 0.75).startswith("✓")
    wide, narrow = np.zeros_like(truth), np.zeros_like(truth)
    wide[2:14, 2:14], narrow[6:10, 6:10] = True, True
    answers = [(wide, "too large"), (narrow, "too small"), (~np.zeros_like(truth), "everything"), (truth.astype(float), "bool")]
    refused(check_mask, *(((answer, truth, 0.75), says) for answer, says in answers))


def test_head_exercise(toyland):
    heat = p2p.edit(toyland, "a cat in space", "a cat in space", steps=2, record=True, progress=False).maps["cat"]
    layers, mask = heat.maps.layers, heat.mask(0.5)
    candidates = [(layers.index(name), head) for name in heat.maps.level_layers for head in range(4)]
    share = {c: (m := heat.at(layer=c[0], head=c[1]).tensor())[mask].sum() / m.sum() for c in candidates}
    best = max(share, key=share.get)
    assert check_head(heat, *best).startswith("✓")
    worst = min(share, key=share.get)
    refused(check_head, ((heat, *worst), "another has more"), ((heat, best[0], 9), "no head 9"), ((heat, 3, 0), "map level"))
