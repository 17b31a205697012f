"""Transformers: text and pixels in one softmax (joint attention), or in attentions of their own."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from diffusers import (
    ChromaTransformer2DModel,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
)
from torch import Tensor, nn

from ..errors import AttentionControlError
from ..prompts.several import Tokenizers, sized
from .family import Family, bare
from .layers import Kind, Layer, Segment
from .rows import other_rows


class Transformer(Family):
    """What the transformers have in common. One text is read by a sequence of tokens, and by all blocks."""

    flow = True
    MODELS: tuple[type[nn.Module], ...] = ()
    KINDS: Mapping[str, Kind] = {"attn": "joint"}  # of a block's attentions, by their names
    LEVEL = 1  # how often the latent's sides are halved: patches are two of its pixels wide
    ORDER: tuple[Segment, ...] = ()
    SAMPLE = "hidden_states"
    ROWS = (
        "hidden_states",
        "encoder_hidden_states",
        "pooled_projections",
        "timestep",
        "guidance",
        "attention_mask",
        "added_cond_kwargs",
        "joint_attention_kwargs",
        "encoder_attention_mask",
        "encoder_hidden_states_t5",
        "text_embedding_mask",
        "text_embedding_mask_t5",
        "image_meta_size",
        "style",
        "block_controlnet_hidden_states",
        "controlnet_block_samples",
        "controlnet_single_block_samples",
    )

    def knows(self, pipe) -> bool:
        model = getattr(pipe, "transformer", None)
        return model is not None and isinstance(bare(model), self.MODELS)

    def model(self, pipe) -> nn.Module:
        return pipe.transformer

    def self_size(self, pipe) -> float:
        return 1.0  # every block works on the same grid of pixels

    def clear(self, model: nn.Module) -> Collection[int]:
        """The numbers of the blocks whose maps show words best; none where that is not known."""
        return ()

    def layers(self, model: nn.Module) -> dict[Layer, nn.Module]:
        found = {}
        best = [f"transformer_blocks.{number}.attn" for number in self.clear(model)]
        for name, module in model.named_modules():
            parent, _, last = name.rpartition(".")
            if "blocks." not in f"{parent}." or not hasattr(module, "set_processor"):
                continue
            kind = self.KINDS.get(last)
            if kind is None:
                raise AttentionControlError(
                    f"{type(self).__name__} does not know the attention {name} of {type(model).__name__}: its KINDS are of "
                    f"{', '.join(self.KINDS)}. Say there what {last} is (docs/add_your_model.md)."
                )
            order = self.ORDER if kind == "joint" else ()
            clear = not best or name in best
            layer = Layer(
                f"{name}.processor", kind, "block", self.LEVEL, module.heads, order, clear
            )
            found[layer] = module
        return found


def longest(pipe, arguments: Mapping[str, Any]) -> int:
    """How many tokens of T5 a call of the pipeline fills: what it is given, or its default."""
    usual = inspect.signature(type(pipe).__call__).parameters["max_sequence_length"].default
    return int(arguments.get("max_sequence_length", usual))


class StableDiffusion3(Transformer):
    """Stable Diffusion 3 and 3.5: pixels, then text; guidance in one batch, [negative, positive]."""

    optimises_null = True
    MODELS = (SD3Transformer2DModel,)
    KINDS: Mapping[str, Kind] = {"attn": "joint", "attn2": "self"}  # 3.5 has both in some blocks
    ORDER = ("pixels", "text")
    # Blocks, and whether some have a self-attention too → the five with the clearest maps, for
    # Stable Diffusion 3 medium, 3.5 medium and 3.5 large (Shin et al. 2025, arXiv 2508.07519).
    CLEAR: Mapping[tuple[int, bool], Collection[int]] = {
        (24, False): (4, 5, 7, 8, 9),
        (24, True): (5, 7, 8, 9, 10),
        (38, False): (16, 18, 20, 21, 24),
    }

    def clear(self, model: nn.Module) -> Collection[int]:
        dual = bool(model.config.get("dual_attention_layers"))
        return self.CLEAR.get((len(model.transformer_blocks), dual), ())

    def tokenizer(self, pipe, arguments: Mapping[str, Any]) -> Tokenizers:
        """CLIP's tokens, whose two encoders stand side by side in width, then T5's, or zeros without T5."""
        clip, t5 = sized(pipe.tokenizer, pipe.tokenizer_max_length), pipe.tokenizer_3
        length = longest(pipe, arguments)
        if t5 is None or pipe.text_encoder_3 is None:
            return Tokenizers((clip, length))
        return Tokenizers((clip, sized(t5, length)))

    def prompts_first_row(self, pipe, rows: int, prompts: int, call: int) -> int | None:
        # Skip-layer guidance calls again, without some layers, to steer away from what that gives.
        return None if call else super().prompts_first_row(pipe, rows, prompts, call)


class PixArt(Transformer):
    """PixArt-α and -Σ: T5's text with a mask, in cross-attention; the pipeline does not call back after its steps."""

    flow = False
    MODELS = (PixArtTransformer2DModel,)
    KINDS: Mapping[str, Kind] = {"attn1": "self", "attn2": "cross"}

    def tokenizer(self, pipe, arguments: Mapping[str, Any]):
        return sized(pipe.tokenizer, longest(pipe, arguments))


class HunyuanDiT(Transformer):
    """HunyuanDiT: the tokens of BERT (Chinese and English), then T5's; a learned vector stands for padding."""

    flow = False
    MODELS = (HunyuanDiT2DModel,)
    KINDS: Mapping[str, Kind] = {"attn1": "self", "attn2": "cross"}

    def tokenizer(self, pipe, arguments: Mapping[str, Any]) -> Tokenizers:
        model = pipe.transformer.config
        return Tokenizers(
            (sized(pipe.tokenizer, model.text_len), sized(pipe.tokenizer_2, model.text_len_t5))
        )

    def tokens(self, args: tuple, kwargs: Mapping[str, Any]) -> int:
        return super().tokens(args, kwargs) + kwargs["encoder_hidden_states_t5"].shape[1]


class Flux(Transformer):
    """Flux.1 and Chroma: text, then pixels, four latent pixels in one; true guidance is a second call, of the negative prompts."""

    MODELS = (FluxTransformer2DModel, ChromaTransformer2DModel)
    ORDER = ("text", "pixels")
    CLEAR: Collection[int] = (11, 12, 14, 17, 18)  # of Flux.1's 19 (Shin et al. 2025)

    def clear(self, model: nn.Module) -> Collection[int]:
        blocks = len(model.transformer_blocks), len(model.single_transformer_blocks)
        is_flux = isinstance(model, FluxTransformer2DModel)  # Chroma's may be others
        return self.CLEAR if is_flux and blocks == (19, 38) else ()

    def tokenizer(self, pipe, arguments: Mapping[str, Any]):
        """T5's tokenizer; CLIP's sees the prompt as a whole only, without positions."""
        t5 = pipe.tokenizer if getattr(pipe, "tokenizer_2", None) is None else pipe.tokenizer_2
        return sized(t5, longest(pipe, arguments))

    def size(self, args: tuple, kwargs: Mapping[str, Any]) -> tuple[int, int]:
        """The latents are packed: only the pixels' numbers say how many rows and columns there are."""
        rows, columns = (int(side) + 1 for side in kwargs["img_ids"][:, 1:].amax(0).tolist())
        pixels = kwargs["hidden_states"].shape[1]
        if pixels != rows * columns:
            raise AttentionControlError(
                f"The model got {pixels} pixels for a picture of {rows}×{columns}: pipelines that show it other pictures "
                "beside its own, such as Flux Kontext, cannot be controlled."
            )
        return 2 * rows, 2 * columns

    def prompts_first_row(self, pipe, rows: int, prompts: int, call: int) -> int | None:
        if call:
            return None
        if rows != prompts:
            raise other_rows(rows, prompts)
        return 0

    def unpacked(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        rows, columns = (side // 2 for side in size)
        squares = latents.unflatten(1, (rows, columns)).unflatten(-1, (-1, 2, 2))
        return squares.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def packed(self, pictures: Tensor) -> Tensor:
        squares = pictures.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
