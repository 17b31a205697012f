"""Checks for the course's exercises: each says what is wrong with an answer, without giving the right one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .attention import attention_maps
from .editing import EditResult
from .errors import P2PError
from .inversion import Inversion
from .metrics import psnr
from .recording import Heatmap
from .tokens import replacement_matrix
from .toyland import Counterfactual, Reading


class NotYet(P2PError, AssertionError):
    """An exercise's answer is not right yet; the message says what about it."""


def _need(true: bool, why: str):
    if not true:
        raise NotYet(why)


def passed(what: str) -> str:
    """The line a right answer prints."""
    return f"✓ {what}"


def check_seed(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> str:
    """Exercise 00.1: two pictures that are alike to the pixel and a third that is not, each uint8 (height, width, 3)."""
    first, second, third = (np.asarray(picture) for picture in (first, second, third))
    _need(np.shape(first) == np.shape(second) == np.shape(third), "The three pictures have different sizes. Give three pictures as arrays.")
    _need(
        (first == second).all(), "The first two differ. What must be the same for the same picture, and did you make it anew for each run?"
    )
    _need((first != third).any(), "The third is the same picture again. What besides the prompt decides the picture?")
    return passed("prompt and seed fix the picture")


def check_swap_matrix(matrix: Tensor, tokenizer, source: str, target: str) -> str:
    """Exercise 02.1: the matrix M that lines up two prompts, (source token, target token)."""
    right = replacement_matrix(tokenizer, source, target)
    _need(
        isinstance(matrix, Tensor) and matrix.shape == right.shape,
        f"M should be a tensor of shape {tuple(right.shape)}: one row for each source token.",
    )
    matrix = matrix.to(right.dtype)
    _need((matrix >= 0).all().item(), "M has negative entries. An entry is the share of a map that is passed on.")
    rows = matrix.sum(1)
    _need(
        torch.allclose(rows, torch.ones(len(rows)), atol=1e-5),
        f"Row {int((rows - 1).abs().argmax())} does not sum to 1: that source token loses or doubles its attention.",
    )
    empty = (matrix.sum(0) == 0).nonzero().flatten().tolist()
    _need(not empty, f"Target token {empty[0] if empty else ''} gets no map at all: its column is zero.")
    wrong = [j for j in range(len(right)) if not torch.allclose(matrix[:, j], right[:, j], atol=1e-5)]
    which = f"Target token {wrong[0] if wrong else ''} takes its map from the wrong place"
    _need(not wrong, f"{which}. Which word does it belong to, and which source word stands in that word's place?")
    return passed("every target token looks where its word looked")


def check_schedule(result: EditResult, reading, source: str, target: str, old: str, new: str, limit: float) -> str:
    """Exercise 02.2: an edit of `source` into `target`, with every self-attention layer lent, after which the reader sees the new
    object and not the old one, and the picture changed by no more than `limit` (0…1) on average.
    """
    from .plots import difference

    _need((result.source_prompt, result.target_prompts) == (source, [target]), "The prompts are other ones. Change the schedules only.")
    _need(result.edits[0].self_size == 1.0, "self_size is not 1.0. The exercise lends every layer.")
    seen = [f.name for f in reading.objects]
    sees = f"The reader sees {', '.join(seen) or 'no object'}"
    _need(new in seen and old not in seen, f"{sees}; it should be a {new} and no {old}. Does the source speak for too long?")
    changed = difference(result.source, result.image).mean()
    _need(changed <= limit, f"The picture changed by {changed:.1%} on average, more than {limit:.0%}. Keep the source's maps for longer.")
    return passed(f"a {new}, and the rest kept")


def check_ceiling(answer: float, pipe, image: Image.Image) -> str:
    """Exercise 06.1: the PSNR in dB of a picture that went through the autoencoder and back."""
    with torch.no_grad():
        latent = pipe.vae.encode(pipe.image_processor.preprocess(image)).latent_dist.mode()
        right = psnr(np.asarray(image), np.asarray(pipe.image_processor.postprocess(pipe.vae.decode(latent).sample)[0]))
    _need(np.isfinite(answer) and 0 < answer <= 60, f"{answer} is no PSNR in dB. Use metrics.psnr on two pictures as uint8 arrays.")
    _need(answer < right + 1, f"{answer:.1f} dB is better than the autoencoder can do. Did the picture go through it?")
    _need(answer > right - 1, f"{answer:.1f} dB is too low. Are the two pictures of the same thing, and was the latent scaled as it came?")
    return passed("nothing that inverts a latent can do better than this")


def check_frugal(inversion: Inversion, ceiling: float, limit: int) -> str:
    """Exercise 06.2: a null-text inversion at guidance 4 or more, within 1 dB of the ceiling, in at most `limit` optimiser steps."""
    _need(inversion.method == "null-text", f"This is method={inversion.method!r}. The exercise is about null-text inversion.")
    _need(inversion.guidance_scale >= 4, f"The guidance is {inversion.guidance_scale}. The exercise asks for 4, where edits work.")
    used = int((~inversion.loss_curve.isnan()).sum())
    _need(used <= limit, f"It took {used} optimiser steps, more than {limit}. How many does each denoising step get at most?")
    short = ceiling - inversion.psnr
    _need(short < 1, f"The picture comes back {short:.1f} dB below the ceiling. Could the optimisation start from a better place?")
    return passed("a good start saves most of the work")


def check_counterfactual(image: Image.Image, wanted: Counterfactual, reading: Reading, limit: float) -> str:
    """Exercise 06.3: an edit in which the reader sees what is new, and that changed the rest by no more than `limit` (0…1) on average."""
    from .plots import difference

    _need(image.size == wanted.pictures[0].size, f"The picture is {image.size}, the photograph {wanted.pictures[0].size}.")
    _need(wanted.seen(reading), f"The reader does not see “{wanted.target}” yet. Is the edit strong enough, and is the target this prompt?")
    rest = difference(wanted.pictures[0], image)[~wanted.changed].mean()
    _need(rest <= limit, f"The rest of the picture changed by {rest:.1%}, more than {limit:.0%}. What keeps an edit local?")
    return passed("the new is there, and the rest is the file's")


def check_put_back(answer: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """Exercise 07.1: a function of latents (row, …), pivot (moment, …) and the step, that puts the source back on the pivot."""
    latents, pivot = torch.arange(24.0).reshape(3, 2, 2, 2), 100 + torch.arange(32.0).reshape(4, 2, 2, 2)
    given = latents.clone(), pivot.clone()
    for step in range(3):
        made = answer(latents, pivot, step)
        _need(
            isinstance(made, Tensor) and made.shape == latents.shape,
            f"It should return a tensor {tuple(latents.shape)}, all rows; it returned {tuple(getattr(made, 'shape', ()))}.",
        )
        _need(torch.equal(latents, given[0]) and torch.equal(pivot, given[1]), "It changed what it was given. Return something new.")
        _need(torch.equal(made[1:], latents[1:]), "It changed another row than the source's, which is the first.")
        _need(not torch.equal(made[0], latents[0]), "The source is where it was. Where does the pivot say it should be?")
        _need(
            torch.equal(made[0], pivot[step + 1]),
            f"Step {step} ends at another moment of the pivot than the one you put it on.",
        )
    return passed("the source cannot drift, whatever guidance does")


def check_bdia_inverse(answer: Callable[..., Tensor]) -> str:
    """Exercise 07.2: BDIA's equation solved for z_{i+1}: a function of z_{i−1}, z_i, Δ up, Δ down and γ."""
    above, here, rise, fall = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for gamma in (1.0, 0.5):
        below = above - (1 - gamma) * (above - here) - gamma * rise + fall
        made = answer(below, here, rise, fall, gamma)
        off = "" if gamma == 1 else " At γ = 1 it is right: what did the other terms become?"
        _need(torch.allclose(made, above), f"With γ = {gamma} it does not lead back to z_i+1.{off}")
    return passed("a step that can be undone")


def check_map(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Exercise 01.1: a function of queries (pixel, width) and keys (token, width) that gives the map (pixel, token)."""
    query, key = (3 * torch.randn(n, 16, generator=torch.Generator().manual_seed(n)) for n in (9, 5))
    made, right = answer(query, key), attention_maps(query[None, None], key[None, None])[0, 0]
    shape = tuple(getattr(made, "shape", ()))
    _need(shape == (9, 5), f"9 pixels and 5 tokens gave {shape}; a map has a row for each pixel and a column for each token.")
    _need((made >= 0).all().item(), "Some entries are negative. A map holds shares of attention.")
    rows = made.sum(1)
    _need(torch.allclose(rows, torch.ones(9), atol=1e-4), "The rows do not sum to 1. Each pixel shares out its attention over the tokens.")
    _need(torch.allclose(made, right, atol=1e-4), "Nearly: the rows sum to 1, but the shares are too decided. How long is a row of Q?")
    return passed("a pixel's question, and its answers")


def check_mask(answer: Tensor | np.ndarray, truth: np.ndarray, least: float) -> str:
    """Exercise 01.2: a bool mask with at least so much intersection over union with the true one, both (height, width)."""
    mask = np.asarray(answer)
    _need(mask.shape == truth.shape and mask.dtype == bool, f"The mask is {mask.dtype} {mask.shape}; it should be bool {truth.shape}.")
    _need(mask.any() and not mask.all(), "The mask holds nothing or everything. Try a threshold between 0 and 1.")
    overlap = (mask & truth).sum() / (mask | truth).sum()
    size = "too large" if mask.sum() > truth.sum() else "too small"
    _need(overlap >= least, f"Intersection over union is {overlap:.2f}, less than {least}; the mask is {size}.")
    return passed(f"intersection over union {overlap:.2f}")


def check_head(heat: Heatmap, layer: int, head: int) -> str:
    """Exercise 01.3: the layer's number and the head whose map has the largest share within the mean map's mask."""
    mask, layers = heat.mask(0.5), heat.maps.layers

    def inside(which: int, number: int) -> float:
        found = heat.at(layer=which, head=number).tensor()
        return (found[mask].sum() / found.sum()).item()

    at_level = [layers.index(name) for name in heat.maps.level_layers]
    _need(layer in at_level, f"Layer {layer} is none of those at the map level, whose numbers are {at_level}.")
    count = heat.maps.heads
    _need(0 <= head < count, f"There is no head {head}; count {count} heads from 0.")
    best = max(inside(a, b) for a in at_level for b in range(count))
    mine = inside(layer, head)
    _need(mine >= best - 1e-4, f"{mine:.0%} of this head's attention is within the mask; another has more. Have you tried all?")
    return passed(f"{mine:.0%} of its attention to the cat is on the cat")
