"""Null-text inversion: unconditional embeddings optimised so that guidance follows the pivot."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..attention.families import family_of
from ..attention.interrupts import block
from ..attention.session import joined
from .checkpoint import Checkpoint
from .pivot import plain
from .samplers import _arguments, _scheduler, sampler

STARTS = ("null", "prompt")
LOSS_SCALE = 2.0**12  # keeps float16's gradients off zero; as a power of two it rounds nothing


@block
def _frozen(pipe, gradient_checkpointing: bool) -> Iterator[None]:
    """No gradients for the weights within a `with` block, and if wanted no activations kept."""
    model = family_of(pipe).model(pipe)
    with joined(pipe, "inverted") as session:
        for p in model.parameters():
            if p.requires_grad:
                session.undo(p.requires_grad_, True)
                p.requires_grad_(False)
        if gradient_checkpointing and not model.is_gradient_checkpointing:
            session.undo(model.disable_gradient_checkpointing)
            model.enable_gradient_checkpointing()
        yield


def _conditioning(pipe, pivot: Tensor, prompt: str) -> list[dict]:
    """What the pipeline gives its model without and with the prompt.

    Two dictionaries of keyword arguments, one row each.
    """
    seen = {}

    def look(args, kwargs):
        seen.update(kwargs)
        return args, kwargs

    with _scheduler(pipe, sampler), joined(pipe, "inverted") as session:
        session.quiet()
        session.change(look)
        pipe(
            prompt=[prompt],
            guidance_scale=2.0,
            num_inference_steps=1,
            output_type="latent",
            **_arguments(pipe, pivot[:1]),
        )

    def row(value, i: int):
        if isinstance(value, dict):
            return {key: row(v, i) for key, v in value.items()}
        return value[i : i + 1] if isinstance(value, Tensor) else value

    return [
        {**{key: row(value, i) for key, value in seen.items()}, "return_dict": False}
        for i in (0, 1)
    ]


def _optimise_null(
    pipe,
    pivot: Tensor,
    run: dict,
    checkpoint: Path | None,
    stepped: Callable[[int], None],
    progress: bool,
) -> tuple[
    Float[Tensor, "moment channel row column"],
    Float[Tensor, "step token embedding"],
    Float[Tensor, "step inner"],
]:
    """For every step the unconditional embedding with which the guided step lands on the pivot.

    Adam, new for every step, started from the step before. Its rate is 10⁻² and falls to half, the
    tolerance is 10⁻⁵ and rises to 10⁻³, both over the run and, unlike the authors' constants, for
    any number of steps. The tolerance is in units of the latent's variance.

    Gives the pivot too, a checkpoint's where there is one: another device rounds its own
    differently.

    Reference: Mokady et al. 2022, Algorithm 1.
    """
    steps, inner, scale = run["steps"], run["inner"], run["guidance"]
    model, device = family_of(pipe).model(pipe), pipe._execution_device
    without, with_prompt = _conditioning(pipe, pivot, run["prompt"])
    start = (with_prompt if run["init"] == "prompt" else without)["encoder_hidden_states"]
    state = Checkpoint.start(pivot, plain(start.detach().float().cpu()), steps, inner)
    if checkpoint and checkpoint.exists():
        state = Checkpoint.load(checkpoint, run, like=state)
    null, latent = state.embedding.to(device), state.latent.to(device)
    variance = state.pivot[-1].var().item()
    with (
        _scheduler(pipe, sampler) as scheduler,
        _bar(pipe, steps, progress) as shown,
    ):
        scheduler.set_timesteps(steps, device=device)
        shown.update(state.done)
        for i in range(state.done, steps):
            t = scheduler.timesteps[i]
            target = state.pivot[i + 1][None].to(device)
            with torch.no_grad():
                conditional = _predicted(model, latent, t, with_prompt)

            def landed(embedding, latent=latent, t=t, conditional=conditional):
                words = {**without, "encoder_hidden_states": embedding.to(model.dtype)}
                guess = _predicted(model, latent, t, words)
                guided = guess + scale * (conditional - guess)
                once = copy.copy(scheduler)  # some count their steps, and this one is tried often
                return once.step(guided, t, latent, return_dict=False)[0]

            tolerance = (1e-5 + 1e-3 * i / steps) * variance
            rate = 1e-2 * (1 - i / (2 * steps))
            null, losses = _descend(null, landed, target, inner, rate, tolerance)
            with torch.no_grad():
                latent = plain(landed(null))
            state.add(null, losses, latent)
            shown.set_postfix(loss=f"{losses[-1]:.1e}")
            shown.update()
            if checkpoint and null.isfinite().all():
                state.save(checkpoint, run)
            stepped(i)
    return state.pivot, torch.cat(state.null), state.losses


def _predicted(model: nn.Module, latent: Tensor, t: Tensor, words: dict) -> Tensor:
    """The model's prediction in float32: a UNet's of the noise, a transformer's of the velocity."""
    sample = latent.to(model.dtype)
    if "hidden_states" in words:  # a transformer's latents, which it is told by name
        words = {**words, "hidden_states": sample, "timestep": t.expand(len(sample))}
        return model(**words)[0].float()
    return model(sample, t, **words)[0].float()


def _descend(
    null: Float[Tensor, "1 token embedding"],
    landed: Callable[[Tensor], Tensor],
    target: Float[Tensor, "1 channel row column"],
    inner: int,
    rate: float,
    tolerance: float,
) -> tuple[Float[Tensor, "1 token embedding"], list[float]]:
    """The embedding with which a step lands nearest to the target, and the losses on the way."""
    null = null.detach().clone().requires_grad_()
    adam = torch.optim.Adam([null], lr=rate)
    losses = []
    with torch.enable_grad():
        while len(losses) < inner and not (losses and losses[-1] < tolerance):
            loss = F.mse_loss(landed(null), target)
            adam.zero_grad()
            (loss * LOSS_SCALE).backward()
            null.grad /= LOSS_SCALE
            adam.step()
            losses.append(loss.item())
    return null.detach(), losses


@block
def _bar(pipe, steps: int, shown: bool):
    """The pipeline's progress bar."""
    with joined(pipe, "inverted") as session:
        session.quiet(not shown, desc="null-text")
        with pipe.progress_bar(total=steps) as bar:
            yield bar
