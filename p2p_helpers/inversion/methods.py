"""Find the noise and the conditioning that reproduce a real picture, so that it can be edited as if it had been generated."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from functools import partial
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMInverseScheduler
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..attention.session import Session, joined
from ..errors import InputError, InversionError, PromptError
from ..prompts.words import as_read, warn_of_unknown_words
from .artefact import Inversion, _check_folder, _facts
from .null_text import _frozen, _optimise_null
from .samplers import BDIAScheduler, _arguments, _scheduler

METHODS = ("ddim", "null-text", "negative-prompt", "direct", "exact")
STARTS = ("null", "prompt")


def usual_guidance(pipe) -> float:
    """The guidance scale that the model's tokenizer names (the embedded model's does), or else the pipeline's own default."""
    named = (getattr(pipe, "tokenizer", None) or pipe.tokenizer_2).init_kwargs.get("guidance_scale")
    return float(inspect.signature(pipe.__call__).parameters["guidance_scale"].default if named is None else named)


def invert(
    pipe,
    image: Image.Image,
    prompt: str,
    *,
    method: str = "null-text",
    steps: int = 50,
    guidance_scale: float | None = None,
    inner_steps: int = 10,
    init: str = "null",
    gradient_checkpointing: bool = False,
    checkpoint: str | Path | None = None,
    callback: Callable[[int], None] | None = None,
    progress: bool = True,
) -> Inversion:
    """Invert a real picture: DDIM inversion with the source prompt gives the pivot, and the method makes guidance follow it.

    The noise itself is diffusers' DDIMInverseScheduler's, for whatever noise schedule and prediction the model has.

    Args:
        pipe: a Stable Diffusion pipeline; it is left as it was found.
        image: RGB, of the size the pipeline makes (see `load_image`).
        prompt: what the picture shows.
        method: "ddim", the pivot's noise alone: faithful at guidance 1, drifts above (Song et al. 2020, arXiv 2010.02502);
            "null-text", unconditional embeddings optimised for every step (Mokady et al. 2022, arXiv 2211.09794);
            "negative-prompt", the source prompt in place of the null text, at no cost (Miyake et al. 2023, arXiv 2305.16807);
            "direct", the source is put back on the pivot at every step (Ju et al. 2023, arXiv 2310.01506);
            "exact", the source takes the steps of a sampler that runs backwards without an error, and no guidance: BDIA (Zhang et al.
            2023, arXiv 2307.10829), chosen over EDICT (arXiv 2211.12446) since it calls the UNet once for each step, not twice, and is
            made of DDIM's own steps. Edits take DDIM's, guided, beside it.
        steps: of DDIM, the same for inversion and editing.
        guidance_scale: that edits will use; the model's usual one when not given. A null-text inversion holds for this one only.
        inner_steps: optimiser steps for each denoising step at most (null-text).
        init: where the optimisation starts: "null" as in the paper, or "prompt", the source prompt's embedding.
        gradient_checkpointing: work activations out twice instead of keeping them: less memory, more time (null-text).
        checkpoint: a file that null-text inversion writes after every denoising step and goes on from.
        callback: called with the step's number after every step of the inversion, of the optimisation and of the reconstruction; an
            exception of its own ends the work and leaves the pipeline as it was.
        progress: whether to show a progress bar.

    Raises:
        InversionError: an unknown method or start, a picture of another size, null-text at a guidance scale of 1 or less, a checkpoint
            of another run.
        InputError: `steps` or `inner_steps` below 1, no picture.
        PromptError: the prompt is empty or too long.

    Warns:
        UnknownWordWarning: the prompt uses a word the embedded model has never seen.
    """
    if method not in METHODS or init not in STARTS:
        raise InversionError(f"method={method!r}, init={init!r}: methods are {', '.join(METHODS)}; init is {' or '.join(STARTS)}.")
    if not all(isinstance(count, Integral) and count >= 1 for count in (steps, inner_steps)):
        raise InputError(f"steps={steps}, inner_steps={inner_steps}: both need to be whole numbers, at least 1; 50 and 10 are usual.")
    if not isinstance(image, Image.Image):
        raise InputError(f"A picture is needed, not {type(image).__name__}. Read a file with load_image(file, pipe).")
    if not prompt.strip():
        raise PromptError("The prompt is empty. Say what the picture shows.")
    tokenizer, (read,) = as_read(pipe, [prompt])
    warn_of_unknown_words(tokenizer, read)  # and its length
    if guidance_scale is None:
        guidance_scale = usual_guidance(pipe)
    if method == "null-text" and guidance_scale <= 1:
        raise InversionError(
            f"guidance_scale={guidance_scale}: null-text inversion optimises what guidance above 1 uses. Take method='ddim'."
        )
    pixels = np.asarray(image.convert("RGB"))
    if any(side % pipe.vae_scale_factor for side in pixels.shape[:2]):
        raise InversionError(
            f"The picture is {image.size}; its sides must be multiples of {pipe.vae_scale_factor}. Use load_image(file, pipe)."
        )
    facts = {**_facts(pipe), "image sha256": hashlib.sha256(pixels.tobytes()).hexdigest()}
    if checkpoint:
        _check_folder(Path(checkpoint))
    stepped = callback or (lambda step: None)
    inverse = BDIAScheduler.over if method == "exact" else DDIMInverseScheduler.from_config
    with Session(pipe, "inverted") as session:
        session.quiet()
        pivot = _pivot(pipe, image.convert("RGB"), prompt, steps, inverse, stepped)
        null, losses = None, torch.zeros(0, 0)
        if method == "null-text":
            run = {"prompt": prompt, "steps": steps, "guidance": guidance_scale, "inner": inner_steps, "init": init}
            run |= {key: facts[key] for key in ("image sha256", "weights", "weights in bfloat16", "noise schedule")}
            with _frozen(pipe, gradient_checkpointing):
                pivot, null, losses = _optimise_null(pipe, pivot, run, Path(checkpoint) if checkpoint else None, stepped, progress)
        found = Inversion(method, prompt, steps, guidance_scale, pivot, null, losses, pixels, pixels, facts)

        def after_step(pipe, step, timestep, tensors):
            stepped(step)
            return {"latents": found.after_step(step, session.end_step(step, tensors["latents"]))}

        session.step = 0
        with found.sampling(pipe):
            again = pipe(
                prompt=[prompt],
                negative_prompt=found.negative_prompts(1),
                guidance_scale=guidance_scale,
                callback_on_step_end=after_step,
                num_inference_steps=steps,
                **found.arguments(pipe, 1),
            ).images[0]
    return Inversion(method, prompt, steps, guidance_scale, pivot, null, losses, pixels, np.asarray(again), found.facts)


def _encode(pipe, pixels: Float[Tensor, "1 3 height width"]) -> Float[Tensor, "1 channel row column"]:
    """The mode of a picture's latent in float32, also for autoencoders that overflow in half precision (SDXL's says so itself)."""
    vae = pipe.vae
    with joined(pipe, "inverted") as session:
        dtype = vae.dtype
        if dtype == torch.float16 and getattr(vae.config, "force_upcast", False):
            session.undo(partial(vae.to, dtype=dtype))
            vae.to(dtype=torch.float32)
        with torch.no_grad():
            latent = vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float()
    return (latent - (getattr(vae.config, "shift_factor", None) or 0)) * vae.config.scaling_factor


def _pivot(
    pipe, image: Image.Image, prompt: str, steps: int, inverse: Callable, stepped: Callable[[int], None] = lambda step: None
) -> Float[Tensor, "moment channel row column"]:
    """The trajectory from the noise to the picture's latent without guidance, in float32 on the CPU, by the inverse of a sampler."""
    latent = _encode(pipe, pipe.image_processor.preprocess(image).to(pipe._execution_device))
    kept = [latent.cpu()]

    def keep(pipe, step, timestep, tensors):
        exact = getattr(pipe.scheduler, "history", None)  # before it was rounded to the model's precision
        kept.append((exact[-1] if exact else tensors["latents"]).float().cpu())
        stepped(step)
        return tensors

    with _scheduler(pipe, inverse):
        start = {"num_inference_steps": steps, **_arguments(pipe, latent)}
        pipe(prompt=[prompt], guidance_scale=1.0, callback_on_step_end=keep, output_type="latent", **start)
    return torch.cat(kept[::-1])
