"""What one call gives."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from .blend import LocalBlend
from .edits.edit import Edit
from .maps.heatmap import AttentionMaps


@dataclass(frozen=True, eq=False)
class EditResult:
    """What `edit` gives: the source picture, the edited ones, and how they were made, but for other arguments of the pipeline."""

    source: Image.Image
    images: list[Image.Image]  # one for each target prompt
    source_prompt: str
    target_prompts: list[str]
    edits: list[Edit]  # one for each target prompt
    seed: int | None  # None if a generator was given, or an inversion
    steps: int
    guidance_scale: float
    negative_prompt: str | None
    local_blend: LocalBlend | None = None
    masks: Bool[Tensor, "step target height width"] | None = field(default=None, repr=False)  # where local blend let each step change
    maps: AttentionMaps | None = field(default=None, repr=False)  # if recorded

    @property
    def image(self) -> Image.Image:
        """The first edited picture."""
        return self.images[0]

    def _repr_png_(self):
        from .view.figures import figure_png, show

        return figure_png(show(self))
