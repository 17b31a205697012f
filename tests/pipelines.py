"""Small pipelines with random weights and the topology of the real ones: their published configurations, only narrower."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from p2p_helpers.toyland.tokenizer import write_tokenizer

NOISE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
DDIM = {**NOISE, "clip_sample": False, "set_alpha_to_one": False}
CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
SD = {
    "down_block_types": (CROSS_DOWN, CROSS_DOWN, CROSS_DOWN, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", CROSS_UP, CROSS_UP, CROSS_UP),
    "layers_per_block": 2,
    "block_out_channels": (320, 640, 1280, 1280),
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
UNETS = {  # as published; `shrink` makes them narrower
    "sd1": SD,
    "sd2": {
        **SD,
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "sample_size": 96,
    },
    "sdxl": {
        "down_block_types": ("DownBlock2D", CROSS_DOWN, CROSS_DOWN),
        "up_block_types": (CROSS_UP, CROSS_UP, "UpBlock2D"),
        "layers_per_block": 2,
        "block_out_channels": (320, 640, 1280),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
        "sample_size": 128,
    },
}


def shrink(kind: str) -> dict:
    """A UNet configuration with the same blocks and layers, 16×16 latents and a twentieth of the width."""
    wide = UNETS[kind]
    narrow = {
        "block_out_channels": tuple(c // 20 for c in wide["block_out_channels"]),
        "norm_num_groups": 8,
        "sample_size": 16,
    }
    heads = {"sd1": 4, "sd2": (2, 4, 8, 8), "sdxl": (2, 4, 8)}[kind]
    if kind == "sdxl":
        narrow |= {
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 24,
        }
    return {
        **wide,
        **narrow,
        "attention_head_dim": heads,
        "cross_attention_dim": 56 if kind == "sdxl" else 32,
    }


def _text_encoder(tokenizer, width: int, kind=CLIPTextModel, **extra):
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "vocab_size": len(tokenizer),
    }
    config = CLIPTextConfig(
        **ids,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        **extra,
    )
    return kind(config)


def build(kind: str, folder: Path, small: bool = True, dtype: torch.dtype = torch.float32):
    """A pipeline of one kind with random weights: "sd1" (PNDM, ε), "sd2" (DDIM, v-prediction) or "sdxl" (Euler, two text encoders).

    Not small, its UNet is the published one; text encoders and VAE have few layers all the same. The tokenizer goes to `folder`.
    """
    torch.manual_seed(0)
    write_tokenizer(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    levels = ("DownEncoderBlock2D",) * 4, ("UpDecoderBlock2D",) * 4
    usual = torch.get_default_dtype()
    torch.set_default_dtype(
        dtype
    )  # weights are made as they will be used: twice the size would not fit everywhere
    try:
        vae = AutoencoderKL(
            3,
            3,
            *levels,
            block_out_channels=(8, 8, 16, 16),
            norm_num_groups=4,
            sample_size=128,
            force_upcast=False,
        )
        unet = UNet2DConditionModel(**(shrink(kind) if small else UNETS[kind]))
        parts = {"vae": vae, "unet": unet, "tokenizer": tokenizer}
        if kind == "sdxl":
            first, second = (32, 24) if small else (768, 1280)
            return StableDiffusionXLPipeline(
                **parts,
                text_encoder=_text_encoder(tokenizer, first),
                text_encoder_2=_text_encoder(
                    tokenizer, second, CLIPTextModelWithProjection, projection_dim=second
                ),
                tokenizer_2=CLIPTokenizer.from_pretrained(
                    folder, model_max_length=77, pad_token="!"
                ),
                scheduler=EulerDiscreteScheduler(**NOISE),
                add_watermarker=False,
            ).to(dtype)
        return StableDiffusionPipeline(
            **parts,
            text_encoder=_text_encoder(tokenizer, unet.config.cross_attention_dim),
            scheduler=PNDMScheduler(**NOISE, skip_prk_steps=True)
            if kind == "sd1"
            else DDIMScheduler(**DDIM, prediction_type="v_prediction"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).to(dtype)
    finally:
        torch.set_default_dtype(usual)
