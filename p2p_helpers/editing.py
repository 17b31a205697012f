"""One call from prompts to pictures."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image

from .attention import Control, controlled
from .edits import Edit, Replace, active_steps
from .tokens import PromptError, check_known_words


@dataclass(frozen=True)
class EditResult:
    """What `edit` gives: the source picture, the edited ones, and all that is needed to make them again."""

    source: Image.Image
    images: list[Image.Image]  # one for each target prompt
    source_prompt: str
    target_prompts: list[str]
    edit: Edit = field(repr=False)
    seed: int
    steps: int
    guidance_scale: float
    negative_prompt: str | None

    @property
    def image(self) -> Image.Image:
        """The first edited picture."""
        return self.images[0]

    def _repr_png_(self):
        from .plots import figure_png, show

        return figure_png(show(self))


def edit(
    pipe,
    source: str,
    target: str | Sequence[str],
    edit: Edit | None = None,
    *,
    seed: int = 0,
    steps: int = 30,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    progress: bool = True,
) -> EditResult:
    """Generate a picture and edit it through its attention (Hertz et al. 2022, Algorithm 1).

    Source and targets run side by side from one initial latent, and the targets borrow the source's attention maps as the edit says.
    The source picture is, to the bit, the one the plain pipeline gives for the same batch of prompts with the same seed. Run on the
    source alone, the pipeline gives the same picture up to float rounding, since other batch sizes use other matrix kernels.

    Args:
        pipe: a diffusers Stable Diffusion pipeline, e.g. from `load_pipeline`. It is left as it was found, also after an error.
        source: the prompt of the picture to start from.
        target: the prompt of the edited picture, or several.
        edit: what to do; `Replace()` when not given.
        seed: of the initial latent, drawn on the CPU, so that it is one picture on every device.
        steps: denoising steps.
        guidance_scale: classifier-free guidance; the model's usual one when not given (4 for the embedded model).
        negative_prompt: what guidance steers away from, for all prompts.
        progress: whether to show a progress bar.

    Raises:
        PromptError: a prompt is empty, too long, or uses a word the embedded model has never seen.
        PromptMismatch: the edit cannot line up the prompts.
        AttentionControlError: the pipeline's attention cannot be controlled.
        ValueError: no target, or no step.
    """
    change = edit or Replace()
    targets = [target] if isinstance(target, str) else list(target)
    if not targets:
        raise ValueError("No target prompt: give one prompt or a list with at least one.")
    if steps < 1:
        raise ValueError(f"steps={steps}: a picture needs at least one denoising step; 30 is usual.")
    prompts = [source, *targets]
    for prompt in prompts:
        if not prompt.strip():
            raise PromptError("A prompt is empty. Source and targets each need at least one word.")
        check_known_words(pipe.tokenizer, prompt)
    if guidance_scale is None:
        usual = inspect.signature(pipe.__call__).parameters["guidance_scale"].default
        guidance_scale = pipe.tokenizer.init_kwargs.get("guidance_scale", usual)
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps)
    calls = len(scheduler.timesteps)  # some schedulers ask the UNet more often than once a step
    pairs = [change.matrices(pipe.tokenizer, source, t, calls) for t in targets]
    side = pipe.unet.config.sample_size
    control = Control(
        cross_source=torch.stack([s for s, _ in pairs]).to(pipe.unet.device),
        cross_target=torch.stack([t for _, t in pairs]).to(pipe.unet.device),
        self_steps=active_steps(change.self_steps, calls, of=calls).expand(len(targets), -1),
        self_pixels=[round((change.self_size * side) ** 2)] * len(targets),
    )
    bar = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(**{**bar, "disable": not progress})
    try:
        with controlled(pipe.unet, control):
            images = pipe(
                prompts,
                negative_prompt=None if negative_prompt is None else [negative_prompt] * len(prompts),
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                generator=[torch.Generator().manual_seed(seed) for _ in prompts],  # one seed for all: one initial latent
                callback_on_step_end=control.next_step,
            ).images
    finally:
        pipe.set_progress_bar_config(**bar)
    return EditResult(images[0], images[1:], source, targets, change, seed, steps, guidance_scale, negative_prompt)
