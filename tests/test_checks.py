"""The exercises' checks: right answers pass, plausible wrong ones are told what is wrong."""

from types import SimpleNamespace as Namespace

import numpy as np
import pytest
import torch
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.course.checks import (
    NotYet,
    check_bdia_inverse,
    check_boxes,
    check_ceiling,
    check_compose,
    check_counterfactual,
    check_edit_rule,
    check_exchange,
    check_fader,
    check_fader_matrices,
    check_fill,
    check_frugal,
    check_guidance,
    check_head,
    check_line_up,
    check_local_edit,
    check_map,
    check_mask,
    check_open_swap,
    check_places,
    check_put_back,
    check_refine_matrices,
    check_row_sums,
    check_scores,
    check_seed,
    check_shift_matrix,
)
from p2p_helpers.result import EditResult
from p2p_helpers.toyland import load_reader, photos
from p2p_helpers.toyland.evaluate import autoencoder_psnr
from p2p_helpers.toyland.reader import Found, Reading

PAIR = ("a butterfly in space", "a cat in space")


def test_seed_exercise():
    a, b = np.zeros((4, 4, 3), np.uint8), np.ones((4, 4, 3), np.uint8)
    assert check_seed(a, a, b).startswith("✓")
    with pytest.raises(NotYet, match="first two differ"):
        check_seed(a, b, b)
    with pytest.raises(NotYet, match="same picture again"):
        check_seed(a, a, a)


def test_guidance_exercise():
    assert check_guidance(lambda without, told, w: without + w * (told - without)).startswith("✓")
    refused(
        check_guidance,
        ((lambda without, told, w: w * told,), "w = 0 your answer is wrong"),
        ((lambda without, told, w: told + w * (told - without),), "w = 1 your answer is wrong"),
        ((lambda without, told, w: w,), "like the guesses"),
    )


def test_boxes_exercise():
    def pair(seed):
        """The object moves with all seeds but 6 to 9."""
        after = (0, 0, 8, 8) if seed > 5 else (16, 16, 32, 32)
        return (0, 0, 8, 8), after

    def two(before, after, seed):
        assert (before, after) == ("a fox", "a castle")
        return [Image.new("RGB", (1, 1), (seed, number, 0)) for number in (0, 1)]

    class Told:
        """A reader that knows where the objects are."""

        def read(self, pictures):
            seen = (picture.getpixel((0, 0))[:2] for picture in pictures)
            return [Namespace(objects=[Namespace(box=pair(s)[n])]) for s, n in seen]

    words, boxes = ("a fox", "a castle"), {seed: pair(seed) for seed in range(10)}
    says = check_boxes(*words, boxes, two, Told())
    assert "in 4 of 10" in says and "by 12.0 pixels" in says
    arrays = {seed: np.array(pair(seed)) for seed in range(10)}
    assert check_boxes(*words, arrays, two, Told()) == says
    invented = {seed: ((0, 0, 8, 8), (8 * seed, 0, 8 * seed + 8, 8)) for seed in range(10)}
    refused(
        check_boxes,
        ((*words, {0: pair(0)}, two, Told()), "give ten"),
        ((*words, list(boxes.values()), two, Told()), "Give a mapping"),
        (("a fox", "a fox", boxes, two, Told()), "exactly one word"),
        (("a fox", "a castle at night", boxes, two, Told()), "exactly one word"),
        ((*words, {**boxes, 3: (0, 0, 8, 8)}, two, Told()), "no pair of boxes"),
        ((*words, invented, two, Told()), "the reader sees"),
        ((*words, boxes, lambda a, b, seed: [two(a, b, seed)[0]] * 2, Told()), "two different"),
    )


def test_open_swap_exercise():
    F = torch.nn.functional.scaled_dot_product_attention

    def by_hand(qs, ks, qt, kt, v, M):
        e = (qs @ ks.T / 8**0.5).exp()
        return e / e.sum(1, keepdim=True) @ M @ v

    assert check_open_swap(
        lambda qs, ks, qt, kt, v, M: F(qs[None], ks[None], (M @ v)[None])[0]
    ).startswith("✓")
    refused(
        check_open_swap,
        ((lambda qs, ks, qt, kt, v, M: F(qt[None], kt[None], v[None])[0],), "Whose maps"),
        ((lambda qs, ks, qt, kt, v, M: F(qs[None], ks[None], v[None])[0],), "not lined up"),
        ((lambda qs, ks, qt, kt, v, M: F(qt[None], kt[None], (M @ v)[None])[0],), "target's own"),
        ((lambda qs, ks, qt, kt, v, M: F(qs[None], ks[None], (M.T @ v)[None])[0],), "turned about"),
        ((lambda qs, ks, qt, kt, v, M: (qs @ ks.T) @ (M @ v),), "not \\(A_s M\\) V_t"),
        (
            (lambda qs, ks, qt, kt, v, M: (qs @ ks.T / 8**0.5).softmax(-1) @ M @ v,),
            "a map was written down",
        ),
        ((by_hand,), "a map was written down"),
    )


def test_exchange_exercise(tokenizer):
    assert check_exchange(
        torch.eye(32)[[0, 1, 5, 3, 4, 2, *range(6, 32)]], tokenizer, "a cat and a dog", "cat", "dog"
    ).startswith("✓")
    moved = torch.eye(32)[[0, 1, 5, 4, 3, 2, *range(6, 32)]]
    doubled = torch.eye(32)
    doubled[2, 5] = 1
    for answer, says in [
        (torch.eye(32), "keeps its own place"),
        (torch.eye(31), "shape"),
        (doubled, "Row 2 does not sum to 1"),
        (torch.eye(32).roll(1, 1), "What cat is given"),
        (moved, "Another word"),
    ]:
        with pytest.raises(NotYet, match=says):
            check_exchange(answer, tokenizer, "a cat and a dog", "cat", "dog")


def test_a_word_of_two_tokens_takes_halves_and_gives_both(tokenizer):
    asked = tokenizer, "a fox and a snowman", "fox", "snowman"
    right = torch.eye(32)
    right[[2, 5, 6]] = 0
    right[2, [5, 6]] = 0.5
    right[[5, 6], 2] = 1
    assert check_exchange(right, *asked).startswith("✓")
    whole, one = right.clone(), right.clone()
    whole[2, [5, 6]] = 1
    one[2, 5], one[2, 6] = 1, 0
    for answer, says in [
        (right.T, "Rows and columns"),
        (whole, "Row 2 does not sum to 1"),
        (one, "What snowman is given"),
    ]:
        with pytest.raises(NotYet, match=says):
            check_exchange(answer, *asked)


def test_edit_rule_exercise():
    def right(s, t, M, step, tau):
        return s @ M if step < tau else t

    assert check_edit_rule(right).startswith("✓")

    def changes(s, t, M, step, tau):
        t[:] = right(s, t, M, step, tau)
        return t

    for wrong, says in [
        (lambda s, t, M, step, tau: s @ M, "At step 3 with τ = 3 it should be the target's own"),
        (lambda s, t, M, step, tau: s if step < tau else t, "step 0 with τ = 3"),
        (lambda s, t, M, step, tau: s @ M if step <= tau else t, "At step 3"),
        (lambda s, t, M, step, tau: s @ M.T if step < tau else t, "M is turned about"),
        (lambda s, t, M, step, tau: t @ M if step < tau else s, "step 0"),
        (lambda s, t, M, step, tau: s[0], "became"),
        (changes, "has changed"),
    ]:
        with pytest.raises(NotYet, match=says):
            check_edit_rule(wrong)


def refused(check, *answers):
    """Every (answer, what the message says) is told what is wrong."""
    for answer, says in answers:
        with pytest.raises(NotYet, match=says):
            check(*answer)


def test_line_up_exercise():
    pair = ("a fox in the forest", "a watercolor painting of a red fox in the snow")
    assert check_line_up([None, None, None, None, 0, None, 1, 2, 3, None], *pair).startswith("✓")
    answers = [
        ([0, None, None, None, None, None, 1, 2, 3, 4], "“snow”, is not source word 4"),
        ([0, None, None, None, None, None, 1, 2, 3, None], "away from its noun"),
        (
            [None, None, None, None, 0, None, 1, None, 3, None],
            "3 words are lined up; it can be done with 4",
        ),
        ([0, None, None, None, 0, None, 1, 2, 3, None], "used twice"),
        ([0, 1, 2, 3, 4], "10 words in the target"),
    ]
    refused(check_line_up, *(((answer, *pair), says) for answer, says in answers))


def test_scores_exercise():
    def table(s, t, gap, edge=True, mismatch=-1, paid=True):
        F = np.zeros((len(s) + 1, len(t) + 1))
        if edge:
            F[0], F[:, 0] = -gap * np.arange(len(t) + 1), -gap * np.arange(len(s) + 1)
        for i, j in np.ndindex(len(s), len(t)):
            match, skip = 1 if s[i] == t[j] else mismatch, gap if paid else 0
            F[i + 1, j + 1] = max(F[i, j] + match, F[i, j + 1] - skip, F[i + 1, j] - skip)
        return F

    assert check_scores(table).startswith("✓")
    refused(
        check_scores,
        ((lambda s, t, gap: table(s, t, gap, edge=False),), "first row or column"),
        ((lambda s, t, gap: table(s, t, gap, mismatch=0),), "three ways"),
        ((lambda s, t, gap: table(s, t, gap, paid=False),), "three ways"),
        ((lambda s, t, gap: table(s, t, gap)[1:, 1:],), "one more than words"),
    )


def test_refine_matrices_exercise():
    assert check_refine_matrices(lambda P, m, a: (P * m * a, torch.diag(1 - m * a))).startswith("✓")
    refused(
        check_refine_matrices,
        ((lambda P, m, a: (P * a, torch.diag(1 - a)),), "new token is left without a map"),
        ((lambda P, m, a: (P * a, torch.eye(4)),), "two maps"),
        ((lambda P, m, a: (P, torch.diag(1.0 - m)),), "S passes on other maps"),
        ((lambda P, m, a: (P * a, 1 - m * a),), "should be a matrix"),
    )


def test_local_edit_exercise():
    black, grey = (Image.new("RGB", (128, 128), (v,) * 3) for v in (0, 40))
    cells = np.zeros((16, 16), bool)
    cells[4:8] = True
    half = cells.copy()
    half[:, :8] = True
    spot = np.asarray(black).copy()
    spot[32:64] = 200
    pair = ("a car", "a red car")

    def answer(image, *seen, target="a red car", blend="car", mask=None):
        blend = p2p.LocalBlend(blend) if isinstance(blend, str) else blend
        mask = torch.tensor(cells) if mask is None else mask
        masks = None if blend is None else mask.expand(30, 1, 16, 16)
        edits = [p2p.Refine()]
        result = EditResult(
            black, [image], "a car", [target], edits, 0, 30, 4.0, None, blend, masks
        )
        found = [
            Reading([Found(n, c, cells) for n, c in things], "city", "plain", False, False, False)
            for things in ([("car", "blue")], seen)
        ]
        return result, found, *pair, "car", "red", 0.02

    assert check_local_edit(*answer(Image.fromarray(spot), ("car", "red"))).startswith("✓")
    refused(
        check_local_edit,
        (answer(black, ("car", "blue")), "car is blue, not red"),
        (answer(grey, ("car", "red")), "Outside the car"),
        (answer(black), "no car any more"),
        (answer(Image.fromarray(spot), ("car", "red"), blend=None), "nothing keeps it"),
        (
            answer(Image.fromarray(spot), ("car", "red"), blend=p2p.LocalBlend("car", start=1.0)),
            "nothing keeps it",
        ),
        (
            answer(
                Image.fromarray(spot), ("car", "red"), mask=torch.ones(16, 16, dtype=torch.bool)
            ),
            "100% of the picture",
        ),
        (answer(Image.fromarray(spot), ("car", "red"), mask=torch.tensor(half)), "50% of the pict"),
        (answer(black, ("car", "red"), target="a red car at night"), "prompts"),
    )


def test_fader_matrices_exercise(tokenizer):
    fox, weights = "a fox in the snow", {"snow": 2.5}
    eye = torch.eye(tokenizer.model_max_length)
    right = p2p.Reweight(weights, cross_steps=1.0).matrices(tokenizer, fox, fox, 1)[0][0]
    shifted = eye.clone()
    shifted[4, 4] = 2.5
    assert check_fader_matrices(right, 0 * eye, tokenizer, fox, weights).startswith("✓")
    answers = [
        (right, eye, "T is not zero"),
        (shifted, 0 * eye, "entry of token 4"),
        (2.5 * eye, 0 * eye, "entry of token 0"),
    ]
    answers += [(right.roll(1, 0), 0 * eye, "off its diagonal"), (right[0], 0 * eye, "shape")]
    refused(
        check_fader_matrices, *(((s, t, tokenizer, fox, weights), says) for s, t, says in answers)
    )


def test_row_sums_exercise():
    assert check_row_sums(lambda A, c: (A * c).sum(1)).startswith("✓")
    refused(
        check_row_sums,
        ((lambda A, c: A.sum(1) * c.mean(),), "Scale each column"),
        ((lambda A, c: (A * c).sum(0),), "one number for each"),
        ((lambda A, c: (A * c).sum(1) / A.shape[1],), "all faders at 1"),
    )


def test_compose_exercise():
    assert check_compose(lambda s1, t1, s2, t2: (s1 @ s2, t1 @ s2 + t2)).startswith("✓")
    refused(
        check_compose,
        ((lambda s1, t1, s2, t2: (s2 @ s1, t1 @ s2 + t2),), "which order"),
        ((lambda s1, t1, s2, t2: (s1 @ s2, t1 + t2),), "second edit do to"),
    )


def test_fader_exercise():
    def answer(mine, gentler, *names):
        found = [Found(name, "natural", np.ones((16, 16), bool)) for name in names]
        readings = (
            Reading(found, "ocean", style, False, False, False) for style in (mine, gentler)
        )
        return 0.5, *readings, "watercolor", "boat"

    assert check_fader(*answer("plain", "watercolor", "boat")).startswith("✓")
    refused(
        check_fader,
        (answer("watercolor", "watercolor", "boat"), "still a watercolor"),
        (answer("plain", "plain", "boat"), "Be gentler"),
        (answer("plain", "watercolor"), "sees no boat"),
        (answer("old photo", "watercolor", "boat"), "no plain picture"),
    )


def test_ceiling_exercise(toyland):
    fox, forest = (
        p2p.load_image(photos()[name].path, toyland) for name in ("fox-mushroom", "fox-forest")
    )
    right = autoencoder_psnr(toyland, [fox])
    assert check_ceiling(right, toyland, fox).startswith("✓")
    answers = [
        (60.0, "better than"),
        (right - 8, "too low"),
        (float("nan"), "no PSNR"),
        (0.0004, "too low"),
        (autoencoder_psnr(toyland, [forest]), "too low"),
    ]
    refused(check_ceiling, *(((answer, toyland, fox), says) for answer, says in answers))


def test_frugal_exercise():
    picture = np.zeros((8, 8, 3), np.uint8)

    def answer(method="null-text", guidance=4.0, steps=20, short=0.5, denoising=20, given=picture):
        noisy = picture + np.uint8(255 * 10 ** (-(30 - short) / 20))
        curve = torch.full((20, 10), torch.nan)
        curve.flatten()[:steps] = 1.0
        return (
            p2p.Inversion(
                method,
                "a cat",
                denoising,
                guidance,
                torch.zeros(denoising + 1, 4, 1, 1),
                None,
                curve,
                picture,
                noisy,
                {},
            ),
            given,
            30.0,
            40,
        )

    assert check_frugal(*answer()).startswith("✓")
    refused(
        check_frugal,
        (answer(method="direct"), "about null-text"),
        (answer(guidance=1.5), "asks for 4"),
        (answer(steps=200), "200 optimiser steps"),
        (answer(short=4.0), "below the ceiling"),
        (answer(denoising=4), "Keep the 20"),
        (answer(given=picture + 1), "another picture"),
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


def test_a_counterfactual_needs_an_inversion_that_gives_the_picture_back(toyland):
    fox = photos()["fox-forest"].edits[0]
    before = np.asarray(fox.pictures[0])
    ceiling = autoencoder_psnr(toyland, [fox.pictures[0]])
    reading = load_reader().read([fox.pictures[1]])[0]

    def answer(short):
        """With an inversion so many dB below the ceiling."""
        off = 255 * 10 ** (-(ceiling - short) / 20)
        decoded = np.where(before < 128, before + off, before - off).round().astype(np.uint8)
        pivot, curve = torch.zeros(21, 4, 1, 1), torch.zeros(0, 10)
        given = ("direct", fox.source, 20, 4.0, pivot, None, curve, before, decoded, {})
        inversion = p2p.Inversion(*given)
        return fox.pictures[1], fox, reading, 0.01, inversion, toyland

    assert check_counterfactual(*answer(0.5)).startswith("✓")
    refused(check_counterfactual, (answer(3), "3.. dB below the ceiling"))


def test_put_back_exercise():
    assert check_put_back(lambda z, pivot, i: torch.cat([pivot[i + 1 : i + 2], z[1:]])).startswith(
        "✓"
    )

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
    assert check_bdia_inverse(
        lambda below, here, up, down, g: (below - (1 - g) * here + g * up - down) / g
    ).startswith("✓")
    refused(
        check_bdia_inverse,
        ((lambda below, here, up, down, g: below + up - down,), "γ = 0.5.*At γ = 1 it is right"),
        ((lambda below, here, up, down, g: below - (1 - g) * here + g * up - down,), "γ = 0.5"),
        ((lambda below, here, up, down, g: below - up + down,), "γ = 1.0"),
    )


def test_map_exercise():
    assert check_map(lambda q, k: (q @ k.T / q.shape[1] ** 0.5).softmax(-1)).startswith("✓")
    refused(
        check_map,
        ((lambda q, k: q @ k.T,), "negative"),
        ((lambda q, k: (q @ k.T).softmax(-1),), "too decided"),
        ((lambda q, k: (q @ k.T / 16).softmax(-1),), "too even"),
        ((lambda q, k: (q @ k.T / 4).softmax(-1),), "another width"),
        ((lambda q, k: (q @ k.T / 4).softmax(0),), "do not sum to 1"),
        ((lambda q, k: (k @ q.T).softmax(-1),), "a row for each pixel"),
    )


def test_mask_exercise():
    truth = np.zeros((16, 16), bool)
    truth[4:12, 4:12] = True
    near = truth.copy()
    near[4, 4] = False
    assert check_mask(torch.from_numpy(near), truth, 0.75).startswith("✓")
    wide, narrow = np.zeros_like(truth), np.zeros_like(truth)
    wide[2:14, 2:14], narrow[6:10, 6:10] = True, True
    beside = np.roll(truth, 3, 0)
    answers = [
        (wide, "too large"),
        (narrow, "too small"),
        (beside, "not in the right place"),
        (~np.zeros_like(truth), "everything"),
        (truth.astype(float), "bool"),
        (truth, "the true mask itself"),
    ]
    refused(check_mask, *(((answer, truth, 0.75), says) for answer, says in answers))


def test_head_exercise(toyland):
    heat = p2p.edit(
        toyland, "a cat in space", "a cat in space", steps=2, record=True, progress=False
    ).maps["cat"]
    layers, mask = heat.maps.layers, heat.mask(0.5)
    candidates = [
        (layers.index(name), head) for name in heat.maps.level_layers for head in range(4)
    ]
    share = {
        c: (m := heat.at(layer=c[0], head=c[1]).tensor())[mask].sum() / m.sum() for c in candidates
    }
    best = max(share, key=share.get)
    assert check_head(heat, *best).startswith("✓")
    worst = min(share, key=share.get)
    refused(
        check_head,
        ((heat, *worst), "another has more"),
        ((heat, best[0], 9), "no head 9"),
        ((heat, 3, 0), "map level"),
    )


def test_shift_matrix_exercise():
    def right(cells, shift):
        return torch.eye(cells)[(torch.arange(cells) - shift).clamp(min=0)]

    def left(cells, shift):
        return torch.eye(cells)[(torch.arange(cells) + shift).clamp(max=cells - 1)]

    assert check_shift_matrix(right).startswith("✓")
    refused(
        check_shift_matrix,
        ([lambda cells, shift: torch.eye(cells)], "A shift of 1 makes"),
        ([left], "moves to the left"),
        ([lambda cells, shift: torch.eye(3)], r"5 cells gave \(3, 3\)"),
        ([lambda cells, shift: torch.eye(cells).roll(shift, 0)], "it should be"),
        ([lambda cells, shift: torch.ones(2)], "a row and a column"),
    )


def test_fill_exercise():
    def line(left, right, cells):
        return torch.linspace(left, right, cells + 2)[1:-1]

    assert check_fill(line).startswith("✓")
    refused(
        check_fill,
        ([lambda left, right, n: torch.full((n,), (left + right) / 2)], "mean of its two"),
        ([lambda left, right, n: torch.linspace(left, right, n)], "mean of its two"),
        ([lambda left, right, n: torch.zeros(n + 2)], r"hole of 1 cells got \(3,\) values"),
    )


def test_places_exercise():
    def seen(**places):
        found = []
        for name, x in places.items():
            cells = np.zeros((16, 16), bool)
            cells[10:14, x // 8 - 2 : x // 8 + 2] = True
            found.append(Found(name, "natural", cells))
        return Reading(found, "meadow", "plain", False, False, False)

    before = seen(fox=32, rabbit=96)
    assert check_places(before, seen(rabbit=32, fox=96), ("fox", "rabbit")).startswith("✓")
    refused(
        check_places,
        ((before, before, ("fox", "rabbit")), "same side"),
        ((before, seen(rabbit=32), ("fox", "rabbit")), "no fox after"),
        ((before, seen(rabbit=64, fox=96), ("fox", "rabbit")), "32 pixels from where"),
    )
