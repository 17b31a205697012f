"""How far two pictures are apart."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .errors import InputError
from .images import picture
from .masks import Mask, as_mask


def psnr(
    a: Image.Image | np.ndarray, b: Image.Image | np.ndarray, where: Mask | None = None
) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of one size.

    Identical pictures give 60 dB, not infinity, so that means stay finite.

    Args:
        a, b: PIL pictures, or uint8 arrays (height, width, 3).
        where: a mask of the pixels that count, (height, width); all of them when not given.

    Raises:
        InputError: arrays of other numbers, another size, a mask that is none, or one without a pixel.
    """
    one, other = _pixels(a), _pixels(b)
    if one.shape != other.shape:
        raise InputError(
            f"The pictures have the shapes {one.shape} and {other.shape}. Compare pictures of one size (height, width, 3)."
        )
    error = (one.astype(float) - other.astype(float)) ** 2
    if where is not None:
        mask = as_mask(where)
        if mask.shape != error.shape[:2]:
            raise InputError(
                f"The mask is {mask.shape} (height, width) and the pictures are {error.shape[:2]}. Give a mask of their size."
            )
        error = error[mask]
    if not error.size:
        raise InputError("The mask leaves no pixel to compare. Give one that is set somewhere.")
    return float(-10 * np.log10(max(error.mean() / 255**2, 1e-6)))


def _pixels(given) -> np.ndarray:
    """A picture's pixels as they are compared, from 0 to 255."""
    if not isinstance(given, np.ndarray):
        return np.asarray(picture(given))
    if given.dtype == np.uint8:
        return given
    raise InputError(
        f"psnr compares PIL pictures or uint8 arrays with values from 0 to 255, not {given.dtype} arrays. "
        "Of values from 0 to 1 make (255 * values).round().astype('uint8')."
    )
