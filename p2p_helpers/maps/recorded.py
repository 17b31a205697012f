"""The attention maps of one run, found by word."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError, PromptError
from ..prompts.words import Phrase, split_phrase
from ..values import file_path, shown, whole_number
from .heatmap import POOLED, Heatmap, position
from .one_prompt import OnePrompt
from .self_attention import SelfAttention


@dataclass(frozen=True)
class Record:
    """What to keep of a run's attention maps.

    By default, what the standard figures need: the mean over heads and steps of every
    cross-attention layer; of the layers at the map level (a quarter of the latent's sides, see
    `map_level`) also each head's mean over the steps and each step's mean over the heads; and there
    the mean self-attention map, of every fourth step. For two prompts that is 6 MB with the
    embedded model and 30 steps (measured), and about 45 MB with Stable Diffusion 1.5 at 512 pixels
    and 50 steps (counted from the shapes).

    Of joint attention only the columns of words, start and end are kept, and each text encoder's
    padding in one: the mean of every layer, and heads and steps of all layers together. That is
    78 MB with Stable Diffusion 3.5 medium at 1024 pixels, 28 steps and 30 such columns (counted).
    So there is no map between its pixels. Self-attention maps of more than 1024 pixels are not kept.

    Args:
        everything: keep every layer, head and step of cross- and self-attention, and of those columns
            of joint attention. Two prompts of Stable Diffusion 1.5 at 512 pixels make about 3 GB a
            step (counted).
        before: a target's own maps, before the edit; otherwise the maps it was drawn with, after
            the edit.
    """

    everything: bool = False
    before: bool = False


def as_record(given) -> Record | None:
    """What to keep: True for the usual, a `Record`, or nothing. Raises InputError for what is neither."""
    if isinstance(given, Record):
        return given
    if given is None or isinstance(given, bool):
        return Record() if given else None
    raise InputError(f"record={shown(given)}: give True, or Record(everything=True).")


class AttentionMaps:
    """The recorded maps of one run. `maps["cat"]` is the word's `Heatmap`.

    It is looked for in the first prompt that has the word, source first. `maps["falling snow"]`,
    `maps["cat", 2]` (the second cat), `maps[3]` (token 3 of the source) and `maps[1:4]` (tokens 1
    to 3 together) work too. `for word in maps` gives the words of all prompts, and `"cat" in maps`
    says whether there is such a word. `maps.start` and `maps.end` are the source's start and end
    tokens; T5 has no start token. `maps.of(1)` looks in the first target only.
    `maps.self_attention` is the other kind.
    """

    def __init__(self, tokenizer, prompts: list[str], record: Record):
        self.tokenizer = tokenizer
        self.prompts = prompts
        self.record = record
        self.steps = 0
        self.level = (0, 0)  # rows and columns at the map level
        self.shapes: dict[str, tuple[int, int]] = {}  # layer → rows and columns
        self.kinds: dict[str, str] = {}  # layer → "cross" or "self"
        self.counts: dict[str, int] = {}  # layer → how many steps are in its sum
        # The cross-attention layers that figures average: of the map level, down and up as in the
        # paper; of a transformer the blocks with the clearest maps, where these are known
        self.level_layers: list[str] = []
        # The tokens that each column of the maps is the sum of, every token in one; None: a column for each
        self.columns: list[list[int]] | None = None
        # Other layers → (prompt, pixel, token or pixel), summed over steps, mean over heads
        self.sums: dict[str, Tensor] = {}
        # Cross-attention at the map level → (prompt, head, pixel, token), summed over steps
        self.by_head: dict[str, Tensor] = {}
        # The same layers, step → (prompt, pixel, token), mean over heads
        self.by_step: dict[tuple[str, int], Tensor] = {}
        # Layer, step → (prompt, head, pixel, token or pixel)
        self.all: dict[tuple[str, int], Tensor] = {}

    def __repr__(self):
        kept = "means, and steps and heads of the map level"
        if self.record.everything:
            kept = "every layer, head and step"
        which = "before" if self.record.before else "after"
        rows, columns = self.level
        prompts = f"{len(self.prompts)} prompt{'s' * (len(self.prompts) != 1)}"
        size = f"{self.steps} steps, {rows}×{columns}"
        return f"AttentionMaps({prompts}, {size}, {kept}; targets {which} the edit)"

    @property
    def layers(self) -> list[str]:
        """Names of the layers in which pixels look at words, in the order in which the model runs them."""
        return [layer for layer in self.shapes if self.kinds[layer] == "cross"]

    @property
    def detailed_layers(self) -> list[str] | list[None]:
        """The layers of which single steps and heads are kept; None for all of them together."""
        return [None] if POOLED in self.by_head else self.level_layers

    @property
    def heads(self) -> int:
        """How many heads every layer at the map level has."""
        layers = self.level_layers
        if self.record.everything:
            return min(self.all[layer, 0].shape[1] for layer in layers)
        if POOLED in self.by_head:
            return self.by_head[POOLED].shape[1]
        return min(self.by_head[layer].shape[1] for layer in layers)

    def spread_steps(self, count: int) -> list[int]:
        """At most `count` of the recorded steps, evenly spread from the first to the last. Raises InputError for no such number."""
        count = whole_number(
            "count", count, 1, 1000, "It is how many steps are drawn; 6 are usual."
        )
        last = self.steps - 1
        return sorted({round(i * last / max(count - 1, 1)) for i in range(count)})

    def of(self, prompt: SupportsIndex) -> OnePrompt:
        """The maps of one prompt, 0 for the source. Raises InputError if there is no such one."""
        self._need_a_run()
        number = position("prompt", prompt, "0 is the source. For a word write maps[word].")
        if not 0 <= number < len(self.prompts):
            raise InputError(
                f"There are {len(self.prompts)} prompts, 0 (the source) to "
                f"{len(self.prompts) - 1}; {number} is none of them."
            )
        return OnePrompt(self, number)

    def _need_a_run(self):
        if not self.steps:
            raise InputError(
                "Nothing was recorded. Run the pipeline within the `with` block, and look at the "
                "maps after it."
            )

    def __getitem__(self, what: Phrase | SupportsIndex | slice) -> Heatmap:
        """The map of a word or phrase in the first prompt that has it, or of the source's tokens.

        Raises:
            PromptError: no prompt has the word. InputError: no such position.
        """
        if isinstance(what, (SupportsIndex, slice)):
            return self.of(0)[what]
        self._need_a_run()
        text, _ = split_phrase(what)
        having = [prompt for prompt in range(len(self.prompts)) if what in self.of(prompt)]
        if having or len(self.prompts) == 1:
            return self.of(next(iter(having), 0))[what]
        near = difflib.get_close_matches(text, list(self), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise PromptError(f"{what!r} is in no prompt.{hint} Their words are: {', '.join(self)}.")

    def __contains__(self, what: object) -> bool:
        """Whether a prompt has a word or phrase, or whether there is a token of such a number."""
        return any(what in self.of(prompt) for prompt in range(len(self.prompts)))

    def __iter__(self) -> Iterator[str]:
        """The words of all prompts, source first, each once."""
        return iter(dict.fromkeys(word for n in range(len(self.prompts)) for word in self.of(n)))

    def __len__(self) -> int:
        """How many words the prompts have, each counted once."""
        return len(list(iter(self)))

    def summed(
        self, found: Float[Tensor, "pixel column"], tokens: Iterable[int]
    ) -> Float[Tensor, " pixel"]:
        """The maps of some tokens together, from all that were kept.

        Raises:
            InputError: of joint attention each word's, start and end tokens are kept, and all others of a text encoder together.
        """
        if self.columns is None:
            return found[:, list(tokens)].sum(-1)
        asked = set(tokens)
        kept = [place for place, group in enumerate(self.columns) if asked.issuperset(group)]
        lost = asked.difference(*(self.columns[place] for place in kept))
        if lost:
            raise InputError(
                f"The map of token {min(lost)} alone was not kept: of joint attention each word's, start and end tokens are, and all "
                "others of a text encoder together. Look at them as maps.of(0).padding."
            )
        return found[:, kept].sum(-1)

    @property
    def text(self) -> Heatmap:
        """The share of its attention that the source's pixels give to the text, the rest being theirs."""
        return self.of(0).text

    @property
    def start(self) -> Heatmap:
        """The source's start token. Raises InputError where there is none, as in T5's text (Flux.1, PixArt)."""
        return self.of(0).start

    @property
    def end(self) -> Heatmap:
        """The source's end token, where its words end."""
        return self.of(0).end

    @property
    def self_attention(self) -> SelfAttention:
        """The source's mean self-attention map at the map level. Raises InputError where none was recorded."""
        return self.of(0).self_attention

    def save(self, path: str | Path):
        """Write the maps to one safetensors file; `load` reads it back, and needs no model.

        Raises:
            InputError: nothing was recorded, or the file cannot be written.
        """
        from .store import save

        self._need_a_run()
        save(self, file_path("path", path))

    @classmethod
    def load(cls, path: str | Path) -> AttentionMaps:
        """Read what `save` wrote.

        Raises:
            InputError: no such file, or one that holds no maps.
        """
        from .store import load

        return load(file_path("path", path))


def joined(source: AttentionMaps, target: AttentionMaps) -> AttentionMaps:
    """The first prompt's maps of one run beside the last prompt's of another with the same layers, steps and columns."""
    maps = copy.copy(source)
    maps.prompts = [source.prompts[0], target.prompts[-1]]
    for kind in ("sums", "by_head", "by_step", "all"):
        first, last = getattr(source, kind), getattr(target, kind)
        setattr(maps, kind, {key: torch.stack([first[key][0], last[key][-1]]) for key in first})
    return maps
