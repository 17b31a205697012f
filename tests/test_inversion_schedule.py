"""An inversion has a sampler of its own, over the noise schedule that it was made with."""

import contextlib

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler

import p2p_helpers as p2p
from p2p_helpers.inversion import samplers

from .pipelines import DDIM, NOISE, build
from .test_inversion_model import PICTURE, PROMPT, RUN, TARGET

METHODS = ("direct", "null-text", "exact")


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    pipe = build("sd1", tmp_path_factory.mktemp("tokenizer"))
    pipe.scheduler = DDIMScheduler(**DDIM)
    return pipe


@pytest.fixture(scope="module")
def made(pipe):
    return {m: p2p.invert(pipe, PICTURE, PROMPT, method=m, **RUN) for m in METHODS}


@contextlib.contextmanager
def scheduled(pipe, name, changes):
    """A pipeline with another scheduler, made as users make one."""
    before = pipe.scheduler
    pipe.scheduler = getattr(diffusers, name).from_config(before.config, **changes)
    try:
        yield
    finally:
        pipe.scheduler = before


SCHEDULERS = {
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True}),
    "Euler": ("EulerDiscreteScheduler", {"timestep_spacing": "linspace"}),
    "Euler, Karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "DPM++": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "DDIM, changed": (
        "DDIMScheduler",
        {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "steps_offset": 0},
    ),
    "DDIM, other betas": ("DDIMScheduler", {"beta_end": 0.02, "rescale_betas_zero_snr": True}),
    "without betas": ("EDMEulerScheduler", {}),
}


@pytest.fixture(scope="module")
def edited(pipe, made):
    return {m: p2p.edit(pipe, inv, TARGET, progress=False).image for m, inv in made.items()}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_an_inversion_has_its_own_sampler_whatever_is_set(pipe, made, edited, name):
    with scheduled(pipe, *SCHEDULERS[name]):
        there = pipe.scheduler
        for method in METHODS:
            result = p2p.edit(pipe, made[method], TARGET, progress=False)
            np.testing.assert_array_equal(np.asarray(result.image), np.asarray(edited[method]))
        assert pipe.scheduler is there


def test_edits_of_an_inversion_go_on_whatever_is_set(pipe, made, edited):
    first = p2p.edit(pipe, made["direct"], TARGET, progress=False)
    with scheduled(pipe, *SCHEDULERS["Euler"]):
        again = p2p.edit(pipe, first, TARGET, progress=False)
    apart = np.asarray(again.image, int) - np.asarray(edited["direct"], int)
    assert np.abs(apart).max() <= 1  # rounding: the source was known


@pytest.mark.parametrize("name", ["PNDM", "Euler, Karras", "DPM++"])
def test_inverted_under_another_scheduler_of_the_same_noise_it_is_the_same(pipe, made, name):
    with scheduled(pipe, *SCHEDULERS[name]):
        again = p2p.invert(pipe, PICTURE, PROMPT, method="direct", **RUN)
    assert again.facts == made["direct"].facts
    np.testing.assert_array_equal(again.pivot, made["direct"].pivot)


@pytest.mark.parametrize(
    "wrong",
    [
        (diffusers.EDMEulerScheduler(), "no betas"),
        (diffusers.EDMDPMSolverMultistepScheduler(), "no betas"),
        (diffusers.FlowMatchEulerDiscreteScheduler(), "no betas"),
        (diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True), "no betas"),
        (diffusers.DDPMScheduler(beta_schedule="sigmoid"), "beta_schedule is 'sigmoid'"),
        (DDIMScheduler(trained_betas=[0.1] * 10), "trained_betas"),
    ],
    ids=lambda wrong: type(wrong[0]).__name__,
)
def test_a_schedule_that_DDIM_cannot_have_is_refused_not_replaced(pipe, wrong):
    before, (pipe.scheduler, says) = pipe.scheduler, wrong
    try:
        for method in ("ddim", "exact"):
            with pytest.raises(p2p.InversionError, match=says):
                p2p.invert(pipe, PICTURE, PROMPT, method=method, **RUN)
        assert pipe.scheduler is wrong[0]
    finally:
        pipe.scheduler = before


def test_the_sampler_is_as_the_scheduler_says_also_where_it_says_nothing(tmp_path):
    """diffusers lets another class's defaults in for values that the first left out."""
    pipe = build("sd1", tmp_path)
    betas = np.linspace(1e-4, 2e-2, 1000, dtype=np.float32)
    for usual in (
        DDIMScheduler(**NOISE),
        PNDMScheduler(**NOISE),
        PNDMScheduler(trained_betas=betas, steps_offset=1),
    ):
        pipe.scheduler = usual
        with samplers._scheduler(pipe, DDIMScheduler.from_config) as made:
            assert made.config.set_alpha_to_one == usual.config.set_alpha_to_one
            assert not made.config.clip_sample
            torch.testing.assert_close(made.betas, usual.betas)
            assert made.config.steps_offset == 1
        assert pipe.scheduler is usual


def test_latents_that_are_normalised(tmp_path):
    """As Playground 2.5's are: the pipeline undoes it before it decodes."""
    pipe = build("sdxl", tmp_path)
    plain = p2p.invert(pipe, PICTURE, PROMPT, method="direct", **RUN)
    mean, std = [0.5, -0.3, 0.1, 0.9], [2.0, 0.5, 1.5, 3.0]
    pipe.vae.register_to_config(latents_mean=mean, latents_std=std)
    made = p2p.invert(pipe, PICTURE, PROMPT, method="direct", **RUN)
    factor = pipe.vae.config.scaling_factor
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    expected = (plain.pivot[-1] / factor - mean) / std * factor
    torch.testing.assert_close(made.pivot[-1], expected)
    assert np.abs(made.decoded.astype(int) - plain.decoded).max() <= 1
