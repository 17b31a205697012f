"""The two-matrix edit equals the paper's equations with every map written out, over whole runs and through every layer."""

import contextlib
import copy

import pytest
import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline

import p2p_helpers as p2p

from . import materialised
from .conftest import float64_texts

CAT, DOG, SNOWMAN = "a cat on the beach", "a dog on the beach", "a snowman on the beach"
BUTTERFLY = "a butterfly on the beach"  # three tokens, where a snowman has two and a cat one
NIGHT = "a watercolor painting of a cat on the beach at night"
COLD = 2e-4  # of the latent's standard deviation; rounding differs between processors
STEPS = 20


def latents_of(pipe, prompts, edits, *, steps, seed=0, guidance_scale=4.0, local_blend=None):
    """Final latents of `edit` in float64, (prompt, channel, height, width), and its result."""
    kept = []
    result = p2p.edit(
        pipe,
        prompts[0],
        prompts[1:],
        edits,
        seed=seed,
        steps=steps,
        guidance_scale=guidance_scale,
        local_blend=local_blend,
        callback=lambda pipe, step, timestep, tensors: (
            kept.append(tensors["latents"].double().clone()) or tensors
        ),
        progress=False,
    )
    return kept[-1], result


def apart(a, b):
    """The largest difference, in standard deviations of the second."""
    return ((a.double() - b.double()).abs().max() / b.double().std()).item()


WEIGHTS = {"beach": 3.0, "cat": -1}
PER_WORD = {"default": 0.8, "dog": (0.1, 0.5)}
CASES = {  # name → both prompts, our edit, the equation for its maps, the cross schedule
    "swap": (CAT, SNOWMAN, p2p.Replace(), lambda tok: materialised.swap(tok, CAT, SNOWMAN), 0.8),
    "swap, three tokens for two": (
        SNOWMAN,
        BUTTERFLY,
        p2p.Replace(),
        lambda tok: materialised.swap(tok, SNOWMAN, BUTTERFLY),
        0.8,
    ),
    "swap, one token for three": (
        BUTTERFLY,
        CAT,
        p2p.Replace(),
        lambda tok: materialised.swap(tok, BUTTERFLY, CAT),
        0.8,
    ),
    "swap, each word its schedule": (
        CAT,
        DOG,
        p2p.Replace(cross_steps=PER_WORD),
        lambda tok: materialised.swap(tok, CAT, DOG),
        PER_WORD,
    ),
    "refine": (CAT, NIGHT, p2p.Refine(), lambda tok: materialised.refine(tok, CAT, NIGHT), 0.8),
    "reweight": (
        CAT,
        CAT,
        p2p.Reweight(WEIGHTS),
        lambda tok: materialised.reweight(tok, CAT, WEIGHTS, lambda a_s, a_t: a_s),
        0.8,
    ),
    "swap and reweight": (
        CAT,
        SNOWMAN,
        p2p.Replace() | p2p.Reweight({"snowman": 2}),
        lambda tok: materialised.reweight(
            tok, SNOWMAN, {"snowman": 2}, materialised.swap(tok, CAT, SNOWMAN)
        ),
        0.8,
    ),
    "refine and reweight": (
        CAT,
        NIGHT,
        p2p.Refine() | p2p.Reweight({"night": -1, "cat": 2}),
        lambda tok: materialised.reweight(
            tok, NIGHT, {"night": -1, "cat": 2}, materialised.refine(tok, CAT, NIGHT)
        ),
        0.8,
    ),
}


def converted(pipe, dtype):
    """The same pipeline in other numbers."""
    other = StableDiffusionPipeline(
        **{k: copy.deepcopy(v) for k, v in pipe.components.items()}, requires_safety_checker=False
    ).to(dtype)
    other.set_progress_bar_config(disable=True)
    return other


@pytest.fixture(scope="module")
def double(toyland):
    return converted(toyland, torch.float64)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("numbers", "steps", "self_size", "pixels", "limit"),
    [
        pytest.param("double", 8, 0.25, 16, 1e-9, marks=float64_texts),
        ("toyland", STEPS, 1.0, 256, COLD),
    ],
)
def test_a_whole_run_equals_the_equations(request, name, numbers, steps, self_size, pixels, limit):
    """In float32 to 2e-4, after twenty steps that each amplify rounding; in float64 nothing is left to amplify."""
    pipe = request.getfixturevalue(numbers)
    source, target, change, equation, schedule = CASES[name]
    change = change | p2p.Reweight(
        {}, cross_steps=1.0, self_steps=0.4, self_size=self_size
    )  # the identity, with a self schedule
    ours, _ = latents_of(pipe, [source, target], change, steps=steps)
    alpha = materialised.schedule(pipe.tokenizer, target, steps, schedule)
    theirs, _ = materialised.run(
        pipe,
        [source, target],
        [(equation(pipe.tokenizer), alpha)],
        steps,
        int(0.4 * steps),
        self_pixels=pixels,
    )
    assert apart(ours, theirs) <= limit
    assert apart(ours[1:], ours[:1]) > 0.1  # it is an edit


@contextlib.contextmanager
def masked_text(pipe):
    """Every prompt's attention to the text ends somewhere else."""
    ends = (9, 9, 6, 8)  # negative prompts, then source and target

    def mask(module, args, kwargs):
        words = kwargs["encoder_hidden_states"]
        seen = torch.arange(words.shape[1]) < torch.tensor(ends)[:, None]
        return args, {**kwargs, "encoder_attention_mask": seen}

    hook = pipe.unet.register_forward_pre_hook(mask, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@float64_texts
@pytest.mark.parametrize("name", ["swap", "swap, each word its schedule", "refine and reweight"])
def test_attention_masks_travel_with_borrowed_queries(double, name):
    source, target, change, equation, schedule = CASES[name]
    alpha = materialised.schedule(double.tokenizer, target, 4, schedule)
    with masked_text(double):
        ours, _ = latents_of(double, [source, target], change, steps=4)
        edits = [(equation(double.tokenizer), alpha)]
        theirs, _ = materialised.run(
            double, [source, target], edits, 4, int(0.4 * 4), self_pixels=256
        )
    free, _ = latents_of(double, [source, target], change, steps=4)
    assert apart(ours, theirs) <= 1e-9
    assert apart(ours, free) > 1e-3  # the masks do something


@float64_texts
def test_pndm_equals_the_equations(double):
    """Its one turn more belongs to the last step."""
    before = double.scheduler
    double.scheduler = PNDMScheduler.from_config(before.config, skip_prk_steps=True)
    try:
        source, target, change, equation, schedule = CASES["swap"]
        ours, _ = latents_of(double, [source, target], change, steps=6)
        alpha = materialised.schedule(double.tokenizer, target, 6, schedule)
        edits = [(equation(double.tokenizer), torch.cat([alpha, alpha[-1:]]))]
        theirs, _ = materialised.run(
            double, [source, target], edits, 6, int(0.4 * 6), self_pixels=256
        )
    finally:
        double.scheduler = before
    assert apart(ours, theirs) <= 1e-9


def test_local_blend_equals_the_original(toyland):
    prompts = [CAT, DOG, SNOWMAN]
    swaps = [materialised.swap(toyland.tokenizer, CAT, p) for p in prompts[1:]]
    alpha = [materialised.schedule(toyland.tokenizer, p, STEPS, 0.8) for p in prompts[1:]]
    words = [
        p2p.find_words(toyland.tokenizer, p, w)
        for p, w in zip(prompts, ("cat", "dog", "snowman"), strict=True)
    ]
    theirs, run = materialised.run(
        toyland,
        prompts,
        list(zip(swaps, alpha, strict=True)),
        STEPS,
        int(0.4 * STEPS),
        self_pixels=256,
        blend=(words, 0.3, int(0.2 * STEPS)),
        map_pixels=256,
    )
    blend = p2p.LocalBlend(("cat", "dog", "snowman"))
    ours, result = latents_of(
        toyland, prompts, p2p.Replace(cross_steps=0.8), steps=STEPS, local_blend=blend
    )
    assert (result.masks == torch.stack(run.masks)).all()
    assert 0.05 < result.masks.float().mean() < 0.9
    assert apart(ours, theirs) <= COLD
    outside = ~result.masks[int(0.2 * STEPS) :].any(0)  # never allowed to change
    for target, where in zip(ours[1:], outside, strict=True):
        assert (target[:, where] == ours[0][:, where]).all()


def test_bfloat16_is_within_its_rounding(toyland):
    """The edited prompts are no further from their float32 pictures than the source, which nothing touches, is from its own."""
    half = converted(toyland, torch.bfloat16)
    prompts, edits = [CAT, SNOWMAN, NIGHT], [p2p.Replace(self_size=1.0), p2p.Refine(self_size=1.0)]
    exact, _ = latents_of(toyland, prompts, edits, steps=STEPS)
    rounded, _ = latents_of(half, prompts, edits, steps=STEPS)
    error = (rounded - exact).square().mean((1, 2, 3)).sqrt()
    assert (error[1:] < 2 * error[0]).all()
