"""What a user relies on when editing: exactness, an untouched pipeline, an untouched source, errors that leave nothing changed."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler

import p2p_helpers as p2p
from p2p_helpers.attention import Control, controlled

CAT, DOG = "a cat on the beach", "a dog on the beach"


def pixels(image):
    return np.asarray(image)


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerAncestralDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_source_is_the_pipelines_own_picture(random_pipe, scheduler, guidance):
    before = random_pipe.scheduler
    extra = {"skip_prk_steps": True} if scheduler is PNDMScheduler else {}  # as Stable Diffusion has it
    random_pipe.scheduler = scheduler.from_config(before.config, **extra)
    try:
        twins = [torch.Generator().manual_seed(5) for _ in range(2)]
        plain = random_pipe([CAT, DOG], num_inference_steps=3, guidance_scale=guidance, generator=twins).images
        alone = random_pipe(CAT, num_inference_steps=3, guidance_scale=guidance, generator=torch.Generator().manual_seed(5)).images[0]
        result = p2p.edit(random_pipe, CAT, DOG, p2p.Replace(1.0, 1.0), seed=5, steps=3, guidance_scale=guidance, progress=False)
    finally:
        random_pipe.scheduler = before
    np.testing.assert_array_equal(pixels(result.source), pixels(plain[0]))  # to the bit
    # One prompt instead of two runs other matrix kernels, so its last bits may differ, by one grey level here and there.
    np.testing.assert_allclose(pixels(result.source).astype(int), pixels(alone).astype(int), atol=1)
    assert (pixels(result.image) != pixels(plain[1])).any()


def test_no_control_is_the_plain_pipeline(random_pipe):
    result = p2p.edit(random_pipe, CAT, DOG, p2p.Replace(0.0, 0.0), seed=1, steps=2, progress=False)
    alone = random_pipe(DOG, num_inference_steps=2, guidance_scale=7.5, generator=torch.Generator().manual_seed(1)).images[0]
    np.testing.assert_allclose(pixels(result.image).astype(int), pixels(alone).astype(int), atol=1)
    assert np.abs(pixels(result.image).astype(int) - pixels(result.source).astype(int)).max() > 4  # else the line above says nothing


def test_same_prompt_full_control_changes_nothing(random_pipe):
    result = p2p.edit(random_pipe, CAT, CAT, p2p.Replace(1.0, 1.0, self_size=1.0), seed=1, steps=2, progress=False)
    np.testing.assert_allclose(pixels(result.image).astype(int), pixels(result.source).astype(int), atol=1)


def explicit(attn, hidden, context, pairs):
    """The same layer with materialised maps: Â_t = A_s S + A_t T, or A_s for self-attention, in the targets' rows of the second half."""
    other = hidden if context is None else context

    def heads(x):
        return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

    q, k, v = heads(attn.to_q(hidden)), heads(attn.to_k(other)), heads(attn.to_v(other))
    maps = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)  # (prompt, head, pixel, token)
    edited = maps.clone()
    for row, (s, t) in enumerate(pairs, start=4):
        edited[row] = maps[3] if context is None else maps[3] @ s + maps[row] @ t
    return attn.to_out[0]((edited @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("cross", [0.0, 0.5, 1.0])
def test_every_layer_equals_the_explicit_maps(random_pipe, cross):
    """Fused attention with changed values is the materialised edit to float rounding, in every layer, also where S and T both act.

    Six rows: source and two targets, without words and with; only the last two may differ from plain attention.
    """
    torch.manual_seed(1)
    unet, length = random_pipe.unet, random_pipe.tokenizer.model_max_length
    mappings = [p2p.replacement_matrix(random_pipe.tokenizer, CAT, t) for t in (DOG, "a snowman on the beach")]
    pairs = [(cross * m, (1 - cross) * torch.eye(length)) for m in mappings]
    s, t = (torch.stack(m)[:, None] for m in zip(*pairs, strict=True))
    control = Control(s, t, torch.tensor([[True], [True]]), [10**6] * 2)
    with torch.no_grad(), controlled(unet, control):
        for name, module in unet.named_modules():
            if not name.endswith(("attn1", "attn2")):
                continue
            hidden = torch.randn(6, 16, module.to_q.in_features)
            context = torch.randn(6, length, module.to_k.in_features) if name.endswith("attn2") else None
            torch.testing.assert_close(module(hidden, context), explicit(module, hidden, context, pairs), rtol=1e-4, atol=1e-5)


def test_processors_come_back_after_success_and_after_an_error(random_pipe):
    before = dict(random_pipe.unet.attn_processors)
    p2p.edit(random_pipe, CAT, DOG, seed=0, steps=1, progress=False)
    assert random_pipe.unet.attn_processors == before

    def broken(*args, **kwargs):
        raise KeyboardInterrupt

    decode, random_pipe.vae.decode = random_pipe.vae.decode, broken
    try:
        with pytest.raises(KeyboardInterrupt):
            p2p.edit(random_pipe, CAT, DOG, seed=0, steps=1, progress=False)
    finally:
        random_pipe.vae.decode = decode
    assert random_pipe.unet.attn_processors == before


def test_several_targets_equal_one_at_a_time(random_pipe):
    targets = [DOG, "a snowman on the beach"]
    both = p2p.edit(random_pipe, CAT, targets, seed=2, steps=2, progress=False)
    for target, image in zip(targets, both.images, strict=True):
        one = p2p.edit(random_pipe, CAT, target, seed=2, steps=2, progress=False)
        np.testing.assert_allclose(pixels(one.image).astype(int), pixels(image).astype(int), atol=1)


@pytest.mark.parametrize(
    ("source", "target", "says"),
    [
        (CAT, "a big dog on the beach", "same number of words"),
        (CAT, "a dog " + "on the beach " * 12, "tokens"),
        (CAT, [], "No target prompt"),
        (CAT, " ", "prompt is empty"),
    ],
)
def test_bad_prompts_are_explained(random_pipe, source, target, says):
    with pytest.raises(ValueError, match=says):
        p2p.edit(random_pipe, source, target, steps=1, progress=False)


@pytest.mark.parametrize("schedule", [-0.1, 1.1, (0.6, 0.2)])
def test_bad_schedules_are_explained(schedule):
    with pytest.raises(ValueError, match="share of the steps"):
        p2p.Replace(cross_steps=schedule)


def test_self_schedule_counts_as_published():
    assert p2p.active_steps(0.4, 4, of=4).sum() == 1
    assert p2p.active_steps(0.4, 50, of=50).sum() == 20


class Foreign:
    def __call__(self, *args, **kwargs):
        raise NotImplementedError


def test_foreign_processors_are_refused(random_pipe):
    before = dict(random_pipe.unet.attn_processors)
    random_pipe.unet.set_attn_processor(Foreign())
    try:
        with pytest.raises(p2p.AttentionControlError, match="run Foreign.*set_default_attn_processor"):
            p2p.edit(random_pipe, CAT, DOG, steps=1, progress=False)
    finally:
        random_pipe.unet.set_attn_processor(dict(before))


def test_the_progress_bar_setting_comes_back(random_pipe):
    random_pipe.set_progress_bar_config(disable=True, desc="mine")
    p2p.edit(random_pipe, CAT, DOG, steps=1, progress=False)
    assert random_pipe._progress_bar_config == {"disable": True, "desc": "mine"}
