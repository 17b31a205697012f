"""The paper's three edits: swap words, add words, turn words up or down; and one for joint attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import InputError, PromptMismatch
from ..prompts.align import read_alike, refinement_alignment, replacement_matrix
from ..prompts.words import words
from ..values import MOST_WEIGHT, Frozen, finite_number
from .edit import Edit, Matrices
from .schedule import of_tokens, word_schedule


@dataclass(frozen=True, repr=False)
class Replace(Edit):
    """Word swap: each target token looks where its counterpart in the source looked.

    S = M diag(α), T = diag(1 − α).

    Args and errors: as for `Edit`.
    Reference: Hertz et al. 2022 (arXiv 2208.01626), section 3.2 "Word Swap".
    """

    def matrices(self, tokenizer, source: str, target: str, steps: int) -> Matrices:
        """S and T for every step. Raises PromptMismatch if the word counts differ."""
        mapping = replacement_matrix(tokenizer, source, target)
        alpha = word_schedule(tokenizer, target, self.cross_steps, steps)
        alpha = alpha[:, None]  # (step, 1, target token)
        return mapping * alpha, torch.eye(len(mapping)) * (1 - alpha)


@dataclass(frozen=True, repr=False)
class Refine(Edit):
    """Refinement: words added to a prompt keep their own maps, all others look where they looked.

    S = P diag(m∘α), T = diag(1 − m∘α).

    Args and errors: as for `Edit`.
    Reference: Hertz et al. 2022 (arXiv 2208.01626), section 3.2 "Adding a New Phrase".
    """

    def matrices(self, tokenizer, source: str, target: str, steps: int) -> Matrices:
        """S and T for every step."""
        mapping, old = refinement_alignment(tokenizer, source, target)
        alpha = word_schedule(tokenizer, target, self.cross_steps, steps) * old
        alpha = alpha[:, None]  # (step, 1, target token)
        return mapping * alpha, torch.eye(len(mapping)) * (1 - alpha)


@dataclass(frozen=True, repr=False)
class Reweight(Edit):
    """Reweighting: turn words up or down by scaling their maps, without renormalising.

    S = diag(α∘c), T = diag(1 − α).

    Alone it needs one prompt as source and target. After another edit,
    `Replace() | Reweight({"dog": 2})`, it scales the maps that one gives, inside its own schedule;
    with `cross_steps=1.0` it goes on when the other one has ended.

    Args:
        weights: c for words and phrases of the target prompt; 1 leaves a word as it is, 0 silences
            it, negative ones push it away. Of several phrases that have a word the shortest counts: ("cat", 2)
            goes before "cat", and "cat" before "a red cat".

    Raises:
        InputError: a weight is not a number from −1000 to 1000, or see `Edit`.
    Reference: Hertz et al. 2022 (arXiv 2208.01626), section 3.2 "Attention Re-weighting".
    """

    weights: Mapping[Any, float]

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.weights, Mapping):
            raise InputError(
                f"Reweight takes a mapping from words to weights, e.g. {{'snow': 2.0}}, not "
                f"{self.weights!r}."
            )
        object.__setattr__(self, "weights", Frozen(self.weights))
        for phrase, weight in self.weights.items():
            advice = "−2 … 4 is usual, 1 changes nothing."
            finite_number(f"The weight of {phrase!r}", weight, MOST_WEIGHT, advice)

    def matrices(self, tokenizer, source: str, target: str, steps: int) -> Matrices:
        """S and T for every step.

        Raises PromptMismatch if the prompts differ, PromptError for a word that is not in them, InputError for two weights of one word.
        """
        if not read_alike(tokenizer, source, target):
            raise PromptMismatch(
                f"Reweight alone works on one prompt, but source and target differ: {source!r} and "
                f"{target!r}. "
                "Say how to line them up first, e.g. Replace() | Reweight(...) or Refine() | "
                "Reweight(...)."
            )
        alpha = word_schedule(tokenizer, target, self.cross_steps, steps)
        alpha = alpha[:, None]  # (step, 1, target token)
        weight = torch.ones(alpha.shape[-1])
        for token, c in of_tokens(tokenizer, target, self.weights).items():
            weight[token] = float(c)
        eye = torch.eye(len(weight))
        return eye * (alpha * weight), eye * (1 - alpha)


@dataclass(frozen=True, repr=False)
class InjectQK(Edit):
    """The source's pixels ask and are asked, of whatever the target says; for joint attention, and DeepFloyd IF's.

    In `self_steps`, 0.2 if not given, as in the authors' code, the queries and keys of the target's
    pixels are the source's, its text's keys and all values are its own, in one softmax. A share above
    0 is at least one step, of the four of Flux.1 schnell the first. No words are lined up, so the
    prompts may be any two, and `cross_steps` says nothing.
    `InjectQK() | Reweight({"dog": 2})` scales the target's words.

    Args: as for `Edit`.

    Raises:
        InputError: in `edit`, a model without joint attention, or an edit before it that takes words'
            maps from the source; or see `Edit`.
    Reference: Shin et al. 2025 (arXiv 2508.07519), who exchange the same projections in
        Stable Diffusion 3.5 and Flux.1.
    """

    @property
    def own_text(self) -> bool:
        """Injected pixels look at the target's own text."""
        return True

    def matrices(self, tokenizer, source: str, target: str, steps: int) -> Matrices:
        """S = 0 and T = 1: the words' maps are the target's own."""
        words(tokenizer, target)  # its length
        eye = torch.eye(tokenizer.model_max_length).repeat(steps, 1, 1)
        return torch.zeros_like(eye), eye
