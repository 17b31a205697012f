"""The samplers of inversion: DDIM, its inverse, and a DDIM that runs backwards without an error.

All are made over a noise schedule, which is all that they need of a pipeline's own scheduler.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, SchedulerMixin
from torch import Tensor

from ..attention.families import family_of
from ..attention.interrupts import block
from ..attention.session import joined
from ..errors import InversionError
from ..values import shown
from . import flow

MAX_TIMES = 100_000
DEFAULTS = {  # DDIM's own, but for the last: the last step ends at the first β, as it was trained
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "set_alpha_to_one": False,
}
CHOICES = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "sample", "v_prediction"),
    "timestep_spacing": ("leading", "trailing"),  # those that have an inverse
}


def noise_schedule(config: Mapping) -> dict:
    """The values of a scheduler's configuration that say how noise was added in training.

    Raises:
        InversionError: neither DDIM nor flow matching can be made from it, since it has no β (EDM), a
            way of making them that DDIM does not know, or values that are none.
    """
    if flow.is_flow(config):
        return flow.flow_schedule(config)
    betas = [config.get(key) for key in ("beta_start", "beta_end")]
    without = None in betas and config.get("trained_betas") is None
    if without or config.get("use_flow_sigmas"):
        raise InversionError(
            "The scheduler has no betas, so no DDIM with the same noise can be made of it; EDM and "
            "flow matching are such. Set a scheduler that the model's DDIM configuration makes."
        )
    schedule = DEFAULTS | {key: config[key] for key in DEFAULTS if config.get(key) is not None}
    if schedule["timestep_spacing"] not in CHOICES["timestep_spacing"]:
        schedule["timestep_spacing"] = "leading"
    if schedule["trained_betas"] is not None:
        schedule["trained_betas"] = _numbers(schedule["trained_betas"])
    for key, value in schedule.items():
        if not _fits(key, value, schedule["num_train_timesteps"]):
            raise InversionError(
                f"No DDIM can be made of this noise schedule: {key} is {shown(value)}. Set a "
                "scheduler with the betas and the prediction that the model was trained with."
            )
    return schedule


def own_schedule(pipe) -> dict:
    """The noise schedule of a pipeline's scheduler, of the kind that its model was trained with.

    Raises:
        InversionError: no sampler of ours can be made from it.
    """
    config = pipe.scheduler.config
    return flow.flow_schedule(config) if family_of(pipe).flow else noise_schedule(config)


def _numbers(values) -> list[float]:
    """Plain numbers of a list or an array; none where they are something else."""
    try:
        return np.asarray(values, dtype=float).ravel().tolist()
    except (ValueError, TypeError):
        return []


def _fits(key: str, value, times: object) -> bool:
    """Whether a value of a noise schedule with that many times can be as it is."""
    if key in CHOICES:
        return value in CHOICES[key]
    if key in ("num_train_timesteps", "steps_offset"):
        least = 1 if key == "num_train_timesteps" else 0
        return type(value) is int and least <= value <= MAX_TIMES
    if key in ("beta_start", "beta_end"):
        return type(value) in (int, float) and 0 <= value <= 1
    if key == "trained_betas":
        return value is None or (len(value) == times and all(0 <= beta <= 1 for beta in value))
    return type(value) is bool


def takes(schedule: Mapping, steps: int) -> bool:
    """Whether a noise schedule has that many steps."""
    if steps > schedule["num_train_timesteps"]:
        return False
    if flow.is_flow(schedule):
        return True
    ddim = DDIMScheduler.from_config(dict(schedule))
    ddim.set_timesteps(steps)
    times = ddim.timesteps.tolist()
    return min(times) >= 0 and max(times) < len(ddim.alphas_cumprod)


class BDIAScheduler(DDIMScheduler):
    """Bi-directional integration approximation of DDIM, for one run.

    A DDIM step goes from z_i to z_{i−1} along the noise predicted at z_i. This one also goes along
    it from z_i up to z_{i+1}, and uses both increments Δ, at still one call of the UNet:

        z_{i−1} = z_{i+1} − Δ(t_i → t_{i+1} | z_i) + Δ(t_i → t_{i−1} | z_i)

    The increments do not depend on z_{i+1}. So the equation is solved for it just as well, and then
    runs from the picture to the noise. Diffusers' own DDIM schedulers work out the increments, in
    float32 whatever the model's precision. Forwards, only the first row of the batch, the source,
    takes these steps. The others have nothing to come back to, and take DDIM's: a two-step rule
    swings when what guides it differs from what it was started with.

    Make one with `over`.

    Reference: Zhang et al. 2023, arXiv 2307.10829, with γ = 1.
    """

    @classmethod
    def over(cls, config: dict, second: Tensor | None = None) -> BDIAScheduler:
        """One over a noise schedule.

        It runs forwards to land on z_{N−1} first (`second`), and without it backwards.
        """
        made = cls.from_config(config)
        made.inverse = inverse(config)
        made.second = second
        made.history = []
        return made

    def set_timesteps(self, num_inference_steps: int, device=None, **more):
        super().set_timesteps(num_inference_steps, device, **more)
        self.inverse.set_timesteps(num_inference_steps)
        if self.second is None:
            # The first step is DDIM's. The others go on along the noise predicted where they begin.
            up = self.timesteps.flip(0)
            self.timesteps = torch.cat([up[:1], up[:-1]])
        self.history = []

    def step(self, model_output: Tensor, timestep, sample: Tensor, *args, **kwargs):
        noise, t = model_output.float(), int(timestep)
        z = sample.float()
        if self.history:  # as the last step gave it before rounding
            z = torch.cat([self.history[-1], z[1:]])
        before = self.history[-2] if len(self.history) > 1 else None
        move = self._back if self.second is None else self._forth
        after = move(noise, t, z, before)
        self.history = [z[:1], after[:1]]
        return (after.to(sample.dtype),)

    def _increments(self, noise: Tensor, t: int, z: Tensor) -> tuple[Tensor, Tensor]:
        """Δ(t_i → t_{i+1}) and Δ(t_i → t_{i−1}), both along the noise predicted at z_i."""
        times = self.config.num_train_timesteps
        above = min(t + times // self.num_inference_steps, times - 1)
        up = self.inverse.step(noise, above, z, return_dict=False)[0] - z
        down = super().step(noise, t, z, return_dict=False)[0] - z
        return up, down

    def _forth(self, noise: Tensor, t: int, z: Tensor, before: Tensor | None) -> Tensor:
        up, down = self._increments(noise, t, z)
        source = self.second[None].to(z) if before is None else before - up[:1] + down[:1]
        return torch.cat([source, (z + down)[1:]])

    def _back(self, noise: Tensor, t: int, z: Tensor, before: Tensor | None) -> Tensor:
        if before is None:
            return self.inverse.step(noise, t, z, return_dict=False)[0]
        up, down = self._increments(noise, t, z)
        return before + up - down


def sampler(schedule: Mapping) -> SchedulerMixin:
    """From noise to picture: DDIM's steps, or Euler's for flow matching."""
    if flow.is_flow(schedule):
        return flow.sampler(schedule)
    return DDIMScheduler.from_config(schedule)


def inverse(schedule: Mapping) -> SchedulerMixin:
    """From picture to noise: DDIM's inverse, or Euler's for flow matching."""
    if flow.is_flow(schedule):
        return flow.inverse(schedule)
    return DDIMInverseScheduler.from_config(schedule)


def _arguments(pipe, latents: Tensor) -> dict:
    """A pipeline's arguments that say where to start and how large the picture is."""
    height, width = (side * pipe.vae_scale_factor for side in latents.shape[-2:])
    family = family_of(pipe)
    latents = family.packed(latents.to(pipe._execution_device, family.model(pipe).dtype))
    given = {"latents": latents, "height": height, "width": width, "use_resolution_binning": False}
    accepted = inspect.signature(
        pipe.__call__
    ).parameters  # PixArt and HunyuanDiT round the size otherwise
    return {name: value for name, value in given.items() if name in accepted}


@block
def _scheduler(
    pipe, make: Callable[[dict], SchedulerMixin], schedule: Mapping | None = None
) -> Iterator[SchedulerMixin]:
    """Another scheduler for the length of a `with` block, made over a noise schedule.

    The schedule is the pipeline's own one where none is given.
    """
    schedule = own_schedule(pipe) if schedule is None else schedule
    with joined(pipe, "sampled") as session:
        session.scheduler(make({**schedule, "clip_sample": False}))
        yield pipe.scheduler
