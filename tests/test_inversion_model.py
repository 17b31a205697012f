"""Which model an inversion belongs to: all that changes a picture counts, and nothing else."""

import contextlib
import copy

import accelerate
import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.inversion import samplers
from p2p_helpers.inversion.fingerprint import differences, fingerprint

from .pipelines import DDIM, NOISE, build

PROMPT, TARGET = "a cat on the beach", "a dog on the beach"
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
RUN = {"steps": 2, "inner_steps": 1, "guidance_scale": 4.0, "progress": False}


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    pipe = build("sd1", tmp_path_factory.mktemp("tokenizer"))
    pipe.scheduler = DDIMScheduler(**DDIM)
    return pipe


@pytest.fixture(scope="module")
def made(pipe):
    return {m: p2p.invert(pipe, PICTURE, PROMPT, method=m, **RUN) for m in p2p.inversion.METHODS}


@pytest.fixture
def twin(pipe):
    """A copy that a test may change."""
    return copy.deepcopy(pipe)


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
        for method in ("direct", "null-text", "exact"):
            result = p2p.edit(pipe, made[method], TARGET, progress=False)
            np.testing.assert_array_equal(np.asarray(result.image), np.asarray(edited[method]))
        assert pipe.scheduler is there


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


def test_the_sampler_is_as_the_scheduler_says_also_where_it_says_nothing():
    """diffusers lets another class's defaults in for values that the first left out."""
    betas = np.linspace(1e-4, 2e-2, 1000, dtype=np.float32)
    for usual in (
        DDIMScheduler(**NOISE),
        PNDMScheduler(**NOISE),
        PNDMScheduler(trained_betas=betas, steps_offset=1),
    ):
        holder = type("Pipe", (), {"scheduler": usual})()
        with samplers._scheduler(holder, DDIMScheduler.from_config) as made:
            assert made.config.set_alpha_to_one == usual.config.set_alpha_to_one
            assert not made.config.clip_sample
            torch.testing.assert_close(made.betas, usual.betas)
            assert made.config.steps_offset == 1
        assert holder.scheduler is usual


def of(pipe, **parts):
    """A pipeline with other parts."""
    return StableDiffusionPipeline(**{**pipe.components, **parts}, requires_safety_checker=False)


def offloaded(part):
    away = copy.deepcopy(part)
    accelerate.cpu_offload(away, execution_device=torch.device("cpu"))
    return away


def compiled(part):
    return torch.compile(part, backend="eager")


def half(dtype):
    return lambda twin: twin.to(dtype)


def in_channels_last(twin):
    twin.unet.to(memory_format=torch.channels_last)


def taught_another_word(twin):
    twin.load_textual_inversion({"<toy>": torch.ones(2, 32)}, token="<toy>")


def sliced(twin):
    twin.enable_attention_slicing()
    twin.vae.enable_slicing()


def freeu_and_back(twin):
    twin.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    twin.disable_freeu()


SAME = {
    "float16": half(torch.float16),
    "bfloat16": half(torch.bfloat16),
    "float64": half(torch.float64),
    "compiled": lambda twin: of(twin, **{k: compiled(getattr(twin, k)) for k in PARTS[:2]}),
    "offloaded": lambda twin: of(twin, **{k: offloaded(getattr(twin, k)) for k in PARTS}),
    "channels last": in_channels_last,
    "fused projections": lambda twin: twin.fuse_qkv_projections(),
    "slices": sliced,
    "another word": taught_another_word,
    "FreeU and back": freeu_and_back,
    "a scheduler": lambda twin: setattr(twin, "scheduler", diffusers.EDMEulerScheduler()),
    "a guidance": lambda twin: twin.tokenizer.init_kwargs.update(guidance_scale=3),
}
PARTS = ("unet", "text_encoder", "vae")  # diffusers takes no compiled autoencoder


@pytest.mark.parametrize("name", SAME)
def test_how_a_model_is_kept_is_not_another_model(made, twin, name):
    changed = SAME[name](twin)
    made["direct"].check(changed if isinstance(changed, StableDiffusionPipeline) else twin)


def test_from_half_precision_back(twin):
    then = fingerprint(copy.deepcopy(twin).to(torch.float16), PROMPT)
    assert not differences(then, fingerprint(twin, PROMPT))


def scaled(module, by=1.5):
    with torch.no_grad():
        next(module.parameters()).mul_(by)


def taught_the_prompts_word(twin):
    """One row of the table is another: of 64 values that are looked at, perhaps none."""
    (token,) = twin.tokenizer("cat", add_special_tokens=False)["input_ids"]
    twin.text_encoder.get_input_embeddings().weight.data[token] += 0.01


OTHER = {
    "UNet": (lambda twin: scaled(twin.unet), "weights: "),
    "autoencoder": (lambda twin: scaled(twin.vae), "weights: "),
    "text encoder": (lambda twin: scaled(twin.text_encoder.encoder.layers), "text encoders: "),
    "the prompt's word": (taught_the_prompts_word, "prompt tokens: "),
    "FreeU": (lambda twin: twin.enable_freeu(0.9, 0.2, 1.2, 1.4), r"FreeU: off then, \[0.9"),
    "scaling": (lambda twin: twin.vae.register_to_config(scaling_factor=0.5), "settings: "),
    "latents": (lambda twin: twin.vae.register_to_config(latents_mean=[0] * 4), "settings: "),
}


@pytest.mark.parametrize("name", OTHER)
def test_what_changes_a_picture_is_another_model(made, twin, name):
    change, says = OTHER[name]
    change(twin)
    with pytest.raises(p2p.InversionError, match="(?s)another model.*" + says):
        p2p.edit(twin, made["direct"], TARGET, progress=False)


def test_the_second_text_encoder_counts_too(tmp_path):
    pipe = build("sdxl", tmp_path)
    then = fingerprint(pipe, PROMPT)
    assert not differences(then, fingerprint(pipe, PROMPT))
    scaled(pipe.text_encoder_2.text_model.encoder.layers)
    (other,) = differences(then, fingerprint(pipe, PROMPT))
    assert other.startswith("text encoders: ")


def adapted(part, name: str, seed: int):
    """A LoRA, as loading one leaves it."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    targets = ["to_q", "to_v"] if hasattr(part, "up_blocks") else ["q_proj", "v_proj"]
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    peft.inject_adapter_in_model(config, part, adapter_name=name)
    part.peft_config = {**getattr(part, "peft_config", {}), name: config}
    part._hf_peft_config_loaded = True


def test_an_adapter_counts_while_it_acts(made, twin):
    adapted(twin.unet, "style", 0)
    with pytest.raises(p2p.InversionError, match="adapters: none then, style at scale 4 now"):
        made["direct"].check(twin)
    twin.set_adapters(["style"], [0.0])
    made["direct"].check(twin)
    twin.set_adapters(["style"], [1.0])
    twin.disable_lora()
    made["direct"].check(twin)
    twin.enable_lora()
    twin.fuse_lora()  # now it is in the weights
    with pytest.raises(p2p.InversionError, match="weights: "):
        made["direct"].check(twin)
    twin.unfuse_lora()
    twin.unload_lora_weights()
    made["direct"].check(twin)


def test_an_inversion_under_adapters_wants_the_same_ones(twin, tmp_path):
    adapted(twin.unet, "style", 0)
    adapted(twin.unet, "other", 1)
    adapted(twin.text_encoder, "style", 2)
    twin.set_adapters(["style"], [0.5])
    p2p.invert(twin, PICTURE, PROMPT, method="direct", **RUN).save(tmp_path / "a")
    made = p2p.Inversion.load(tmp_path / "a")
    made.check(twin)
    made.check(copy.deepcopy(twin).to(torch.float16))
    for adapters, scales, says in [
        (["style"], [0.8], "style at scale 2 then, style at scale 3.2 now"),
        (["other"], [0.5], "style at scale 2 then, .*other at scale 2"),
        (["style", "other"], [0.5, 0.5], "style at scale 2 then, .*other at scale 2"),
    ]:
        twin.set_adapters(adapters, scales)
        with pytest.raises(p2p.InversionError, match="adapters: " + says):
            made.check(twin)
    twin.set_adapters(["style"], [0.5])
    made.check(twin)
    twin.unload_lora_weights()
    with pytest.raises(p2p.InversionError, match="style at scale 2 then, none now"):
        made.check(twin)
    adapted(twin.unet, "another name", 0)
    adapted(twin.text_encoder, "another name", 2)
    twin.set_adapters(["another name"], [0.5])
    made.check(twin)  # what it is called does not count


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
