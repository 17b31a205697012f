"""Local blend: keep the source's latents wherever the chosen words do not look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from .errors import AttentionControlError, InputError, PromptError
from .prompts.words import Phrase, find_words


def _as_phrases(words: Phrase | Sequence[Phrase]) -> list[Phrase]:
    """One phrase or several, as a list; ("cat", 2) is one phrase, the second cat."""
    if words is None:
        return []
    if isinstance(words, str) or (isinstance(words, tuple) and len(words) == 2 and isinstance(words[1], int)):
        return [words]
    return list(words)


@dataclass(frozen=True)
class LocalBlend:
    """Where an edit may change the picture. Outside, the source's latents are put back after every step.

    The mask of a picture is where the cross-attention maps of the words, summed over words and steps and averaged over layers and
    heads, exceed a share of their maximum; they are widened by one cell before (a maximum over 3×3), excluded words' are not. Source and
    target masks are united, excluded words' masks subtracted.

    Args:
        words: a word or phrase, or several, each looked up in every prompt that has it: ("cat", "dog") for cat → dog.
        exclude: words whose places must not change.
        mask: where the picture may change, if you know it: a PIL picture or an array (height, width) as large as the picture or the
            latent, changing where it is above the middle of its range (0…1, or 0…255 where it goes above 1); with words, where both
            allow it.
        threshold: of the words' maps, as a share of their maximum.
        exclude_threshold: of the excluded words' maps.
        start: the share of the steps after which blending begins; before it the layout is not settled.

    Raises:
        InputError: neither words nor a mask, a threshold or start outside 0…1, a mask that is no picture.
    Reference: Hertz et al. 2022 (arXiv 2208.01626), section 3.2 "Local Editing", and the authors' code.
    """

    words: Phrase | Sequence[Phrase] = ()
    exclude: Phrase | Sequence[Phrase] = ()
    mask: Image.Image | np.ndarray | Tensor | None = field(default=None, compare=False)
    threshold: float = 0.3
    exclude_threshold: float = 0.3
    start: float = 0.2

    def __post_init__(self):
        object.__setattr__(self, "words", tuple(_as_phrases(self.words)))
        object.__setattr__(self, "exclude", tuple(_as_phrases(self.exclude)))
        if not self.words and self.mask is None:
            raise InputError('LocalBlend needs words, e.g. LocalBlend(("cat", "dog")), or a mask of where the picture may change.')
        for name in ("threshold", "exclude_threshold", "start"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)} is outside 0…1.")
        if self.mask is not None:
            given = self.mask.detach().float().cpu() if isinstance(self.mask, Tensor) else self.mask
            mask = np.asarray(given.convert("L") if isinstance(given, Image.Image) else given)
            if mask.ndim != 2 or not np.isfinite(mask).all():
                raise InputError(f"A mask is one finite number for each pixel, (height, width); this one has the shape {mask.shape}.")
            mask = mask > (127.5 if mask.size and mask.max() > 1 else 0.5)
            object.__setattr__(self, "mask", mask)


def map_level(height: int, width: int, levels: Sequence[int]) -> int:
    """How often the latent's sides are halved to give the attention map that makes a mask.

    Twice as in the paper, a quarter of the sides, as long as 16 cells remain: Stable Diffusion's 64×64 latents give 16×16, and so do
    the embedded model's 16×16, whose quarter would show no shapes. Where the UNet has no cross-attention there, its nearest level.
    """
    wanted = sum(min(height, width) >= 16 * 2**i for i in (1, 2))
    return min(levels, key=lambda level: (abs(level - wanted), level))


def halved(height: int, width: int, times: int) -> tuple[int, int]:
    """The sides after so many halvings, rounded up as a UNet does it."""
    for _ in range(times):
        height, width = -(-height // 2), -(-width // 2)
    return height, width


def cross_levels(layers: Sequence[str]) -> list[int]:
    """How often the latent is halved where a UNet has cross-attention, from the names of its attention layers."""
    return sorted({int(name.split(".")[1]) for name in layers if name.startswith("down_blocks") and ".attn2." in name})


class BlendRun:
    """A `LocalBlend` at work on one batch of prompts: an attention observer that also changes latents after each step.

    `masks` holds what it found, (target, height, width), one for each step so far; those before `start` were not applied.

    Args:
        blend: what to do.
        tokenizer, prompts: the source prompt, then the targets.
        layers: the names of the UNet's attention layers.
        scale: pixels of the picture to one of the latent, along a side.

    Raises:
        PromptError: a word that no prompt has.
    """

    def __init__(self, blend: LocalBlend, tokenizer, prompts: Sequence[str], layers: Sequence[str], scale: int):
        self.blend, self.scale, self.masks, self.before = blend, scale, [], False
        self.include, self.exclude = (self._columns(phrases, tokenizer, prompts) for phrases in (blend.words, blend.exclude))
        self.levels = cross_levels(layers)
        self._sum: Float[Tensor, "which prompt pixel"] | None = None
        self._shape = (0, 0)

    @staticmethod
    def _columns(phrases: Sequence[Phrase], tokenizer, prompts: Sequence[str]) -> Float[Tensor, "prompt token"]:
        """1 for every token of the phrases."""
        columns = torch.zeros(len(prompts), tokenizer.model_max_length)
        for phrase in phrases:
            errors = []
            for row, prompt in zip(columns, prompts, strict=True):
                try:
                    row[find_words(tokenizer, prompt, phrase)] = 1.0
                except PromptError as error:
                    errors.append(error)
            if len(errors) == len(prompts):
                raise PromptError(f"Local blend looked for {phrase!r} in {len(prompts)} prompts and found it in none. {errors[-1]}")
        return columns

    def watches(self, layer: str, pixels: int, height: int, width: int, step: int) -> bool:
        """Down and up layers of the level of `map_level`."""
        if not self.levels or not (self.blend.words or self.blend.exclude):
            return False
        height, width = self._shape = halved(height, width, map_level(height, width, self.levels))
        return pixels == height * width and layer.startswith(("down_blocks", "up_blocks")) and ".attn2." in layer

    def see(self, layer: str, maps: Float[Tensor, "prompt head pixel token"], step: int):
        """Adds one layer's maps of the words."""
        pair = torch.stack([self.include, self.exclude]).to(maps)  # (which, prompt, token)
        found = torch.einsum("phnl,wpl->wpn", maps, pair) / maps.shape[1]
        self._sum = found if self._sum is None else self._sum + found

    def _word_mask(self, which: int, size: tuple[int, int]) -> Bool[Tensor, "target height width"]:
        """Where the words look in source or target, (target, height, width). The words to include have their maps widened a little."""
        maps = self._sum[which].unflatten(-1, self._shape)[:, None]  # (prompt, 1, row, column)
        if which == 0:
            maps = F.max_pool2d(maps, 3, stride=1, padding=1)
        maps = F.interpolate(maps, size)[:, 0]
        peak = maps.amax((1, 2), keepdim=True)
        mask = (maps > peak * (self.blend.exclude_threshold if which else self.blend.threshold)) & (peak > 0)
        return mask[:1] | mask[1:]

    def mask(self, size: tuple[int, int]) -> Bool[Tensor, "target height width"]:
        """Where each target may differ from the source, for latents of this size (height, width).

        Raises:
            InputError: the user's mask has neither the picture's size nor the latent's.
            AttentionControlError: no layer gave the maps that the words need.
        """
        if self._sum is None and (self.blend.words or self.blend.exclude):
            raise AttentionControlError("No cross-attention layer of a usable size: local blend can only use a mask of your own here.")
        allowed = torch.ones(len(self.include) - 1, *size, dtype=torch.bool)
        if self.blend.words:
            allowed = self._word_mask(0, size)
        if self.blend.exclude:
            allowed = allowed & ~self._word_mask(1, size).to(allowed.device)
        if self.blend.mask is not None:
            picture = tuple(side * self.scale for side in size)
            if self.blend.mask.shape not in (size, picture):
                raise InputError(
                    f"The mask is {self.blend.mask.shape} (height, width); the picture is {picture} and its latent {size}. "
                    "Give the mask one of these sizes."
                )
            given = F.interpolate(torch.from_numpy(self.blend.mask).float()[None, None], size, mode="area")[0] > 0.5
            allowed = allowed & given.to(allowed.device)
        return allowed

    def __call__(self, latents: Float[Tensor, "prompt channel height width"], step: int, steps: int) -> Tensor:
        """The latents after a step, with the source's put back outside the mask: x ← x_s + mask · (x − x_s)."""
        mask = self.mask(tuple(latents.shape[-2:])).to(latents.device)
        self.masks.append(mask.cpu())
        if step < int(self.blend.start * steps):
            return latents
        return torch.cat([latents[:1], torch.where(mask[:, None], latents[1:], latents[:1])])
