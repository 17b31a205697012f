"""Flow matching: its schedule, and Euler's steps of it backwards, from the picture to the noise."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from ..errors import InversionError

KIND = "flow"  # the prediction_type of a schedule of flow matching
DEFAULTS = {  # diffusers' own
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "shift_terminal": None,
    "time_shift_type": "exponential",
}


def is_flow(schedule: Mapping) -> bool:
    """Whether a schedule is flow matching's."""
    return schedule.get("prediction_type") == KIND and set(DEFAULTS) <= set(schedule)


def flow_schedule(config: Mapping) -> dict:
    """The values of a configuration that say at which times a run stops.

    Raises:
        InversionError: another scheduler's, or a value that is none.
    """
    if not {"shift", "base_shift"} <= set(config):
        raise InversionError(
            "This model predicts a flow, and its scheduler is not flow matching's. Set "
            "FlowMatchEulerDiscreteScheduler with the model's own configuration."
        )
    found = {key: config.get(key, usual) for key, usual in DEFAULTS.items()}
    for key, value in found.items():
        if not _fits(key, value):
            raise InversionError(
                f"No flow matching can be made of this schedule: {key} is {value!r:.60}. Set the "
                "scheduler that the model came with."
            )
    return {**found, "prediction_type": KIND}


def _fits(key: str, value) -> bool:
    if key == "use_dynamic_shifting":
        return type(value) is bool
    if key == "time_shift_type":
        return value in ("exponential", "linear")
    if key in ("num_train_timesteps", "base_image_seq_len", "max_image_seq_len"):
        return type(value) is int and 1 <= value <= 100_000
    if key == "shift_terminal" and value is None:
        return True
    return type(value) in (int, float) and 0 <= value <= 1000


def sampler(schedule: Mapping) -> FlowMatchEulerDiscreteScheduler:
    """Euler's steps from noise to picture."""
    return FlowMatchEulerDiscreteScheduler(**{key: schedule[key] for key in DEFAULTS})


def inverse(schedule: Mapping) -> ReverseFlowScheduler:
    """Euler's steps from picture to noise."""
    return ReverseFlowScheduler(**{key: schedule[key] for key in DEFAULTS})


class ReverseFlowScheduler(FlowMatchEulerDiscreteScheduler):
    """Euler's steps of flow matching from the picture to the noise (reverse Euler).

    A step forwards is x_{i+1} = x_i + (σ_{i+1} − σ_i) v(x_i, σ_i). Backwards this one goes along the
    velocity where it stands, x_i ≈ x_{i+1} − (σ_{i+1} − σ_i) v(x_{i+1}, σ_{i+1}), which is the same
    step with the times in the other order.

    Reference: Rout et al. 2024, arXiv 2410.10792, without its controller; Liu et al. 2022, arXiv
    2209.03003, for the flow.
    """

    def set_timesteps(
        self, num_inference_steps=None, device=None, sigmas=None, mu=None, timesteps=None
    ):
        """The times of a run from noise to picture, backwards."""
        super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)
        self.sigmas = self.sigmas.flip(0)
        times: torch.Tensor = self.sigmas[:-1] * self.config.num_train_timesteps
        self.timesteps = times.to(device)
