"""The turns of a pipeline's loop, where no callback tells of them: each ends with the scheduler's step."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

AfterStep = Callable[[Any, int, Any, dict], dict]  # pipeline, turn, timestep, tensors → tensors


def call_back(session, after_step: AfterStep):
    """Call back after every turn of a pipeline that does not do it itself (PixArt, DeepFloyd IF)."""
    step, turns = session.pipe.scheduler.step, itertools.count()

    @functools.wraps(step)  # pipelines ask for its arguments
    def answered(noise, timestep, *args, **kwargs):
        done = step(noise, timestep, *args, **kwargs)
        tensors = after_step(session.pipe, next(turns), timestep, {"latents": done[0]})
        return (tensors["latents"], *done[1:])

    session.set(session.pipe.scheduler, "step", answered)


def follow(session):
    """Keep other threads from the scheduler, and count the turns of a pipeline that somebody else calls, without a callback of ours."""
    scheduler = session.pipe.scheduler
    if getattr(scheduler.set_timesteps, "session", None) is session:
        return
    step, set_timesteps = scheduler.step, scheduler.set_timesteps

    @functools.wraps(step)
    def counted(*args, **kwargs):
        done = step(*args, **kwargs)
        session.step, session.calls = session.step + 1, 0
        if session.run is not None and session.step == session.run.turns:
            session.finish()
        return done

    @functools.wraps(set_timesteps)
    def begun(*args, **kwargs):
        session.check_thread()
        if not session.calls_back:
            session.step = session.calls = 0
        return set_timesteps(*args, **kwargs)

    begun.session = session  # type: ignore[attr-defined]
    session.set(scheduler, "set_timesteps", begun)
    if not session.calls_back:
        session.set(scheduler, "step", counted)
