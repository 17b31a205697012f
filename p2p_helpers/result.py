"""What one call gives."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from .attention.families import family_of
from .attention.family import bare
from .blend import LocalBlend
from .edits.edit import Edit
from .errors import InputError
from .inversion.artefact import Inversion
from .inversion.fingerprint import differences, tuning
from .maps.recorded import AttentionMaps


@dataclass(frozen=True, eq=False)
class Origin:
    """How a result's source came about, so that another edit can go on from it without computing it again.

    Args:
        trajectory: the source's latents after every step.
        size: of the latent, its height and width.
        inversion: the real picture's, if it was one.
        guidance_scale, negative_prompt: with which the source was made.
        state: of a generator that was given in a seed's place, before the run, and its device.
        arguments: other arguments of the pipeline.
        model: the network that made it, without torch.compile's wrapper; None in another process than its own.
        schedule: the scheduler's class and configuration.
        tuning: the adapters and FreeU that acted.
    """

    trajectory: Float[Tensor, "step ..."]
    size: tuple[int, int]
    inversion: Inversion | None
    guidance_scale: float
    negative_prompt: str | None
    state: tuple[torch.device, Tensor] | None
    arguments: dict[str, Any]
    model: weakref.ref | None
    schedule: tuple[str, dict]
    tuning: dict

    def check(self, pipe):
        """Raises InputError if another network or scheduler is in place now, or other adapters."""
        what = ""
        if self.model is None or self.model() is not bare(family_of(pipe).model(pipe)):
            what = "another pipeline"
        elif self.inversion is None and self.schedule != schedule_of(pipe):
            what = "another scheduler"
        elif changed := differences(self.tuning, tuning(pipe)):
            what = f"other weights ({'; '.join(changed)})"
        if what:
            raise InputError(
                f"This result was made with {what}, so its source would come out otherwise. Use what it was "
                "made with, or give its prompt and seed to edit() to make both anew."
            )

    def __getstate__(self) -> dict[str, Any]:
        """For pickle, without the network: another process has another one."""
        return {**vars(self), "model": None}

    def __deepcopy__(self, memo) -> Origin:
        """Itself, since nothing in it changes: a copy of a result is of the same network."""
        return self

    def generator(self) -> torch.Generator | None:
        """The generator that was given, as it was then."""
        if self.state is None:
            return None
        device, state = self.state
        generator = torch.Generator(device)
        generator.set_state(state)
        return generator


def schedule_of(pipe) -> tuple[str, dict]:
    """What a pipeline's scheduler is: its class and configuration."""
    return type(pipe.scheduler).__name__, dict(pipe.scheduler.config)


@dataclass(frozen=True, eq=False)
class EditResult:
    """What `edit` gives: the source picture, the edited ones, and how they were made, but for other arguments of the pipeline.

    Give it to `edit` in the source's place to make another edit of the same source.

    Args:
        source: the source picture.
        images: the edited pictures, one for each target prompt; `image` is the first.
        source_prompt, target_prompts: as they were given, but for what is removed.
        edits: one for each target prompt.
        seed: None if a generator was given, or an inversion; or latents without a seed.
        steps, guidance_scale, negative_prompt: of the edited pictures.
        local_blend: what was given.
        masks: what local blend found at each step, bool (step, target, height, width) on the latent's grid; it is applied from
            step int(start · steps) on.
        recorded: the attention maps, with `record=True`; as `maps` they are asked for where they must be there.
        origin: how the source came about.
    """

    source: Image.Image
    images: list[Image.Image]
    source_prompt: str
    target_prompts: list[str]
    edits: list[Edit]
    seed: int | None
    steps: int
    guidance_scale: float
    negative_prompt: str | None
    local_blend: LocalBlend | None = None
    masks: Bool[Tensor, "step target height width"] | None = field(default=None, repr=False)
    recorded: AttentionMaps | None = field(default=None, repr=False)
    origin: Origin | None = field(default=None, repr=False)

    @property
    def image(self) -> Image.Image:
        """The first edited picture."""
        return self.images[0]

    @property
    def maps(self) -> AttentionMaps:
        """The attention maps. Raises InputError if none were recorded."""
        if self.recorded is None:
            raise InputError(
                "This edit recorded no maps. Make it again with edit(..., record=True)."
            )
        return self.recorded

    @property
    def before(self) -> Image.Image:
        """The picture that it starts from: the real one, or the generated source."""
        inversion = None if self.origin is None else self.origin.inversion
        return self.source if inversion is None else inversion.image

    def _repr_png_(self):
        from .view.edit_figures import show
        from .view.figures import figure_png

        return figure_png(show(self))
