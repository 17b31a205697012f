"""Real pictures: they come back, they can be edited, and nothing of a long inversion is lost."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import p2p_helpers as p2p
from p2p_helpers.inversion import methods
from p2p_helpers.toyland import caption, compose, render
from p2p_helpers.toyland.evaluate import autoencoder_psnr

from .pipelines import build

SCENE = compose([("tree", None)], "beach", night=0.8, seed=3)
PICTURE, PROMPT = render(SCENE)[0], caption(SCENE)
TARGET = PROMPT.replace("tree", "pumpkin")
STEPS = 20


@pytest.fixture(scope="module")
def made(toyland):
    """One inversion by each method."""
    return {
        m: p2p.invert(
            toyland, PICTURE, PROMPT, method=m, steps=STEPS, guidance_scale=7.5, progress=False
        )
        for m in methods.METHODS
    }


def test_what_comes_back(toyland, made):
    """DDIM drifts with guidance, null-text hardly, direct not at all.

    The measure is what the autoencoder alone gives back.
    """
    best = autoencoder_psnr(toyland, [PICTURE])
    assert made["direct"].psnr == pytest.approx(best, abs=0.3)
    assert made["exact"].psnr == pytest.approx(best, abs=0.3)
    assert made["null-text"].psnr > best - 1
    assert made["ddim"].psnr < best - 8
    faithful = p2p.invert(
        toyland, PICTURE, PROMPT, method="ddim", steps=STEPS, guidance_scale=1.0, progress=False
    )
    assert faithful.psnr > made["ddim"].psnr + 8
    assert made["negative-prompt"].psnr == pytest.approx(
        faithful.psnr, abs=0.5
    )  # guidance between equal prompts is none


class Enough(Exception):
    pass


@pytest.mark.parametrize("method", ["direct", "null-text"])
def test_a_callback_counts_the_steps_and_can_end_the_work(toyland, method):
    seen = []
    p2p.invert(
        toyland,
        PICTURE,
        PROMPT,
        method=method,
        steps=3,
        inner_steps=1,
        callback=seen.append,
        progress=False,
    )
    assert seen == [0, 1, 2] * (
        3 if method == "null-text" else 2
    )  # inversion, optimisation, reconstruction
    scheduler = toyland.scheduler

    def callback(step):
        if len(seen) == 13:
            raise Enough
        seen.append(step)

    with pytest.raises(Enough):
        p2p.invert(
            toyland,
            PICTURE,
            PROMPT,
            method=method,
            steps=5,
            inner_steps=1,
            callback=callback,
            progress=False,
        )
    assert toyland.scheduler is scheduler and all(
        p.requires_grad for p in toyland.unet.parameters()
    )


def test_null_text_optimises(made):
    curve = made["null-text"].loss_curve
    first, last = curve[:, 0], torch.stack([row[~row.isnan()][-1] for row in curve])
    assert curve.shape == (STEPS, 10)
    assert last[0] < 0.5 * first[0]  # the later ones start from the one before
    assert last.sum() < 0.8 * first.sum()
    assert made["null-text"].null.shape == (STEPS, 32, 128)


def test_null_text_stops_early_where_little_is_left_to_do(toyland):
    """Started from the prompt, guidance changes nothing yet.

    Where DDIM inversion is nearly exact, the tolerance is met at once.
    """
    found = p2p.invert(
        toyland,
        PICTURE,
        PROMPT,
        steps=50,
        inner_steps=2,
        init="prompt",
        guidance_scale=4.0,
        progress=False,
    )
    assert found.loss_curve[:, 1].isnan().any()
    assert not found.loss_curve[:, 0].isnan().any()
    assert found.psnr > autoencoder_psnr(toyland, [PICTURE]) - 1.5


@pytest.mark.parametrize("method", methods.METHODS)
def test_an_inverted_picture_is_edited_like_a_generated_one(toyland, made, method):
    before = dict(toyland.unet.attn_processors), toyland.scheduler
    result = p2p.edit(
        toyland,
        made[method],
        [TARGET, PROMPT],
        [p2p.Replace(), p2p.Reweight({"night": 0})],
        progress=False,
    )
    assert (toyland.unet.attn_processors, toyland.scheduler) == before
    assert not toyland.unet._forward_pre_hooks
    assert (result.source_prompt, result.steps, result.guidance_scale) == (PROMPT, STEPS, 7.5)
    assert (
        np.abs(
            np.asarray(result.source).astype(int) - np.asarray(made[method].reconstruction)
        ).max()
        <= 2
    )
    assert p2p.difference(result.source, result.image).mean() > 0.01


@pytest.mark.parametrize("method", methods.METHODS)
def test_a_negative_prompt_is_taken_where_the_source_does_not_come_out_of_guidance(
    random_pipe, method
):
    run = {"method": method, "steps": 2, "inner_steps": 1, "guidance_scale": 4.0}
    found = p2p.invert(random_pipe, PICTURE, PROMPT, **run, progress=False)
    negative = {"negative_prompt": "snow", "progress": False}
    if found.known(random_pipe) is None:
        says = f"method='{method}'.*leave negative_prompt out.*method='direct'"
        with pytest.raises(p2p.InversionError, match=says):
            p2p.edit(random_pipe, found, TARGET, **negative)
        return
    plain = p2p.edit(random_pipe, found, TARGET, progress=False)
    result = p2p.edit(random_pipe, found, TARGET, **negative)
    np.testing.assert_array_equal(np.asarray(result.source), np.asarray(plain.source))
    assert (np.asarray(result.image) != np.asarray(plain.image)).any()
    again = p2p.edit(random_pipe, result, TARGET, progress=False)
    np.testing.assert_array_equal(np.asarray(again.image), np.asarray(result.image))


def test_the_originals_pixels_come_back_outside_the_mask(toyland, made):
    mask = np.zeros((128, 128), np.uint8)
    mask[48:120, 32:104] = 255
    result = p2p.edit(
        toyland, made["direct"], TARGET, local_blend=p2p.LocalBlend(mask=mask), progress=False
    )
    far = np.ones_like(mask, bool)
    far[28:, 12:124] = False
    np.testing.assert_array_equal(np.asarray(result.image)[far], np.asarray(PICTURE)[far])
    assert p2p.difference(PICTURE, result.image)[mask > 0].mean() > 0.02


def test_saved_loaded_elsewhere_edited_the_same(toyland, made, tmp_path):
    made["null-text"].save(tmp_path / "a.safetensors")
    here = p2p.edit(toyland, made["null-text"], TARGET, progress=False)
    code = (
        "import sys, torch, p2p_helpers as p; torch.set_num_threads(int(sys.argv[4])); "
        "pipe = p.load_pipeline(device='cpu'); inv = p.Inversion.load(sys.argv[1]); "
        "p.edit(pipe, inv, sys.argv[2], progress=False).image.save(sys.argv[3])"
    )
    files = [str(tmp_path / name) for name in ("a.safetensors", "b.png")]
    subprocess.run(
        [sys.executable, "-c", code, files[0], TARGET, files[1], str(torch.get_num_threads())],
        check=True,
    )
    np.testing.assert_array_equal(np.asarray(p2p.load_image(files[1])), np.asarray(here.image))
    loaded = p2p.Inversion.load(files[0])
    assert (loaded.method, loaded.prompt, loaded.psnr) == (
        "null-text",
        PROMPT,
        made["null-text"].psnr,
    )
    np.testing.assert_array_equal(np.asarray(loaded.image), np.asarray(PICTURE))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tmp_path):
    """The embedding and the loss stay in float32, and the exact sampler's latents too."""
    pipe = build("sd1", tmp_path, dtype=dtype)
    arguments = {"steps": 6, "guidance_scale": 5.0, "progress": False}
    exact = p2p.invert(pipe, PICTURE, PROMPT, method="exact", **arguments)
    # Rounding to bfloat16 alone moves a random autoencoder's picture by up to half a dB.
    assert exact.psnr == pytest.approx(autoencoder_psnr(pipe, [PICTURE]), abs=0.6)
    null = p2p.invert(pipe, PICTURE, PROMPT, inner_steps=4, **arguments)
    assert null.null.dtype == null.loss_curve.dtype == null.pivot.dtype == torch.float32
    last = torch.stack([row[~row.isnan()][-1] for row in null.loss_curve])
    assert last.sum() < null.loss_curve[:, 0].sum()
    assert p2p.edit(pipe, null, TARGET, progress=False).image.size == PICTURE.size


def test_gradient_checkpointing_changes_nothing_but_memory(random_pipe):
    arguments = {"steps": 3, "inner_steps": 2, "guidance_scale": 4.0, "progress": False}
    plain, lean = (
        p2p.invert(random_pipe, PICTURE, PROMPT, gradient_checkpointing=on, **arguments)
        for on in (False, True)
    )
    torch.testing.assert_close(lean.null, plain.null)
    assert not random_pipe.unet.is_gradient_checkpointing
    assert all(p.requires_grad for p in random_pipe.unet.parameters())


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_stable_diffusion(kind, tmp_path):
    """Whatever scheduler, prediction, text encoders and micro-conditioning the model has."""
    pipe = build(kind, tmp_path)
    scheduler = pipe.scheduler
    arguments = {"steps": 4, "guidance_scale": 5.0, "progress": False}
    direct = p2p.invert(pipe, PICTURE, PROMPT, method="direct", **arguments)
    assert direct.psnr == pytest.approx(autoencoder_psnr(pipe, [PICTURE]), abs=0.3)
    null = p2p.invert(pipe, PICTURE, PROMPT, inner_steps=3, **arguments)
    first = null.loss_curve[:, 0]
    last = torch.stack([row[~row.isnan()][-1] for row in null.loss_curve])
    assert (last <= first).all()
    for inv in (direct, null):
        result = p2p.edit(
            pipe, inv, TARGET, local_blend=p2p.LocalBlend(mask=np.ones((16, 16))), progress=False
        )
        assert (
            np.abs(np.asarray(result.source).astype(int) - np.asarray(inv.reconstruction)).max()
            <= 2
        )
    assert pipe.scheduler is scheduler


def test_what_does_not_fit_is_explained(toyland, random_pipe, made, tmp_path):
    inv = made["direct"]
    for run, says in [
        (lambda: p2p.edit(random_pipe, inv, TARGET), "another model.*weights"),
        (lambda: p2p.edit(toyland, inv, TARGET, steps=30), "inverted in 20 steps"),
        (
            lambda: p2p.edit(toyland, made["ddim"], TARGET, negative_prompt="snow"),
            "leave negative_prompt out",
        ),
        (
            lambda: p2p.edit(toyland, made["null-text"], TARGET, guidance_scale=1.0),
            "holds for 7.5 only",
        ),
        (lambda: p2p.invert(toyland, PICTURE, PROMPT, guidance_scale=1.0), "guidance above 1"),
        (
            lambda: p2p.invert(toyland, PICTURE, PROMPT, method="magic"),
            "methods are ddim, null-text",
        ),
        (
            lambda: p2p.invert(toyland, PICTURE.resize((100, 100)), PROMPT),
            "multiples of 8.*load_image",
        ),
        (lambda: p2p.invert(toyland, PICTURE, " "), "prompt is empty"),
        (lambda: p2p.invert(toyland, PICTURE, "snow " * 40), "42 tokens"),
        (lambda: p2p.invert(toyland, PICTURE, PROMPT, steps=0), "whole number"),
        (lambda: p2p.invert(toyland, PICTURE, PROMPT, steps=1001), "Take fewer steps"),
        (
            lambda: p2p.invert(toyland, PICTURE, PROMPT, guidance_scale=float("nan")),
            "finite number",
        ),
        (
            lambda: p2p.invert(toyland, PICTURE, PROMPT, checkpoint=tmp_path / "no" / "c"),
            "There is no folder",
        ),
        (
            lambda: p2p.edit(toyland, inv, TARGET, generator=torch.Generator()),
            "leave generator out",
        ),
    ]:
        with pytest.raises(p2p.InputError, match="(?s)" + says):
            run()


def test_an_autoencoder_that_overflows_in_half_precision_encodes_in_float32(tmp_path, monkeypatch):
    """One that says so itself, as SDXL's does, and it is in half precision again afterwards."""
    pipe, seen = build("sd1", tmp_path, dtype=torch.float16), []
    encode = pipe.vae.encode

    def watched(pixels):
        seen.append(pixels.dtype)
        return encode(pixels)

    monkeypatch.setattr(pipe.vae, "encode", watched)
    for says in (False, True):
        pipe.vae.register_to_config(force_upcast=says)
        p2p.invert(
            pipe, PICTURE, PROMPT, method="ddim", steps=1, guidance_scale=2.0, progress=False
        )
        assert pipe.vae.dtype == torch.float16
    assert seen == [torch.float16, torch.float32]
