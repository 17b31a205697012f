"""What a source that is known already has decided, an inversion or an earlier result: refused where a call says it again."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from .errors import InputError, InversionError
from .inversion.artefact import Inversion

# Arguments of the pipeline that belong to its noise, its size, its sampler.
FIXED = (
    "latents",
    "image",
    "mask_image",
    "strength",
    "height",
    "width",
    "eta",
    "timesteps",
    "sigmas",
    "denoising_start",
    "denoising_end",
    "original_size",
    "target_size",
    "crops_coords_top_left",
)
# Beginnings of names of those that guide a target, and of those that decide nothing.
FREE = ("guidance_", "negative_", "true_cfg_", "pag_", "skip_", "callback_")
# Inversions whose source comes out of guidance, and why they take no negative prompt.
NO_NEGATIVE = {
    "ddim": "gives the picture back with an empty negative prompt only",
    "null-text": "has unconditional embeddings of its own, optimised for this picture",
    "negative-prompt": "has the source prompt in the negative prompt's place",
}


def check_fixed(what: str, seed, generator, arguments: dict[str, Any], free: Sequence[str] = ()):
    """Refuse what a source that is known already has decided; some arguments may be free all the same."""
    named = [name for name in FIXED if name in arguments and name not in free]
    named += ["seed"] if seed is not None else []
    named += ["generator"] if generator is not None else []
    if named:
        raise InputError(
            f"{what} brings its own noise, size and sampler; leave {', '.join(named)} out."
        )


def check_same(pipe, made_with: dict[str, Any], arguments: dict[str, Any]):
    """Refuse arguments of the pipeline with which an earlier result's source would have come out otherwise."""
    usual = inspect.signature(pipe.__call__).parameters
    other = [
        name
        for name, value in arguments.items()
        if not name.startswith(FREE) and not _alike(value, made_with.get(name, usual[name].default))
    ]
    if other:
        raise InputError(
            f"The earlier result's source was made with another {', '.join(other)}. Leave {', '.join(other)} out, or give its prompt and "
            "seed to edit() to make both anew."
        )


def _alike(one, other) -> bool:
    """Whether two values are the same; a list of one is its value, and of two arrays only the very same are."""
    one, other = (v[0] if isinstance(v, (list, tuple)) and len(v) == 1 else v for v in (one, other))
    try:
        return one is other or bool(one == other)
    except (RuntimeError, ValueError):  # arrays compare cell by cell
        return False


def begins_with_picture(pipe) -> bool:
    """Whether a pipeline's noise is laid over a picture, as img2img and inpainting do it."""
    takes = set(inspect.signature(pipe.__call__).parameters)
    return bool({"strength", "mask_image"} & takes) or ("image" in takes and "latents" not in takes)


def controls(pipe) -> list[str]:
    """Pictures that say nothing of the noise: a ControlNet's."""
    has = getattr(pipe, "controlnet", None) is not None and not begins_with_picture(pipe)
    return ["image"] if has else []


def check_inversion(
    pipe, inversion: Inversion, steps, guidance_scale, negative_prompt, arguments: dict[str, Any]
):
    """Refuse an inversion of another model, number of steps or guidance."""
    if begins_with_picture(pipe):
        raise InversionError(
            f"{type(pipe).__name__} begins with a picture, and an inversion is noise to begin with. Take the same model as a pipeline "
            "from text to image: StableDiffusionPipeline.from_pipe(pipe), or its family's."
        )
    inversion.check(pipe)
    if steps not in (None, inversion.steps):
        raise InversionError(
            f"steps={steps}, but the picture was inverted in {inversion.steps} steps. Leave steps "
            "out, or invert it again."
        )
    negative = [name for name in arguments if name.startswith("negative_prompt")]
    negative += ["negative_prompt"] if negative_prompt is not None else []
    reason = NO_NEGATIVE.get(inversion.method)
    if negative and reason is not None:
        raise InversionError(
            f"method={inversion.method!r} {reason}; leave {', '.join(negative)} out, or invert the picture with "
            "method='direct', which takes it."
        )
    if inversion.null is not None and guidance_scale not in (None, inversion.guidance_scale):
        raise InversionError(
            f"guidance_scale={guidance_scale}, but this inversion holds for "
            f"{inversion.guidance_scale} only. Leave guidance_scale out, invert the picture again "
            "with the new one, or use method='direct', which takes any."
        )
