"""Which pixel looks at which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError
from ..values import whole_number
from .heatmap import FROM_0, position


@dataclass(frozen=True, eq=False)
class SelfAttention:
    """Which pixel looks at which: `matrix` (pixel, pixel), rows sum to 1, pixels row by row."""

    matrix: Float[Tensor, "pixel pixel"]
    shape: tuple[int, int]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.matrix.numpy(), dtype)

    def components(self, count: int = 6) -> Float[Tensor, "component row column"]:
        """The parts of the layout: the first right singular vectors of A minus its row mean.

        Args:
            count: how many, at most as many as there are pixels.

        Raises:
            InputError: no such number of components.

        Reference: Hertz et al. 2022 (arXiv 2208.01626), Figure 4.
        """
        most = len(self.matrix)
        count = whole_number("count", count, 1, most, f"The map has {most} pixels; 6 are usual.")
        centred = self.matrix - self.matrix.mean(1, keepdim=True)
        found = torch.linalg.svd(centred, full_matrices=False).Vh[:count]
        # A singular vector's sign means nothing: make its peak positive.
        largest = found.gather(1, found.abs().argmax(1, keepdim=True))
        return (found * largest.sign()).reshape(-1, *self.shape)

    def of(self, row: int, column: int) -> Float[Tensor, "row column"]:
        """Where one pixel looks. Raises InputError if there is no such pixel."""
        rows, columns = self.shape
        row, column = position("row", row, FROM_0), position("column", column, FROM_0)
        if not (0 <= row < rows and 0 <= column < columns):
            raise InputError(f"Pixel ({row}, {column}) is outside the map of {rows}×{columns}.")
        return self.matrix[row * columns + column].reshape(self.shape)
