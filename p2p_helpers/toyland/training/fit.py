"""The training loop: resumable at any moment, on the same loss curve."""

from __future__ import annotations

import copy
import csv
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .muon import optimizers

CHECKPOINT_SECONDS = 180
SAMPLE_SECONDS = 900
LOG_STEPS = 50


def fast_dtype(device: str) -> torch.dtype | None:
    """bfloat16 where the hardware multiplies it natively, else None (float32)."""
    if device.startswith("cuda"):
        return torch.bfloat16
    native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else None


def learning_rate(step: int, steps: int, warmup: int, decay_from: float) -> float:
    """Factor on every learning rate: linear warm-up, constant up to `decay_from` of the steps, then a cosine to 2 %."""
    start = max(warmup, decay_from * steps)
    progress = min(max(step - start, 0) / max(steps - start, 1), 1)
    return min((step + 1) / warmup, 1) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))


def generators(
    settings: dict, step: int, worker: int, device: str = "cpu"
) -> tuple[np.random.Generator, torch.Generator]:
    """Random numbers for one worker's part of a step, from the stage's seed and these two numbers alone."""
    number = step * settings["workers"] + worker
    rng = np.random.default_rng([settings["seed"], number])
    noise = np.random.default_rng([settings["seed"], number, 1]).integers(2**63)
    return rng, torch.Generator(device).manual_seed(int(noise))


def _resume(file: Path, log: Path, model, average, opts, device: str) -> tuple[int, float]:
    """Load a checkpoint; return its step and the seconds spent so far."""
    state = torch.load(file, map_location=device, weights_only=True)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    for o, s in zip(opts, state["optimizers"], strict=True):
        o.load_state_dict(s)
    if log.exists():  # steps after the checkpoint are taken again
        rows = log.read_text().splitlines(keepends=True)
        log.write_text("".join(row for row in rows if int(row.split(",")[0]) <= state["step"]))
    print(f"resumed at step {state['step']}", flush=True)
    return state["step"], state["seconds"]


def _save(file: Path, model, average, opts, step: int, seconds: float):
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizers": [o.state_dict() for o in opts],
        "step": step,
        "seconds": seconds,
    }
    torch.save(state, file.with_suffix(".part"))
    os.replace(file.with_suffix(".part"), file)


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float):
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
    for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
        ours.copy_(theirs)


def fit(
    model: nn.Module,
    loss_at: Callable[[int, int], Tensor],
    sample: Callable[[nn.Module, Path], None],
    settings: dict,
    out: Path,
    device: str = "cpu",
) -> nn.Module:
    """Run or resume a training; return the exponential moving average of the weights.

    Args:
        model: what is trained.
        loss_at: (step number, worker's number) → scalar loss of that worker's part of the batch. Its randomness must follow from
            these two numbers alone.
        sample: (averaged model, file) → None; writes a picture of the progress.
        settings: steps, muon_lr, adam_lr, warmup, decay_from, ema, workers. So many threads compute a step's parts side by side;
            on two cores that is faster than one computation on both of them, since neither waits for the other at every layer.
        out: folder for checkpoint.pt, log.csv (step, loss, seconds) and sample.png.
        device: "cpu" or "cuda".
    """
    out.mkdir(parents=True, exist_ok=True)
    average = copy.deepcopy(model).requires_grad_(False)
    workers = settings["workers"]
    pool = ThreadPoolExecutor(
        workers,
        initializer=torch.set_num_threads,
        initargs=(max(torch.get_num_threads() // workers, 1),),
    )
    opts = optimizers(model, settings["muon_lr"], settings["adam_lr"], pool)
    rates = [o.param_groups[0]["lr"] for o in opts]
    file, log = out / "checkpoint.pt", out / "log.csv"
    start, spent = _resume(file, log, model, average, opts, device) if file.exists() else (0, 0.0)
    clock = time.time() - spent
    saved = sampled = time.time()
    recent = []

    def backward(step: int, worker: int) -> Tensor:
        loss = loss_at(step, worker) / workers
        loss.backward()
        return loss.detach()

    for step in range(start, settings["steps"]):
        factor = learning_rate(step, settings["steps"], settings["warmup"], settings["decay_from"])
        for o, rate in zip(opts, rates, strict=True):
            o.param_groups[0]["lr"] = rate * factor
        losses = list(pool.map(partial(backward, step), range(workers)))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
            o.zero_grad(set_to_none=True)
        _follow(average, model, min(settings["ema"], (step + 1) / (step + 10)))
        recent.append(sum(losses))
        last = step + 1 == settings["steps"]
        if (step + 1) % LOG_STEPS == 0 or last:
            mean, seconds = torch.stack(recent).mean().item(), time.time() - clock
            recent = []
            with log.open("a", newline="") as f:
                csv.writer(f).writerow([step + 1, f"{mean:.6f}", f"{seconds:.0f}"])
            print(
                f"step {step + 1}/{settings['steps']}  loss {mean:.5f}  {seconds:.0f} s", flush=True
            )
        if time.time() - saved > CHECKPOINT_SECONDS or last:
            _save(file, model, average, opts, step + 1, time.time() - clock)
            saved = time.time()
        if time.time() - sampled > SAMPLE_SECONDS or last:
            with torch.no_grad():
                sample(average, out / "sample.png")
            sampled = time.time()
    return average
