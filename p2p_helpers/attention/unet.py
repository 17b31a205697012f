"""UNets: self-attention and cross-attention in layers of their own, or added keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from torch import nn

from ..errors import AttentionControlError
from ..prompts.several import sized
from .family import Family
from .layers import Kind, Layer

# These compute the same as AttnProcessor2_0 and differ only in how they save memory.
EQUIVALENT = (AttnProcessor, SlicedAttnProcessor, XFormersAttnProcessor)


class UNet(Family):
    """Stable Diffusion 1.x, 2.x, XL and their relatives: `UNet2DConditionModel` with self- and cross-attention."""

    optimises_null = True
    SAMPLE = "sample"
    ROWS = (
        "sample",
        "encoder_hidden_states",
        "class_labels",
        "timestep_cond",
        "attention_mask",
        "added_cond_kwargs",
        "down_block_additional_residuals",
        "mid_block_additional_residual",
        "down_intrablock_additional_residuals",
        "encoder_attention_mask",
    )

    def knows(self, pipe) -> bool:
        return hasattr(type(pipe), "num_timesteps") and bool(
            getattr(getattr(pipe, "unet", None), "attn_processors", None)
        )

    def model(self, pipe) -> nn.Module:
        return pipe.unet

    def tokenizer(self, pipe, arguments: Mapping[str, Any]):
        # SDXL's refiner has only a second one.
        return getattr(pipe, "tokenizer", None) or getattr(pipe, "tokenizer_2", None)

    def self_size(self, pipe) -> float:
        """A quarter of the latent's side, the paper's 16×16 of 64×64; of smaller latents up to 16×16, too."""
        side = pipe.unet.config.sample_size
        return max(0.25, min(16 / (side if isinstance(side, int) else max(side)), 1.0))

    def layers(self, model: nn.Module) -> dict[Layer, nn.Module]:
        deepest = len(model.config.down_block_types) - 1
        found = {}
        for name, module in model.named_modules():
            *parents, last = name.split(".")
            if not hasattr(module, "set_processor") or parents[:1] not in (
                ["down_blocks"],
                ["mid_block"],
                ["up_blocks"],
            ):
                continue
            # GLIGEN's fusers and AnimateDiff's motion modules look at other things than this picture and its text.
            if "fuser" in parents or "motion_modules" in parents:
                continue
            if last not in ("attn1", "attn2") and parents[-1] != "attentions":
                continue
            part = parents[0].partition("_")[0]
            level = deepest
            if part != "mid":
                level = int(parents[1]) if part == "down" else deepest - int(parents[1])
            kind = self.kind(name, module)
            order = ("text", "pixels") if kind == "added" else ()
            found[Layer(f"{name}.processor", kind, part, level, module.heads, order)] = module
        order = {"down": 0, "mid": 1, "up": 2}  # as the UNet runs them; its modules stand otherwise
        return dict(sorted(found.items(), key=lambda item: order[item[0].part]))

    def kind(self, name: str, module: nn.Module) -> Kind:
        """Raises AttentionControlError for added keys and values, which hold pictures in such pipelines (Kandinsky)."""
        if module.added_kv_proj_dim is not None:
            raise AttentionControlError(
                f"{name} attends to pixels and to what the pipeline adds, in one softmax (added keys and values), which can be "
                "controlled in DeepFloyd IF only. Take a model with cross-attention: Stable Diffusion 1.x, 2.x, XL."
            )
        return "cross" if module.is_cross_attention else "self"

    def size(self, args: tuple, kwargs: Mapping[str, Any]) -> tuple[int, int]:
        sample = self.sample(args, kwargs)
        if sample.dim() != 4:
            raise AttentionControlError(
                f"The model got latents {tuple(sample.shape)}; one picture for each prompt has (row, channel, height, "
                "width). Pipelines that make videos, such as AnimateDiff, cannot be controlled."
            )
        return super().size(args, kwargs)

    def tokens(self, args: tuple, kwargs: Mapping[str, Any]) -> int:
        # Positional arguments are the latents, the timestep and the text, in this order.
        return args[2].shape[1] if len(args) > 2 else super().tokens(args, kwargs)


class DeepFloydIF(UNet):
    """DeepFloyd IF, the stage that makes 64 pixels from a text: added keys and values, and pixels in the latents' place."""

    def knows(self, pipe) -> bool:
        from diffusers import IFPipeline

        return isinstance(pipe, IFPipeline)

    def tokenizer(self, pipe, arguments: Mapping[str, Any]):
        return sized(pipe.tokenizer, 77)  # as encode_prompt has it

    def kind(self, name: str, module: nn.Module) -> Kind:
        if module.added_kv_proj_dim is None:
            return super().kind(name, module)
        return "cross" if module.only_cross_attention else "added"


def stand_in(module: nn.Module) -> AttnProcessor2_0 | None:
    """A processor that reaches the fused kernel, for a layer whose own one is equal to it in all but memory."""
    plain = type(getattr(module, "processor", None)) in EQUIVALENT
    return AttnProcessor2_0() if plain and module.scale_qk and module.norm_q is None else None
