"""How far apart two pictures look: by the features of a reader that learned to name objects (Zhang et al. 2018, arXiv 1801.03924)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..reader import Reader, _Block


def picture_features(reader: Reader, pictures: Tensor) -> list[Tensor]:
    """What a reader computes of pictures, (picture, width, row, column), at every size on its way to cells."""
    found, now = [], pictures
    for part in reader.stem:
        now = part(now)
        if isinstance(part, nn.ReLU | _Block):
            found.append(now)
    return found


def apart(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """How far the pictures of some features look apart: squared differences of features of unit length, one number."""
    pairs = zip(ours, theirs, strict=True)
    return sum((F.normalize(a) - F.normalize(b)).square().sum(1).mean() for a, b in pairs)
