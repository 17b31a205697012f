"""One run within a session: which terms, observers and rows every call of the model gets."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import AttentionControlError
from .observe import Geometry, Observer
from .phases import Phase, Plan, step_of, steps_of


class Run:
    """A run of the pipeline on prompts, source first.

    Args: as for `Session.begin`, and the session with its marks.
    """

    def __init__(
        self,
        session,
        marks: Sequence,
        prompts: int,
        plan: Plan | None,
        observers: Sequence[Observer],
        known: Tensor | None,
    ):
        self.session, self.marks, self.prompts = session, marks, prompts
        self.plan, self.observers, self.known = plan, list(observers), known
        self.size: tuple[int, int] | None = None  # of the latent; known at the first call
        self.turns = self.steps = 0  # of the pipeline's loop, and of the schedule
        self._phases: list[Phase] = []
        self._set_to: tuple | None = None  # what the marks are set to
        self._keep: dict[tuple[bool, bool], Tensor | None] = {}
        self._turn: Tensor | None = None
        self._ended = False
        for mark in marks:
            mark.clear()

    @property
    def under_way(self) -> bool:
        """Whether the model has been called, and more turns are to come."""
        return self.size is not None and not self._ended

    def before_call(self, args: tuple, kwargs: dict) -> Tensor | None:
        """Set the marks for the model's next call. Gives the rows that have to run, or None for all."""
        family, session = self.session.family, self.session
        sample = family.sample(args, kwargs)
        size = family.size(args, kwargs) if self.size is None else self.size
        first = family.prompts_first_row(session.pipe, len(sample), self.prompts, session.calls)
        if self.size is None:
            self._begin(size, family.tokens(args, kwargs), sample)
        if first is None:
            return self._without_control()
        turn = min(self.session.step, self.turns - 1)
        self._turn.fill_(turn)
        phase = self._phases[self.schedule_step(turn)[0]] if self._phases else None
        watching = tuple(
            tuple(observer for observer in self.observers if observer.watches(mark.layer, turn))
            for mark in self.marks
        )
        source_runs = self.known is None or any(watching) or (phase is not None and phase.borrows)
        if self._set_to != (phase, watching, first, source_runs):
            self._set(phase, watching, first, source_runs)
            self._set_to = (phase, watching, first, source_runs)
        return self._rows_that_run(first, source_runs)

    def _without_control(self) -> Tensor | None:
        """A call without prompts: no layer does anything but its own, and a known source need not run."""
        if self._set_to is not None:
            for mark in self.marks:
                mark.terms, mark.watching = None, ()
            self._set_to = None
        return self._rows_that_run(0, False)

    def _begin(self, size: tuple[int, int], tokens: int, sample: Tensor):
        """The first call of the model says what the run looks like; now everything goes to the device."""
        pipe, device = self.session.pipe, sample.device
        self.size = size
        self._check_tokens(tokens)
        self.turns = getattr(pipe, "num_timesteps", len(pipe.scheduler.timesteps))
        self.steps = steps_of(pipe.scheduler, self.turns)
        self._turn = torch.zeros(1, dtype=torch.long, device=device)
        if self.plan is not None:
            moved: dict[int, Phase] = {}
            for phase in self.plan.phases(self.steps):
                if id(phase) not in moved:
                    moved[id(phase)] = phase.to(device)
                self._phases.append(moved[id(phase)])
        if self.known is not None:
            if len(self.known) != self.turns:
                raise AttentionControlError(
                    f"The source's latents are known after {len(self.known)} steps, and this run has {self.turns}."
                )
            self.known = self.known.to(device, sample.dtype)
        layers = [mark.layer for mark in self.marks]
        geometry = Geometry(layers, self.size, self.prompts, tokens, self.turns, device)
        for observer in self.observers:
            observer.begin(geometry)
        for mark in self.marks:
            mark.places = mark.layer.places(self.size, tokens)
            mark.keys = mark.layer.keys(self.size, tokens)
            mark.step = self._turn

    def _set(
        self,
        phase: Phase | None,
        watching: Sequence[tuple[Observer, ...]],
        first: int,
        source_runs: bool,
    ):
        """Tell every layer its terms and observers, with the rows as they stand in the batch that runs."""
        dropped = 0 if self.known is None else (first > 0) + (not source_runs)
        source = first if self.known is None else first - (first > 0)
        rows = [source + number for number in range(self.prompts)]
        if not source_runs:
            rows = [source, *(row - 1 for row in rows[1:])]  # the source's is named by no term
        for mark, observers in zip(self.marks, watching, strict=True):
            mark.rows = first + self.prompts - dropped
            mark.prompts = tuple(rows)
            mark.watching = observers
            mark.terms = (
                phase.terms(mark.layer, self.size, rows) if phase is not None else None
            ) or None

    def _check_tokens(self, tokens: int):
        """The prompts' tokens are those that the model got."""
        wanted = tokens if self.plan is None else self.plan.tokenizer.model_max_length
        if tokens != wanted:
            raise AttentionControlError(
                f"The model got {tokens} tokens of text, and the prompts were lined up in {wanted}. If a longer text is "
                "wanted, give max_sequence_length to edit(); a pipeline with an encode_prompt of another length cannot be "
                "controlled."
            )

    def _rows_that_run(self, first: int, source_runs: bool) -> Tensor | None:
        """Row numbers of the batch, for a source whose latents are known."""
        if self.known is None:
            return None
        if (bool(first), source_runs) not in self._keep:
            out = {0} if first else set()
            out |= set() if source_runs else {first}
            keep = [row for row in range(first + self.prompts) if row not in out]
            self._keep[bool(first), source_runs] = (
                torch.tensor(keep).to(self._turn.device) if out else None
            )
        return self._keep[bool(first), source_runs]

    def schedule_step(self, turn: int) -> tuple[int, int]:
        """The step of the schedule that a turn of the pipeline's loop belongs to, and how many there are."""
        return step_of(turn, self.turns, self.steps), self.steps

    def end_step(self, latents: Tensor) -> Tensor:
        """The latents to go on with after a turn of the loop: a known source's as they are known."""
        if self.known is None:
            return latents
        return torch.cat([self.known[self.session.step - 1][None].to(latents), latents[1:]])

    def finish(self):
        """Observers bring home what they have."""
        if self.size is not None and self.session.step and not self._ended:
            self._ended = True
            for observer in self.observers:
                observer.end(self.session.step)
