"""An edit is two small matrices per step: Â_t = A_s S + A_t T. Pure tensors; no model is needed to make, print or test one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .tokens import replacement_matrix

Schedule = float | tuple[float, float]


def active_steps(schedule: Schedule, steps: int, *, of: int | None = None) -> Bool[Tensor, " step"]:
    """The steps in which a schedule is on.

    A share x ends before step int(x · (steps + 1)), as the authors' code counts for cross-attention.

    Args:
        schedule: 0.8 means the first 80 % of the steps; (0.2, 0.8) leaves out the first fifth too.
        steps: number of denoising steps.
        of: what the share is taken of; steps + 1 when not given. The authors take it of `steps` for self-attention.

    Raises:
        ValueError: outside 0…1, or an interval that ends before it begins.
    """
    start, end = schedule if isinstance(schedule, tuple) else (0.0, schedule)
    if not 0 <= start <= end <= 1:
        raise ValueError(f"A schedule is a share of the steps: 0 ≤ start ≤ end ≤ 1, not {schedule!r}. 0.8 means the first 80 %.")
    step, of = torch.arange(steps), steps + 1 if of is None else of
    return (step >= int(start * of)) & (step < int(end * of))


@dataclass(frozen=True)
class Edit(ABC):
    """What every edit has. A new kind of edit is a subclass that gives `matrices`.

    Args:
        cross_steps: when the source's cross-attention maps are used (τ in the paper).
        self_steps: when the source's self-attention maps are used.
        self_size: the largest self-attention map to inject, as a share of the latent's side; the paper's 16×16 of 64×64 is 0.25,
            1.0 is every layer.

    Raises:
        ValueError: a schedule outside 0…1 or reversed, or a self_size outside 0…1.
    """

    cross_steps: Schedule = 0.8
    self_steps: Schedule = 0.4
    self_size: float = 0.25

    def __post_init__(self):
        active_steps(self.cross_steps, 1)
        active_steps(self.self_steps, 1)
        if not 0 < self.self_size <= 1:
            raise ValueError(f"self_size is a share of the latent's side, 0 < self_size ≤ 1, not {self.self_size}.")

    @abstractmethod
    def matrices(
        self, tokenizer, source: str, target: str, steps: int
    ) -> tuple[Float[Tensor, "step source_token target_token"], Float[Tensor, "step target_token target_token"]]:
        """S and T for every step, for one source and one target prompt."""


@dataclass(frozen=True)
class Replace(Edit):
    """Word swap: each target token looks where its counterpart in the source looked (S = M diag(α), T = diag(1 − α)).

    Args and errors: as for `Edit`.
    Reference: Hertz et al. 2022 (arXiv 2208.01626), section 3.2 "Word Swap".
    """

    def matrices(self, tokenizer, source: str, target: str, steps: int):
        """S and T for every step, each (step, token, token). Raises PromptMismatch if the word counts differ."""
        mapping = replacement_matrix(tokenizer, source, target)
        alpha = active_steps(self.cross_steps, steps).float()[:, None, None]
        return mapping * alpha, torch.eye(len(mapping)) * (1 - alpha)
