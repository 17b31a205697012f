"""The models whose attention can be controlled, and which pipeline belongs to which family."""

from __future__ import annotations

from ..errors import AttentionControlError
from .family import Family, bare
from .layers import Layer
from .transformers import Flux, HunyuanDiT, PixArt, StableDiffusion3
from .unet import DeepFloydIF, UNet

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
