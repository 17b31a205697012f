"""Everything runs on another device, nothing mixes devices, and little waits: on a pretend GPU."""

import copy

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

import p2p_helpers as p2p

from . import pretend_gpu

pytestmark = pytest.mark.skipif(
    not pretend_gpu.available(), reason="this torch has no backend in Python"
)

CAT, DOG, NIGHT = "a cat on the beach", "a dog on the beach", "a cat on the beach at night"
TINY = {
    "block_out_channels": (16,),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
BLOCKS = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))


@pytest.fixture(scope="module")
def pipes(random_pipe):
    """The same small pipeline on the CPU and on the device."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4, in_channels=8, out_channels=8, cross_attention_dim=128, **TINY, **BLOCKS
    )
    parts = {**copy.deepcopy(random_pipe.components), "unet": unet}
    here = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    there = pretend_gpu.moved(
        StableDiffusionPipeline(**copy.deepcopy(parts), requires_safety_checker=False)
    )
    for pipe in (here, there):
        pipe.set_progress_bar_config(disable=True)
    return here, there


BLEND = p2p.LocalBlend(("cat", "dog"), exclude="beach", mask=np.ones((4, 4)))
EDITS = {
    "swap": lambda pipe, n: p2p.edit(pipe, CAT, DOG, steps=n, progress=False),
    "each word its schedule": lambda pipe, n: p2p.edit(
        pipe,
        CAT,
        [DOG, DOG],
        p2p.Replace(cross_steps={"default": 0.8, "dog": 0.4}),
        steps=n,
        progress=False,
    ),
    "refine and reweight": lambda pipe, n: p2p.edit(
        pipe,
        CAT,
        NIGHT,
        p2p.Refine(self_size=1.0) | p2p.Reweight({"night": 2}),
        steps=n,
        progress=False,
    ),
    "blend": lambda pipe, n: p2p.edit(pipe, CAT, DOG, local_blend=BLEND, steps=n, progress=False),
    "recorded": lambda pipe, n: p2p.edit(pipe, CAT, DOG, record=True, steps=n, progress=False),
    "recorded before": lambda pipe, n: p2p.edit(
        pipe, CAT, DOG, record=p2p.Record(before=True), steps=n, progress=False
    ),
}


def ours(calls, kind: str) -> int:
    """How many copies or syncs the package itself asked for."""
    return sum(
        count for (what, place), count in calls.items() if what == kind and place != "others"
    )


@pytest.mark.parametrize("name", EDITS)
def test_edits_run_there_as_here_and_wait_for_nothing(pipes, name):
    """Ten more steps ask for no copy and no wait more than the plain pipeline's own ten do."""
    here, there = pipes
    expected = EDITS[name](here, 4)
    counts = {}
    for steps in (4, 14):
        with pretend_gpu.counting() as calls:
            found = EDITS[name](there, steps)
            counts[steps] = dict(calls)
        if steps == 4:
            apart = np.abs(np.asarray(found.image).astype(int) - np.asarray(expected.image))
            assert apart.max() <= 1
    with pretend_gpu.counting() as calls:
        there([CAT, DOG], num_inference_steps=4, output_type="latent")
        short = sum(calls.values())
    with pretend_gpu.counting() as calls:
        there([CAT, DOG], num_inference_steps=14, output_type="latent")
        plain = sum(calls.values()) - short
    more = sum(counts[14].values()) - sum(counts[4].values())
    assert more <= plain, {
        place: counts[14][place] - counts[4].get(place, 0) for place in counts[14]
    }


@pytest.mark.parametrize("method", ["ddim", "null-text", "negative-prompt", "direct", "exact"])
def test_inversions_run_there_as_here(pipes, method):
    here, there = pipes
    made = []
    run = {"method": method, "steps": 2, "inner_steps": 2, "guidance_scale": 3.0, "progress": False}
    for pipe in (here, there):
        with pretend_gpu.counting() if pipe is there else torch.no_grad():
            inversion = p2p.invert(pipe, PICTURE, CAT, **run)
            made.append(
                (inversion.reconstruction, p2p.edit(pipe, inversion, DOG, progress=False).image)
            )
    for one, other in zip(*made, strict=True):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1


def test_recording_and_going_on_there(pipes):
    _, there = pipes
    with pretend_gpu.counting():
        with p2p.record(there) as maps:
            there([CAT, DOG], num_inference_steps=2, output_type="latent")
        first = p2p.edit(there, CAT, DOG, steps=2, progress=False)
        p2p.edit(there, first, NIGHT, p2p.Refine(), progress=False)
    assert maps["cat"].tensor().device.type == "cpu"


def test_mixed_devices_raise():
    with pretend_gpu.counting(), pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device=pretend_gpu.DEVICE) + torch.ones(2)
