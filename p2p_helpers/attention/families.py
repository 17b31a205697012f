"""Who is who in a model: the one place that reads names and shapes of layers, and the order of a batch's rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from diffusers.models.attention_processor import (
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from torch import Tensor, nn

from ..errors import AttentionControlError
from .terms import Places

CURE = (
    "Go back to diffusers' own attention with "
    "pipe.unet.set_attn_processor(diffusers.models.attention_processor.AttnProcessor2_0()), "
    "and unload adapters that bring theirs."
)
# These compute the same as AttnProcessor2_0 and differ only in how they save memory.
EQUIVALENT = (AttnProcessor, SlicedAttnProcessor, XFormersAttnProcessor)


@dataclass(frozen=True)
class Layer:
    """One attention layer of a model.

    Args:
        name: as in the model's `attn_processors`.
        kind: "cross" (pixels look at text), "self" (pixels look at pixels).
        part: of the UNet, "down", "mid" or "up".
        level: how often the latent's sides are halved where the layer works.
        heads: how many it has.
    """

    name: str
    kind: Literal["cross", "self"]
    part: Literal["down", "mid", "up"]
    level: int
    heads: int

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of its pixels, for a latent of this size."""
        return halved(height, width, self.level)

    @property
    def places(self) -> Places:
        """Where its text and pixels stand among queries and keys."""
        return Places({"text" if self.kind == "cross" else "pixels": slice(None)})


def halved(height: int, width: int, times: int) -> tuple[int, int]:
    """The sides after so many halvings, rounded up as a UNet does it."""
    for _ in range(times):
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def cross_levels(layers: Iterable[Layer]) -> list[int]:
    """How often the latent is halved where a UNet's down blocks have cross-attention."""
    return sorted(
        {layer.level for layer in layers if layer.kind == "cross" and layer.part == "down"}
    )


def map_level(height: int, width: int, levels: Sequence[int]) -> int:
    """How often the latent's sides are halved to give the attention map that makes a mask.

    Twice as in the paper, a quarter of the sides, as long as 16 cells remain: Stable Diffusion's 64×64 latents give 16×16,
    and so do the embedded model's 16×16, whose quarter would show no shapes. Where the UNet has no cross-attention there,
    its nearest level.
    """
    wanted = sum(min(height, width) >= 16 * 2**i for i in (1, 2))
    return min(levels, key=lambda level: (abs(level - wanted), level))


@runtime_checkable
class Family(Protocol):
    """What a session needs to know about one kind of model. A new kind is one entry of `FAMILIES`."""

    def knows(self, pipe) -> bool:
        """Whether a pipeline is of this family."""

    def model(self, pipe) -> nn.Module:
        """The denoising network, as the pipeline calls it: perhaps in torch.compile's wrapper."""

    def layers(self, model: nn.Module) -> dict[Layer, nn.Module]:
        """The attention layers that can be controlled, in the order of the model's parts."""

    def sample(self, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        """The latents in a call of the model, (row, channel, height, width)."""

    def prompts_first_row(self, pipe, rows: int, prompts: int) -> int:
        """Where the rows with prompts begin. Raises AttentionControlError if the batch is not the prompts."""

    def narrowed(self, args: tuple, kwargs: dict, keep: Tensor, rows: int) -> tuple[tuple, dict]:
        """A call of the model on some rows of the batch only."""

    def widened(self, output: Any, keep: Tensor, rows: int) -> Any:
        """Its result with all rows again; those that did not run are zeros."""


class UNet:
    """Stable Diffusion 1.x, 2.x, XL and their relatives: `UNet2DConditionModel` with self- and cross-attention."""

    # What has one row for each latent, beside the latents, in a call of the UNet.
    ROWS = (
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

    def layers(self, model: nn.Module) -> dict[Layer, nn.Module]:
        """Raises AttentionControlError for layers with keys of text and pixels in one (DeepFloyd IF)."""
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
            if module.added_kv_proj_dim is not None:
                raise AttentionControlError(
                    f"{name} attends to text and pixels in one softmax (added keys and values), which cannot be "
                    "controlled yet. Take a model with cross-attention: Stable Diffusion 1.x, 2.x, XL."
                )
            part = parents[0].partition("_")[0]
            level = deepest
            if part != "mid":
                level = int(parents[1]) if part == "down" else deepest - int(parents[1])
            kind = "cross" if module.is_cross_attention else "self"
            found[Layer(f"{name}.processor", kind, part, level, module.heads)] = module
        order = {"down": 0, "mid": 1, "up": 2}  # as the UNet runs them; its modules stand otherwise
        return dict(sorted(found.items(), key=lambda item: order[item[0].part]))

    def sample(self, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        return args[0] if args else kwargs["sample"]

    def prompts_first_row(self, pipe, rows: int, prompts: int) -> int:
        guided = getattr(pipe, "do_classifier_free_guidance", None)
        expected = [prompts, 2 * prompts] if guided is None else [(1 + bool(guided)) * prompts]
        if rows not in expected:
            raise AttentionControlError(
                f"The UNet got {rows} rows for {prompts} prompts. Run the controlled pipeline on exactly those prompts, "
                "with one picture for each, and with classifier-free guidance or none."
            )
        return rows - prompts

    def narrowed(self, args: tuple, kwargs: dict, keep: Tensor, rows: int) -> tuple[tuple, dict]:
        def chosen(value):
            if isinstance(value, Tensor):
                return value[keep] if value.dim() and len(value) == rows else value
            if isinstance(value, dict):
                return {key: chosen(one) for key, one in value.items()}
            return (
                type(value)(chosen(one) for one in value)
                if isinstance(value, (list, tuple))
                else value
            )

        changed = {name: chosen(kwargs[name]) for name in self.ROWS if name in kwargs}
        if not args:
            changed["sample"] = chosen(kwargs["sample"])
        # Positional arguments are the latents, the timestep and the text, in this order.
        return tuple(chosen(value) for value in args), {**kwargs, **changed}

    def widened(self, output, keep: Tensor, rows: int):
        def wide(noise: Tensor) -> Tensor:
            return noise.new_zeros(rows, *noise.shape[1:]).index_copy_(0, keep, noise)

        if isinstance(output, tuple):
            return (wide(output[0]), *output[1:])
        return type(output)(sample=wide(output.sample))


FAMILIES: tuple[Family, ...] = (UNet(),)


def family_of(pipe) -> Family:
    """The family of a pipeline's model. Raises AttentionControlError if no family knows it."""
    for family in FAMILIES:
        if family.knows(pipe):
            return family
    raise AttentionControlError(
        f"{type(pipe).__name__} has no UNet whose attention can be controlled. Prompt-to-Prompt needs a diffusers pipeline "
        "with a UNet and cross-attention: Stable Diffusion 1.x, 2.x, XL and their relatives, or the embedded model."
    )


def layers_of(pipe) -> list[Layer]:
    """The attention layers of a pipeline's model. Raises AttentionControlError as `family_of`."""
    family = family_of(pipe)
    return list(family.layers(bare(family.model(pipe))))


def bare(model: nn.Module) -> nn.Module:
    """The model itself, without torch.compile's wrapper."""
    return getattr(model, "_orig_mod", model)


def stand_in(module: nn.Module) -> AttnProcessor2_0 | None:
    """A processor that reaches the fused kernel, for a layer whose own one is equal to it in all but memory."""
    plain = type(getattr(module, "processor", None)) in EQUIVALENT
    return AttnProcessor2_0() if plain and module.scale_qk and module.norm_q is None else None
