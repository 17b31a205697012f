"""Checks of notebooks 06 and 07: real pictures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...inversion.artefact import Inversion
from ...metrics import psnr
from ...toyland import Counterfactual, Reading
from ...values import shown
from ...view.figures import difference
from .base import given, need, number, numbers, of_kind, passed


def _ceiling(pipe, image: Image.Image) -> float:
    """The PSNR in dB of a picture that went through the autoencoder and back."""
    with torch.no_grad():
        pixels = pipe.image_processor.preprocess(image).to(pipe.vae.device, pipe.vae.dtype)
        decoded = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mode()).sample.float()
    return psnr(np.asarray(image), np.asarray(pipe.image_processor.postprocess(decoded)[0]))


def check_ceiling(answer: float, pipe, image: Image.Image) -> str:
    """Exercise 06.1: the PSNR in dB of a picture that went through the autoencoder and back."""
    right = _ceiling(pipe, image)
    no_psnr = f"{shown(answer)} is no PSNR in dB. Use metrics.psnr on two pictures as uint8 arrays."
    answer = number(answer, no_psnr)
    need(0 < answer <= 60, no_psnr)
    need(
        answer < right + 0.1,
        f"{answer:.2f} dB is better than the autoencoder can do with this picture. Did it go through it?",
    )
    need(
        answer > right - 0.1,
        f"{answer:.2f} dB is too low. Are the two pictures of the same thing, and does the latent go "
        "into the decoder with the scale with which it left the encoder?",
    )
    return passed("nothing that inverts a latent can do better than this")


def check_frugal(
    inversion: Inversion, image: Image.Image, ceiling: float, limit: int, steps: int = 20
) -> str:
    """Exercise 06.2.

    A null-text inversion at guidance 4 or more, within 1.5 dB of the ceiling, in at most `limit`
    optimiser steps. (A good start ends 1.0 dB below it, a little more or less by the processor, a poor one 2.4.)
    """
    of_kind(inversion, Inversion, "Give what p2p.invert returned.")
    need(
        inversion.method == "null-text",
        f"This is method={inversion.method!r}. The exercise is about null-text inversion.",
    )
    need(
        inversion.guidance_scale >= 4,
        f"The guidance is {inversion.guidance_scale}. The exercise asks for 4, where edits work.",
    )
    need(
        np.array_equal(inversion.pixels, np.asarray(image)),
        "This is another picture. Invert `image`, the fox in the forest.",
    )
    need(
        inversion.steps >= steps,
        f"It has {inversion.steps} denoising steps. Keep the {steps}, and save optimiser steps in each.",
    )
    used = int((~inversion.loss_curve.isnan()).sum())
    need(
        used <= limit,
        f"It took {used} optimiser steps, more than {limit}. How many does each denoising step get "
        "at most?",
    )
    short = ceiling - inversion.psnr
    need(
        short < 1.5,
        f"The picture comes back {short:.1f} dB below the ceiling. Could the optimisation start "
        "from a better place?",
    )
    return passed("a good start saves most of the work")


def check_counterfactual(
    image: Image.Image,
    wanted: Counterfactual,
    reading: Reading,
    limit: float,
    inversion: Inversion | None = None,
    pipe=None,
) -> str:
    """Exercises 06.3 and 07.3.

    An edit in which the reader sees what is new, and that changed the rest by no more than `limit`
    (0…1) on average; if an inversion is given, with its pipeline, made from one that comes within 1
    dB of the autoencoder's ceiling.
    """
    of_kind(image, Image.Image, "Give a picture: of a result take .image.")
    need(
        image.size == wanted.pictures[0].size,
        f"The picture is {image.size}, the photograph {wanted.pictures[0].size}.",
    )
    if inversion is not None:
        of_kind(inversion, Inversion, "Give what p2p.invert returned.")
        short = _ceiling(pipe, wanted.pictures[0]) - inversion.psnr
        need(
            short <= 1,
            f"The inversion gives the picture back {short:.1f} dB below the ceiling. Which methods "
            "come within 1 dB?",
        )
    stays = ~wanted.changed
    rest = difference(wanted.pictures[0], image)[stays].mean() if stays.any() else 0.0
    why = f"Much changed ({rest:.0%}), but not to this. Is guidance too hard, or a word too loud?"
    why = why if rest > 2 * limit else "Is the edit strong enough, and is the target this prompt?"
    need(wanted.seen(reading), f"The reader does not see “{wanted.target}” yet. {why}")
    found = {one.name for one in reading.objects}
    lost = [thing.name for thing in wanted.after.things if thing.name not in found]
    need(
        not lost,
        f"The reader sees no {', '.join(lost)} any more. Is guidance too hard, or a word too loud?",
    )
    how = "What keeps an edit local?" if wanted.local_blend else "What makes an edit gentler?"
    need(
        rest <= limit,
        f"The rest of the picture changed by {rest:.1%}, more than {limit:.0%}. {how}",
    )
    return passed(f"the new is there, and the rest changed by {rest:.0%} on average")


def check_put_back(answer: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """Exercise 07.1.

    A function of latents (row, …), pivot (moment, …) and the step, that puts the source back on the
    pivot.
    """
    latents, pivot = (
        torch.arange(24.0).reshape(3, 2, 2, 2),
        100 + torch.arange(32.0).reshape(4, 2, 2, 2),
    )
    copies = latents.clone(), pivot.clone()
    for step in range(3):
        made = numbers(given(answer, latents, pivot, step), latents)
        need(
            made.shape == latents.shape,
            f"It should return a tensor {tuple(latents.shape)}, all rows; it returned "
            f"{tuple(made.shape)}.",
        )
        need(
            torch.equal(latents, copies[0]) and torch.equal(pivot, copies[1]),
            "It changed what it was given. Return something new.",
        )
        need(
            torch.equal(made[1:], latents[1:]),
            "It changed another row than the source's, which is the first.",
        )
        need(
            not torch.equal(made[0], latents[0]),
            "The source is where it was. Where does the pivot say it should be?",
        )
        need(
            torch.equal(made[0], pivot[step + 1]),
            f"Step {step} ends at another moment of the pivot than the one you put it on.",
        )
    return passed("the source cannot drift, whatever guidance does")


def check_bdia_inverse(answer: Callable[..., Tensor]) -> str:
    """Exercise 07.2: BDIA's equation solved for z_{i+1}.

    A function of z_{i−1}, z_i, Δ up, Δ down and γ.
    """
    above, here, rise, fall = torch.randn(
        4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for gamma in (1.0, 0.5):
        below = above - (1 - gamma) * (above - here) - gamma * rise + fall
        made = numbers(given(answer, below, here, rise, fall, gamma), above)
        need(
            made.shape == above.shape,
            f"z_i has the shape {tuple(above.shape)}, and it made {tuple(made.shape)} of it.",
        )
        off = "" if gamma == 1 else " At γ = 1 it is right: what did the other terms become?"
        need(
            torch.allclose(made, above, atol=1e-5),  # float32 will do
            f"With γ = {gamma} it does not lead back to z_i+1.{off}",
        )
    return passed("a step that can be undone")
