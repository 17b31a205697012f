"""Layers and processors of every kind behave as without us, and what is not the prompts is refused."""

import copy
import functools
import inspect

import diffusers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    AnimateDiffPipeline,
    MotionAdapter,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor2_0
from PIL import Image
from torch import nn
from torch.overrides import TorchFunctionMode

import p2p_helpers as p2p
from p2p_helpers.attention import intercept
from p2p_helpers.attention.columns import attention_maps, columns, edited_map
from p2p_helpers.attention.families import layers_of
from p2p_helpers.attention.layers import Layer, halved
from p2p_helpers.attention.phases import Wish
from p2p_helpers.attention.terms import Places, Term, attend
from p2p_helpers.attention.unet import UNet

CAT, DOG = "a cat on the beach", "a dog on the beach"
BLOCK = {
    "block_out_channels": (16,),
    "layers_per_block": 1,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
BLOCKS = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
TINY = {
    "sample_size": 4,
    "in_channels": 8,
    "out_channels": 8,
    "cross_attention_dim": 128,
    **BLOCK,
    **BLOCKS,
}


def tiny(random_pipe, **config):
    """A pipeline with a UNet of one block on 4×4 latents."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**{**TINY, **config})
    pipe = StableDiffusionPipeline(
        **{**random_pipe.components, "unet": unet}, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Own(AttnProcessor2_0):
    """A user's processor: twice the usual, and more."""

    def __call__(self, attn, hidden_states, *args, strength=2.0, **kwargs):
        return strength * super().__call__(attn, hidden_states, *args, **kwargs)


class LoRA(nn.Module):
    """A low-rank addition to a linear layer, as adapters make it."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x, *args, **kwargs):
        return self.base(x) + self.up(self.down(x))


def layers(pipe):
    return [m for n, m in pipe.unet.named_modules() if n.endswith((".attn1", ".attn2"))]


def each(change):
    def changed(pipe):
        for layer in layers(pipe):
            change(layer)

    return changed


def norms(layer):
    width = layer.inner_dim // layer.heads
    layer.norm_q, layer.norm_k = nn.RMSNorm(width), nn.LayerNorm(width)


def cross_norm(layer):
    if layer.is_cross_attention:
        layer.norm_cross = nn.LayerNorm(128)
        layer.norm_cross.weight.data *= 20


def lora(layer):
    layer.to_q, layer.to_v = LoRA(layer.to_q), LoRA(layer.to_v)


KINDS = {
    "qk_norm": each(norms),
    "residual": each(lambda layer: setattr(layer, "residual_connection", True)),
    "rescale": each(lambda layer: setattr(layer, "rescale_output_factor", 3.0)),
    "group norm": each(lambda layer: setattr(layer, "group_norm", nn.GroupNorm(4, 16))),
    "cross norm": each(cross_norm),
    "a user's subclass": lambda pipe: pipe.unet.set_attn_processor(Own()),
    "LoRA": each(lora),
    "fused projections": lambda pipe: pipe.unet.fuse_qkv_projections(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_layers_own_ways_are_kept(random_pipe, kind):
    """The source is the plain pipeline's to the bit, and so is a target without an edit; an edit edits."""
    torch.manual_seed(1)
    pipe = tiny(random_pipe)
    usual = pipe(
        [CAT, DOG], num_inference_steps=2, guidance_scale=4.0, latents=torch.ones(2, 8, 4, 4)
    ).images
    KINDS[kind](pipe)
    run = {"steps": 2, "guidance_scale": 4.0, "latents": torch.ones(1, 8, 4, 4), "progress": False}
    plain = pipe(
        [CAT, DOG], num_inference_steps=2, guidance_scale=4.0, latents=torch.ones(2, 8, 4, 4)
    ).images
    none = p2p.edit(pipe, CAT, DOG, p2p.Replace(cross_steps=0.0, self_steps=0.0), **run)
    full = p2p.edit(
        pipe, CAT, CAT, p2p.Replace(cross_steps=1.0, self_steps=1.0, self_size=1.0), **run
    )
    some = p2p.edit(pipe, CAT, DOG, p2p.Replace(cross_steps={"default": 1.0, "dog": 0.5}), **run)
    for ours, theirs in [(none.source, plain[0]), (none.image, plain[1]), (some.source, plain[0])]:
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    np.testing.assert_allclose(
        np.asarray(full.image).astype(int), np.asarray(full.source).astype(int), atol=1
    )
    assert (np.asarray(some.image) != np.asarray(plain[1])).any()
    if kind != "fused projections":
        assert (np.asarray(plain[0]) != np.asarray(usual[0])).any()  # the kind makes a difference


def test_a_layers_own_arguments_reach_a_users_processor(random_pipe):
    pipe = tiny(random_pipe)
    pipe.unet.set_attn_processor(Own())
    run = {"guidance_scale": 4.0, "cross_attention_kwargs": {"strength": 5.0}}
    plain = pipe([CAT, DOG], num_inference_steps=1, latents=torch.ones(2, 8, 4, 4), **run).images
    ours = p2p.edit(pipe, CAT, DOG, steps=1, latents=torch.ones(1, 8, 4, 4), progress=False, **run)
    np.testing.assert_array_equal(np.asarray(ours.source), np.asarray(plain[0]))


def test_models_with_cross_attention_only(random_pipe):
    """Both layers of a block look at the text there, whatever they are called."""
    pipe = tiny(random_pipe, only_cross_attention=True)
    assert {layer.kind for layer in layers_of(pipe)} == {
        "cross",
        "self",
    }  # the middle block keeps its own
    run = {"steps": 2, "seed": 1, "progress": False}
    change = p2p.Replace(cross_steps=1.0, self_steps=1.0, self_size=1.0)
    same = p2p.edit(pipe, CAT, CAT, change, record=True, local_blend=p2p.LocalBlend("cat"), **run)
    np.testing.assert_allclose(
        np.asarray(same.image).astype(int), np.asarray(same.source).astype(int), atol=1
    )
    assert any(".attn1." in layer for layer in same.maps.layers)


class Silent(AttnProcessor2_0):
    """A processor that makes no call of torch's attention."""

    def __call__(self, attn, hidden_states, *args, **kwargs):
        return hidden_states


@pytest.mark.parametrize("hooked", [False, True])
def test_a_layer_that_makes_no_call_is_named_with_its_processor(random_pipe, hooked):
    """Also where a hook of diffusers stands in the place of its forward, as a cache's does."""
    pipe = tiny(random_pipe)
    for layer in layers(pipe):
        layer.set_processor(Silent())
        if hooked:
            layer.forward = functools.partial(type(layer).forward, layer)
    with pytest.raises(p2p.AttentionControlError, match="runs Silent, which.*disable_cache"):
        p2p.edit(
            pipe, CAT, DOG, p2p.Replace(self_size=1.0, self_steps=1.0), steps=1, progress=False
        )


def test_what_looks_at_places_of_objects_is_no_attention_to_text(random_pipe):
    """GLIGEN's fusers, beside the layers of pixels and of text."""
    pipe = tiny(random_pipe, attention_type="gated")
    assert any("fuser" in name for name in pipe.unet.attn_processors)
    assert {layer.name for layer in layers_of(pipe)} == {
        name for name in pipe.unet.attn_processors if "fuser" not in name
    }


def test_animations_are_refused_at_the_first_call(random_pipe):
    torch.manual_seed(0)
    adapter = MotionAdapter(
        block_out_channels=(16,),
        motion_layers_per_block=1,
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
    )
    parts = {
        k: random_pipe.components[k] for k in ("vae", "text_encoder", "tokenizer", "scheduler")
    }
    pipe = AnimateDiffPipeline(**parts, unet=tiny(random_pipe).unet, motion_adapter=adapter)
    pipe.set_progress_bar_config(disable=True)
    assert any("motion" in name for name in pipe.unet.attn_processors)
    assert not any("motion" in layer.name for layer in layers_of(pipe))
    with pytest.raises(p2p.AttentionControlError, match="AnimateDiff"):
        p2p.edit(pipe, CAT, DOG, steps=1, num_frames=2, progress=False)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (diffusers.QwenImagePipeline, "template"),
        (diffusers.Flux2Pipeline, "chat template"),
        (diffusers.ZImagePipeline, "unequal length"),
    ],
)
def test_pipelines_that_no_family_can_know_yet_are_refused_with_the_reason(kind, reason):
    parts = inspect.signature(kind.__init__).parameters
    pipe = kind(**{name: None for name in parts if name != "self"})
    with pytest.raises(p2p.AttentionControlError, match=f"{kind.__name__} cannot.*{reason}"):
        p2p.edit(pipe, CAT, DOG, steps=1, progress=False)
    with pytest.raises(p2p.P2PError, match=f"{kind.__name__}"):
        p2p.invert(pipe, Image.new("RGB", (64, 64)), CAT)


class Frames(AttnProcessor2_0):
    """Attention with a batch of its own inside, as for frames."""

    def __call__(self, attn, hidden_states, *args, **kwargs):
        twice = torch.cat([hidden_states] * 2)
        kwargs["encoder_hidden_states"] = torch.cat([kwargs["encoder_hidden_states"]] * 2)
        return super().__call__(attn, twice, *args, **kwargs)[: len(hidden_states)]


def test_batches_that_are_not_the_prompts_are_refused(random_pipe):
    pipe = tiny(random_pipe)
    for layer in layers(pipe):
        if layer.is_cross_attention:
            layer.set_processor(Frames())
    with pytest.raises(p2p.AttentionControlError, match="row by row"):
        p2p.edit(pipe, CAT, DOG, steps=1, progress=False)

    class Thrice(
        StableDiffusionPipeline
    ):  # as perturbed-attention guidance without guidance of the usual kind
        do_classifier_free_guidance = False

    other = Thrice(**pipe.components, requires_safety_checker=False)
    hook = other.unet.register_forward_pre_hook(lambda *args: None)
    hook.remove()
    family = UNet()
    assert family.prompts_first_row(other, 2, 2, 0) == 0
    with pytest.raises(p2p.AttentionControlError, match="4 rows for 2 prompts"):
        family.prompts_first_row(other, 4, 2, 0)


def test_every_call_of_the_kernel_has_four_dimensions(random_pipe):
    """Of a step in which both S and T act, too, or no fused kernel would take it."""
    seen = []

    class Look(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is F.scaled_dot_product_attention:
                seen.append({tensor.dim() for tensor in args[:3]})
            return func(*args, **(kwargs or {}))

    pipe = tiny(random_pipe)
    change = p2p.Replace(cross_steps={"default": 1.0, "dog": 0.5})
    with Look():
        p2p.edit(pipe, CAT, DOG, change, steps=2, progress=False)
    assert len(seen) > 16 + 4  # S and T: more calls than layers
    assert all(dims == {4} for dims in seen)


def test_an_adapters_attention_to_a_picture_is_left_alone(random_pipe):
    """It has other keys than the text's, in a second call within the same layer."""

    class WithPicture(AttnProcessor2_0):
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
            out = super().__call__(
                attn, hidden_states, encoder_hidden_states=encoder_hidden_states, **kwargs
            )
            if encoder_hidden_states is None:
                return out
            return out + super().__call__(
                attn, hidden_states, encoder_hidden_states=encoder_hidden_states[:, 3:7]
            )

    pipe = tiny(random_pipe)
    pipe.unet.set_attn_processor(WithPicture())
    full = p2p.Replace(cross_steps=1.0, self_steps=1.0, self_size=1.0)
    same = p2p.edit(pipe, CAT, CAT, full, steps=2, progress=False)
    np.testing.assert_allclose(
        np.asarray(same.image).astype(int), np.asarray(same.source).astype(int), atol=1
    )
    other = p2p.edit(pipe, CAT, DOG, full, steps=2, progress=False)
    assert (np.asarray(other.image) != np.asarray(other.source)).any()


def test_marks_hold_nothing_between_runs(random_pipe):
    pipe = tiny(random_pipe)
    p2p.edit(pipe, CAT, DOG, steps=1, progress=False)
    for layer in layers(pipe):
        mark = intercept.mark_of(layer)
        assert mark.forward is None and mark.terms is None and mark.step is None


SEGMENTS = {
    "cross (UNet)": ({"text": slice(0, 5)}, slice(0, 12), 12),
    "self (UNet)": ({"pixels": slice(0, 12)}, slice(0, 12), 12),
    "joint, pixels first (SD3)": (
        {"pixels": slice(0, 12), "text": slice(12, 17)},
        slice(0, 12),
        17,
    ),
    "joint, text first (Flux)": ({"text": slice(0, 5), "pixels": slice(5, 17)}, slice(5, 17), 17),
    "added keys (IF)": ({"text": slice(0, 5), "pixels": slice(5, 17)}, slice(0, 12), 12),
}


@pytest.mark.parametrize("kind", SEGMENTS)
@pytest.mark.parametrize("masked", [False, True])
def test_one_form_for_every_kind_of_attention(kind, masked):
    """Σ W sdpa(Q, K, S V) equals the maps written out, changed and multiplied, in double precision."""
    keys, pixels, queries = SEGMENTS[kind]
    torch.manual_seed(0)
    double = {"dtype": torch.float64}
    count = sum(where.stop - where.start for where in keys.values())
    query = torch.randn(3, 2, queries, 4, **double)
    key, value = (torch.randn(3, 2, count, 4, **double) for _ in range(2))
    s, t, w = (torch.rand(n, n, **double) for n in (5, 5, 12))
    text = "text" in keys
    places = Places(keys, pixels, keys["text"] if kind.startswith("joint") else None)
    terms = {
        2: [
            Term(1, {"text": s, "pixels": None if text else "same"}, w),
            Term(2, {"text": t, "pixels": "same"} if text else {"pixels": None}),
        ]
    }
    mask = torch.rand(3, 1, 1, count) > 0.3 if masked else None
    if masked:
        mask[..., 0] = True
    out = attend(query, key, value, terms, places, mask)

    scores = query @ key.transpose(-1, -2) / 2
    maps = (scores if mask is None else scores.masked_fill(~mask, float("-inf"))).softmax(-1)
    expected = maps @ value
    edited = torch.zeros_like(maps[2][:, pixels])
    if text:
        where = keys["text"]
        edited[..., where] = w @ maps[1][:, pixels, where] @ s + maps[2][:, pixels, where] @ t
        if "pixels" in keys:
            edited[..., keys["pixels"]] = maps[2][:, pixels, keys["pixels"]]
    else:
        edited = w @ maps[1]
    expected[2][:, pixels] = edited @ value[2]
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    if masked:
        mine = attention_maps(query, key, mask)
        torch.testing.assert_close(mine.double(), maps, rtol=1e-4, atol=1e-5)
    own = {row: maps[row][:, pixels] for row in range(3)}
    torch.testing.assert_close(edited_map(own, terms[2], places), edited, rtol=1e-6, atol=1e-6)
    if text:
        # More than a head is wide: each token, and two and all of them together
        groups = torch.tensor(
            [
                [0, 0, 0, 0, 1, 1, 1],
                [1, 0, 0, 0, 0, 0, 1],
                [0, 0, 1, 0, 0, 0, 1],
                [0, 1, 0, 0, 0, 1, 1],
                [0, 0, 0, 1, 0, 0, 1],
            ]
        )
        for given, wanted in ((terms, edited), ({}, maps[2][:, pixels])):
            found = columns(query, key, given, places, groups.to(key.dtype), mask)[2]
            torch.testing.assert_close(found, wanted[..., keys["text"]] @ groups.to(key.dtype))


def test_a_pipelines_copy_may_be_edited_beside_it(random_pipe):
    pipe = tiny(random_pipe)
    other = copy.deepcopy(pipe)
    a, b = (p2p.edit(one, CAT, DOG, steps=1, progress=False) for one in (pipe, other))
    np.testing.assert_array_equal(np.asarray(a.image), np.asarray(b.image))


@pytest.mark.parametrize(
    ("size", "pixels", "injected"),
    [((10, 10), 9, True), ((10, 10), 10, False), ((10, 20), 15, True), ((20, 10), 16, False)],
)
def test_the_share_of_the_latents_side_is_rounded_up(size, pixels, injected):
    """A quarter of 10 is 3, as a UNet's own layers have 3 × 3 pixels there; of 20 it is 5."""
    wish = Wish(None, 0.25)

    class Grid(Layer):
        def grid(self, height, width):
            return 1, pixels

    layer = Grid("mid_block.attn1", "self", "mid", 2, 1)
    assert halved(10, 10, 2) == (3, 3)
    assert (wish.terms(layer, size, 0, 1) is not None) == injected
