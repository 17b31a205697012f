"""The attention maps of one prompt, found by word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

from ..errors import InputError
from ..prompts.words import Phrase, end_of, find_words, has_start, word_tokens, words
from .heatmap import Heatmap
from .self_attention import SelfAttention

if TYPE_CHECKING:
    from .recorded import AttentionMaps


@dataclass(frozen=True)
class OnePrompt:
    """The maps of one prompt, found like those of `AttentionMaps`."""

    maps: AttentionMaps
    prompt: int

    def __getitem__(self, what: Phrase | SupportsIndex | slice) -> Heatmap:
        """The map of a word or phrase of this prompt, or of its tokens by their positions.

        Raises:
            PromptError: the prompt does not have the word. InputError: no such position.
        """
        if isinstance(what, (SupportsIndex, slice)):
            return self._tokens(what)
        tokens = find_words(self.maps.tokenizer, self.maps.prompts[self.prompt], what)
        name = what if isinstance(what, str) else f"{what[0]} ({what[1]})"
        return Heatmap(self.maps, self.prompt, name, tuple(tokens))

    def _tokens(self, where: SupportsIndex | slice) -> Heatmap:
        """The map of one token, or of several together."""
        length = self.maps.tokenizer.model_max_length
        if isinstance(where, slice):
            shown = f"{where.start}:{where.stop}"
            tokens = tuple(range(length)[where])
        else:
            shown = str(index(where))
            tokens = (index(where) % length,) if -length <= index(where) < length else ()
        if not tokens:
            raise InputError(f"Token {shown} is not one of {length}; count from 0.")
        name = f"token {tokens[0]}" if len(tokens) == 1 else f"tokens {tokens[0]} to {tokens[-1]}"
        return Heatmap(self.maps, self.prompt, name, tokens)

    def __contains__(self, what: object) -> bool:
        """Whether the prompt has a word or phrase, or whether there is a token of such a number."""
        try:
            return bool(self[what])  # type: ignore[index]  # of no such type: not there
        except (InputError, TypeError):
            return False

    def __iter__(self) -> Iterator[str]:
        """The prompt's words, each once."""
        return iter(dict.fromkeys(heat.name for heat in self.words))

    def __len__(self) -> int:
        """How many words the prompt has, each counted once."""
        return len(list(iter(self)))

    @property
    def words(self) -> list[Heatmap]:
        """A heatmap for each word, in the prompt's order."""
        found = words(self.maps.tokenizer, self.maps.prompts[self.prompt])
        return [Heatmap(self.maps, self.prompt, word.text, word.tokens) for word in found]

    @property
    def has_start(self) -> bool:
        """Whether a start token stands before the words; T5, which Flux.1, PixArt and DeepFloyd IF read, has none."""
        return has_start(self.maps.tokenizer, self.maps.prompts[self.prompt])

    @property
    def start(self) -> Heatmap:
        """The start token. Raises InputError where there is none (`has_start`)."""
        if not self.has_start:
            raise InputError(
                "This model's text has no start token: its first token is the first word's. Look at the end token (.end) or at "
                "padding (.padding) for what no word gets."
            )
        return replace(self[0], name="start")

    @property
    def end(self) -> Heatmap:
        """The end token, where the words end."""
        return replace(self[self._end], name="end")

    @property
    def padding(self) -> Heatmap:
        """All tokens after the end, which fill up the model's positions.

        Pixels look at them, too.
        """
        own = set(word_tokens(self.maps.tokenizer, [self.maps.prompts[self.prompt]]))
        rest = (token for token in range(self.maps.tokenizer.model_max_length) if token not in own)
        return replace(self.end, name="padding", tokens=tuple(rest))

    @property
    def text(self) -> Heatmap:
        """All tokens together: the share of a pixel's attention that the text gets.

        It is 1 in cross-attention. In joint attention the pixels get the rest.
        """
        every = range(self.maps.tokenizer.model_max_length)
        return replace(self.end, name="text", tokens=tuple(every))

    @property
    def _end(self) -> int:
        return end_of(self.maps.tokenizer, self.maps.prompts[self.prompt])

    @property
    def self_attention(self) -> SelfAttention:
        """The mean self-attention map at the map level.

        Raises:
            InputError: none was recorded, as of joint attention.
        """
        maps = self.maps
        own = [layer for layer in maps.sums if maps.kinds[layer] == "self"]
        layers = [layer for layer in own if maps.shapes[layer] == maps.level]
        if not layers:
            raise InputError(
                "No self-attention layer at the map level was recorded: joint attention (Stable Diffusion 3, Flux.1) keeps no columns "
                "of pixels, and large maps are left out. Look at words: maps[word], or maps[word].upsample(size) in place of refine(size)."
            )
        means = [maps.sums[name][self.prompt].float().cpu() / maps.counts[name] for name in layers]
        return SelfAttention(sum(means) / len(means), maps.level)
