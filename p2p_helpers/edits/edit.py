"""An edit is two small matrices per step: Â_t = A_s S + A_t T.

Pure tensors; no model is needed to make, print or test one.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import InputError
from ..values import Frozen, plain, shown
from .schedule import Interval, Schedule, active_steps

Matrices = tuple[
    Float[Tensor, "step source_token target_token"], Float[Tensor, "step target_token target_token"]
]

# What an edit that does not say otherwise uses, as in the authors' code; and one that injects
# queries and keys, as in Shin et al.'s (arXiv 2508.07519).
SELF_STEPS = 0.4
QK_STEPS = 0.2


def _own(interval):
    """An interval that no one else can change."""
    return tuple(interval) if isinstance(interval, list) else interval


@dataclass(frozen=True, repr=False)
class Edit(ABC):
    """What every edit has.

    A new kind of edit is a subclass that gives `matrices`; `a | b` is an edit that does b after a.

    Args:
        cross_steps: when the source's cross-attention maps are used (τ in the paper): one schedule,
            or each word its own; of several phrases that have a word the shortest counts.
        self_steps: when the source's self-attention maps are used; None is 0.4 (0.2 for
            `InjectQK`), or what the other part of a composition says.
        self_size: the largest self-attention map to inject, as a share of the latent's side; the
            paper's 16×16 of 64×64 is 0.25, 1.0 is every layer. None is what the other part of a
            composition says, or else the model's: for UNets 0.25, or more where that is less than
            16×16 (so 1.0 for the embedded model), and 1.0 for transformers, whose layers all have
            one size.
        layers: names of the attention layers in which the edit acts, or parts of names from dot to
            dot, as "up_blocks" or ("transformer_blocks.4", "transformer_blocks.5"). None is what the
            other part of a composition says, or else all.

    Raises:
        InputError: a schedule outside 0…1 or reversed, a self_size outside 0…1, or layers that are
            no names.
    """

    cross_steps: Schedule = dataclasses.field(default=0.8, kw_only=True)
    self_steps: Interval | None = dataclasses.field(default=None, kw_only=True)
    self_size: float | None = dataclasses.field(default=None, kw_only=True)
    layers: str | Sequence[str] | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self):
        if isinstance(self.cross_steps, Mapping):  # copies: the caller's may change
            each = Frozen((word, _own(share)) for word, share in self.cross_steps.items())
            object.__setattr__(self, "cross_steps", each)
            schedules = list(each.values())
        else:
            object.__setattr__(self, "cross_steps", _own(self.cross_steps))
            schedules = [self.cross_steps]
        object.__setattr__(self, "self_steps", _own(self.self_steps))
        if self.self_steps is not None:
            schedules.append(self.self_steps)
        for schedule in schedules:
            active_steps(schedule, 1)  # raises what is wrong with it
        size = self.self_size
        if size is not None and not (isinstance(size, Real) and 0 < size <= 1):
            raise InputError(
                f"self_size is a share of the latent's side, 0 < self_size ≤ 1, not {shown(size)}."
            )

        if isinstance(self.layers, str):
            object.__setattr__(self, "layers", (self.layers,))
        elif isinstance(self.layers, Iterable):
            object.__setattr__(self, "layers", tuple(self.layers))
        several = isinstance(self.layers, tuple) and all(
            n and isinstance(n, str) for n in self.layers
        )
        if self.layers is not None and not several:
            raise InputError(
                f"layers={shown(self.layers)}: give names of layers or parts of names, from dot to dot, e.g. "
                '"up_blocks".'
            )

    @property
    def own_text(self) -> bool:
        """Whether injected pixels look at the target's own text (see `InjectQK`)."""
        return False

    @abstractmethod
    def matrices(self, tokenizer, source: str, target: str, steps: int) -> Matrices:
        """S and T for every step, for one source and one target prompt, as tensors or NumPy's arrays.

        Called for one step too, to find errors early.
        """

    def self_schedule(self, steps: int) -> Bool[Tensor, " step"]:
        """When the source's self-attention maps are used, counted as in the authors' code.

        `InjectQK`, which does nothing else, has at least one step, also of the four of Flux.1 schnell.
        """
        usual = QK_STEPS if self.own_text else SELF_STEPS
        share = usual if self.self_steps is None else self.self_steps
        on = active_steps(share, steps, of=steps)
        if self.own_text and not on.any():
            begin, end = share if isinstance(share, (tuple, list)) else (0.0, share)
            if begin < end:
                on[int(begin * steps)] = True
        return on

    def __or__(self, other: Edit) -> Edit:
        return Composition(self, other) if isinstance(other, Edit) else NotImplemented

    def __repr__(self):
        parts = []
        for field in sorted(dataclasses.fields(self), key=lambda field: field.kw_only):
            value = plain(getattr(self, field.name))
            if value is not None or field.default is not None:
                parts.append(f"{field.name}={value!r}" if field.kw_only else f"{value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


def matrices_of(edit: Edit, tokenizer, source: str, target: str, steps: int) -> Matrices:
    """An edit's S and T, checked: in float32 and on the CPU, whatever kind of array it gives.

    Raises:
        InputError: it gives no two arrays of the right shape, or infinities or NaN; or see its `matrices`.
    """
    given = edit.matrices(tokenizer, source, target, steps)
    found: list[Any] = list(given) if isinstance(given, (tuple, list)) else [given]
    side = tokenizer.model_max_length
    shape = (steps, side, side)
    if [getattr(one, "shape", None) for one in found] == [shape, shape]:
        s, t = (torch.as_tensor(one).detach().float().cpu() for one in found)
        if s.isfinite().all() and t.isfinite().all():
            return s, t
    got = [str(tuple(one.shape)) if hasattr(one, "shape") else shown(one) for one in found]
    raise InputError(
        f"{edit!r} gave {' and '.join(got) if len(got) < 3 else f'{len(got)} things'} for {steps} steps of {side} tokens. Its matrices() "
        f"must return two, S and T, each an array {shape} of finite numbers."
    )


@dataclass(frozen=True, repr=False)
class Composition(Edit):
    """One edit after another; write it `first | second`.

    The second takes the first one's maps for its source: S = S₁S₂, T = T₁S₂ + T₂. Its prompt is the
    target already. This is associative, since Â = A_s S + A_t T is affine in A_s, and affine maps
    chain. Of `self_steps`, `self_size` and `layers` the last that is said counts; `cross_steps` are the
    parts' own.
    """

    first: Edit
    second: Edit

    def __post_init__(self):
        while isinstance(self.second, Composition):  # one form of what is associative
            object.__setattr__(self, "first", Composition(self.first, self.second.first))
            object.__setattr__(self, "second", self.second.second)
        for name in ("self_steps", "self_size", "layers"):
            own, other = getattr(self.first, name), getattr(self.second, name)
            object.__setattr__(self, name, own if other is None else other)

    @property
    def own_text(self) -> bool:
        """Whether a part says so."""
        return self.first.own_text or self.second.own_text

    def matrices(self, tokenizer, source: str, target: str, steps: int) -> Matrices:
        """S and T for every step. Raises what the parts raise.

        InputError: InjectQK after an edit that takes words' maps from the source.
        """
        s1, t1 = matrices_of(self.first, tokenizer, source, target, steps)
        if self.second.own_text and s1.any():
            raise InputError(
                f"{self!r}: InjectQK keeps the target's own maps of words, so what {self.first!r} "
                "takes from the source would be lost. Take one of the two; Reweight may follow "
                "either."
            )
        s2, t2 = matrices_of(self.second, tokenizer, target, target, steps)
        return s1 @ s2, t1 @ s2 + t2

    def __repr__(self):
        return f"{self.first!r} | {self.second!r}"
