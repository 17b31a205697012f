"""Transformers: text and pixels in one softmax (joint attention)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import ChromaTransformer2DModel, FluxTransformer2DModel, SD3Transformer2DModel
from torch import Tensor, nn

from ..errors import AttentionControlError
from ..prompts.several import Tokenizers, sized
from .layers import Layer, Segment
from .rows import narrowed


class Transformer:
    """What the transformers have in common. One text is read by a sequence of tokens, and by all blocks."""

    self_size = 1.0  # every block works on the same grid of pixels
    flow = True
    MODELS: tuple[type[nn.Module], ...] = ()
    ORDER: tuple[Segment, ...] = ()
    # What may have one row for each latent in a call of the model.
    ROWS = (
        "hidden_states",
        "encoder_hidden_states",
        "pooled_projections",
        "timestep",
        "guidance",
        "attention_mask",
    )

    def knows(self, pipe) -> bool:
        model = getattr(pipe, "transformer", None)
        calls_back = hasattr(type(pipe), "num_timesteps")
        return calls_back and isinstance(getattr(model, "_orig_mod", model), self.MODELS)

    def model(self, pipe) -> nn.Module:
        return pipe.transformer

    def layers(self, model: nn.Module) -> dict[Layer, nn.Module]:
        found = {}
        for name, module in model.named_modules():
            parent, _, last = name.rpartition(".")
            if "transformer_blocks." not in f"{parent}." or not hasattr(module, "set_processor"):
                continue
            joint = last != "attn2"  # SD3.5's second attention is the pixels' own
            kind, order = ("joint", self.ORDER) if joint else ("self", ())
            found[Layer(f"{name}.processor", kind, "block", 1, module.heads, order)] = module
        return found

    def sample(self, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        return kwargs["hidden_states"]

    def tokens(self, args: tuple, kwargs: Mapping[str, Any]) -> int:
        return kwargs["encoder_hidden_states"].shape[1]

    def narrowed(self, args: tuple, kwargs: dict, keep: Tensor, rows: int) -> tuple[tuple, dict]:
        return narrowed(args, kwargs, self.ROWS, keep, rows)


class StableDiffusion3(Transformer):
    """Stable Diffusion 3 and 3.5: pixels, then text; guidance in one batch, [negative, positive]."""

    MODELS = (SD3Transformer2DModel,)
    ORDER = ("pixels", "text")

    def tokenizer(self, pipe, arguments: Mapping[str, Any]) -> Tokenizers:
        """CLIP's tokens, whose two encoders stand side by side in width, then T5's, or zeros without T5."""
        longest = arguments.get("max_sequence_length", 256)
        t5 = pipe.tokenizer_3
        if t5 is None or pipe.text_encoder_3 is None:
            return Tokenizers((sized(pipe.tokenizer, pipe.tokenizer_max_length), int(longest)))
        return Tokenizers(
            (sized(pipe.tokenizer, pipe.tokenizer_max_length), sized(t5, int(longest)))
        )

    def size(self, args: tuple, kwargs: Mapping[str, Any]) -> tuple[int, int]:
        sample = kwargs["hidden_states"]
        return sample.shape[-2], sample.shape[-1]

    def prompts_first_row(self, pipe, rows: int, prompts: int, call: int) -> int | None:
        if call:  # skip-layer guidance calls again, without some layers, to steer away from what that gives
            return None
        if rows != (1 + bool(pipe.do_classifier_free_guidance)) * prompts:
            raise _other_rows(rows, prompts)
        return rows - prompts

    def unpacked(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        return latents

    def packed(self, pictures: Tensor) -> Tensor:
        return pictures


class Flux(Transformer):
    """Flux.1 and Chroma: text, then pixels, four latent pixels in one; true guidance is a second call, of the negative prompts."""

    MODELS = (FluxTransformer2DModel, ChromaTransformer2DModel)
    ORDER = ("text", "pixels")

    def tokenizer(self, pipe, arguments: Mapping[str, Any]):
        """T5's tokenizer; CLIP's sees the prompt as a whole only, without positions."""
        t5 = pipe.tokenizer if getattr(pipe, "tokenizer_2", None) is None else pipe.tokenizer_2
        return sized(t5, int(arguments.get("max_sequence_length", 512)))

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
            raise _other_rows(rows, prompts)
        return 0

    def unpacked(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        rows, columns = (side // 2 for side in size)
        squares = latents.unflatten(1, (rows, columns)).unflatten(-1, (-1, 2, 2))
        return squares.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)

    def packed(self, pictures: Tensor) -> Tensor:
        squares = pictures.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        return squares.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _other_rows(rows: int, prompts: int) -> AttentionControlError:
    return AttentionControlError(
        f"The transformer got {rows} rows for {prompts} prompts. Run the controlled pipeline on exactly those prompts, with "
        "one picture for each."
    )
