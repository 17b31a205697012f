"""Who looks at attention maps: observers. They are told the geometry of a run; they do not guess it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .layers import Layer


@dataclass(frozen=True)
class Geometry:
    """What a run looks like, known at its first step."""

    layers: Sequence[Layer]
    size: tuple[int, int]  # of the latent, height and width
    prompts: int  # the source and the targets
    tokens: int  # of a prompt, with start, end and padding
    steps: int  # how often the pipeline calls back
    device: torch.device


@runtime_checkable
class Observer(Protocol):
    """Something that wants to see the attention maps of some layers. One per run."""

    before: bool  # whether it wants the targets' own maps, before the edit
    # Which columns of text it wants, each the sum of the tokens that have a 1 in it; on the device. None for every token's.
    # Joint attention has hundreds of tokens, and a word has few.
    columns: Float[Tensor, "token column"] | None

    def begin(self, geometry: Geometry):
        """Called once, before the first step. What is kept on the device is made here."""

    def watches(self, layer: Layer, step: int) -> bool:
        """Whether it wants this layer's maps in a step, from 0."""

    def see(
        self,
        layer: Layer,
        maps: Float[Tensor, "prompt head pixel key"],
        step: Int[Tensor, " 1"],
    ):
        """Takes one layer's maps, in float32, source first; where pixels look at text, the columns that it asked for.

        This runs inside the model, compiled with it: only arithmetic on tensors of the device, no copy to the CPU. So the
        step is a tensor, too.
        """

    def end(self, steps: int):
        """Called once, after so many steps: the place to copy to the CPU."""
