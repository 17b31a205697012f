"""Where objects are and where they go, on the grid of the latent: what layout edits do to pixels and to latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from .edits.layout import Placement

CORE = 0.35  # share of a refined word map's maximum: the object
CARRIED = 0.25  # and what goes along at its rim
SPECK = 0.2  # an object's pieces have at least this share of the cells of its largest one
FAINT = 1e-3  # how much another object counts in the continuation, beside 1 for what lies behind
FILLED = 0.3  # share of the steps in which the hole is filled; later the model paints it


def widened(mask: Bool[Tensor, "row column"]) -> Bool[Tensor, "row column"]:
    """By one cell in all eight directions."""
    return F.max_pool2d(mask.float()[None], 3, 1, 1)[0] > 0


@dataclass(frozen=True, eq=False)
class Continuation:
    """The smoothest continuation of what surrounds a hole into it (Laplace's equation), for any values.

    Other objects that touch the hole count next to nothing: what lies behind goes on behind them.

    Args:
        inside, around: numbers of the hole's cells, and of those that touch it.
        weights: (inside, around), which sum to 1.
    """

    inside: Int[Tensor, " inside"]
    around: Int[Tensor, " around"]
    weights: Float[Tensor, "inside around"]

    @classmethod
    def of(
        cls, hole: Bool[Tensor, "row column"], others: Bool[Tensor, "row column"] | None = None
    ) -> Continuation:
        """Solve for a hole; one that has nothing around it is left as it is.

        Args:
            others: where other objects are, outside of the hole.
        """
        padded = F.pad(torch.arange(hole.numel()).reshape(hole.shape), (1, 1, 1, 1), value=-1)
        sides = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        inside = hole.flatten().nonzero()[:, 0]
        neighbours = torch.stack([side.flatten() for side in sides], -1)[inside]  # −1: outside
        is_in = F.pad(hole.flatten(), (0, 1))  # the last stands for outside of the picture
        touched = neighbours[(neighbours >= 0) & ~is_in[neighbours]].unique()
        if not len(inside) or not len(touched):
            none = inside[:0]
            return cls(none, none, torch.zeros(0, 0))
        place = torch.full((hole.numel(),), -1)
        place[inside] = torch.arange(len(inside))
        place[touched] = torch.arange(len(touched))
        strength = torch.ones(hole.numel() + 1, dtype=torch.float64)
        strength[-1] = 0  # outside of the picture
        if others is not None:
            strength[:-1][others.flatten()] = FAINT
        laplacian = torch.diag(strength[neighbours].sum(1))
        border = torch.zeros(len(inside), len(touched), dtype=torch.float64)
        for side in neighbours.T:
            for matrix, wanted, sign in ((laplacian, True, -1.0), (border, False, 1.0)):
                row = ((side >= 0) & (is_in[side] == wanted)).nonzero()[:, 0]
                matrix[row, place[side[row]]] += sign * strength[side[row]]
        return cls(inside, touched, torch.linalg.solve(laplacian, border).float())

    def fill(self, values: Float[Tensor, "*channel row column"]) -> Tensor:
        """The values with the hole filled."""
        flat = values.flatten(-2).clone()
        weights = self.weights.to(flat)
        flat[..., self.inside] = flat[..., self.around] @ weights.T
        return flat.reshape(values.shape)


def core_of(
    soft: Float[Tensor, "row column"], rivals: Sequence[Float[Tensor, "row column"]]
) -> Bool[Tensor, "row column"]:
    """Where an object is; a cell belongs to the word that looks most at it and its neighbours."""
    core = soft > CORE
    for rival in rivals:
        near = blurred(rival)
        core = core & ~((near > CORE) & (near > blurred(soft)))
    return without_specks(core if core.any() else soft > CORE)


def cores_of(
    rivals: Sequence[Float[Tensor, "row column"]], soft: Float[Tensor, "row column"]
) -> Bool[Tensor, "row column"]:
    """Where other objects are, beside the one whose map is `soft`."""
    found = torch.zeros_like(soft, dtype=torch.bool)
    for rival in rivals:
        found |= core_of(rival, [soft])
    return found


def blurred(x: Float[Tensor, "row column"]) -> Float[Tensor, "row column"]:
    """The mean of a cell and its eight neighbours."""
    return F.avg_pool2d(x[None], 3, 1, 1, count_include_pad=False)[0]


def without_specks(mask: Bool[Tensor, "row column"]) -> Bool[Tensor, "row column"]:
    """The pieces of a mask that have at least `SPECK` of the cells of the largest one; corners connect.

    Where objects touch, a word looks at single cells of the other's rim.
    """
    labels = torch.arange(1.0, mask.numel() + 1).reshape(mask.shape) * mask
    while not torch.equal(spread := F.max_pool2d(labels[None], 3, 1, 1)[0] * mask, labels):
        labels = spread
    pieces = labels.long()
    cells = torch.bincount(pieces[mask], minlength=mask.numel() + 1)
    return mask & (cells[pieces] >= SPECK * cells.max())


class Layout:
    """The geometry of one target's layout edits.

    Args:
        edits: what moves where.
        soft: for each its object's refined word map in the source, 0…1, at the latent's size.
        rivals: for each the maps of other objects, whose cells are not its own.
    """

    def __init__(
        self,
        edits: Sequence[Placement],
        soft: Sequence[Float[Tensor, "row column"]],
        rivals: Sequence[Sequence[Float[Tensor, "row column"]]] | None = None,
    ):
        self.edits, self.size = list(edits), soft[0].shape
        rows, columns = self.size
        others = [()] * len(soft) if rivals is None else rivals
        cores = [
            map_ > CORE if edit.mask is not None else core_of(map_, theirs)
            for edit, map_, theirs in zip(edits, soft, others, strict=True)
        ]
        # Where objects are that have no layout edit.
        theirs = [cores_of(rivals, map_) for map_, rivals in zip(soft, others, strict=True)]
        self.others = torch.stack(theirs).any(0) & ~torch.stack(cores).any(0)
        # A cell of two is that one's whose word looks at it most.
        most = torch.stack(list(soft)).amax(0)
        cores = [core & (map_ >= most) for core, map_ in zip(cores, soft, strict=True)]
        # Where objects were that do not stay; where each is; row and column of the source for every cell, (row, column, 2).
        self.old = torch.zeros(rows, columns, dtype=torch.bool)
        self.new: list[Tensor] = []
        self.origins: list[Tensor] = []
        for edit, core, map_ in zip(edits, cores, soft, strict=True):
            origin = self._origin(edit, core)
            carried = core | ((map_ > CARRIED) & widened(core) & ~self.others)
            new = sampled(carried.float()[None], origin)[0] > 0.5
            still = torch.equal(origin, self._cells())
            if edit.goes or still:
                new = torch.zeros_like(new)  # nowhere, or where it is
            if edit.goes or not (edit.stays or still):
                self.old |= widened(core) & ~self.others
            self.origins.append(origin)
            self.new.append(new)
        anew = torch.stack(self.new).any(0)
        self.left = self.old & ~anew  # the hole
        self.free = widened(anew | self.left)
        self.device = torch.device("cpu")  # of the matrices, set before the run
        self._matrices: dict[tuple[int, int], Tensor] = {}

    def _origin(self, edit: Placement, core: Tensor) -> Tensor:
        """For every cell of the target the place in the source that it shows, in cells."""
        rows, columns = self.size
        tall, wide = (torch.where(core.any(axis))[0] for axis in (1, 0))
        if not len(tall):
            tall = wide = torch.zeros(1)
        foot = torch.stack([tall.max() + 0.5, (wide.min() + wide.max()) / 2])
        right, down = edit.shift
        shift = torch.tensor([down * rows, right * columns])
        if edit.scale == 1:  # the latent is moved by whole cells, and not resampled
            return self._cells() - shift.round()
        return foot + (self._cells() - foot - shift) / edit.scale

    def _cells(self) -> Tensor:
        """Row and column of every cell."""
        rows, columns = (torch.arange(float(side)) for side in self.size)
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)

    def matrix(self, grid: tuple[int, int]) -> Float[Tensor, "pixel pixel"]:
        """G over the pixels of a layer."""
        if grid not in self._matrices:
            pixels = grid[0] * grid[1]
            basis = torch.eye(pixels).reshape(
                pixels, *grid
            )  # a map's row for each pixel, as a picture
            old, others = _shrunk(self.old, grid), _shrunk(self.others, grid)
            made = Continuation.of(old, others & ~old).fill(basis).flatten(1).T
            ratio = torch.tensor([grid[0] / self.size[0], grid[1] / self.size[1]])
            for new, origin in zip(self.new, self.origins, strict=True):
                small = F.adaptive_avg_pool2d(origin.permute(2, 0, 1)[None], grid)[0]
                at = (small.permute(1, 2, 0) + 0.5) * ratio - 0.5
                here = _shrunk(new, grid).flatten()
                picks = sampled(basis, at, "border").flatten(1).T
                made[here] = picks[here]
            self._matrices[grid] = made.to(self.device)
        return self._matrices[grid]


def _shrunk(mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """The cells of a coarser grid of which at least half is in a mask."""
    return F.adaptive_avg_pool2d(mask.float()[None], grid)[0] >= 0.5


def sampled(x: Tensor, at: Tensor, outside: str = "zeros", mode: str = "bilinear") -> Tensor:
    """Values at places between cells: (channel, row, column) at (row, column, 2) → (channel, row, column)."""
    rows, columns = x.shape[-2:]
    scale = torch.tensor([2 / max(columns - 1, 1), 2 / max(rows - 1, 1)], dtype=x.dtype)
    grid = at.to(x).flip(-1) * scale.to(x) - 1
    return F.grid_sample(x[None], grid[None], mode=mode, padding_mode=outside, align_corners=True)[
        0
    ]


class Placed:
    """Where a target's latents come from after every step.

    Args:
        layout: its geometry.
        known: the source's latents after every step, as pictures.
        picture: the source with the objects in their new places and sizes.
        opaque: where the objects are in it, 0…255.
        composite: the clean latent with the objects in their new sizes, if a size changes.
    """

    def __init__(
        self,
        layout: Layout,
        known: Float[Tensor, "step channel row column"],
        picture: Image.Image,
        opaque: Image.Image,
        composite: Float[Tensor, "channel row column"] | None = None,
    ):
        self.layout, self.known = layout, known
        self.picture, self.opaque = picture, opaque
        self._signals: list[float] = []
        clean = known[-1].float()
        self.filled = Continuation.of(layout.left, layout.others).fill(clean)
        self.composite = composite

    def after(
        self, latents: Float[Tensor, "channel row column"], turn: int, scheduler
    ) -> Float[Tensor, "channel row column"]:
        """The latents to go on with after a turn of the loop, from 0."""
        self._signals = self._signals or signals(scheduler)
        layout, source = self.layout, self.known[turn].to(latents)
        last = turn + 1 == len(self.known)
        if not last:
            skipped = len(self._signals) - len(self.known)  # of img2img, which begins later
            a, clean = self._signals[skipped + turn], self.known[-1].to(latents)
            noise = source - a * clean
            if turn + 1 < FILLED * len(self.known):
                latents = torch.where(
                    layout.left.to(latents.device), a * self.filled.to(latents) + noise, latents
                )
            for edit, new, origin in zip(layout.edits, layout.new, layout.origins, strict=True):
                if self.composite is None or edit.scale == 1:
                    moved = sampled(source.float(), origin, "border", "nearest")
                else:
                    other = sampled(noise.float(), origin, "border", "nearest")
                    moved = a * self.composite.to(latents) + other
                latents = torch.where(new.to(latents.device), moved.to(latents), latents)
        return torch.where(layout.free.to(latents.device), latents, source)


def signals(scheduler) -> list[float]:
    """How much of the clean latent is in the latent after every step of a schedule that is set."""
    sigmas, times = getattr(scheduler, "sigmas", None), scheduler.timesteps
    if sigmas is None:
        kept = scheduler.alphas_cumprod.cpu()
        return [float(kept[int(t)].sqrt()) for t in times[1:]] + [1.0]
    if hasattr(scheduler, "scale_noise"):  # flow matching
        return [1 - float(sigma) for sigma in sigmas[1:]]
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):
        return [float(scheduler._sigma_to_alpha_sigma_t(sigma)[0]) for sigma in sigmas[1:]]
    return [1.0] * len(times)  # noise is added to the clean latent
