"""How far two pictures are apart."""

from __future__ import annotations

import numpy as np

from .errors import InputError


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures (height, width, 3).

    Only pixels where the bool mask is set count. Identical pixels give 60 dB, not infinity, so that
    means stay finite. Raises InputError if no pixel is set.
    """
    error = (a.astype(float) - b.astype(float)) ** 2
    if where is not None:
        if not where.any():
            raise InputError("The mask leaves no pixel to compare. Give one that is set somewhere.")
        error = error[where]
    return float(-10 * np.log10(max(error.mean() / 255**2, 1e-6)))
