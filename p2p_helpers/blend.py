"""Local blend: keep the source's latents wherever the chosen words do not look."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import SupportsIndex

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image, ImageFilter
from torch import Tensor

from .attention.layers import Layer, halved, map_level, text_levels
from .attention.observe import Geometry
from .errors import AttentionControlError, InputError, PromptError
from .masks import Mask, as_mask, mask_contents, mask_picture, on_latent
from .prompts.words import Phrase, contains, find_words, split_phrase
from .values import plain, shown


def _as_phrases(words: Phrase | Sequence[Phrase]) -> list[Phrase]:
    """One phrase or several, as a list; ("cat", 2) is one phrase, the second cat."""
    if words is None:
        return []
    if isinstance(words, str) or (
        isinstance(words, tuple) and len(words) == 2 and isinstance(words[1], SupportsIndex)
    ):
        return [words]
    if not isinstance(words, Iterable):
        raise InputError(
            f'{shown(words)} is no word. Give one or several, e.g. LocalBlend(("cat", "dog")).'
        )
    phrases = list(words)
    for phrase in phrases:
        split_phrase(phrase)
    return phrases


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
            latent, changing where it is above the middle of its range (0…1, or 0…255 where it goes above 1) and not transparent;
            with words, where both allow it.
        threshold: of the words' maps, as a share of their maximum.
        exclude_threshold: of the excluded words' maps.
        start: the share of the steps after which blending begins; before it the layout is not settled.

    Raises:
        InputError: neither words nor a mask, what is no phrase, a threshold or start outside 0…1, a mask that is no picture or is empty.
    Reference: Hertz et al. 2022 (arXiv 2208.01626), section 3.2 "Local Editing", and the authors' code.
    """

    words: Phrase | Sequence[Phrase] = ()
    _: KW_ONLY
    exclude: Phrase | Sequence[Phrase] = ()
    mask: Mask | None = field(default=None, compare=False)
    threshold: float = 0.3
    exclude_threshold: float = 0.3
    start: float = 0.2
    _contents: object = field(default=mask_contents, init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "words", tuple(plain(_as_phrases(self.words))))
        object.__setattr__(self, "exclude", tuple(plain(_as_phrases(self.exclude))))
        if not self.words and self.mask is None:
            raise InputError(
                'LocalBlend needs words, e.g. LocalBlend(("cat", "dog")), or a mask of where the picture may change.'
            )
        for name in ("threshold", "exclude_threshold", "start"):
            value = getattr(self, name)
            if not isinstance(value, numbers.Real) or not 0 <= value <= 1:
                raise InputError(f"{name}={shown(value)}: it must be a share, 0…1.")
            object.__setattr__(self, name, plain(value))
        if self.mask is not None:
            object.__setattr__(self, "mask", as_mask(self.mask))
            if not self.mask.any():
                raise InputError(
                    "The mask of LocalBlend is empty, so nothing could change. Give one that is true where the picture may change."
                )


def check_words(blend: LocalBlend, tokenizer, runs: Sequence[Sequence[str]]):
    """Refuse words that say nowhere where a picture may change.

    Args:
        runs: the prompts of each run that the blend is for, source first.

    Raises:
        PromptError: a word that no prompt has, or a target that has none of the words, nor has its source.
    """
    prompts = [prompt for run in runs for prompt in run]
    for phrase in (*blend.words, *blend.exclude):
        if not any(contains(tokenizer, prompt, phrase) for prompt in prompts):
            text = phrase[0] if isinstance(phrase, tuple) else phrase
            having = [prompt for prompt in prompts if contains(tokenizer, prompt, text)]
            try:
                find_words(tokenizer, [*prompts[-1:], *having][-1], phrase)
            except PromptError as error:
                raise PromptError(
                    f"Local blend looked for {phrase!r} in {len(prompts)} prompts and found it in none. {error}"
                ) from None
    pairs = [(source, target) for source, *targets in runs for target in targets]
    for pair in pairs if blend.words else ():
        if not any(contains(tokenizer, prompt, one) for prompt in pair for one in blend.words):
            raise PromptError(
                f"Local blend is for every change of words, and for the one from {pair[0]!r} to {pair[1]!r} it has no word of "
                f"these prompts, only {', '.join(map(repr, blend.words))}. Add one that says where this change may be."
            )


class BlendRun:
    """A `LocalBlend` at work on one batch of prompts: an attention observer that also changes latents after each step.

    `masks` holds what it found, (target, height, width), one for each step so far; those before `start` were not applied.

    Args:
        blend: what to do.
        tokenizer, prompts: the source prompt, then the targets. A word that none of them has looks nowhere.
        scale: pixels of the picture to one of the latent, along a side.
    """

    before = False

    def __init__(self, blend: LocalBlend, tokenizer, prompts: Sequence[str], scale: int):
        self.blend, self.scale = blend, scale
        self.masks: list[Bool[Tensor, "target height width"]] = []
        chosen = [
            self._columns(phrases, tokenizer, prompts) for phrases in (blend.words, blend.exclude)
        ]
        self._chosen: Float[Tensor, "which prompt token"] = torch.stack(chosen)
        self._sum: Float[Tensor, "which prompt pixel"] | None = None
        self._shape = (0, 0)
        self._given: Bool[Tensor, "1 height width"] | None = None  # the user's mask
        self._watched: frozenset[Layer] = frozenset()
        self.columns: Float[Tensor, "token column"] | None = None  # a chosen token each

    @staticmethod
    def _columns(
        phrases: Sequence[Phrase], tokenizer, prompts: Sequence[str]
    ) -> Float[Tensor, "prompt token"]:
        """1 for every token of the phrases."""
        columns = torch.zeros(len(prompts), tokenizer.model_max_length)
        for phrase in phrases:
            for row, prompt in zip(columns, prompts, strict=True):
                if contains(tokenizer, prompt, phrase):
                    row[find_words(tokenizer, prompt, phrase)] = 1.0
        return columns

    def begin(self, geometry: Geometry):
        """Choose the down and up layers of the level of `map_level`.

        Raises:
            InputError: the user's mask has neither the picture's size nor the latent's.
            AttentionControlError: no layer gives the maps that the words need.
        """
        if self.blend.mask is not None:
            self._given = self._fitted(geometry.size).to(geometry.device)
        if not self.blend.words and not self.blend.exclude:
            return
        levels = text_levels(geometry.layers)
        if levels:
            level = map_level(*geometry.size, levels)
            self._shape = halved(*geometry.size, level)
            self._watched = frozenset(
                layer for layer in geometry.layers if layer.is_averaged and layer.level == level
            )
        if not self._watched:
            raise AttentionControlError(
                "No layer of a usable size looks at text: local blend can only use a mask of your own here."
            )
        tokens = self._chosen.any(0).any(0)
        self.columns = torch.eye(len(tokens))[:, tokens].to(geometry.device)
        self._chosen = self._chosen[..., tokens].to(geometry.device)
        pixels = self._shape[0] * self._shape[1]
        self._sum = torch.zeros(2, geometry.prompts, pixels, device=geometry.device)

    def _fitted(self, size: tuple[int, int]) -> Bool[Tensor, "1 height width"]:
        """The user's mask for latents of a size."""
        picture = (size[0] * self.scale, size[1] * self.scale)
        share = on_latent(self.blend.mask, size, picture)[None]
        return share > 0.5 * share.max()  # a thin mask fills no cell

    def watches(self, layer: Layer, step: int) -> bool:
        """The chosen layers, at every step."""
        return layer in self._watched

    def see(self, layer: Layer, maps: Float[Tensor, "prompt head pixel column"], step: Tensor):
        """Adds one layer's maps of the words."""
        self._sum.add_(torch.einsum("phnl,wpl->wpn", maps, self._chosen) / maps.shape[1])

    def _word_mask(self, which: int, size: tuple[int, int]) -> Bool[Tensor, "target height width"]:
        """Where the words look in source or target. The words to include have their maps widened a little."""
        maps = self._sum[which].unflatten(-1, self._shape)[:, None]  # (prompt, 1, row, column)
        if which == 0:
            maps = F.max_pool2d(maps, 3, stride=1, padding=1)
        maps = F.interpolate(maps, size)[:, 0]
        peak = maps.amax((1, 2), keepdim=True)
        share = self.blend.exclude_threshold if which else self.blend.threshold
        mask = (maps > peak * share) & (peak > 0)
        return mask[:1] | mask[1:]

    def mask(
        self, latents: Float[Tensor, "prompt channel height width"]
    ) -> Bool[Tensor, "target height width"]:
        """Where each target may differ from the source."""
        size = tuple(latents.shape[-2:])
        allowed = torch.ones(len(latents) - 1, *size, dtype=torch.bool, device=latents.device)
        if self.blend.words:
            allowed = allowed & self._word_mask(0, size)
        if self.blend.exclude:
            allowed = allowed & ~self._word_mask(1, size)
        if self._given is not None:
            allowed = allowed & self._given
        return allowed

    def __call__(
        self, latents: Float[Tensor, "prompt channel height width"], step: int, steps: int
    ) -> Float[Tensor, "prompt channel height width"]:
        """The latents after a step, with the source's put back outside the mask: x ← x_s + mask · (x − x_s)."""
        mask = self.mask(latents)
        self.masks.append(mask)
        if step < int(self.blend.start * steps):
            return latents
        return torch.cat([latents[:1], torch.where(mask[:, None], latents[1:], latents[:1])])

    def end(self, steps: int):
        """Bring the masks home, all at once."""
        self.masks = list(torch.stack(self.masks).cpu())


def restored(original: Image.Image, edited: Image.Image, mask: Tensor) -> Image.Image:
    """The edited picture inside the mask, the original's own pixels outside, with an edge as soft as a latent pixel is wide."""
    inside = mask_picture(mask, edited.size)
    soft = edited.width / mask.shape[1]
    return Image.composite(edited, original, inside.filter(ImageFilter.GaussianBlur(soft / 2)))
