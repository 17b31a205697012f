"""Find the noise and the conditioning that reproduce a real picture, so that it can be edited."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from jaxtyping import UInt8
from PIL import Image

from ..attention.families import family_of
from ..attention.session import Session
from ..errors import AttentionControlError, InputError, InversionError, PromptError
from ..images import picture
from ..prompts.weights import warn_of_weights
from ..prompts.words import as_read, warn_of_unknown_words, words
from ..values import MOST_GUIDANCE, check_callback, file_path, finite_number, shown, whole_number
from .artefact import METHODS, Inversion
from .files import check_folder
from .fingerprint import fingerprint
from .null_text import STARTS, _frozen, _optimise_null
from .pivot import _pivot
from .samplers import MAX_TIMES, BDIAScheduler, inverse, own_schedule, takes


def usual_guidance(pipe) -> float:
    """The guidance scale that the model's tokenizer names, or else the pipeline's own default.

    The embedded model's tokenizer names one.
    """
    tokenizer = getattr(pipe, "tokenizer", None) or pipe.tokenizer_2
    named = tokenizer.init_kwargs.get("guidance_scale")
    default = inspect.signature(pipe.__call__).parameters["guidance_scale"].default
    return float(default if named is None else named)


def invert(
    pipe,
    image: Image.Image,
    prompt: str,
    *,
    method: str | None = None,
    steps: int = 50,
    guidance_scale: float | None = None,
    inner_steps: int = 10,
    init: str = "null",
    gradient_checkpointing: bool = False,
    checkpoint: str | Path | None = None,
    callback: Callable[[int], None] | None = None,
    progress: bool = True,
) -> Inversion:
    """Invert a real picture: sampling backwards gives the pivot, the method makes guidance follow.

    The noise itself is diffusers' DDIMInverseScheduler's, for whatever noise schedule and
    prediction the model has; for flow matching (SD3, Flux) Euler's steps run backwards. The
    inversion keeps that schedule, so that edits come out the same whatever scheduler is set then.

    Args:
        pipe: a pipeline from text to image, as StableDiffusionPipeline, StableDiffusionXLPipeline,
            StableDiffusion3Pipeline and FluxPipeline; it is left as it was found.
        image: a PIL picture of the size that the pipeline makes; `load_image` gives it that size.
        prompt: what the picture shows.
        method: "null-text" for UNets when not given, "direct" for transformers and distilled UNets. Stable Diffusion 3 takes
            "direct", "null-text" and "negative-prompt"; Flux.1 and Chroma, whose guidance has no empty
            prompt beside the prompt, "direct" alone; PixArt and HunyuanDiT "direct", "ddim" and
            "negative-prompt". One of
            "ddim", the pivot's noise alone: faithful at guidance 1, drifts above (Song et al. 2020,
            arXiv 2010.02502);
            "null-text", unconditional embeddings optimised for every step (Mokady et al. 2022,
            arXiv 2211.09794);
            "negative-prompt", the source prompt in place of the null text, at no cost (Miyake et
            al. 2023, arXiv 2305.16807);
            "direct", the source is put back on the pivot at every step (Ju et al. 2023, arXiv
            2310.01506);
            "exact", the source takes the steps of a sampler that runs backwards without an error,
            and no guidance: BDIA (Zhang et al. 2023, arXiv 2307.10829), chosen over EDICT (arXiv
            2211.12446) since it calls the UNet once for each step, not twice, and is made of DDIM's
            own steps. Edits take DDIM's, guided, beside it.
        steps: of DDIM, or Euler's for flow matching; the same for inversion and editing.
        guidance_scale: that edits will use; the model's usual one when not given. A null-text
            inversion holds for this one only.
        inner_steps: optimiser steps for each denoising step at most (null-text).
        init: where the optimisation starts: "null" as in the paper, or "prompt", the source
            prompt's embedding.
        gradient_checkpointing: work activations out twice instead of keeping them: less memory,
            more time (null-text).
        checkpoint: a file that null-text inversion writes after every denoising step and goes on
            from.
        callback: called with the step's number after every step of the inversion, of the
            optimisation and of the reconstruction; an exception of its own ends the work and leaves
            the pipeline as it was.
        progress: whether to show a progress bar.

    Raises:
        InversionError: a pipeline that needs a picture beside the prompt, an unknown method or
            start, null-text inside torch.inference_mode(), a picture of another size, null-text at a
            guidance scale of 1 or less, a scheduler without betas, a checkpoint of another run, a
            damaged one, or one that cannot be written, latents or a null text that are no numbers.
        InputError: `steps` or `inner_steps` below 1, more steps than the model was trained with, a
            guidance scale that is no number, no picture, a callback that cannot be called.
        PromptError: the prompt is empty or too long.
        AttentionControlError: no diffusers pipeline, one whose attention is not known, or one that is in use.

    Warns:
        UnknownWordWarning: the prompt uses a word the embedded model has never seen.
        InputWarning: weights written into the prompt.
    """
    _check_pipeline(pipe)
    method = method_of(pipe, method)
    _check_choices(method, init, steps, inner_steps)
    check_callback(callback, "the step's number")
    _check_prompt(pipe, prompt)
    guidance_scale = _guidance(pipe, method, guidance_scale)
    pixels = _pixels(pipe, image)
    facts = _facts(pipe, prompt, pixels, int(steps))
    checkpoint = _checkpoint(checkpoint)
    if checkpoint is not None and method != "null-text":
        raise InversionError(
            f"checkpoint= is for null-text; method={method!r} takes no longer than sampling. Leave it out."
        )
    stepped = callback or (lambda step: None)
    backwards = BDIAScheduler.over if method == "exact" else inverse
    null, losses = None, torch.zeros(0, 0)
    with Session(pipe, "inverted") as session:
        pivot = _pivot(pipe, Image.fromarray(pixels), prompt, int(steps), backwards, stepped)
        if method == "null-text":
            run = {"prompt": prompt, "steps": int(steps), "guidance": guidance_scale}
            run |= {"inner": int(inner_steps), "init": init, "facts": facts}
            with _frozen(pipe, gradient_checkpointing):
                found = _optimise_null(pipe, pivot, run, checkpoint, stepped, progress)
            pivot, null, losses = found
        if not all(part is None or part.isfinite().all() for part in (pivot, null)):
            raise InversionError(
                "The inversion holds infinities or NaN, so no picture comes back from it. In half precision the model may overflow: "
                "load it with dtype=torch.bfloat16 or torch.float32. Else take a lower guidance_scale."
            )
        made = Inversion(
            method, prompt, int(steps), guidance_scale, pivot, null, losses, pixels, pixels, facts
        )
        return dataclasses.replace(made, decoded=_reconstruct(session, made, stepped))


def _check_pipeline(pipe):
    """Refuse pipelines whose pictures do not begin with noise alone."""
    if not isinstance(pipe, DiffusionPipeline):
        raise AttentionControlError(
            f"{type(pipe).__name__} is no diffusers pipeline. Load one with load_pipeline()."
        )
    accepted = inspect.signature(pipe.__call__).parameters
    if "original_inference_steps" in accepted:
        raise InversionError(
            f"{type(pipe).__name__} takes steps of its own, which cannot be run backwards. Its model in another pipeline can: "
            "StableDiffusionPipeline.from_pipe(pipe)."
        )
    pictures = {"image", "mask_image", "control_image"}
    needed = {"latents", "guidance_scale"}
    if pictures & set(accepted) or not needed <= set(accepted):
        raise InversionError(
            "invert() serves pipelines from text to image that take latents to start from, as StableDiffusionPipeline and "
            f"StableDiffusionXLPipeline, and {type(pipe).__name__} is none. For Stable Diffusion, the same model as one: "
            "StableDiffusionPipeline.from_pipe(pipe)."
        )


def method_of(pipe, method: str | None) -> str:
    """The method, or the usual one of the model. Raises InversionError for what is none, or none of this model's."""
    if method not in (None, *METHODS):
        raise InversionError(f"method={shown(method)}: methods are {', '.join(METHODS)}.")
    if hasattr(pipe, "unet"):
        reads = pipe.unet.config.get("time_cond_proj_dim") is not None  # guidance, as a number
        if reads and method in ("null-text", "negative-prompt"):
            raise InversionError(
                f"method={method!r} changes what guidance leads away from, and this distilled model reads guidance as a number. Take "
                "method='direct'."
            )
        return method or ("direct" if reads else "null-text")
    if method in (None, "direct"):
        return "direct"
    family = family_of(pipe)
    if not family.flow:
        if method in ("null-text", "exact"):
            raise InversionError(
                f"method={method!r} changes the text that a UNet reads, and this transformer reads it with a mask of its own. "
                "Take method='direct'."
            )
        return method
    if method not in ("null-text", "negative-prompt"):
        why = "is made of DDIM's steps, and this model takes Euler's along a flow"
    elif not family.optimises_null:
        why = (
            "needs an empty prompt beside the prompt in one call of the model, which this model does not have: "
            "its guidance is distilled, or makes a call of its own"
        )
    elif method == "null-text" and pipe.scheduler.config.get("use_dynamic_shifting"):
        why = "needs times that do not depend on the picture's size, and this scheduler shifts them"
    else:
        return method
    raise InversionError(f"method={method!r} {why}. Take method='direct'.")


def _check_choices(method: str, init: str, steps: int, inner_steps: int):
    """Refuse what is no choice; `invert` says what is raised."""
    if init not in STARTS:
        raise InversionError(f"init={shown(init)}: init is {' or '.join(STARTS)}.")
    whole_number("steps", steps, 1, MAX_TIMES, "50 are usual.")
    whole_number("inner_steps", inner_steps, 1, 10_000, "10 are usual.")
    if method == "null-text" and torch.is_inference_mode_enabled():
        raise InversionError(
            "Null-text inversion follows gradients, and torch.inference_mode() allows none. Call it outside of that block, "
            "or take method='direct'."
        )


def _check_prompt(pipe, prompt: str):
    """Refuse what is no prompt or too long a one, and warn of unknown words and weights."""
    if not isinstance(prompt, str):
        raise PromptError(
            f"prompt={shown(prompt)}: give one text that says what the picture shows."
        )
    if not prompt.strip():
        raise PromptError("The prompt is empty. Say what the picture shows.")
    warn_of_weights(prompt)
    tokenizer = family_of(pipe).tokenizer(pipe, {})
    (read,) = as_read(pipe, tokenizer, [prompt])
    words(tokenizer, read)  # its length
    warn_of_unknown_words(tokenizer, read)


def _guidance(pipe, method: str, guidance_scale: float | None) -> float:
    """The guidance scale that edits will use."""
    if guidance_scale is None:
        guidance_scale = usual_guidance(pipe)
    finite_number("guidance_scale", guidance_scale, MOST_GUIDANCE, "7.5 is usual.")
    if method == "null-text" and guidance_scale <= 1:
        other = "direct" if family_of(pipe).flow else "ddim"
        raise InversionError(
            f"guidance_scale={guidance_scale}: null-text inversion optimises what guidance above 1 uses. Take method={other!r}."
        )
    return float(guidance_scale)


def _pixels(pipe, image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    """The picture's pixels, if the pipeline can make a picture of that size."""
    image = picture(image)
    # A transformer's pixels are two of the latent's wide.
    factor = pipe.vae_scale_factor * (1 if hasattr(pipe, "unet") else 2)
    if any(side % factor for side in image.size):
        raise InversionError(
            f"The picture is {image.size}; its sides must be multiples of {factor}. Use load_image(file, pipe)."
        )
    return np.asarray(image)


def _facts(pipe, prompt: str, pixels: UInt8[np.ndarray, "height width 3"], steps: int) -> dict:
    """What an inversion belongs to: the model, the noise schedule and the picture."""
    schedule = own_schedule(pipe)
    if not takes(schedule, steps):
        raise InputError(
            f"steps={steps}: the model was trained with {schedule['num_train_timesteps']} times, "
            f"from {schedule.get('steps_offset', 0)} on. Take fewer steps; 50 are usual."
        )
    facts = fingerprint(pipe, prompt)
    facts["image sha256"] = hashlib.sha256(pixels.tobytes()).hexdigest()
    facts["noise schedule"] = schedule
    return facts


def _checkpoint(path: str | Path | None) -> Path | None:
    """Where the checkpoint lies, in a folder that is there."""
    if path is None:
        return None
    file = file_path("checkpoint", path)
    check_folder(file)
    if file.is_dir():
        raise InversionError(f"{file} is a folder. Give a file in it, e.g. {file / 'fox.part'}.")
    return file


def _reconstruct(
    session: Session, inversion: Inversion, stepped: Callable[[int], None]
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture that comes back from the noise with the source prompt."""

    def after_step(pipe, step, timestep, tensors):
        stepped(step)
        latents = session.end_step(step, tensors["latents"])
        if known is not None and inversion.method == "direct":
            latents = known[step][None].to(latents)
        return {"latents": latents}

    pipe, known = session.pipe, inversion.known(session.pipe)
    session.step = session.calls = 0
    with inversion.sampling(pipe):
        session.quiet()
        images = session.images(
            after_step,
            prompt=[inversion.prompt],
            negative_prompt=inversion.negative_prompts(1),
            guidance_scale=inversion.guidance_scale,
            num_inference_steps=inversion.steps,
            **inversion.arguments(pipe, 1),
        )
    return np.asarray(images[0])
