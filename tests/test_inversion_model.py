"""Which model an inversion belongs to: all that changes a picture counts, and nothing else."""

import copy

import accelerate
import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.inversion.fingerprint import _encoder, differences, fingerprint
from p2p_helpers.inversion.pivot import encode
from p2p_helpers.inversion.weights import digests
from p2p_helpers.provenance import model_facts

from . import transformers
from .pipelines import DDIM, build

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
    return p2p.invert(pipe, PICTURE, PROMPT, method="direct", **RUN)


@pytest.fixture
def twin(pipe):
    """A copy that a test may change."""
    return copy.deepcopy(pipe)


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


def text_layers(encoder):
    """Its layers; transformers from 5 on has them one level higher in CLIPTextModel."""
    return getattr(encoder, "text_model", encoder).encoder.layers


PARTS = ("unet", "text_encoder", "vae")  # diffusers takes no compiled autoencoder


@pytest.mark.parametrize("name", SAME)
def test_how_a_model_is_kept_is_not_another_model(made, twin, name):
    changed = SAME[name](twin)
    made.check(changed if isinstance(changed, StableDiffusionPipeline) else twin)


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
    "text encoder": (lambda twin: scaled(text_layers(twin.text_encoder)), "text encoders: "),
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
        p2p.edit(twin, made, TARGET, progress=False)


def test_the_second_text_encoder_counts_too(tmp_path):
    pipe = build("sdxl", tmp_path)
    then = fingerprint(pipe, PROMPT)
    assert not differences(then, fingerprint(pipe, PROMPT))
    scaled(text_layers(pipe.text_encoder_2))
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
        made.check(twin)
    twin.set_adapters(["style"], [0.0])
    made.check(twin)
    twin.set_adapters(["style"], [1.0])
    twin.disable_lora()
    made.check(twin)
    twin.enable_lora()
    twin.fuse_lora()  # now it is in the weights
    with pytest.raises(p2p.InversionError, match="weights: "):
        made.check(twin)
    twin.unfuse_lora()
    twin.unload_lora_weights()
    made.check(twin)


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


def test_a_model_without_an_autoencoder_has_facts(tmp_path):
    """DeepFloyd IF works on pixels: its edits have a model's facts too, and no inversion is its own."""
    pipe = transformers.build("deepfloyd", tmp_path)
    found = fingerprint(pipe, PROMPT)
    assert (
        found["weights"]
        and found["text encoders"]
        and not differences(found, fingerprint(pipe, PROMPT))
    )
    assert model_facts(pipe)["model"] == found["model"]


def test_a_small_autoencoder_encodes(tmp_path):
    """TAESD gives the latent itself, and no distribution."""
    pipe = build("sd1", tmp_path)
    torch.manual_seed(0)
    channels = pipe.vae.config.latent_channels
    pipe.vae = diffusers.AutoencoderTiny(latent_channels=channels).eval()
    latent = encode(pipe, torch.zeros(1, 3, 64, 64))
    assert latent.shape == (1, channels, 8, 8) and latent.isfinite().all()


def test_the_names_of_another_transformers_are_the_same_model(twin):
    """CLIPTextModel's layers lie one level lower in transformers 4."""

    encoder, nested = twin.text_encoder, torch.nn.Module()
    flat = nested.text_model = getattr(encoder, "text_model", encoder)
    flat.get_input_embeddings = nested.get_input_embeddings = encoder.get_input_embeddings
    own, other = (_encoder(twin.tokenizer, one) for one in (flat, nested))
    assert digests(own.items()) == digests(other.items())


def test_a_result_goes_on_with_the_adapters_that_it_was_made_with(twin):
    run = {"steps": 1, "progress": False}
    plain = p2p.edit(twin, PROMPT, TARGET, **run)
    adapted(twin.unet, "style", 0)
    with pytest.raises(p2p.InputError, match="other weights .adapters: none then, style at scale"):
        p2p.edit(twin, plain, TARGET, progress=False)
    styled = p2p.edit(twin, PROMPT, TARGET, **run)
    p2p.edit(twin, styled, TARGET, progress=False)
    twin.unload_lora_weights()
    p2p.edit(twin, plain, TARGET, progress=False)
    twin.enable_freeu(0.9, 0.2, 1.2, 1.4)
    with pytest.raises(p2p.InputError, match="FreeU: off then"):
        p2p.edit(twin, plain, TARGET, progress=False)


def test_a_model_that_reads_guidance_as_a_number_is_inverted_directly(twin):
    config = {**twin.unet.config, "time_cond_proj_dim": 8, "_use_default_values": []}
    distilled = of(twin, unet=type(twin.unet).from_config(config).eval())
    assert p2p.invert(distilled, PICTURE, PROMPT, **RUN).method == "direct"
    for method in ("null-text", "negative-prompt"):
        with pytest.raises(p2p.InversionError, match="reads guidance as a number"):
            p2p.invert(distilled, PICTURE, PROMPT, method=method, **RUN)
    parts = {**distilled.components, "scheduler": diffusers.LCMScheduler()}
    fast = diffusers.LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)
    with pytest.raises(p2p.InversionError, match="takes steps of its own"):
        p2p.invert(fast, PICTURE, PROMPT, **RUN)


def test_an_inversion_is_no_start_for_a_pipeline_that_begins_with_a_picture(made, twin):
    other = diffusers.StableDiffusionImg2ImgPipeline(
        **twin.components, requires_safety_checker=False
    )
    with pytest.raises(p2p.InversionError, match="begins with a picture"):
        p2p.edit(other, made, TARGET, progress=False)
