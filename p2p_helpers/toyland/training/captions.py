"""Captions as token numbers, and captions of which one phrase is another: what keeps the text encoder from leaking.

A causal text encoder lets later words know what came before, so "on the ocean" could tell the UNet which object to paint, and
the object's own word would not matter. In training, one phrase is taken from the scene's caption and every other token from a
caption that says something else in that place. So only a phrase itself can be trusted to say what it says. Or every token
comes from a caption that also says what the picture does not show, but for the phrase that says so: padding knows of falling
snow, and none falls.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from ..tokenizer import MAX_TOKENS
from ..world import (
    BACKGROUNDS,
    COLOURABLE,
    OBJECTS,
    STYLES,
    SWITCHES,
    Scene,
    phrase_of,
    phrases,
)

KEEP_NAME = (
    0.4  # how often another colour is put in a coloured object's place, instead of another object
)
HEARSAY = 0.35  # how often the other caption says what is not there, instead of something else


@dataclass(frozen=True)
class Line:
    """A caption as phrases of token numbers."""

    abouts: tuple[str, ...]
    phrases: tuple[tuple[int, ...], ...]

    def start(self, i: int) -> int:
        """Position of phrase i's first token; the start token stands before all."""
        return 1 + sum(len(p) for p in self.phrases[:i])


class Captions:
    """Turns scenes into token numbers.

    Args:
        tokenizer: whose words are tokenised one by one, so that a caption is its phrases in a row.
    """

    def __init__(self, tokenizer: CLIPTokenizer):
        self.start, self.end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._numbers = functools.cache(
            lambda text: tuple(tokenizer(text, add_special_tokens=False).input_ids)
        )

    def line(self, scene: Scene) -> Line:
        """A scene's caption."""
        parts = phrases(scene)
        return Line(
            tuple(about for about, _ in parts), tuple(self._numbers(text) for _, text in parts)
        )

    def row(self, line: Line) -> list[int]:
        """Token numbers with start, end and padding: `MAX_TOKENS` of them."""
        tokens = [self.start, *(n for phrase in line.phrases for n in phrase), self.end]
        return tokens + [self.end] * (MAX_TOKENS - len(tokens))

    def other(self, scene: Scene, about: str, rng: np.random.Generator) -> tuple[int, ...]:
        """Words that say something else about one thing; none for what is simply there or not."""

        def pick(options):
            return options[int(rng.integers(len(options)))]

        if about == "style":
            return self._numbers(
                pick([text.strip() for key, text in STYLES.items() if key != scene.style])
            )
        if about == "background":
            return self._numbers(
                pick([text for key, text in BACKGROUNDS.items() if key != scene.background])
            )
        if about.startswith("thing"):
            thing = scene.things[int(about[-1])]
            name, colour = thing.name, thing.colour
            if colour and rng.random() < KEEP_NAME:
                return self._numbers(
                    phrase_of(name, pick([c for c in COLOURABLE[name] if c != colour]))
                )
            name = pick([o for o in OBJECTS if o != name])
            coloured = name in COLOURABLE and rng.random() < 0.6
            return self._numbers(
                phrase_of(name, pick(list(COLOURABLE[name])) if coloured else None)
            )
        return ()

    def exchanged(
        self, scene: Scene, line: Line, rng: np.random.Generator
    ) -> tuple[list[int], list[int], list[int]]:
        """A caption in which one phrase says something else, and which tokens come from where.

        Returns:
            the other caption's token numbers; for every position of the scene's own caption the position in the other one that
            lends its hidden state; and the positions that keep their own, none where the phrase is not the scene's.
        """
        absent = [switch for switch in SWITCHES if switch not in line.abouts]
        if absent and rng.random() < HEARSAY:
            switch = absent[int(rng.integers(len(absent)))]
            later = list(SWITCHES)[list(SWITCHES).index(switch) + 1 :]
            i = next((i for i, a in enumerate(line.abouts) if a in later), len(line.abouts))
            new, length = self._numbers(SWITCHES[switch]), 0
        else:
            choices = [i for i, about in enumerate(line.abouts) if about != "and"]
            i = choices[int(rng.integers(len(choices)))]
            new, length = self.other(scene, line.abouts[i], rng), len(line.phrases[i])
        rest = line.phrases[i + 1 :] if length else line.phrases[i:]
        theirs = Line(line.abouts, (*line.phrases[:i], new, *rest))
        start = line.start(i)
        shift = len(new) - length
        lenders = [p if p < start else min(p + shift, MAX_TOKENS - 1) for p in range(MAX_TOKENS)]
        own = list(range(start, start + length))
        for p in own:
            lenders[p] = 0  # not used
        return self.row(theirs), lenders, own


def mixed(own: Tensor, other: Tensor, lenders: Tensor, keeps: Tensor) -> Tensor:
    """Hidden states of which the kept positions are one's own and all others another caption's.

    Args:
        own, other: hidden states, (prompt, token, width).
        lenders: position in `other` for every position, (prompt, token).
        keeps: which positions stay, bool (prompt, token).
    """
    lent = torch.gather(other, 1, lenders[..., None].expand_as(own))
    return torch.where(keeps[..., None], own, lent)
