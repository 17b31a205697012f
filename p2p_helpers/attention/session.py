"""One run of one pipeline: what it changes, the step it is in, and everything put back."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import AttentionControlError
from .changes import Changes
from .families import family_of
from .family import bare
from .intercept import leave_modes, mark_of, modes
from .interrupts import Interrupts, block, shielded
from .observe import Observer
from .phases import Plan
from .rows import widened
from .run import Run
from .turns import AfterStep, call_back, follow
from .unet import stand_in

_OWNER = "_p2p_session"  # where a model keeps the session that has it
GRAPHS = 64  # of one model, as many as torch.compile may make in a session

Change = Callable[[tuple, dict], tuple[tuple, dict]]  # of the model's arguments


class Session(Changes):
    """A `with` block in which a pipeline is changed; at its end the pipeline is as it was, whatever happens.

    All that a run changes is changed through `set` and `undo`, which say first how to put it back. A Ctrl-C waits until a
    change or the putting back is complete.

    Args:
        pipe: a diffusers pipeline of a known family.
        doing: "edited", "inverted", "recorded", for the message to whoever wants it at the same time.
        calls_back: whether whoever runs the pipeline tells the session when a step has ended (`end_step`). If not, the
            session counts the steps of the scheduler, which ends every turn of a pipeline's loop.

    Raises:
        AttentionControlError: no family knows the pipeline, or another session has it.
    """

    def __init__(self, pipe, doing: str, *, calls_back: bool = True):
        super().__init__()
        self.pipe, self.doing, self.calls_back = pipe, doing, calls_back
        self.family = family_of(pipe)
        self.model = bare(self.family.model(pipe))
        self.thread = threading.get_ident()
        self.changes: list[Change] = []
        self.step = 0  # how often the pipeline has called back in this run
        self.calls = 0  # of the model in this step, so far
        self.run: Run | None = None
        self._interrupts = Interrupts()
        self._marks: list = []
        self._inner: Callable | None = None

    @shielded
    def __enter__(self) -> Session:
        self._interrupts.begin()
        try:
            self._claim()
            self.undo(leave_modes, modes())
            self.undo(torch.set_grad_enabled, torch.is_grad_enabled())
            self._surround()
            follow(self)
            self._let_compile()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    @shielded
    def __exit__(self, *error):
        try:
            self.put_back()
        finally:
            self._interrupts.end()

    def _claim(self):
        """Take the model, or say who has it."""
        owner = vars(self.model).setdefault(_OWNER, self)  # one step: of two threads one gets it
        if owner is self:
            self.undo(vars(self.model).pop, _OWNER, None)
            return
        if owner.thread == threading.get_ident():
            raise AttentionControlError(
                f"This pipeline is being {owner.doing} already. To record an edit, take edit(..., record=True) outside of "
                "record(); otherwise end the `with` block first."
            )
        raise AttentionControlError(
            f"This pipeline is being {owner.doing} in another thread. Wait until that has ended, or load a second pipeline: "
            "one pipeline does one thing at a time."
        )

    # What is changed, and put back at the end.

    @shielded
    def quiet(self, disable: bool = True, **config):
        """No progress bar, or one with other settings; one that the user has switched off stays off."""
        before = dict(getattr(self.pipe, "_progress_bar_config", {}))
        self.undo(lambda: self.pipe.set_progress_bar_config(**before))
        disable = disable or before.get("disable", False)
        self.pipe.set_progress_bar_config(**{**before, **config, "disable": disable})

    @shielded
    def scheduler(self, scheduler):
        """Another scheduler."""
        self.set(self.pipe, "scheduler", scheduler)
        follow(self)

    @shielded
    def change(self, function: Change):
        """Change the arguments of every call of the model."""
        self.undo(self.changes.remove, function)
        self.changes.append(function)

    def _surround(self):
        """Stand around every call of the model: outside of what torch.compile makes of it, and of its hooks."""
        outer = self.family.model(self.pipe)
        self._inner = vars(outer).get("_compiled_call_impl") or outer._call_impl
        self.set(outer, "_compiled_call_impl", self._call)

    def _let_compile(self):
        """Every combination of terms and observers is a graph of its own, some more than torch.compile allows."""
        compiler = sys.modules.get("torch._dynamo")
        limit = getattr(getattr(compiler, "config", None), "recompile_limit", GRAPHS)
        if limit < GRAPHS:
            self.undo(setattr, compiler.config, "recompile_limit", limit)
            compiler.config.recompile_limit = GRAPHS

    @shielded
    def begin(
        self,
        prompts: int,
        plan: Plan | None = None,
        observers: Sequence[Observer] = (),
        known: Tensor | None = None,
    ):
        """Begin a run of the pipeline with so many prompts, source first, in this thread. In `record` there may be several, one by one.

        Args:
            plan: what the edits ask for.
            observers: who sees attention maps.
            known: the source's latents after every step, (step, channel, height, width), if they need not be worked out.

        Raises:
            AttentionControlError: the model has no attention layers that can be controlled.
        """
        self.step, self.calls, self.thread = 0, 0, threading.get_ident()
        self._install()
        self.run = Run(self, self._marks, prompts, plan, observers, known)

    def _install(self):
        """Put the marks into the attention layers."""
        if self._marks:
            return
        layers = self.family.layers(self.model)
        if not layers:
            raise AttentionControlError(
                f"{type(self.model).__name__} has no attention layers that can be controlled."
            )
        for layer, module in layers.items():
            mark = mark_of(module)
            self.undo(mark.clear)
            self.undo(setattr, mark, "forward", None)
            plain = stand_in(module)
            if plain is not None:
                self.undo(module.set_processor, module.processor)
                module.set_processor(plain)
            mark.clear()
            mark.layer, mark.forward = layer, module.forward
            mark.processor = type(module.processor).__name__
            self.set(module, "forward", mark)
            self._marks.append(mark)

    # What happens in a run.

    def check_thread(self):
        """Refuse another thread than that of the last run, before it changes anything."""
        if threading.get_ident() != self.thread:
            raise AttentionControlError(
                f"This pipeline is being {self.doing} in another thread, and runs here, too. Wait until that has ended. "
                "(Pipelines that share a scheduler cannot run side by side, either.)"
            )

    def _call(self, *args, **kwargs):
        """In the place of the model's call."""
        self._interrupts.check()
        self.check_thread()
        for change in self.changes:
            args, kwargs = change(args, kwargs)
        if self.run is None:
            self.calls += 1
            return self._inner(*args, **kwargs)
        rows = len(self.family.sample(args, kwargs))
        keep = self.run.before_call(args, kwargs)
        self.calls += 1
        if keep is None:
            return self._inner(*args, **kwargs)
        args, kwargs = self.family.narrowed(args, kwargs, keep, rows)
        return widened(self._inner(*args, **kwargs), keep, rows)

    def end_step(self, turn: int, latents: Tensor) -> Tensor:
        """The pipeline has called back after a turn of its loop, from 0: the latents to go on with."""
        self._interrupts.check()
        self.step, self.calls = turn + 1, 0
        return latents if self.run is None else self.run.end_step(latents)

    def images(self, after_step: AfterStep, wanted: Sequence[str] = (), **arguments) -> Any:
        """The pipeline's pictures, a list, or the latents where the arguments ask for them.

        Args:
            after_step: called as diffusers' callback_on_step_end after every turn of the loop, also where the pipeline has
                none: then the scheduler's step gives what it gives.
            wanted: names of what it sees beside the latents, where the pipeline calls back itself.
            arguments: of the pipeline; a negative prompt of None is left out.
        """
        if arguments.get("negative_prompt", "") is None:
            del arguments["negative_prompt"]
        if "callback_on_step_end" in inspect.signature(self.pipe.__call__).parameters:
            arguments["callback_on_step_end"] = after_step
            seen = list(dict.fromkeys(["latents", *wanted]))
            return self.pipe(callback_on_step_end_tensor_inputs=seen, **arguments).images
        with self.within():
            call_back(self, after_step)
            return self.pipe(**arguments).images

    def blended(self, latents: Tensor, blend: Callable[..., Tensor], turn: int) -> Tensor:
        """The latents after a local blend, which sees them as pictures, and the schedule's step."""
        pictures = self.family.unpacked(latents, self.run.size)
        changed = blend(pictures, *self.run.schedule_step(turn))
        return latents if changed is pictures else self.family.packed(changed)

    def placed(self, latents: Tensor, placed: Sequence, turn: int) -> Tensor:
        """The latents after layout edits, of which each target may have one."""
        pictures = self.family.unpacked(latents, self.run.size)
        targets = [
            one if own is None else own.after(one, turn, self.pipe.scheduler)
            for one, own in zip(pictures[1:], placed, strict=True)
        ]
        return self.family.packed(torch.stack([pictures[0], *targets]))

    def finish(self):
        """The run is over: observers copy what they have to the CPU, once."""
        if self.run is not None:
            self.run.finish()


@block
def joined(pipe, doing: str) -> Iterator[Session]:
    """A block within the session that this thread has with a pipeline, or else a session of its own.

    Raises:
        AttentionControlError: as `Session`.
    """
    owner = vars(bare(family_of(pipe).model(pipe))).get(_OWNER)
    if owner is not None and owner.pipe is pipe and owner.thread == threading.get_ident():
        with owner.within():
            yield owner
    else:
        with Session(pipe, doing, calls_back=False) as session:
            yield session
