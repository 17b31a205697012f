"""What an attention layer of a model is, whatever the model: its kind, its grid of pixels, where text and pixels stand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from .terms import Places

Segment = Literal["text", "pixels"]
Kind = Literal["cross", "self", "joint", "added"]


@dataclass(frozen=True)
class Layer:
    """One attention layer of a model.

    Args:
        name: of its processor, as in the model's `attn_processors`.
        kind: "cross" (pixels look at text), "self" (pixels look at pixels), "joint" (text and pixels look at both, in
            one softmax) or "added" (pixels look at both, in one softmax; keys and values of the text are added).
        part: of a UNet, "down", "mid" or "up"; "block" in a transformer, whose blocks are all alike.
        level: how often the latent's sides are halved where the layer works.
        heads: how many it has.
        order: of text and pixels among the keys, where both are.
        clear: whether its maps of words are worth a look; False for all but the few best blocks of a transformer in
            which these are known.
    """

    name: str
    kind: Kind
    part: Literal["down", "mid", "up", "block"]
    level: int
    heads: int
    order: tuple[Segment, ...] = ()
    clear: bool = True

    def within(self, parts: Iterable[str]) -> bool:
        """Whether one of these is its name or a part of it, from dot to dot: "up_blocks" or "transformer_blocks.1"."""
        return any(f".{part.strip('.')}." in f".{self.name}." for part in parts)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of its pixels, for a latent of this size."""
        return halved(height, width, self.level)

    @property
    def reads_text(self) -> bool:
        """Whether its pixels look at words."""
        return self.kind != "self"

    @property
    def is_averaged(self) -> bool:
        """Whether figures and masks average its maps, where they have the right size.

        All but those of a UNet's middle, as in the authors' code, and of a transformer's unclear blocks.
        """
        return self.reads_text and self.part != "mid" and self.clear

    @property
    def is_one_of_many(self) -> bool:
        """Whether the model has dozens of layers of this size: maps of all of them are kept together."""
        return self.part == "block"

    @property
    def shows_columns(self) -> bool:
        """Whether observers see the columns of words: whole maps of its pixels would be too large, or hold the pixels."""
        return self.reads_text and (self.is_one_of_many or bool(self.order))

    def places(self, size: tuple[int, int], tokens: int) -> Places:
        """Where text and pixels stand among queries and keys, for a latent of a size and so many tokens of text."""
        rows, columns = self.grid(*size)
        keys, first = {}, 0
        for segment in self.order or (("text",) if self.reads_text else ("pixels",)):
            length = tokens if segment == "text" else rows * columns
            keys[segment] = slice(first, first + length)
            first += length
        return Places(keys, keys["pixels"], keys["text"]) if self.kind == "joint" else Places(keys)

    def keys(self, size: tuple[int, int], tokens: int) -> int:
        """How many keys its attention has."""
        return sum(where.stop - where.start for where in self.places(size, tokens).keys.values())


def halved(height: int, width: int, times: int) -> tuple[int, int]:
    """The sides after so many halvings, rounded up as a UNet does it."""
    for _ in range(times):
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def text_levels(layers: Iterable[Layer]) -> list[int]:
    """How often the latent is halved where pixels look at words: a UNet's down blocks, a transformer's blocks."""
    return sorted(
        {layer.level for layer in layers if layer.reads_text and layer.part in ("down", "block")}
    )


def map_level(height: int, width: int, levels: Sequence[int]) -> int:
    """How often the latent's sides are halved to give the attention map that makes a mask.

    Twice as in the paper, a quarter of the sides, as long as 16 cells remain: Stable Diffusion's 64×64 latents give 16×16,
    and so do the embedded model's 16×16, whose quarter would show no shapes. Where the model does not look at text there,
    its nearest level.
    """
    wanted = sum(min(height, width) >= 16 * 2**i for i in (1, 2))
    return min(levels, key=lambda level: (abs(level - wanted), level))
