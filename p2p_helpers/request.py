"""What a call of `edit` asks for, checked before anything runs."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from .edits.edit import Edit
from .edits.words import Replace
from .errors import AttentionControlError, InputError, InversionError, PromptError
from .inversion.artefact import Inversion
from .inversion.methods import usual_guidance
from .prompts.words import as_read, warn_of_unknown_words, words
from .result import EditResult, Origin

OURS = (
    "prompt",
    "num_inference_steps",
    "num_images_per_prompt",
    "output_type",
    "return_dict",
    "callback_on_step_end",
)
# The same for every prompt: what XL, img2img, inpainting and ControlNet pipelines take beside it.
PER_PROMPT = ("prompt_2", "negative_prompt_2", "image", "mask_image", "control_image")


@dataclass
class Request:
    """A checked call of `edit`.

    Args:
        prompts: source first; `read` are they as the tokenizer reads them.
        inversion: where the source is a real picture.
        known: the source's latents after every step, if they need not be worked out.
        state: of the user's generator before the run.
    """

    prompts: list[str]
    read: list[str]
    tokenizer: Any
    edits: list[Edit]
    steps: int
    guidance_scale: float
    negative_prompt: str | None
    seed: int | None
    generators: list[torch.Generator] | None
    inversion: Inversion | None
    known: Tensor | None
    state: tuple[torch.device, Tensor] | None
    arguments: dict[str, Any]  # of the pipeline, as the user gave them

    def pipeline_arguments(self, pipe) -> dict[str, Any]:
        """What the pipeline is called with, but for our callback."""
        arguments, count = dict(self.arguments), len(self.prompts)
        for name in PER_PROMPT:
            if name in arguments and not isinstance(arguments[name], (list, tuple)):
                arguments[name] = [arguments[name]] * count
        start = arguments.get("latents")
        if start is not None and len(start) == 1:
            arguments["latents"] = start.repeat(count, 1, 1, 1)
        negative = None if self.negative_prompt is None else [self.negative_prompt] * count
        if self.inversion is not None:
            arguments |= self.inversion.arguments(pipe, count)
            negative = self.inversion.negative_prompts(count)
        else:
            arguments["generator"] = self.generators
        return arguments | {
            "prompt": self.prompts,
            "negative_prompt": negative,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance_scale,
        }


def checked(
    pipe,
    source: str | Inversion | EditResult,
    target: str | Sequence[str],
    edit: Edit | Sequence[Edit] | None,
    *,
    seed: int,
    generator: torch.Generator | None,
    steps: int | None,
    guidance_scale: float | None,
    negative_prompt: str | None,
    arguments: dict[str, Any],
) -> Request:
    """Refuse what no run could be made of; `edit` says what is raised."""
    if not isinstance(pipe, DiffusionPipeline):
        raise AttentionControlError(
            f"{type(pipe).__name__} is no diffusers pipeline. Load one with load_pipeline()."
        )
    known = None
    if isinstance(source, EditResult):
        earlier, origin = source, _origin(pipe, source, steps, generator)
        source, known = origin.inversion or earlier.source_prompt, origin.trajectory
        steps, seed, generator = earlier.steps, earlier.seed, origin.generator()
        arguments = origin.arguments | arguments
        guidance_scale = earlier.guidance_scale if guidance_scale is None else guidance_scale
        negative_prompt = earlier.negative_prompt if negative_prompt is None else negative_prompt
    inversion = source if isinstance(source, Inversion) else None
    if inversion is not None:
        _check_inversion(pipe, inversion, steps, guidance_scale, negative_prompt)
        if generator is not None:
            raise InputError(
                "An inversion brings its own noise, and DDIM draws none; leave generator out."
            )
        source, steps, seed = inversion.prompt, inversion.steps, None
        guidance_scale = inversion.guidance_scale if guidance_scale is None else guidance_scale
        if known is None and inversion.method in ("direct", "exact"):
            known = inversion.pivot[1:]
    steps = 30 if steps is None else steps
    targets = [target] if isinstance(target, str) else list(target)
    if not targets:
        raise InputError("No target prompt: give one prompt or a list with at least one.")
    edits = _one_each(edit, targets)
    prompts = [source, *targets]
    _check(pipe, prompts, steps, guidance_scale, negative_prompt, arguments)
    tokenizer, (*read, negative_read) = as_read(pipe, [*prompts, negative_prompt or ""])
    words(tokenizer, negative_read)  # its length
    for prompt in read:
        warn_of_unknown_words(tokenizer, prompt)
    return Request(
        prompts=prompts,
        read=read,
        tokenizer=tokenizer,
        edits=edits,
        steps=steps,
        guidance_scale=usual_guidance(pipe) if guidance_scale is None else guidance_scale,
        negative_prompt=negative_prompt,
        seed=seed if generator is None else None,
        generators=None if inversion is not None else _generators(seed, generator, len(prompts)),
        inversion=inversion,
        known=known,
        state=None if generator is None else (generator.device, generator.get_state()),
        arguments=arguments,
    )


def _origin(
    pipe, result: EditResult, steps: int | None, generator: torch.Generator | None
) -> Origin:
    """Where an earlier result came from, if an edit can go on from it."""
    if result.origin is None:
        raise InputError("This result does not say how its source was made. Make it with edit().")
    result.origin.check(pipe)
    if steps not in (None, result.steps):
        raise InputError(
            f"steps={steps}, but the earlier result took {result.steps}. Leave steps out."
        )
    if generator is not None:
        raise InputError("An earlier result brings its own noise; leave generator out.")
    return result.origin


def _one_each(edit: Edit | Sequence[Edit] | None, targets: Sequence[str]) -> list[Edit]:
    """One edit for each target."""
    edit = Replace() if edit is None else edit
    edits = list(edit) if isinstance(edit, (list, tuple)) else [edit] * len(targets)
    wrong = [e for e in edits if not isinstance(e, Edit)]
    if wrong:
        raise InputError(
            f"{wrong[0]!r} is no edit. Give Replace(), Refine(), Reweight(...), a composition with |, or a list of those."
        )
    if len(edits) != len(targets):
        raise InputError(
            f"{len(edits)} edits for {len(targets)} target prompts: give one edit for all, or one for each."
        )
    return edits


def _generators(
    seed: int | None, generator: torch.Generator | None, count: int
) -> list[torch.Generator]:
    """The same random numbers for every prompt, so that all start from one latent."""
    if generator is None:
        return [torch.Generator().manual_seed(int(seed)) for _ in range(count)]
    twins = [torch.Generator(generator.device) for _ in range(count - 1)]
    for twin in twins:
        twin.set_state(generator.get_state())
    return [generator, *twins]


def _check(pipe, prompts: Sequence[str], steps, guidance_scale, negative_prompt, arguments: dict):
    """Refuse wrong numbers and prompts, and arguments that the pipeline does not take."""
    if not isinstance(steps, Integral) or steps < 1:
        raise InputError(
            f"steps={steps}: a picture needs a whole number of denoising steps, at least one; 30 is usual."
        )
    if guidance_scale is not None and not math.isfinite(guidance_scale):
        raise InputError(
            f"guidance_scale={guidance_scale}: it must be a finite number; 7.5 is usual for Stable Diffusion, 4 for Toyland."
        )
    if negative_prompt is not None and not isinstance(negative_prompt, str):
        raise InputError("negative_prompt is one text for all prompts.")
    if not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise PromptError("A prompt is empty. Source and targets each need at least one word.")
    taken = sorted(set(OURS) & set(arguments))
    if taken:
        raise InputError(
            f"edit() sets the pipeline's {', '.join(taken)} itself. Steps are called steps=, a step's callback callback=."
        )
    accepted = inspect.signature(pipe.__call__).parameters
    has_tokenizer = any(getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2"))
    if not has_tokenizer or "callback_on_step_end" not in accepted:
        raise AttentionControlError(
            f"{type(pipe).__name__} is no text-to-image pipeline that calls back after each step."
        )
    unknown = sorted(set(arguments) - set(accepted))
    if unknown:
        raise InputError(
            f"{type(pipe).__name__} takes no {', '.join(unknown)}. It takes: {', '.join(accepted)}."
        )


def _check_inversion(pipe, inversion: Inversion, steps, guidance_scale, negative_prompt):
    """Refuse an inversion of another model, number of steps or guidance."""
    inversion.check(pipe)
    if steps not in (None, inversion.steps):
        raise InversionError(
            f"steps={steps}, but the picture was inverted in {inversion.steps} steps. Leave steps out, or invert it again."
        )
    if negative_prompt is not None:
        raise InversionError(
            "An inverted picture brings its own unconditional embedding; leave negative_prompt out."
        )
    if inversion.null is not None and guidance_scale not in (None, inversion.guidance_scale):
        raise InversionError(
            f"guidance_scale={guidance_scale}, but this inversion holds for {inversion.guidance_scale} only. Leave "
            "guidance_scale out, invert the picture again with the new one, or use method='direct', which takes any."
        )
