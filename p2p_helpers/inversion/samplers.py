"""The samplers of inversion: a pipeline's own scheduler exchanged for DDIM, its inverse, or a DDIM that runs backwards without an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, SchedulerMixin
from torch import Tensor

from ..attention.interrupts import block
from ..attention.session import joined


class BDIAScheduler(DDIMScheduler):
    """Bi-directional integration approximation of DDIM (Zhang et al. 2023, arXiv 2307.10829, with γ = 1), for one run.

    A DDIM step goes from z_i to z_{i−1} along the noise predicted at z_i. This one also goes along it from z_i up to z_{i+1}, and uses
    both increments Δ, at still one call of the UNet:

        z_{i−1} = z_{i+1} − Δ(t_i → t_{i+1} | z_i) + Δ(t_i → t_{i−1} | z_i)

    The increments do not depend on z_{i+1}, so the equation is solved for it just as well: `backwards` runs from the picture to the
    noise. Diffusers' own DDIM schedulers work out the increments, in float32 whatever the model's precision. Forwards, only the first
    row of the batch, the source, takes these steps; the others, which have nothing to come back to, take DDIM's, since a two-step rule
    swings when what guides it differs from what it was started with.

    Make one with `over`.
    """

    @classmethod
    def over(cls, config: dict, second: Tensor | None = None) -> BDIAScheduler:
        """One over a scheduler's noise schedule: forwards to land on z_{N−1} first (`second`), without it backwards."""
        made = cls.from_config(config)
        made.inverse = DDIMInverseScheduler.from_config(config)
        made.second, made.history = second, []
        return made

    def set_timesteps(self, num_inference_steps: int, device=None, **more):
        super().set_timesteps(num_inference_steps, device, **more)
        self.inverse.set_timesteps(num_inference_steps)
        if self.second is None:  # the first step is DDIM's, the others go on along the noise predicted where they begin
            up = self.timesteps.flip(0)
            self.timesteps = torch.cat([up[:1], up[:-1]])
        self.history = []

    def step(self, model_output: Tensor, timestep, sample: Tensor, *args, return_dict: bool = True, **kwargs):
        z, noise, t = sample.float(), model_output.float(), int(timestep)
        if self.history:  # as the last step gave it before rounding
            z = torch.cat([self.history[-1], z[1:]])
        before = self.history[-2:-1] or [None]
        after = self._back(noise, t, z, *before) if self.second is None else self._forth(noise, t, z, *before)
        self.history = [z[:1], after[:1]]
        return (after.to(sample.dtype),)

    def _increments(self, noise: Tensor, t: int, z: Tensor) -> tuple[Tensor, Tensor]:
        """Δ(t_i → t_{i+1}) and Δ(t_i → t_{i−1}), both along the noise predicted at z_i."""
        above = min(t + self.config.num_train_timesteps // self.num_inference_steps, self.config.num_train_timesteps - 1)
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


def _arguments(pipe, latents: Tensor) -> dict:
    """A pipeline's arguments that say where to start and how large the picture is."""
    height, width = (side * pipe.vae_scale_factor for side in latents.shape[-2:])
    return {"latents": latents.to(pipe._execution_device, pipe.unet.dtype), "height": height, "width": width}


@block
def _scheduler(pipe, make: Callable[[dict], SchedulerMixin]) -> Iterator[SchedulerMixin]:
    """Another scheduler over the same noise schedule for the length of a `with` block, made from its configuration."""
    config = dict(pipe.scheduler.config)
    spacing = config.get("timestep_spacing", "leading")
    config.pop("thresholding", None)  # only some have it, all of them off
    config |= {"clip_sample": False, "set_alpha_to_one": config.get("set_alpha_to_one", False)}
    config["timestep_spacing"] = spacing if spacing in ("leading", "trailing") else "leading"  # those that have an inverse
    with joined(pipe, "sampled") as session:
        session.scheduler(make(config))
        yield pipe.scheduler
