"""Masks that a user gives: of where a picture may change, or of where an object is."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image, ImageChops
from torch import Tensor

from .errors import InputError
from .values import shown

Mask: TypeAlias = Image.Image | np.ndarray | Tensor


def _grey(picture: Image.Image) -> Image.Image:
    """How bright a picture is, times its opacity; numbers that are no grey levels stay as they are."""
    if picture.mode in ("F", "I") or picture.mode.startswith("I;16"):
        return picture
    colours = picture.convert("RGBA")
    return ImageChops.multiply(colours.convert("L"), colours.getchannel("A"))


def as_mask(given: Mask) -> Bool[np.ndarray, "height width"]:
    """A mask as true and false: true above the middle of its range, 0…1, or 0…255 where it goes above 1.

    What is transparent in a picture is not in the mask.

    Raises:
        InputError: it is not one finite number for each pixel, or its range is neither 0…1 nor 0…255.
    """
    if isinstance(given, (str, Path)):
        raise InputError(
            f"mask={shown(given)} is a file's name. Read it first: Image.open({shown(str(given))})."
        )
    values = given.detach().float().cpu() if isinstance(given, Tensor) else given
    try:
        mask = np.asarray(_grey(values) if isinstance(values, Image.Image) else values)
    except ValueError:  # rows of several lengths
        mask = np.empty(0, object)
    if mask.ndim != 2 or mask.dtype.kind not in "biuf" or not np.isfinite(mask).all():
        raise InputError(
            f"A mask is one finite number for each pixel, (height, width); this one has the shape {mask.shape}. "
            "Give a PIL picture or an array with 1 where the mask is and 0 elsewhere."
        )
    most = mask.max(initial=0)
    if 1 < most <= 127.5:
        raise InputError(
            f"The mask has values from {mask.min():g} to {most:g}, and so nothing is in it: a mask is true above 0.5, or above 127.5 "
            "where it goes above 1. Say which values you mean, e.g. mask == 2 or mask > 0."
        )
    return mask > (127.5 if most > 1 else 0.5)


def _contents(holder) -> tuple[tuple[int, ...], bytes] | None:
    mask = holder.mask
    return None if mask is None else (mask.shape, mask.tobytes())


# The default of a field by which dataclasses that have a `mask` are compared: arrays give no yes or no.
mask_contents = property(_contents)


def mask_picture(
    mask: Bool[np.ndarray | Tensor, "row column"], size: tuple[int, int]
) -> Image.Image:
    """A mask as a grey picture of this size (width, height), 255 where it is true, in squares."""
    values = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    small = Image.fromarray(values.astype(bool).astype(np.uint8) * 255)
    return small.resize(size, Image.Resampling.NEAREST)


def on_latent(
    mask: Bool[np.ndarray, "height width"], size: tuple[int, int], picture: tuple[int, int]
) -> Float[Tensor, "row column"]:
    """How much of every cell of a latent is in a mask, 0…1.

    Args:
        mask: as large as the picture or the latent.
        size, picture: the latent's height and width, and the picture's.

    Raises:
        InputError: it has another size.
    """
    if mask.shape not in (size, picture):
        raise InputError(
            f"The mask is {mask.shape} (height, width); the picture is {picture} and its latent {size}. "
            "Give the mask one of these sizes."
        )
    return F.interpolate(torch.from_numpy(mask).float()[None, None], size, mode="area")[0, 0]
