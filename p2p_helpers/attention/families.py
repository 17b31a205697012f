"""The models whose attention can be controlled: what a session needs to know of each kind, and who belongs to which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from ..errors import AttentionControlError
from .layers import Layer
from .transformers import Flux, HunyuanDiT, PixArt, StableDiffusion3
from .unet import DeepFloydIF, UNet


@runtime_checkable
class Family(Protocol):
    """What a session needs to know about one kind of model. A new kind is one entry of `FAMILIES`."""

    flow: bool  # whether the model predicts a flow's velocity (flow matching)
    # Whether null-text inversion can optimise the empty text: it has rows before the prompts' in one call, and no mask of its own.
    optimises_null: bool

    def knows(self, pipe) -> bool:
        """Whether a pipeline is of this family."""

    def model(self, pipe) -> nn.Module:
        """The denoising network, as the pipeline calls it: perhaps in torch.compile's wrapper."""

    def tokenizer(self, pipe, arguments: Mapping[str, Any]) -> Any:
        """The tokenizer of the text that the model reads, or the `Tokenizers`, for a call with these arguments."""

    def self_size(self, pipe) -> float:
        """The largest self-attention map to inject if an edit does not say, as a share of the latent's side."""

    def layers(self, model: nn.Module) -> dict[Layer, nn.Module]:
        """The attention layers that can be controlled, in the order in which the model runs them."""

    def sample(self, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        """The latents in a call of the model, one row for each of the batch."""

    def size(self, args: tuple, kwargs: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width of the latents in a call. Raises AttentionControlError if it is not one picture for each row."""

    def tokens(self, args: tuple, kwargs: Mapping[str, Any]) -> int:
        """How many tokens of text a call has."""

    def prompts_first_row(self, pipe, rows: int, prompts: int, call: int) -> int | None:
        """Where the rows with prompts begin, or None if a call has none, such as a second one of a step, from 0.

        Raises AttentionControlError if the batch is not the prompts.
        """

    def unpacked(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """The latents as pictures: (row, channel, height, width)."""

    def packed(self, pictures: Tensor) -> Tensor:
        """The way back."""

    def narrowed(self, args: tuple, kwargs: dict, keep: Tensor, rows: int) -> tuple[tuple, dict]:
        """A call of the model on some rows of the batch only."""


FAMILIES: tuple[Family, ...] = (
    UNet(),
    StableDiffusion3(),
    Flux(),
    PixArt(),
    HunyuanDiT(),
    DeepFloydIF(),
)


ELSEWHERE = "words stand at other positions than the tokenizer says"
UNKNOWN = {  # beginnings of pipelines' names → what a family of theirs would have to do
    "QwenImage": f"puts the prompt into a template and drops the template's tokens, so {ELSEWHERE}",
    "Flux2": f"puts the prompt into a chat template, so {ELSEWHERE}",
    "ZImage": "puts the prompt into a chat template, and its attention has prompts of unequal length",
}


def family_of(pipe) -> Family:
    """The family of a pipeline's model. Raises AttentionControlError if no family knows it."""
    for family in FAMILIES:
        if family.knows(pipe):
            return family
    name = type(pipe).__name__
    for beginning, reason in UNKNOWN.items():
        if name.startswith(beginning):
            raise AttentionControlError(
                f"{name} cannot be edited yet: it {reason}. docs/add_your_model.md says what a new family needs."
            )
    raise AttentionControlError(
        f"{name} has no model whose attention can be controlled. Prompt-to-Prompt needs a diffusers pipeline "
        "that makes one picture from a text: Stable Diffusion 1.x, 2.x, XL and their relatives, Stable Diffusion 3 and 3.5, "
        "Flux.1, Chroma, PixArt, HunyuanDiT, the first stage of DeepFloyd IF, or the embedded model."
    )


def layers_of(pipe) -> list[Layer]:
    """The attention layers of a pipeline's model. Raises AttentionControlError as `family_of`."""
    family = family_of(pipe)
    return list(family.layers(bare(family.model(pipe))))


def bare(model: nn.Module) -> nn.Module:
    """The model itself, without torch.compile's wrapper."""
    return getattr(model, "_orig_mod", model)
