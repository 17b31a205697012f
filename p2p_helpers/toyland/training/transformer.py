"""Stage 4: the same world for a transformer with joint attention (MMDiT), trained by rectified flow on the same latents."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from ...paths import data_folder
from ..tokenizer import MAX_TOKENS
from .captions import mixed
from .data import latents, truths
from .diffusion import Batches, new_tokenizer, save, save_samples, text_config, trained_vae
from .fit import fast_dtype, fit, generators

PARTS = ("transformer", "text_encoder", "text_encoder_2")


def new_transformer(
    config: dict, tokenizer: CLIPTokenizer, vae: AutoencoderKL
) -> StableDiffusion3Pipeline:
    """The pipeline that training.json describes, with random weights: Stable Diffusion 3 without its T5.

    Every block begins as the identity, since what scales its output begins at zero (Peebles & Xie 2023, "adaLN-Zero").
    """
    settings = config["transformer"]
    vae.register_to_config(shift_factor=0.0)
    encoders = {
        name: CLIPTextModelWithProjection(text_config(settings[name], tokenizer))
        for name in ("text_encoder", "text_encoder_2")
    }
    model = SD3Transformer2DModel(**settings["transformer"])
    for block in model.transformer_blocks:
        for linear in (block.norm1.linear, block.norm1_context.linear):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
    for linear in (model.norm_out.linear, model.proj_out):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return StableDiffusion3Pipeline(
        transformer=model,
        scheduler=FlowMatchEulerDiscreteScheduler(**settings["scheduler"]),
        vae=vae,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=None,
        text_encoder_3=None,
        **encoders,
    )


def start_words(pipe: StableDiffusion3Pipeline, folder: str | Path):
    """Begin the first text encoder with the layers of a UNet's text encoder, which knows the same words."""
    old = load_file(Path(folder) / "text_encoder" / "model.safetensors")
    ours = pipe.text_encoder.state_dict()
    known = {k: v for k, v in old.items() if "final_layer_norm" not in k}
    pipe.text_encoder.load_state_dict(ours | known)


def read(encoders: tuple[nn.Module, nn.Module], tokens: Tensor) -> tuple[Tensor, Tensor]:
    """What the pipeline gives the transformer for a prompt: hidden states (prompt, token, width) and (prompt, width)."""
    states, whole = [], []
    for encoder in encoders:
        got = encoder(tokens, output_hidden_states=True)
        states.append(got.hidden_states[-2])
        whole.append(got.text_embeds)
    return torch.cat(states, -1), torch.cat(whole, -1)


class OneForMany(TorchFunctionMode):
    """Joint attention whose last token of text counts as often as the empty tokens that it stands for.

    In place of T5's text the pipeline of Stable Diffusion 3 has 256 zero tokens. They have no positions, so they stay equal
    in every layer, and one key with log 256 added to its scores does exactly what 256 equal keys do.
    """

    def __init__(self, tokens: int, copies: int):
        super().__init__()
        bias = torch.zeros(tokens)
        bias[-1] = np.log(copies)
        self.bias = bias

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function is scaled_dot_product_attention:
            query, key = args[:2]
            if key.shape[-2] == len(self.bias):  # not the text encoders' own
                kwargs["attn_mask"] = self.bias.to(query).expand(1, 1, query.shape[-2], -1)
        return function(*args, **kwargs)


def sigmas(rng: np.random.Generator, count: int, shift: float) -> Tensor:
    """Shares of noise, (picture,): logit-normal (Esser et al. 2024, arXiv 2403.03206), shifted as the scheduler does it.

    One draw in each of as many equal intervals as there are pictures has less variance than independent draws.
    """
    even = torch.from_numpy((np.arange(count) + rng.random(count)) / count)
    sigma = torch.sigmoid(torch.special.ndtri(even.clamp(1e-4, 1 - 1e-4)))
    return (shift * sigma / (1 + (shift - 1) * sigma)).float()


def transformer(config: dict, out: Path, device: str):
    """Train the transformer and its two text encoders; write the whole pipeline, in float16, to `transformer-pipeline/`."""
    settings = config["transformer"]
    vae = trained_vae(config, out, device)
    tokenizer = new_tokenizer(config, out)
    holds = truths("train", config["scenes"], out)["objects"] > 0
    codes = latents(vae, "train", config["scenes"], out, device)
    batches = Batches(settings, codes, holds, tokenizer)
    torch.manual_seed(settings["seed"])
    pipe = new_transformer(config, tokenizer, vae)
    start_words(pipe, data_folder("toyland") / "pipeline")
    model = nn.ModuleDict({name: getattr(pipe, name) for name in PARTS})
    model.to(device).train().requires_grad_(True)
    dtype = fast_dtype(device)
    side = settings["transformer"]["sample_size"] // settings["transformer"]["patch_size"]
    one = OneForMany(side * side + MAX_TOKENS + 1, settings["empty_tokens"])

    def loss_at(step: int, worker: int) -> Tensor:
        rng, noise_rng = generators(settings, step, worker)
        choice = batches.choose(rng)
        rows, others, lenders, keeps = (x.to(device) for x in batches.words(choice, rng))
        autocast = torch.autocast(
            device.split(":")[0], dtype or torch.bfloat16, enabled=dtype is not None
        )
        with autocast:
            encoded, whole = read(
                (model["text_encoder"], model["text_encoder_2"]), torch.cat([rows, others])
            )
        own, lent = encoded.float().chunk(2)
        text = nn.functional.pad(mixed(own, lent, lenders, keeps), (0, 0, 0, 1))
        clean, held = batches.codes[choice].float().to(device), batches.holds[choice].to(device)
        noise = torch.randn(clean.shape, generator=noise_rng).to(device)
        sigma = sigmas(rng, len(choice), settings["scheduler"]["shift"]).to(device)
        share = sigma[:, None, None, None]
        with autocast, one:
            guess = model["transformer"](
                hidden_states=(1 - share) * clean + share * noise,
                timestep=1000 * sigma,
                encoder_hidden_states=text,
                pooled_projections=whole[: len(choice)],
            ).sample
        error = (guess.float() - (noise - clean)).square().mean(1)  # (picture, row, column)
        stress = 1 + settings["object_weight"] * held * (1 - share[:, 0])
        return (stress * error).mean()

    def assemble(average: nn.ModuleDict) -> StableDiffusion3Pipeline:
        return StableDiffusion3Pipeline(**{**pipe.components, **average})

    def sample(average: nn.ModuleDict, path: Path):
        save_samples(assemble(average), config["diffusion"]["guidance_scale"], path)

    average = fit(model, loss_at, sample, settings, out / "transformer", device)
    save(assemble(copy.deepcopy(average)), out / "transformer-pipeline")
