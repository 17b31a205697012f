"""What the edits of a run ask for, step by step: a plan of phases, between which nothing changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..edits.edit import Edit, matrices_of
from ..layout import Layout
from .layers import Layer
from .terms import SAME, Term

Matrix = Tensor | str | None  # (token, token), "same", or None for zero
Pair = tuple[Matrix, Matrix]  # S and T


@dataclass(frozen=True, eq=False)
class Wish:
    """What one target asks for in a phase.

    Args:
        pair: S and T, or None where the target keeps its own cross-attention maps.
        self_size: the largest self-attention map to be injected, as a share of the latent's side; 0 for none.
        layers: parts of the names of the layers in which it asks for anything; None for all.
        layout: where objects go, where the edit says so: what the source's maps give is moved.
        own_text: whether the source's pixels that are injected look at the target's own text, which has no maps of its own then.
    """

    pair: Pair | None
    self_size: float
    layers: tuple[str, ...] | None = None
    own_text: bool = False
    layout: Layout | None = None

    @property
    def borrows(self) -> bool:
        """Whether the source's queries and keys are needed."""
        return self.self_size > 0 or (self.pair is not None and self.pair[0] is not None)

    def terms(
        self, layer: Layer, size: tuple[int, int], source: int, own: int
    ) -> tuple[Term, ...] | None:
        """The terms of this target in a layer, or None where its attention is its own.

        Args:
            size: of the latent.
            source, own: their rows in the batch.
        """
        if self.layers is not None and not layer.within(self.layers):
            return None
        rows, columns = layer.grid(*size)
        limit = math.ceil(size[0] * self.self_size) * math.ceil(size[1] * self.self_size)
        injects = rows * columns <= limit
        if layer.kind == "self":
            return (Term(source, {"pixels": SAME}),) if injects else None
        pixels = {"pixels": SAME} if layer.order else {}
        if self.pair is None and not (pixels and injects):
            return None
        s, t = (None, SAME) if self.pair is None else self.pair
        if self.own_text and injects:
            return (Term(source, {"text": t, **pixels}, text=own),)
        lent = ({} if s is None else {"text": s}) | (pixels if injects else {})
        kept = ({} if t is None else {"text": t}) | ({} if injects else pixels)
        moved = SAME if self.layout is None else self.layout.matrix((rows, columns))
        pairs = ((source, lent, moved), (own, kept, SAME))
        return tuple(Term(row, values, queries) for row, values, queries in pairs if values)


class Phase:
    """Steps between which nothing changes: one wish for each target."""

    def __init__(self, wishes: Sequence[Wish]):
        self.wishes = tuple(wishes)
        self.borrows = any(wish.borrows for wish in wishes)

    def to(self, device: torch.device) -> Phase:
        """The same with its matrices on a device."""

        def moved(matrix: Matrix) -> Matrix:
            return matrix.to(device) if isinstance(matrix, Tensor) else matrix

        for wish in self.wishes:
            if wish.layout is not None:
                wish.layout.device = device
        wishes = [
            replace(wish, pair=wish.pair and (moved(wish.pair[0]), moved(wish.pair[1])))
            for wish in self.wishes
        ]
        return Phase(wishes)

    def terms(
        self, layer: Layer, size: tuple[int, int], rows: Sequence[int]
    ) -> dict[int, tuple[Term, ...]]:
        """Row → terms of every target that is edited in a layer.

        Args:
            rows: of the prompts in the batch, source first.
        """
        found = {}
        for wish, row in zip(self.wishes, rows[1:], strict=True):
            terms = wish.terms(layer, size, rows[0], row)
            if terms is not None:
                found[row] = terms
        return found


class Plan:
    """The phases of a run with a source and targets.

    Args:
        tokenizer: the pipeline's.
        source, targets: the prompts.
        edits: one for each target.
        self_size: of edits that do not say.
        layouts: for each target where its objects go, or None.

    Raises:
        PromptError, PromptMismatch: an edit cannot line up its prompts.
        InputError: an edit gives matrices of another kind (see `matrices_of`).
    """

    def __init__(
        self,
        tokenizer,
        source: str,
        targets: Sequence[str],
        edits: Sequence[Edit],
        self_size: float,
        layouts: Sequence[Layout | None] | None = None,
    ):
        self.tokenizer, self.source, self.targets, self.edits = tokenizer, source, targets, edits
        self.layouts = [None] * len(targets) if layouts is None else list(layouts)
        self.self_size = self_size
        self.phases(1)  # a word that cannot be found is an error now, not in the middle of a run

    def phases(self, steps: int) -> list[Phase]:
        """The phase of every step; steps between which nothing changes share one."""
        of_targets = [
            self._wishes(target, edit, layout, steps)
            for target, edit, layout in zip(self.targets, self.edits, self.layouts, strict=True)
        ]
        found: list[Phase] = []
        before = None
        for wishes in zip(*of_targets, strict=True):
            if before is None or any(a is not b for a, b in zip(wishes, before, strict=True)):
                found.append(Phase(wishes))
            else:
                found.append(found[-1])
            before = wishes
        return found

    def _wishes(self, target: str, edit: Edit, layout: Layout | None, steps: int) -> list[Wish]:
        """What a target asks for in every step; the same object as long as it is the same."""
        s, t = matrices_of(edit, self.tokenizer, self.source, target, steps)
        injected = edit.self_schedule(steps).tolist()
        size = self.self_size if edit.self_size is None else edit.self_size
        found: list[Wish] = []
        for step in range(steps):
            same = step > 0 and injected[step] == injected[step - 1]
            if same and torch.equal(s[step], s[step - 1]) and torch.equal(t[step], t[step - 1]):
                found.append(found[-1])
            else:
                # Copies, so that a phase does not keep the matrices of all steps.
                pair = _pair(s[step].clone(), t[step].clone())
                now = size if injected[step] else 0.0
                found.append(Wish(pair, now, edit.layers, edit.own_text, layout))
        return found


def _pair(s: Tensor, t: Tensor) -> Pair | None:
    """S and T, or None where the target keeps its own maps.

    We look at them once, before the run. Looking on a GPU inside the loop would make it wait.
    """
    pair = _plain(s), _plain(t)
    return None if pair == (None, SAME) else pair


def _plain(matrix: Tensor) -> Matrix:
    """A matrix, or what it is where nothing need be multiplied."""
    if not matrix.any():
        return None
    return SAME if torch.equal(matrix, torch.eye(len(matrix))) else matrix


def step_of(call: int, calls: int, steps: int) -> int:
    """The step of a schedule that a turn of the pipeline's loop belongs to.

    Most schedulers take one turn for a step. PNDM takes one more at the end, which belongs to the last step; the authors
    count the same way. Heun and others take about two turns for a step.
    """
    return min(call, steps - 1) if calls <= steps + 1 else call * steps // calls


def steps_of(scheduler, calls: int) -> int:
    """How many steps a run of so many turns has; fewer than the scheduler was set to where a picture is the start."""
    set_to, all_calls = getattr(scheduler, "num_inference_steps", None), len(scheduler.timesteps)
    if not set_to or all_calls == set_to:
        return calls
    order = max(1, round(all_calls / set_to))
    return max(1, (calls - (all_calls - set_to * order)) // order)
