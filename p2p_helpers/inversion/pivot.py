"""The pivot: the trajectory from a picture's noise to its latent, without guidance."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from ..attention.families import family_of
from ..attention.session import joined
from .samplers import _arguments, _scheduler


def plain(tensor: Tensor) -> Tensor:
    """A copy in plain memory order, as a file gives it back.

    Kernels round by the order of memory, so what is kept and what is read again must have the same.
    """
    return tensor.clone(memory_format=torch.contiguous_format)


def encode(
    pipe, pixels: Float[Tensor, "1 3 height width"]
) -> Float[Tensor, "1 channel row column"]:
    """The mode of a picture's latent in float32, also for autoencoders that overflow in float16.

    SDXL's says so itself.
    """
    vae = pipe.vae
    with joined(pipe, "inverted") as session:
        dtype = vae.dtype
        if dtype == torch.float16 and getattr(vae.config, "force_upcast", False):
            session.undo(partial(vae.to, dtype=dtype))
            vae.to(dtype=torch.float32)
        with torch.no_grad():
            found = vae.encode(pixels.to(vae.dtype))
            # A small autoencoder (TAESD) gives the latent itself.
            latent = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
            latent = latent.float()
    return normalised(vae.config, latent)


def normalised(
    config, latent: Float[Tensor, "row channel height width"]
) -> Float[Tensor, "row channel height width"]:
    """A latent as the UNet knows it: what the pipeline's last step undoes before it decodes."""
    shift, scale = _shift_and_scale(config, latent)
    return (latent - shift) * scale


def undone(
    config, latent: Float[Tensor, "row channel height width"]
) -> Float[Tensor, "row channel height width"]:
    """The way back from `normalised`: a latent as the autoencoder decodes it."""
    shift, scale = _shift_and_scale(config, latent)
    return latent / scale + shift


def _shift_and_scale(config, latent: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """What is taken from an autoencoder's latent, and what the rest is multiplied with."""
    mean, std = (getattr(config, key, None) for key in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor
    mean, std = (torch.tensor(value).view(1, -1, 1, 1).to(latent) for value in (mean, std))
    return mean, config.scaling_factor / std


def _pivot(
    pipe,
    image: Image.Image,
    prompt: str,
    steps: int,
    inverse: Callable,
    stepped: Callable[[int], None] = lambda step: None,
) -> Float[Tensor, "moment channel row column"]:
    """The trajectory by the inverse of a sampler, noise first, in float32 on the CPU."""
    latent = encode(pipe, pipe.image_processor.preprocess(image).to(pipe._execution_device))
    kept, family, size = [latent.cpu()], family_of(pipe), (latent.shape[-2], latent.shape[-1])

    def keep(pipe, step, timestep, tensors):
        exact = getattr(pipe.scheduler, "history", None)  # before rounding to half precision
        now = exact[-1] if exact else family.unpacked(tensors["latents"], size)
        kept.append(now.float().cpu())
        stepped(step)
        return tensors

    with joined(pipe, "inverted") as session, _scheduler(pipe, inverse):
        session.quiet()
        session.images(
            keep,
            prompt=[prompt],
            guidance_scale=1.0,
            num_inference_steps=steps,
            output_type="latent",
            **_arguments(pipe, latent),
        )
    return plain(torch.cat(kept[::-1]))
