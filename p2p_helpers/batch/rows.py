"""What is said of a job: its row, and the numbers of its pictures."""

from __future__ import annotations

import time

import numpy as np

from ..inversion import Inversion
from ..masks import mask_picture
from ..metrics import psnr
from ..result import EditResult


def row_of(name: str, job: object, error: Exception | None = None) -> dict:
    """The row of a job, without what its pictures add; or of one that could not be done, with its error's kind and message."""
    said = None if error is None else {"kind": type(error).__name__, "message": str(error)}
    return {
        "name": name,
        "job": job,
        "error": said,
        "folder": f"{name[:2]}/{name}",
        "pictures": [],
        "metrics": [],
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "provenance": {},
    }


def metrics_of(result: EditResult, number: int, source: str | Inversion) -> dict:
    """How far an edited picture is from its source, in dB; behind a local blend's mask too."""
    real = isinstance(source, Inversion)
    before = source.pixels if real else np.asarray(result.source)
    after = np.asarray(result.images[number])
    found = {"psnr": round(psnr(before, after), 3)}
    if real:
        found["reconstruction_psnr"] = round(source.psnr, 3)
    if result.masks is not None:
        mask = mask_picture(result.masks[-1, number], (before.shape[1], before.shape[0]))
        outside = np.asarray(mask) == 0
        if outside.any():
            found["background_psnr"] = round(psnr(before, after, outside), 3)
    return found
