"""Local blend: whose words, which masks, and the rest of the picture exactly as it was."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.attention.layers import Layer, map_level
from p2p_helpers.attention.observe import Geometry
from p2p_helpers.blend import BlendRun, restored
from p2p_helpers.masks import as_mask

CAT, DOG, FOX = "a cat on the beach", "a dog on the beach", "a fox on the beach"
BOX = np.zeros((128, 128), np.uint8)
BOX[64:128, 0:64] = 255  # where the cat of this seed is


def blended(pipe, targets=DOG, steps=10, **arguments):
    return p2p.edit(
        pipe,
        CAT,
        targets,
        local_blend=p2p.LocalBlend(**arguments),
        seed=3,
        steps=steps,
        progress=False,
    )


@pytest.mark.parametrize(
    "mask",
    [
        BOX,
        Image.fromarray(BOX),
        BOX / 255,
        BOX > 0,
        torch.from_numpy(BOX).bfloat16(),
        BOX[::8, ::8],
        BOX // 255,
    ],
    ids=lambda m: type(m).__name__,
)
def test_a_mask_of_ones_own_says_where(toyland, mask):
    result = blended(toyland, mask=mask)
    assert (result.masks[-1, 0].numpy() == (BOX[::8, ::8] > 0)).all()
    changed = p2p.difference(result.source, result.image)
    inside = BOX > 0
    far = np.ones_like(inside)
    far[48:128, 0:80] = (
        False  # the decoder sees two latent pixels beyond the mask, and its norms a little of everything
    )
    assert changed[inside].max() > 0.1
    assert changed[far].mean() < 0.01


LEVELS = np.linspace(0, 0.9, 128 * 128, dtype=np.float32).reshape(128, 128)
WHITE = np.full((128, 128), 255, np.uint8)


@pytest.mark.parametrize(
    ("picture", "where"),
    [
        (Image.fromarray(LEVELS), LEVELS > 0.5),
        (Image.fromarray((LEVELS * 255).astype(np.int32)), LEVELS > 0.5),
        (Image.fromarray((LEVELS * 255).astype(np.uint16)), LEVELS > 0.5),
        (Image.fromarray(np.dstack([WHITE] * 3 + [BOX])), BOX > 0),
        (Image.fromarray(np.dstack([WHITE, BOX])), BOX > 0),
        (Image.fromarray(BOX).convert("RGB").quantize(), BOX > 0),
        (Image.fromarray(BOX).convert("CMYK"), BOX > 0),
        (Image.fromarray(BOX > 0), BOX > 0),
    ],
    ids=lambda one: getattr(one, "mode", ""),
)
def test_pictures_of_every_mode_are_masks(picture, where):
    assert (np.abs(as_mask(picture).astype(int) - where).mean()) < 0.01


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("mask", "says"),
    [
        ("mask.png", r"file's name.*Image.open\('mask.png'\)"),
        (Path("mask.png"), r"Image.open\('mask.png'\)"),
        (np.array([[0, 2], [2, 0]]), "values from 0 to 2,.*mask == 2"),
        (Image.fromarray(np.uint8([[0, 100]])), "values from 0 to 100"),
        (torch.tensor([[-1.0, 1.5]]), "values from -1 to 1.5"),
        (None, "one finite number for each pixel"),
    ],
)
def test_what_is_no_mask_is_explained(mask, says):
    with pytest.raises(p2p.InputError, match=says):
        as_mask(mask)


def test_a_mask_that_allows_nothing_is_refused_and_a_thin_one_allows_its_cells(toyland):
    with pytest.raises(p2p.InputError, match="mask of LocalBlend is empty"):
        p2p.LocalBlend("cat", mask=np.zeros((16, 16)))
    pole = np.zeros((128, 128))
    pole[:, 60:62] = 1
    found = blended(toyland, mask=pole, steps=1).masks[0, 0]
    assert found[:, 7].all() and found.sum() == 16


def test_words_and_mask_together_are_where_both_allow(toyland):
    words, both = (
        blended(toyland, words=("cat", "dog"), steps=2, **more) for more in ({}, {"mask": BOX})
    )
    assert (both.masks[0, 0].numpy() == words.masks[0, 0].numpy() & (BOX[::8, ::8] > 0)).all()


def test_each_target_has_its_own_mask_from_the_words_it_has(toyland):
    both = blended(toyland, [DOG, FOX], words=("cat", "dog", "fox"))
    alone = [
        blended(toyland, target, words=("cat", word))
        for target, word in ((DOG, "dog"), (FOX, "fox"))
    ]
    assert both.masks.shape == (10, 2, 16, 16)
    for i, one in enumerate(alone):
        assert (
            both.masks[:, i] != one.masks[:, 0]
        ).float().mean() < 0.01  # the same up to rounding at the threshold
        assert p2p.difference(both.images[i], one.image).mean() < 0.01


def test_excluded_words_and_thresholds_only_take_away(toyland):
    plain = blended(toyland, words=("cat", "dog"), steps=1).masks
    less = blended(toyland, words=("cat", "dog"), exclude="beach", steps=1).masks
    stricter = blended(toyland, words=("cat", "dog"), threshold=0.6, steps=1).masks
    for smaller in (less, stricter):
        assert (plain | ~smaller).all() and smaller.sum() < plain.sum()
    mostly = {"exclude": "beach", "exclude_threshold": 0.9}
    fewer = blended(toyland, words=("cat", "dog"), **mostly, steps=1).masks
    assert (fewer | ~less).all() and fewer.sum() > less.sum()  # takes away less of the picture
    outside = blended(toyland, exclude="cat", mask=np.ones((16, 16)), steps=1).masks
    assert 0 < outside.float().mean() < 1


def test_a_callback_sees_the_mask_of_its_step(toyland):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append(tensors["mask"])
        return tensors

    result = p2p.edit(
        toyland,
        CAT,
        DOG,
        local_blend=p2p.LocalBlend("cat"),
        steps=3,
        callback=callback,
        progress=False,
    )
    assert torch.equal(torch.stack(seen), result.masks)


def test_blending_starts_late(toyland):
    never = blended(toyland, words=("cat", "dog"), start=1.0)
    without = p2p.edit(toyland, CAT, DOG, seed=3, steps=10, progress=False)
    np.testing.assert_array_equal(np.asarray(never.image), np.asarray(without.image))
    assert never.masks.shape[0] == 10  # they can be looked at all the same


def test_a_blend_that_never_begins_leaves_an_inverted_picture_alone(random_pipe):
    run = {"steps": 2, "progress": False}
    photo = p2p.invert(random_pipe, Image.new("RGB", (128, 128)), CAT, method="direct", **run)
    never = p2p.LocalBlend(mask=BOX, start=1.0)
    blended, plain = (
        p2p.edit(random_pipe, photo, DOG, local_blend=blend, progress=False)
        for blend in (never, None)
    )
    np.testing.assert_array_equal(np.asarray(blended.image), np.asarray(plain.image))


def test_a_restored_picture_has_a_soft_edge_as_wide_as_a_latent_pixel():
    white, black = (Image.new("RGB", (128, 128), name) for name in ("white", "black"))
    left = torch.zeros(16, 16, dtype=torch.bool)
    left[:, :8] = True
    row = np.asarray(restored(white, black, left))[64, :, 0]
    assert (row[:48] == 0).all() and (row[80:] == 255).all() and len(np.unique(row)) > 2


def test_the_start_is_rounded_down(tokenizer):
    """As in the authors' code: half of seven steps is three."""
    layers = [Layer("down.0", "cross", "down", 0, 4)]
    mask = np.eye(16)
    run = BlendRun(p2p.LocalBlend(mask=mask, start=0.5), tokenizer, [CAT, DOG], 8)
    run.begin(Geometry(layers, (16, 16), 2, 32, 7, torch.device("cpu")))
    latents = torch.arange(2.0)[:, None, None, None].expand(2, 8, 16, 16)
    blended_in = [bool((run(latents, step, 7)[1, :, mask == 0] == 0).all()) for step in range(7)]
    assert blended_in == [False] * 3 + [True] * 4


@pytest.mark.parametrize("exclude", [(), "beach"])
def test_the_original_mask_by_hand(tokenizer, exclude):
    """One bright pixel of the source's word and one of the target's: each widened to 3×3, united, up to the latent's size.

    A bright pixel of a word to leave out is not widened.
    """
    layers = [
        Layer(f"{part}.{level}", "cross", part, level, 4)
        for part in ("down", "mid", "up")
        for level in (0, 1)
    ]
    blend = p2p.LocalBlend(("cat", "dog"), exclude=exclude)
    run = BlendRun(blend, tokenizer, [CAT, DOG], 8)
    run.begin(Geometry(layers, (32, 32), 2, 32, 1, torch.device("cpu")))
    assert [layer.name for layer in layers if run.watches(layer, 0)] == ["down.1", "up.1"]
    maps = torch.zeros(2, 4, 256, 32)
    maps[0, :, 16 * 5 + 5, 2] = 1.0  # cat at row 5, column 5
    maps[1, :, 16 * 10 + 12, 2] = 0.5  # dog at row 10, column 12; its own maximum counts
    maps[1, :, 0, 3] = 9.0  # another word
    maps[0, :, 16 * 5 + 5, 5] = 1.0  # beach, where the cat is
    run.see(layers[1], maps @ run.columns, torch.zeros(1, dtype=torch.long))
    mask = run.mask(torch.zeros(2, 8, 32, 32))[0]
    expected = torch.zeros(32, 32, dtype=torch.bool)
    expected[8:14, 8:14] = expected[18:24, 22:28] = True
    expected[10:12, 10:12] = not exclude
    assert (mask == expected).all()


@pytest.mark.parametrize(
    ("size", "levels", "level"),
    [
        ((64, 64), (0, 1, 2), 2),
        ((96, 96), (0, 1, 2), 2),
        ((128, 128), (1, 2), 2),
        ((16, 16), (0, 1, 2), 0),
        ((32, 32), (0, 1), 1),
        ((16, 16), (1, 2), 1),
    ],
)
def test_the_map_is_a_quarter_of_the_latent_but_not_less_than_16_cells(size, levels, level):
    assert map_level(*size, levels) == level


@given(st.integers(8, 200), st.integers(8, 200))
def test_every_latent_size_has_a_level(height, width):
    assert map_level(height, width, [0, 1, 2]) in (0, 1, 2)
