"""What a session needs to know about one kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .layers import Layer
from .rows import first_row, narrowed


class Family:
    """What a session needs to know about one kind of model, and what most kinds have in common. A new kind is one entry of `FAMILIES`."""

    flow = False  # whether the model predicts a flow's velocity (flow matching)
    # Whether null-text inversion can optimise the empty text: it has rows before the prompts' in one call, and no mask of its own.
    optimises_null = False
    SAMPLE = ""  # what a call of the model names the latents
    ROWS: tuple[str, ...] = ()  # what may have one row for each of the batch in a call

    def knows(self, pipe) -> bool:
        """Whether a pipeline is of this family."""
        raise NotImplementedError

    def model(self, pipe) -> nn.Module:
        """The denoising network, as the pipeline calls it: perhaps in torch.compile's wrapper."""
        raise NotImplementedError

    def tokenizer(self, pipe, arguments: Mapping[str, Any]) -> Any:
        """The tokenizer of the text that the model reads, or the `Tokenizers`, for a call with these arguments."""
        raise NotImplementedError

    def self_size(self, pipe) -> float:
        """The largest self-attention map to inject if an edit does not say, as a share of the latent's side."""
        raise NotImplementedError

    def layers(self, model: nn.Module) -> dict[Layer, nn.Module]:
        """The attention layers that can be controlled, in the order in which the model runs them."""
        raise NotImplementedError

    def sample(self, args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
        """The latents in a call of the model, one row for each of the batch."""
        return args[0] if args else kwargs[self.SAMPLE]

    def size(self, args: tuple, kwargs: Mapping[str, Any]) -> tuple[int, int]:
        """Height and width of the latents in a call. Raises AttentionControlError if it is not one picture for each row."""
        sample = self.sample(args, kwargs)
        return sample.shape[-2], sample.shape[-1]

    def tokens(self, args: tuple, kwargs: Mapping[str, Any]) -> int:
        """How many tokens of text a call has."""
        return kwargs["encoder_hidden_states"].shape[1]

    def prompts_first_row(self, pipe, rows: int, prompts: int, call: int) -> int | None:
        """Where the rows with prompts begin, or None if a call has none, such as a second one of a step, from 0.

        Raises AttentionControlError if the batch is not the prompts.
        """
        return first_row(pipe, rows, prompts)

    def unpacked(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """The latents as pictures: (row, channel, height, width)."""
        return latents

    def packed(self, pictures: Tensor) -> Tensor:
        """The way back."""
        return pictures

    def narrowed(self, args: tuple, kwargs: dict, keep: Tensor, rows: int) -> tuple[tuple, dict]:
        """A call of the model on some rows of the batch only."""
        return narrowed(args, kwargs, self.ROWS, keep, rows)


def bare(model: nn.Module) -> nn.Module:
    """The model itself, without torch.compile's wrapper."""
    return getattr(model, "_orig_mod", model)
