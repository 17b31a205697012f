"""What a user relies on when editing: exactness, an untouched pipeline, an untouched source, errors that leave nothing changed."""

import contextlib
import copy
import itertools
import warnings

import accelerate
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.models.attention_processor import AttnProcessor2_0
from hypothesis import given, settings
from hypothesis import strategies as st

import p2p_helpers as p2p
from p2p_helpers import errors
from p2p_helpers.course.checks import NotYet

from .pipelines import build

CAT, DOG = "a cat on the beach", "a dog on the beach"


def pixels(image):
    return np.asarray(image)


def clean(pipe) -> bool:
    """Whether nothing of a session is left in a pipeline."""
    left = {"forward", "_compiled_call_impl", "_p2p_session"}
    return not any(left & set(vars(part)) for part in pipe.unet.modules()) and "step" not in vars(
        pipe.scheduler
    )


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler,
        EulerAncestralDiscreteScheduler,
        HeunDiscreteScheduler,
        PNDMScheduler,
        LCMScheduler,
    ],
)
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_source_is_the_pipelines_own_picture(random_pipe, scheduler, guidance):
    before = random_pipe.scheduler
    extra = (
        {"skip_prk_steps": True} if scheduler is PNDMScheduler else {}
    )  # as Stable Diffusion has it
    random_pipe.scheduler = scheduler.from_config(before.config, **extra)
    try:
        twins = [torch.Generator().manual_seed(5) for _ in range(2)]
        plain = random_pipe(
            [CAT, DOG], num_inference_steps=3, guidance_scale=guidance, generator=twins
        ).images
        alone = random_pipe(
            CAT,
            num_inference_steps=3,
            guidance_scale=guidance,
            generator=torch.Generator().manual_seed(5),
        ).images[0]
        result = p2p.edit(
            random_pipe,
            CAT,
            DOG,
            p2p.Replace(cross_steps=1.0, self_steps=1.0),
            seed=5,
            steps=3,
            guidance_scale=guidance,
            progress=False,
        )
    finally:
        random_pipe.scheduler = before
    np.testing.assert_array_equal(pixels(result.source), pixels(plain[0]))  # to the bit
    # One prompt instead of two runs other matrix kernels, so its last bits may differ, by one grey level here and there.
    np.testing.assert_allclose(pixels(result.source).astype(int), pixels(alone).astype(int), atol=1)
    assert (pixels(result.image) != pixels(plain[1])).any()


def test_no_control_is_the_plain_pipeline(random_pipe):
    result = p2p.edit(
        random_pipe,
        CAT,
        DOG,
        p2p.Replace(cross_steps=0.0, self_steps=0.0),
        seed=1,
        steps=2,
        progress=False,
    )
    alone = random_pipe(
        DOG, num_inference_steps=2, guidance_scale=7.5, generator=torch.Generator().manual_seed(1)
    ).images[0]
    np.testing.assert_allclose(pixels(result.image).astype(int), pixels(alone).astype(int), atol=1)
    assert (
        np.abs(pixels(result.image).astype(int) - pixels(result.source).astype(int)).max() > 4
    )  # else the line above says nothing


def test_same_prompt_full_control_changes_nothing(random_pipe):
    result = p2p.edit(
        random_pipe,
        CAT,
        CAT,
        p2p.Replace(cross_steps=1.0, self_steps=1.0, self_size=1.0),
        seed=1,
        steps=2,
        progress=False,
    )
    np.testing.assert_allclose(
        pixels(result.image).astype(int), pixels(result.source).astype(int), atol=1
    )


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


def changing(change):
    """Arguments with a callback that makes other latents of those it is given."""
    return {"callback": lambda *args: {"latents": change(args[-1]["latents"])}}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target": "a big dog on the beach"}, "same number of words"),
        ({"target": "a dog " + "on the beach " * 12}, "40 tokens.*reads 32.*would not see"),
        ({"target": []}, "No target prompt"),
        ({"target": " "}, "prompt is empty"),
        ({"steps": 0}, "whole number from 1"),
        ({"edit": [p2p.Replace()] * 2}, "2 edits for 1 target"),
        ({"negative_prompt": "snow " * 40}, "negative_prompt: .*42 tokens.*would not see"),
        ({"guidance_scale": float("nan")}, "finite"),
        ({"callback": lambda *args: None}, "returned NoneType"),
        (changing(torch.Tensor.half), r"latents=torch.float16 \(2, 8.*given torch.float32 \(2, 8"),
        (changing(lambda x: x[:1]), r"latents=torch.float32 \(1, 8.*same shape"),
        (changing(torch.Tensor.numpy), "latents=a ndarray"),
        (changing(lambda x: None), "latents=None"),
        (
            {"callback_on_step_end_tensor_inputs": "latents"},
            "='latents': give a list of names.*has",
        ),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, r"=\['noise'\].*prompt_embeds"),
        (
            {"edit": p2p.Reweight({"dog": 2})},
            "Reweight alone works on one prompt.*Replace\\(\\) \\| Reweight",
        ),
        (
            {"edit": p2p.Replace() | p2p.Reweight({"dgo": 2})},
            "'dgo' is not in the prompt 'a dog on the beach'. Did you mean 'dog'.*a, dog, on, the, beach",
        ),
        ({"edit": p2p.Replace(cross_steps={"fog": 0.5})}, "'fog' is not in the prompt"),
        ({"local_blend": p2p.LocalBlend("fox")}, "found it in none"),
        (
            {"local_blend": p2p.LocalBlend(mask=np.ones((100, 128)))},
            r"mask is \(100, 128\).*picture is \(128, 128\) and its latent \(16, 16\)",
        ),
        ({"num_images_per_prompt": 2}, "num_images_per_prompt"),
        ({"strength": 0.5}, "StableDiffusionPipeline take no strength"),
    ],
)
def test_bad_input_is_explained_and_changes_nothing(random_pipe, arguments, says):
    before = (
        dict(random_pipe.unet.attn_processors),
        dict(random_pipe._progress_bar_config),
        len(random_pipe.unet._forward_pre_hooks),
    )
    with pytest.raises(p2p.P2PError, match="(?s)" + says):
        p2p.edit(random_pipe, CAT, **{"target": DOG, "steps": 1, "progress": False, **arguments})
    assert before == (
        random_pipe.unet.attn_processors,
        random_pipe._progress_bar_config,
        len(random_pipe.unet._forward_pre_hooks),
    )


def test_every_exception_has_one_base():
    found = [c for c in vars(errors).values() if isinstance(c, type) and not issubclass(c, Warning)]
    assert len(found) > 5
    assert all(issubclass(c, p2p.P2PError) for c in [*found, NotYet])


@pytest.mark.parametrize(
    "make",
    [
        lambda: p2p.Replace(cross_steps=-0.1),
        lambda: p2p.Replace(cross_steps=1.1),
        lambda: p2p.Refine(cross_steps=(0.6, 0.2)),
        lambda: p2p.Refine(cross_steps={"default": 0.8, "dog": (0.6, 0.2)}),
        lambda: p2p.Replace(self_steps=float("nan")),
        lambda: p2p.Replace(self_size=0),
        lambda: p2p.Reweight({"dog": float("inf")}),
        lambda: p2p.Reweight({"dog": float("nan")}),
        lambda: p2p.LocalBlend(),
        lambda: p2p.LocalBlend("dog", threshold=1.5),
        lambda: p2p.LocalBlend(mask=np.ones((8, 8, 3))),
    ],
)
def test_impossible_edits_are_refused_when_they_are_made(make):
    with pytest.raises(p2p.InputError):
        make()


def test_unknown_words_are_a_warning_that_names_the_vocabulary(toyland):
    with pytest.warns(
        p2p.UnknownWordWarning,
        match="never seen 'horse'.*Closest: house.*It knows: a, an, and, apple",
    ):
        p2p.edit(toyland, CAT, "a horse on the beach", steps=1, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p2p.edit(toyland, "A Cat, on the beach!", "a dog, on the beach!", steps=1, progress=False)


def test_self_schedule_counts_as_published():
    assert p2p.Replace(self_steps=0.4).self_schedule(4).sum() == 1
    assert p2p.Replace().self_schedule(50).sum() == 20


class Foreign(AttnProcessor2_0):
    """Somebody's own processor, which reaches no attention kernel of torch's."""

    def __call__(self, attn, hidden_states, *args, **kwargs):
        return hidden_states


def test_processors_that_do_not_reach_the_kernel_are_refused(random_pipe):
    before = dict(random_pipe.unet.attn_processors)
    random_pipe.unet.set_attn_processor(Foreign())
    try:
        with pytest.raises(
            p2p.AttentionControlError, match="runs Foreign.*no call.*AttnProcessor2_0"
        ):
            p2p.edit(random_pipe, CAT, DOG, steps=1, progress=False)
    finally:
        random_pipe.unet.set_attn_processor(dict(before))


def test_sliced_attention_may_be_stood_in_for(random_pipe):
    expected = p2p.edit(random_pipe, CAT, DOG, steps=2, progress=False)
    before = dict(random_pipe.unet.attn_processors)
    random_pipe.enable_attention_slicing()
    try:
        sliced = p2p.edit(random_pipe, CAT, DOG, steps=2, progress=False)
        assert {type(p).__name__ for p in random_pipe.unet.attn_processors.values()} == {
            "SlicedAttnProcessor"
        }
    finally:
        random_pipe.unet.set_attn_processor(before)
    np.testing.assert_array_equal(pixels(sliced.image), pixels(expected.image))


@pytest.mark.parametrize(
    "unet",
    [None, UNet2DModel(block_out_channels=(8, 8, 8, 8), norm_num_groups=4)],
    ids=["no UNet", "no layers"],
)
def test_other_pipelines_are_refused(random_pipe, unet):
    class Other(StableDiffusionPipeline):
        pass

    parts = dict(random_pipe.components)
    other = Other(**parts, requires_safety_checker=False)
    other.unet = unet
    if unet is not None:
        unet.set_attn_processor = unet.attn_processors = None
        del unet.set_attn_processor, unet.attn_processors
    with pytest.raises(p2p.AttentionControlError, match="Other has no model"):
        p2p.edit(other, CAT, DOG, steps=1, progress=False)


def test_the_progress_bar_setting_comes_back(random_pipe):
    random_pipe.set_progress_bar_config(disable=True, desc="mine")
    p2p.edit(random_pipe, CAT, DOG, steps=1, progress=False)
    assert random_pipe._progress_bar_config == {"disable": True, "desc": "mine"}


def test_the_progress_bar_is_on_unless_turned_off(random_pipe, capsys):
    random_pipe.set_progress_bar_config()
    p2p.edit(random_pipe, CAT, DOG, steps=2, progress=False)
    assert capsys.readouterr().err == ""
    p2p.edit(random_pipe, CAT, DOG, steps=2)
    assert "2/2" in capsys.readouterr().err


def test_a_generator_stands_for_its_seed_and_moves_on(random_pipe):
    generator = torch.Generator().manual_seed(9)
    first = p2p.edit(random_pipe, CAT, DOG, generator=generator, steps=2, progress=False)
    second = p2p.edit(random_pipe, CAT, DOG, generator=generator, steps=2, progress=False)
    seeded = p2p.edit(random_pipe, CAT, DOG, seed=9, steps=2, progress=False)
    np.testing.assert_array_equal(pixels(first.image), pixels(seeded.image))
    assert (pixels(first.source) != pixels(second.source)).any()


def test_the_callback_is_diffusers_own(random_pipe):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])}

    result = p2p.edit(random_pipe, CAT, DOG, steps=3, callback=callback, progress=False)
    assert seen == [(i, (2, 8, 16, 16)) for i in range(3)]
    np.testing.assert_array_equal(
        pixels(result.image), pixels(result.source)
    )  # both decode from zeros


def test_a_callback_of_diffusers_gets_the_tensors_it_wants(random_pipe):
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=0.5, cutoff_step_index=None)
    result = p2p.edit(
        random_pipe,
        CAT,
        DOG,
        steps=2,
        callback=cutoff,
        local_blend=p2p.LocalBlend("dog"),
        progress=False,
    )
    assert result.masks.shape[0] == 2


def test_a_callback_that_gives_nothing_back_leaves_the_blend(random_pipe):
    corner = np.zeros((16, 16))
    corner[0, 0] = 1
    nearly_nowhere = p2p.LocalBlend(mask=corner, start=0.0)
    result = p2p.edit(
        random_pipe,
        CAT,
        DOG,
        local_blend=nearly_nowhere,
        steps=2,
        callback=lambda *args: {},
        progress=False,
    )
    far = np.s_[64:, 64:]
    assert np.abs(pixels(result.image)[far].astype(int) - pixels(result.source)[far]).mean() < 2


def test_one_start_latent_serves_every_prompt(random_pipe):
    same = p2p.Replace(cross_steps=1.0, self_steps=1.0, self_size=1.0)
    result = p2p.edit(
        random_pipe, CAT, CAT, same, latents=torch.randn(1, 8, 16, 16), steps=2, progress=False
    )
    np.testing.assert_allclose(
        pixels(result.image).astype(int), pixels(result.source).astype(int), atol=1
    )


def test_a_textual_inversion_of_several_vectors(random_pipe):
    pipe = StableDiffusionPipeline(
        **{k: copy.deepcopy(v) for k, v in random_pipe.components.items()},
        requires_safety_checker=False,
    )
    pipe.load_textual_inversion(torch.randn(3, 128), token="<toy>")
    seen = {}

    class Look(p2p.Refine):
        def matrices(self, tokenizer, source, target, steps):
            seen.update(
                beach=p2p.find_words(tokenizer, target, "beach"),
                toy=p2p.find_words(tokenizer, target, "<toy>"),
            )
            return super().matrices(tokenizer, source, target, steps)

    p2p.edit(pipe, CAT, "a <toy> on the beach", Look(), steps=1, progress=False)
    assert seen == {"toy": [2, 3, 4], "beach": [7]}
    twins = [torch.Generator().manual_seed(0) for _ in range(2)]
    plain = pipe(
        [CAT, "a <toy> on the beach"], num_inference_steps=1, guidance_scale=3.0, generator=twins
    ).images
    free = p2p.Refine(cross_steps=0.0, self_steps=0.0)
    result = p2p.edit(
        pipe, CAT, "a <toy> on the beach", free, steps=1, guidance_scale=3.0, progress=False
    )
    np.testing.assert_array_equal(pixels(result.image), pixels(plain[1]))


def test_a_negative_prompt_that_guidance_does_not_use_is_named(random_pipe):
    run = {"steps": 1, "progress": False}
    with pytest.warns(p2p.InputWarning, match="ignores negative_prompt at guidance_scale=1.0"):
        p2p.edit(random_pipe, CAT, DOG, negative_prompt="snow", guidance_scale=1.0, **run)


def test_a_negative_prompt_is_the_pipelines_own(random_pipe):
    twins = [torch.Generator().manual_seed(0) for _ in range(2)]
    negative = ["snow"] * 2
    plain = random_pipe(
        [CAT, DOG],
        negative_prompt=negative,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=twins,
    ).images
    result = p2p.edit(
        random_pipe, CAT, DOG, negative_prompt="snow", guidance_scale=3.0, steps=2, progress=False
    )
    np.testing.assert_array_equal(pixels(result.source), pixels(plain[0]))


@pytest.mark.parametrize("size", [(128, 192), (136, 120)])
def test_other_sizes(random_pipe, size):
    result = p2p.edit(
        random_pipe,
        CAT,
        DOG,
        local_blend=p2p.LocalBlend(("cat", "dog")),
        steps=2,
        height=size[0],
        width=size[1],
        progress=False,
    )
    assert result.image.size == size[::-1]
    assert result.masks.shape == (2, 1, size[0] // 8, size[1] // 8)


def test_half_precision(random_pipe):
    half = StableDiffusionPipeline(
        **{k: copy.deepcopy(v) for k, v in random_pipe.components.items()},
        requires_safety_checker=False,
    )
    half.to(torch.bfloat16).set_progress_bar_config(disable=True)
    arguments = {
        "steps": 2,
        "progress": False,
        "local_blend": p2p.LocalBlend(mask=np.ones((16, 16), bool)),
    }
    a, b = (
        p2p.edit(pipe, CAT, DOG, p2p.Refine() | p2p.Reweight({"dog": 2}), **arguments)
        for pipe in (half, random_pipe)
    )
    assert np.abs(pixels(a.image).astype(int) - pixels(b.image)).mean() < 3


def test_an_offloaded_unet(random_pipe):
    """Weights live elsewhere and come when a layer runs, so the UNet itself is on no device."""
    expected = p2p.edit(random_pipe, CAT, DOG, steps=2, progress=False)
    away = StableDiffusionPipeline(
        **{**random_pipe.components, "unet": copy.deepcopy(random_pipe.unet)},
        requires_safety_checker=False,
    )
    accelerate.cpu_offload(away.unet, execution_device=torch.device("cpu"))
    assert next(away.unet.parameters()).device.type == "meta"
    result = p2p.edit(away, CAT, DOG, steps=2, progress=False)
    np.testing.assert_allclose(
        pixels(result.image).astype(int), pixels(expected.image).astype(int), atol=1
    )


@pytest.fixture(scope="module")
def tiny_pipe(random_pipe):
    """A UNet of one block, eight attention layers, on 4×4 latents: a run takes a few milliseconds."""
    block = {
        "block_out_channels": (16,),
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D",),
        "up_block_types": ("CrossAttnUpBlock2D",),
    }
    unet = UNet2DConditionModel(
        sample_size=4, in_channels=8, out_channels=8, cross_attention_dim=128, **block, **blocks
    )
    return StableDiffusionPipeline(
        **{**random_pipe.components, "unet": unet}, requires_safety_checker=False
    )


@settings(max_examples=250, deadline=None)
@given(st.integers(0, 20), st.sampled_from([KeyboardInterrupt, RuntimeError, MemoryError]))
def test_whatever_breaks_wherever_the_processors_come_back(tiny_pipe, at, error):
    """An error in the at-th of the attention layers that run in two steps, or in none of them."""
    unet, count = tiny_pipe.unet, itertools.count()
    before = dict(unet.attn_processors)

    def fail(*args):
        if next(count) == at:
            raise error

    layers = [m for n, m in unet.named_modules() if n.endswith((".attn1", ".attn2"))]
    hooks = [layer.register_forward_hook(fail) for layer in layers]
    try:
        with pytest.raises(error) if at < 2 * len(layers) else contextlib.nullcontext():
            p2p.edit(tiny_pipe, CAT, DOG, steps=2, progress=False)
    finally:
        for hook in hooks:
            hook.remove()
    assert unet.attn_processors == before
    assert clean(tiny_pipe)


def test_one_argument_for_each_prompt_is_the_sources_when_it_goes_on(tmp_path):
    pipe = build("sdxl", tmp_path)
    run = {"steps": 2, "progress": False, "height": 64, "width": 64}
    first = p2p.edit(pipe, CAT, DOG, prompt_2=["a house", "a castle"], **run)
    assert first.origin.arguments["prompt_2"] == ["a house"]
    anew = p2p.edit(pipe, CAT, DOG, p2p.Refine(), prompt_2="a house", **run)
    on = p2p.edit(pipe, first, DOG, p2p.Refine(), progress=False)
    np.testing.assert_allclose(pixels(on.image).astype(int), pixels(anew.image), atol=1)
    p2p.edit(pipe, first, DOG, prompt_2=["a house", "a boat"], guidance_rescale=0.5, progress=False)
    for other in ("a castle", ["a castle", "a house"]):
        with pytest.raises(p2p.InputError, match="made with another prompt_2. Leave prompt_2 out"):
            p2p.edit(pipe, first, DOG, prompt_2=other, progress=False)
    with pytest.raises(p2p.InputError, match="prompt_2: 3 for 2 prompts"):
        p2p.edit(pipe, CAT, DOG, prompt_2=["a", "b", "c"], **run)
    with pytest.raises(p2p.InputError, match="latents: 3 for 2 prompts"):
        p2p.edit(pipe, CAT, DOG, latents=torch.zeros(3, 4, 8, 8), **run)
    assert p2p.edit(pipe, CAT, DOG, latents=None, seed=3, **run).seed == 3
    with pytest.raises(p2p.InputError, match="leave image out"):
        p2p.edit(StableDiffusionXLImg2ImgPipeline(**pipe.components), first, DOG, image=first.image)
