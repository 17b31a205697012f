"""One call from prompts to pictures."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Sequence
from numbers import Integral

import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageFilter
from torch import Tensor

from .attention.control import Control, controlled
from .blend import BlendRun, LocalBlend
from .edits.edit import Edit
from .edits.words import Replace
from .errors import AttentionControlError, InputError, InversionError, PromptError
from .inversion.artefact import Inversion
from .inversion.methods import usual_guidance
from .maps.heatmap import Record
from .maps.record import Recorder
from .prompts.words import as_read, warn_of_unknown_words, words
from .result import EditResult

OURS = ("prompt", "num_inference_steps", "num_images_per_prompt", "output_type", "return_dict", "callback_on_step_end")
# The same for every prompt: what XL, img2img, inpainting and ControlNet pipelines take beside it.
PER_PROMPT = ("prompt_2", "negative_prompt_2", "image", "mask_image", "control_image")


def _one_each(edit: Edit | Sequence[Edit] | None, targets: Sequence[str]) -> list[Edit]:
    """One edit for each target."""
    edits = list(edit) if isinstance(edit, (list, tuple)) else [Replace() if edit is None else edit] * len(targets)
    wrong = [e for e in edits if not isinstance(e, Edit)]
    if wrong:
        raise InputError(f"{wrong[0]!r} is no edit. Give Replace(), Refine(), Reweight(...), a composition with |, or a list of those.")
    if len(edits) != len(targets):
        raise InputError(f"{len(edits)} edits for {len(targets)} target prompts: give one edit for all, or one for each.")
    return edits


def _generators(seed: int, generator: torch.Generator | None, count: int) -> list[torch.Generator]:
    """The same random numbers for every prompt, so that all start from one latent."""
    if generator is None:
        return [torch.Generator().manual_seed(int(seed)) for _ in range(count)]
    twins = [torch.Generator(generator.device) for _ in range(count - 1)]
    for twin in twins:
        twin.set_state(generator.get_state())
    return [generator, *twins]


def _restored(original: Image.Image, edited: Image.Image, mask: Tensor) -> Image.Image:
    """The edited picture inside the mask, the original's own pixels outside, with an edge as soft as a latent pixel is wide."""
    inside = Image.fromarray(mask.numpy()).convert("L").resize(edited.size, Image.Resampling.NEAREST)
    soft = edited.width / mask.shape[1]
    return Image.composite(edited, original, inside.filter(ImageFilter.GaussianBlur(soft / 2)))


def _check(pipe, prompts: Sequence[str], steps, guidance_scale, negative_prompt, pipeline_arguments: dict):
    """Refuse what no run could be made of; `edit` says what is raised."""
    if not isinstance(steps, Integral) or steps < 1:
        raise InputError(f"steps={steps}: a picture needs a whole number of denoising steps, at least one; 30 is usual.")
    if guidance_scale is not None and not math.isfinite(guidance_scale):
        raise InputError(f"guidance_scale={guidance_scale}: it must be a finite number; 7.5 is usual for Stable Diffusion, 4 for Toyland.")
    if negative_prompt is not None and not isinstance(negative_prompt, str):
        raise InputError("negative_prompt is one text for all prompts.")
    if not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise PromptError("A prompt is empty. Source and targets each need at least one word.")
    taken = sorted(set(OURS) & set(pipeline_arguments))
    if taken:
        raise InputError(f"edit() sets the pipeline's {', '.join(taken)} itself. Steps are called steps=, a step's callback callback=.")
    arguments = inspect.signature(pipe.__call__).parameters
    if not any(getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2")) or "callback_on_step_end" not in arguments:
        raise AttentionControlError(f"{type(pipe).__name__} is no text-to-image pipeline that calls back after each step.")
    unknown = sorted(set(pipeline_arguments) - set(arguments))
    if unknown:
        raise InputError(f"{type(pipe).__name__} takes no {', '.join(unknown)}. It takes: {', '.join(arguments)}.")


def _check_inversion(pipe, inversion: Inversion, steps, guidance_scale, negative_prompt):
    """Refuse an inversion of another model, number of steps or guidance."""
    inversion.check(pipe)
    if steps not in (None, inversion.steps):
        raise InversionError(
            f"steps={steps}, but the picture was inverted in {inversion.steps} steps. Leave steps out, or invert it again."
        )
    if negative_prompt is not None:
        raise InversionError("An inverted picture brings its own unconditional embedding; leave negative_prompt out.")
    if inversion.null is not None and guidance_scale not in (None, inversion.guidance_scale):
        raise InversionError(
            f"guidance_scale={guidance_scale}, but this inversion holds for {inversion.guidance_scale} only. Leave guidance_scale out, "
            "invert the picture again with the new one, or use method='direct', which takes any."
        )


def edit(
    pipe,
    source: str | Inversion,
    target: str | Sequence[str],
    edit: Edit | Sequence[Edit] | None = None,
    *,
    local_blend: LocalBlend | None = None,
    seed: int = 0,
    generator: torch.Generator | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    record: bool | Record = False,
    callback: Callable | None = None,
    progress: bool = True,
    **pipeline_arguments,
) -> EditResult:
    """Generate a picture and edit it through its attention (Hertz et al. 2022, Algorithm 1).

    Source and targets run side by side from one initial latent, and the targets borrow the source's attention maps as the edit says.
    The source picture is, to the bit, the one the plain pipeline gives for the same batch of prompts with the same seed and
    diffusers' default attention. Run on the source alone, the pipeline gives the same picture up to float rounding, since other batch
    sizes use other matrix kernels.

    Args:
        pipe: a diffusers Stable Diffusion pipeline, e.g. from `load_pipeline`. It is left as it was found, also after an error.
        source: the prompt of the picture to start from, or a real picture's `Inversion`. Its picture comes back outside the mask of
            `local_blend`, pixel for pixel, with a soft edge.
        target: the prompt of the edited picture, or several.
        edit: what to do, for all targets or a list with one for each; `Replace()` when not given.
        local_blend: where the targets may differ from the source; everywhere when not given.
        seed: of the initial latent, drawn on the CPU, so that it is one picture on every device.
        generator: in the seed's place, a torch generator; it moves on as in diffusers.
        steps: denoising steps (diffusers' num_inference_steps); 30, or an inversion's, when not given.
        guidance_scale: classifier-free guidance; an inversion's, or the model's usual one, when not given (4 for the embedded model).
        negative_prompt: what guidance steers away from, for all prompts.
        record: keep attention maps, in the result's `maps`; True for what the figures need, or a `Record`.
        callback: diffusers' callback_on_step_end: called as callback(pipe, step, timestep, {"latents": ...}) after every step,
            source first in the latents; with local blend "mask" is where this step let the targets change, (target, height, width).
            Returns the dictionary, changed or not.
        progress: whether to show a progress bar.
        **pipeline_arguments: anything else the pipeline takes, e.g. height and width, or image and strength of an img2img pipeline.

    Raises:
        PromptError: a prompt is empty or too long, or a word of the edit or of the local blend is not in it.
        PromptMismatch: the edit cannot line up the prompts.
        AttentionControlError: the pipeline's attention cannot be controlled.
        InputError: no target, no step, a guidance scale that is no number, a generator beside an inversion, another number of edits than
            of targets, a mask of the wrong size, an argument that the pipeline does not take, a callback that gives no dictionary.
        InversionError: the inversion is another model's, of another number of steps or (null-text) guidance scale, or a negative prompt
            is given beside it.

    Warns:
        UnknownWordWarning: a prompt uses a word the embedded model has never seen.
    """
    if not isinstance(pipe, DiffusionPipeline):
        raise AttentionControlError(f"{type(pipe).__name__} is no diffusers pipeline. Load one with load_pipeline().")
    inversion = source if isinstance(source, Inversion) else None
    if inversion:
        _check_inversion(pipe, inversion, steps, guidance_scale, negative_prompt)
        source, steps, seed = inversion.prompt, inversion.steps, None
        guidance_scale = inversion.guidance_scale if guidance_scale is None else guidance_scale
    steps = 30 if steps is None else steps
    targets = [target] if isinstance(target, str) else list(target)
    if not targets:
        raise InputError("No target prompt: give one prompt or a list with at least one.")
    negative_prompts = None if negative_prompt is None else [negative_prompt] * (1 + len(targets))
    if inversion:
        negative_prompts = inversion.negative_prompts(1 + len(targets))
        if generator is not None:
            raise InputError("An inversion brings its own noise, and DDIM draws none; leave generator out.")
    edits = _one_each(edit, targets)
    prompts = [source, *targets]
    _check(pipe, prompts, steps, guidance_scale, negative_prompt, pipeline_arguments)
    tokenizer, (source_read, *targets_read, negative_read) = as_read(pipe, [*prompts, negative_prompt or ""])
    read = [source_read, *targets_read]
    words(tokenizer, negative_read)  # its length
    for prompt in read:
        warn_of_unknown_words(tokenizer, prompt)
    if guidance_scale is None:
        guidance_scale = usual_guidance(pipe)
    layers = list(getattr(pipe.unet, "attn_processors", {})) if hasattr(pipe, "unet") else []
    blend = local_blend and BlendRun(local_blend, tokenizer, read, layers, pipe.vae_scale_factor)
    recorder = Recorder(record if isinstance(record, Record) else Record(), tokenizer, read, layers) if record else None
    control = Control(tokenizer, source_read, targets_read, edits, [o for o in (blend, recorder) if o])

    def after_step(pipe, step: int, timestep, tensors: dict) -> dict:
        if inversion:
            tensors["latents"] = inversion.after_step(step, tensors["latents"])
        if blend:
            tensors["latents"] = blend(tensors["latents"], step, pipe.num_timesteps)
        if callback:
            changed = callback(pipe, step, timestep, {**tensors, "mask": blend.masks[-1]} if blend else tensors)
            if not isinstance(changed, dict):
                raise InputError(f"The callback returned {type(changed).__name__}; return the dictionary it was given, changed or not.")
            tensors = {**tensors, **changed}
        return tensors

    wanted = ["latents", *pipeline_arguments.pop("callback_on_step_end_tensor_inputs", []), *getattr(callback, "tensor_inputs", [])]
    for name in PER_PROMPT:
        if name in pipeline_arguments and not isinstance(pipeline_arguments[name], (list, tuple)):
            pipeline_arguments[name] = [pipeline_arguments[name]] * len(prompts)
    start = pipeline_arguments.get("latents")
    if start is not None and len(start) == 1:
        pipeline_arguments["latents"] = start.repeat(len(prompts), 1, 1, 1)
    if inversion:
        pipeline_arguments |= inversion.arguments(pipe, len(prompts))
    else:
        pipeline_arguments["generator"] = _generators(seed, generator, len(prompts))
    bar = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(**{**bar, "disable": not progress})
    try:
        with controlled(pipe, control), inversion.sampling(pipe) if inversion else contextlib.nullcontext():
            images = pipe(
                prompt=prompts,
                negative_prompt=negative_prompts,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                callback_on_step_end=after_step,
                callback_on_step_end_tensor_inputs=list(dict.fromkeys(wanted)),
                **pipeline_arguments,
            ).images
    finally:
        pipe.set_progress_bar_config(**bar)
    if inversion and blend:
        original = inversion.image
        images = [images[0], *(_restored(original, image, mask) for image, mask in zip(images[1:], blend.masks[-1], strict=True))]
    return EditResult(
        source=images[0],
        images=images[1:],
        source_prompt=source,
        target_prompts=targets,
        edits=edits,
        seed=seed if generator is None else None,
        steps=steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        local_blend=local_blend,
        masks=torch.stack(blend.masks) if blend else None,
        maps=recorder.maps if recorder else None,
    )
