"""Null-text inversion: unconditional embeddings optimised so that guidance follows the pivot."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from jaxtyping import Float
from torch import Tensor

from ..attention.interrupts import block
from ..attention.session import joined
from ..errors import InversionError
from .artefact import _differences, _read, _write
from .samplers import _arguments, _scheduler

LOSS_SCALE = 2.0**12  # keeps float16's gradients off zero; a power of two, so it changes no other precision's


@block
def _frozen(pipe, gradient_checkpointing: bool) -> Iterator[None]:
    """No gradients for the weights within a `with` block, and if wanted activations that are not kept."""
    unet = pipe.unet
    with joined(pipe, "inverted") as session:
        for p in unet.parameters():
            if p.requires_grad:
                session.undo(p.requires_grad_, True)
                p.requires_grad_(False)
        if gradient_checkpointing and not unet.is_gradient_checkpointing:
            session.undo(unet.disable_gradient_checkpointing)
            unet.enable_gradient_checkpointing()
        yield


def _conditioning(pipe, pivot: Tensor, prompt: str) -> list[dict]:
    """What the pipeline gives its UNet without and with the prompt: two dictionaries of keyword arguments, one row each."""
    seen = {}

    def look(args, kwargs):
        seen.update(kwargs)
        return args, kwargs

    with _scheduler(pipe, DDIMScheduler.from_config), joined(pipe, "inverted") as session:
        session.change(look)
        pipe(prompt=[prompt], guidance_scale=2.0, num_inference_steps=1, output_type="latent", **_arguments(pipe, pivot[:1]))

    def row(value, i: int):
        if isinstance(value, dict):
            return {key: row(v, i) for key, v in value.items()}
        return value[i : i + 1] if isinstance(value, Tensor) else value

    return [{**{key: row(value, i) for key, value in seen.items()}, "return_dict": False} for i in (0, 1)]


def _optimise_null(
    pipe, pivot: Tensor, run: dict, checkpoint: Path | None, stepped: Callable[[int], None], progress: bool
) -> tuple[Float[Tensor, "moment channel row column"], Float[Tensor, "step token embedding"], Float[Tensor, "step inner"]]:
    """For every step the unconditional embedding with which the guided DDIM step lands on the pivot (Mokady et al. 2022, Algorithm 1).

    Adam, new for every step, started from the step before; rate 10⁻² falling to half, tolerance 10⁻⁵ rising to 10⁻³, both over the run
    and, unlike the authors' constants, for any number of steps; the tolerance in units of the latent's variance.

    Gives the pivot too, a checkpoint's where there is one: another device rounds its own differently.
    """
    steps, inner, scale = run["steps"], run["inner"], run["guidance"]
    unet, device, dtype = pipe.unet, pipe._execution_device, pipe.unet.dtype
    without, with_prompt = _conditioning(pipe, pivot, run["prompt"])
    null = (with_prompt if run["init"] == "prompt" else without)["encoder_hidden_states"].detach().float().clone()
    found, losses, latent = [], torch.full((steps, inner), torch.nan), pivot[:1].to(device)
    if checkpoint and checkpoint.exists():
        tensors, facts = _read(checkpoint)
        then = json.loads(facts.get("run", "{}"))
        other = [
            f"{key}: {then.get(key)} then, {run[key]} now"
            for key in ("prompt", "steps", "guidance", "inner", "init", "image sha256")
            if then.get(key) != run[key]
        ] + _differences(then, run)
        if other or "pivot" not in tensors:
            raise InversionError(f"{checkpoint} belongs to another run:\n  " + "\n  ".join(other) + "\nGive another file.")
        pivot = tensors["pivot"]
        found, losses, latent = list(tensors["null"].to(device)[:, None]), tensors["losses"], tensors["latent"].to(device)
        null = found[-1].clone()
    variance = pivot[-1].var().item()
    with _scheduler(pipe, DDIMScheduler.from_config) as scheduler, _bar(pipe, steps, progress) as shown:
        scheduler.set_timesteps(steps, device=device)
        shown.update(len(found))
        for i in range(len(found), steps):
            t, target = scheduler.timesteps[i], pivot[i + 1][None].to(device)
            with torch.no_grad():
                conditional = unet(latent.to(dtype), t, **with_prompt)[0].float()

            def landed(embedding, latent=latent, t=t, conditional=conditional):
                guess = unet(latent.to(dtype), t, **{**without, "encoder_hidden_states": embedding.to(dtype)})[0].float()
                return scheduler.step(guess + scale * (conditional - guess), t, latent, return_dict=False)[0]

            null = null.detach().requires_grad_()
            adam = torch.optim.Adam([null], lr=1e-2 * (1 - i / (2 * steps)))
            with torch.enable_grad():
                for j in range(inner):
                    loss = F.mse_loss(landed(null), target)
                    adam.zero_grad()
                    (loss * LOSS_SCALE).backward()
                    null.grad /= LOSS_SCALE
                    adam.step()
                    losses[i, j] = loss.item()
                    if losses[i, j] < (1e-5 + 1e-3 * i / steps) * variance:
                        break
            found.append(null.detach().clone())
            with torch.no_grad():
                latent = landed(found[-1])
            shown.set_postfix(loss=f"{losses[i, j]:.1e}")
            shown.update()
            if checkpoint:
                state = {"null": torch.cat(found).cpu(), "losses": losses, "latent": latent.cpu(), "pivot": pivot}
                _write(state, {"run": json.dumps(run)}, checkpoint)
            stepped(i)
    return pivot, torch.cat(found).cpu(), losses


@block
def _bar(pipe, steps: int, shown: bool):
    """The pipeline's progress bar."""
    with joined(pipe, "inverted") as session:
        session.quiet(not shown, desc="null-text")
        with pipe.progress_bar(total=steps) as bar:
            yield bar
