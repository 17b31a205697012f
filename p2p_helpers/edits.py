"""An edit is two small matrices per step: Â_t = A_s S + A_t T. Pure tensors; no model is needed to make, print or test one."""

from __future__ import annotations

import dataclasses
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .errors import InputError, PromptMismatch
from .tokens import Phrase, find_words, refinement_alignment, replacement_matrix

Interval = float | tuple[float, float]  # a share of the steps: 0.8 is the first 80 %, (0.2, 0.8) leaves out the first fifth too
Schedule = Interval | Mapping[Phrase, Interval]  # or each word its own: {"default": 0.8, "dog": (0.1, 0.5)}
Matrices = tuple[Float[Tensor, "step source_token target_token"], Float[Tensor, "step target_token target_token"]]

SELF_STEPS, SELF_SIZE = 0.4, 0.25  # what an edit that does not say otherwise uses, as in the authors' code


def active_steps(schedule: Interval, steps: int, *, of: int | None = None) -> Bool[Tensor, " step"]:
    """The steps in which a schedule is on.

    A share x ends before step int(x · (steps + 1)), as the authors' code counts for cross-attention.

    Args:
        schedule: 0.8 means the first 80 % of the steps; (0.2, 0.8) leaves out the first fifth too.
        steps: number of denoising steps.
        of: what the share is taken of; steps + 1 when not given. The authors take it of `steps` for self-attention.

    Raises:
        InputError: outside 0…1, or an interval that ends before it begins.
    """
    ends = schedule if isinstance(schedule, (tuple, list)) else (0.0, schedule)
    if len(ends) != 2 or not all(isinstance(end, numbers.Real) for end in ends) or not 0 <= ends[0] <= ends[1] <= 1:
        raise InputError(f"A schedule is a share of the steps: 0 ≤ start ≤ end ≤ 1, not {schedule!r}. 0.8 means the first 80 %.")
    step, of = torch.arange(steps), steps + 1 if of is None else of
    return (step >= int(ends[0] * of)) & (step < int(ends[1] * of))


def word_schedule(tokenizer, prompt: str, schedule: Schedule, steps: int) -> Float[Tensor, "step token"]:
    """α: for each token of the target prompt, 1 in the steps in which its schedule is on and 0 in the others.

    Args:
        tokenizer, prompt: the target prompt's.
        schedule: one for all, or a mapping from words and phrases to theirs; the others get its "default", or all steps without one.
        steps: number of denoising steps.

    Raises:
        InputError: a schedule outside 0…1 or reversed.
        PromptError: a word that is not in the prompt.
    """
    per_word = dict(schedule) if isinstance(schedule, Mapping) else {"default": schedule}
    alpha = active_steps(per_word.pop("default", 1.0), steps).float()[:, None].repeat(1, tokenizer.model_max_length)
    for phrase, interval in per_word.items():
        alpha[:, find_words(tokenizer, prompt, phrase)] = active_steps(interval, steps).float()[:, None]
    return alpha


@dataclass(frozen=True, repr=False)
class Edit(ABC):
    """What every edit has. A new kind of edit is a subclass that gives `matrices`; `a | b` is an edit that does b after a.

    Args:
        cross_steps: when the source's cross-attention maps are used (τ in the paper): one schedule, or each word its own.
        self_steps: when the source's self-attention maps are used; None is 0.4, or what the other part of a composition says.
        self_size: the largest self-attention map to inject, as a share of the latent's side; the paper's 16×16 of 64×64 is 0.25,
            1.0 is every layer. None is 0.25, or what the other part of a composition says.

    Raises:
        InputError: a schedule outside 0…1 or reversed, or a self_size outside 0…1.
    """

    cross_steps: Schedule = dataclasses.field(default=0.8, kw_only=True)
    self_steps: Interval | None = dataclasses.field(default=None, kw_only=True)
    self_size: float | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        if isinstance(self.cross_steps, Mapping):  # a copy: the caller's may change
            object.__setattr__(self, "cross_steps", dict(self.cross_steps))
        schedules = self.cross_steps.values() if isinstance(self.cross_steps, Mapping) else [self.cross_steps]
        for schedule in [*schedules, *([] if self.self_steps is None else [self.self_steps])]:
            active_steps(schedule, 1)
        if self.self_size is not None and not 0 < self.self_size <= 1:
            raise InputError(f"self_size is a share of the latent's side, 0 < self_size ≤ 1, not {self.self_size}.")

    @abstractmethod
    def matrices(self, tokenizer, source: str, target: str, steps: int) -> Matrices:
        """S and T for every step, for one source and one target prompt; called for one step too, to find errors early."""

    def self_schedule(self, steps: int) -> Bool[Tensor, " step"]:
        """The steps in which the source's self-attention maps are used, counted as in the authors' code."""
        return active_steps(SELF_STEPS if self.self_steps is None else self.self_steps, steps, of=steps)

    def __or__(self, other: Edit) -> Edit:
        return Composition(self, other) if isinstance(other, Edit) else NotImplemented

    def __repr__(self):
        said = ((f, getattr(self, f.name)) for f in sorted(dataclasses.fields(self), key=lambda f: f.kw_only))
        parts = [f"{value!r}" if not f.kw_only else f"{f.name}={value!r}" for f, value in said if value is not None]
        return f"{type(self).__name__}({', '.join(parts)})"


@dataclass(frozen=True, repr=False)
class Replace(Edit):
    """Word swap: each target token looks where its counterpart in the source looked (S = M diag(α), T = diag(1 − α)).

    Args and errors: as for `Edit`.
    Reference: Hertz et al. 2022 (arXiv 2208.01626), section 3.2 "Word Swap".
    """

    def matrices(self, tokenizer, source: str, target: str, steps: int) -> Matrices:
        """S and T for every step. Raises PromptMismatch if the word counts differ."""
        mapping = replacement_matrix(tokenizer, source, target)
        alpha = word_schedule(tokenizer, target, self.cross_steps, steps)[:, None]  # (step, 1, target token)
        return mapping * alpha, torch.eye(len(mapping)) * (1 - alpha)


@dataclass(frozen=True, repr=False)
class Refine(Edit):
    """Refinement: words added to a prompt keep their own maps, all others look where they looked (S = P diag(m∘α), T = diag(1 − m∘α)).

    Args and errors: as for `Edit`.
    Reference: Hertz et al. 2022 (arXiv 2208.01626), section 3.2 "Adding a New Phrase".
    """

    def matrices(self, tokenizer, source: str, target: str, steps: int) -> Matrices:
        """S and T for every step."""
        mapping, old = refinement_alignment(tokenizer, source, target)
        alpha = word_schedule(tokenizer, target, self.cross_steps, steps)[:, None] * old  # (step, 1, target token)
        return mapping * alpha, torch.eye(len(mapping)) * (1 - alpha)


@dataclass(frozen=True, repr=False)
class Reweight(Edit):
    """Reweighting: turn words up or down by scaling their maps, without renormalising (S = diag(α∘c), T = diag(1 − α)).

    Alone it needs one prompt as source and target. After another edit, `Replace() | Reweight({"dog": 2})`, it scales the maps that one
    gives, inside its own schedule; with `cross_steps=1.0` it goes on when the other one has ended.

    Args:
        weights: c for words and phrases of the target prompt; 1 leaves a word as it is, 0 silences it, negative ones push it away.

    Raises:
        InputError: a weight is not a finite number, or see `Edit`.
    Reference: Hertz et al. 2022 (arXiv 2208.01626), section 3.2 "Attention Re-weighting".
    """

    weights: Mapping[Phrase, float]

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.weights, Mapping):
            raise InputError(f"Reweight takes a mapping from words to weights, e.g. {{'snow': 2.0}}, not {self.weights!r}.")
        object.__setattr__(self, "weights", dict(self.weights))
        for phrase, weight in self.weights.items():
            if not isinstance(weight, numbers.Real) or not math.isfinite(weight):
                raise InputError(f"The weight of {phrase!r} is {weight}; it must be a finite number. −2 … 4 is usual, 1 changes nothing.")

    def matrices(self, tokenizer, source: str, target: str, steps: int) -> Matrices:
        """S and T for every step. Raises PromptMismatch if the prompts differ, PromptError for a word that is not in them."""
        if tokenizer(source).input_ids != tokenizer(target).input_ids:
            raise PromptMismatch(
                f"Reweight alone works on one prompt, but source and target differ: {source!r} and {target!r}. "
                "Say how to line them up first, e.g. Replace() | Reweight(...) or Refine() | Reweight(...)."
            )
        alpha = word_schedule(tokenizer, target, self.cross_steps, steps)[:, None]  # (step, 1, target token)
        weight = torch.ones(alpha.shape[-1])
        for phrase, c in self.weights.items():
            weight[find_words(tokenizer, target, phrase)] = float(c)
        eye = torch.eye(len(weight))
        return eye * (alpha * weight), eye * (1 - alpha)


@dataclass(frozen=True, repr=False)
class Composition(Edit):
    """One edit after another: the second takes the first one's maps for its source (S = S₁S₂, T = T₁S₂ + T₂). Write it `first | second`.

    Associative: Â = A_s S + A_t T is affine in A_s, and affine maps chain. The second one's prompt is the target already. Of
    `self_steps` and `self_size` the last that is said counts; `cross_steps` are the parts' own.
    """

    first: Edit
    second: Edit

    def __post_init__(self):
        for name in ("self_steps", "self_size"):
            own, other = getattr(self.first, name), getattr(self.second, name)
            object.__setattr__(self, name, own if other is None else other)

    def matrices(self, tokenizer, source: str, target: str, steps: int) -> Matrices:
        """S and T for every step. Raises what the parts raise."""
        s1, t1 = self.first.matrices(tokenizer, source, target, steps)
        s2, t2 = self.second.matrices(tokenizer, target, target, steps)
        return s1 @ s2, t1 @ s2 + t2

    def __repr__(self):
        return f"{self.first!r} | {self.second!r}"
