"""One word's attention map, by step, layer and head."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from operator import index
from typing import TYPE_CHECKING, SupportsIndex

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from ..errors import InputError
from ..images import picture
from ..prompts.several import parts_of
from ..values import finite_number, shown, whole_number

if TYPE_CHECKING:
    from .recorded import AttentionMaps

POOLED = "all layers"  # what heads and steps of joint attention are kept under
FROM_0 = "Count from 0."
HEAT = "magma"  # perceptually uniform, and in greyscale still dark to light


def _unit(map: Tensor) -> Tensor:
    """Shifted and scaled to 0…1."""
    return (map - map.min()) / (map.max() - map.min()).clamp(min=1e-8)


def position(name: str, value: object, advice: str) -> int:
    """A whole number that counts something. Raises InputError for anything else; `advice` ends the message."""
    try:
        return index(value)  # type: ignore[arg-type]
    except TypeError:
        raise InputError(f"{name}={shown(value)}: it must be a whole number. {advice}") from None


def _sides(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width. Raises InputError for what is no such pair."""
    try:
        height, width = (index(side) for side in size)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise InputError(f"size={shown(size)}: give the height and the width, e.g. (128, 128).")
    return height, width


def _resized(map: Tensor, size: tuple[int, int]) -> Tensor:
    """At another size (height, width)."""
    return F.interpolate(map[None, None], _sides(size), mode="bicubic", align_corners=False)[0, 0]


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Where the picture looks at one word: the sum over the word's tokens.

    It is averaged over the layers of the map level, their heads, and the steps; `.at` narrows it to
    a step, a layer or a head. Each pixel is a share of that pixel's attention, 0…1. NumPy takes it
    for an array (row, column), and so does matplotlib's `imshow`.
    """

    maps: AttentionMaps
    prompt: int
    name: str
    tokens: tuple[int, ...]
    step: int | None = None
    layer: str | None = None
    head: int | None = None
    among: tuple[int, ...] = ()  # tokens whose maps sum to 1 in every pixel; none: all of them

    def at(
        self,
        *,
        step: SupportsIndex | None = None,
        layer: str | SupportsIndex | None = None,
        head: SupportsIndex | None = None,
        encoder: SupportsIndex | None = None,
    ) -> Heatmap:
        """The same word at one step, layer or head; what is not given stays as it was.

        Args:
            step: from 0, negative from the end.
            layer: a name, a part of it that begins at a dot, or its number in `maps.layers`, negative from the end.
            head: from 0, negative from the end.
            encoder: the word's tokens of one text encoder only, where the model has several whose
                tokens follow each other: 0 is CLIP's and 1 is T5's in Stable Diffusion 3.

        Raises:
            InputError: no such step, layer, head or encoder, or one that was not kept; says how to
                keep it.
        """
        found = replace(
            self,
            step=self.step if step is None else self._step(position("step", step, FROM_0)),
            layer=self.layer if layer is None else self._layer(layer),
            head=self.head if head is None else position("head", head, FROM_0),
            tokens=self.tokens if encoder is None else self._of_encoder(encoder),
        )
        found.numpy()
        return found

    def _step(self, step: int) -> int:
        steps = self.maps.steps
        if not -steps <= step < steps:
            raise InputError(f"step={step} is not one of the {steps} steps recorded; count from 0.")
        return step % steps

    def _of_encoder(self, which: SupportsIndex) -> tuple[int, ...]:
        encoder = position("encoder", which, FROM_0)
        parts = [part for part in parts_of(self.maps.tokenizer) if part[0] is not None]
        if not -len(parts) <= encoder < len(parts):
            raise InputError(
                f"encoder={encoder}: the model has {len(parts)} whose tokens it tells apart."
            )
        _, first, length = parts[encoder]
        found = tuple(token for token in self.tokens if first <= token < first + length)
        if not found:
            raise InputError(
                f"encoder={encoder}: {self.name!r} has no token there. Look at another encoder, or leave it out."
            )
        return found

    def _layer(self, layer: str | SupportsIndex) -> str:
        names = self.maps.layers
        if isinstance(layer, str):
            part = re.compile(
                rf"(^|\.){re.escape(layer)}(?!\d)"
            )  # blocks.1 is no part of blocks.10
            fitting = [layer] if layer in names else [name for name in names if part.search(name)]
        else:
            number = position("layer", layer, "Or give a name of maps.layers.")
            fitting = [names[number]] if -len(names) <= number < len(names) else []
        if len(fitting) != 1:
            raise InputError(
                f"layer={layer!r} fits {len(fitting)} layers. "
                f"There are: {', '.join(names)}; or give its number."
            )
        return fitting[0]

    def mean(self) -> Heatmap:
        """The average again, over all steps, layers of the map level, and heads."""
        return replace(self, step=None, layer=None, head=None)

    def among_words(self) -> Heatmap:
        """The word's share of what the prompt's words get: their maps sum to 1 in every pixel.

        Start, end and padding, which take most of the attention, are left out. So this map says
        which word a pixel looks at, and no longer how much. A negative fader's map counts as 0.

        Raises:
            InputError: this is the map of no word, but of the start, the end or padding.
        """
        rivals = {token for heat in self.maps.of(self.prompt).words for token in heat.tokens}
        if not set(self.tokens) <= rivals:
            raise InputError(f"{self.name!r} is no word of the prompt, so it has no share of them.")
        return replace(self, among=tuple(sorted(rivals)))

    def tensor(self) -> Float[Tensor, "row column"]:
        """The map in float32 on the CPU."""
        layers = [self.layer] if self.layer else self.maps.level_layers or self.maps.layers[:1]
        shape = self.maps.shapes[layers[0]]
        if self.layer is None and POOLED in self.maps.by_head:
            one = self.step is not None or self.head is not None
            layers = [POOLED] if one else layers
        found = torch.stack([self._one(layer) for layer in layers]).mean(0)  # (pixel, token)
        if self.among:
            found = found.clamp(min=0)
            rivals = self.maps.summed(found, self.among)
            found = found / rivals[:, None].clamp(min=1e-8)
        return self.maps.summed(found, self.tokens).reshape(shape)

    def _one(self, layer: str) -> Float[Tensor, "pixel token"]:
        """One layer's map of all tokens."""
        try:
            if self.maps.record.everything:
                return self._everything(layer)
            return self._kept(layer)
        except (KeyError, IndexError):
            raise InputError(
                f"The map of step {self.step}, layer {layer}, head {self.head} was not kept (or "
                "there is no such head). Kept are the mean of each layer, and single steps or "
                "heads of the map level. Record with Record(everything=True) for all of them."
            ) from None

    def _everything(self, layer: str) -> Float[Tensor, "pixel token"]:
        """From a record of every map."""
        steps = range(self.maps.steps) if self.step is None else [self.step]
        maps = [self.maps.all[layer, step][self.prompt].float() for step in steps]
        mean = torch.stack(maps).mean(0)  # (head, pixel, token)
        return mean.mean(0) if self.head is None else mean[self.head]

    def _kept(self, layer: str) -> Float[Tensor, "pixel token"]:
        """From the usual record: means, and at the map level single steps or heads."""
        maps, p = self.maps, self.prompt
        if self.step is not None and self.head is not None:
            raise KeyError("a head of one step")
        if self.step is not None:
            return maps.by_step[layer, self.step][p].float()
        if self.head is not None:
            return maps.by_head[layer][p, self.head].float().cpu() / maps.steps
        total = maps.by_head[layer][p].mean(0) if layer in maps.by_head else maps.sums[layer][p]
        return total.float().cpu() / maps.counts[layer]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.numpy(), dtype)

    def numpy(self) -> np.ndarray:
        """The map as an array, (row, column)."""
        return self.tensor().numpy()

    def upsample(self, size: tuple[int, int]) -> Float[Tensor, "height width"]:
        """The map at another size (height, width), bicubic, not below zero. Raises InputError for no such size."""
        return _resized(self.tensor(), size).clamp(min=0)

    def fused(self, size: tuple[int, int]) -> Float[Tensor, "height width"]:
        """All layers of all sizes, enlarged to `size` and averaged; of joint attention the blocks whose maps are clear.

        Raises:
            InputError: this is the map of one step, layer or head, or no such size.

        Reference: Tang et al. 2022 (arXiv 2210.04885), DAAM.
        """
        if (self.step, self.layer, self.head) != (None, None, None):
            raise InputError(
                f"{self!r} is of one step, layer or head, and this takes all of them. Take upsample(size), or the word's map itself."
            )
        maps, level = self.maps, self.maps.shapes[(self.maps.level_layers or self.maps.layers)[0]]
        layers = [
            layer
            for layer in maps.layers
            if layer in maps.level_layers
            or not (layer.startswith("mid") or maps.shapes[layer] == level)
        ]
        each = [replace(self.mean(), layer=layer).upsample(size) for layer in layers]
        return torch.stack(each).mean(0)

    def refine(self, size: tuple[int, int], *, power: int = 1) -> Float[Tensor, "height width"]:
        """The map at another size (height, width), sharper.

        Layers of all sizes fused, then spread along self-attention, A_selfⁿ · map, so that the
        pixels of one object share what any of them has. From 0 to 1.

        On Toyland n = 1 finds objects best: intersection over union 0.815 on 100 validation scenes,
        against 0.774 for n = 0, 0.776 for 2, 0.738 for 3, and 0.795 without the other sizes;
        raising the map to a power first did not help.

        Args:
            power: n, how often the map is spread.

        Raises:
            InputError: no such size or power; this is the map of one step, layer or head; or self-attention was not recorded, as
                of joint attention. Take `upsample`.
        """
        own = self.maps.of(self.prompt).self_attention
        spread = _unit(self.fused(own.shape)).flatten()
        for _ in range(whole_number("power", power, 0, 100, "1 is usual.")):
            spread = own.matrix @ spread
        spread = _unit(spread.reshape(own.shape))
        return _resized(spread, size).clamp(0, 1)

    def mask(
        self, threshold: float = 0.5, size: tuple[int, int] | None = None
    ) -> Bool[Tensor, "height width"]:
        """Where the map exceeds a share of its maximum, at another size (height, width) if given.

        Raises InputError outside 0…1, or for no such size.
        """
        try:
            fits = bool(0 <= threshold <= 1)
        except (TypeError, ValueError, RuntimeError):  # words, or several numbers
            fits = False
        if not fits:
            raise InputError(
                f"threshold={shown(threshold)}: give a share of the map's maximum, 0…1, e.g. 0.5."
            )
        found = self.tensor() if size is None else self.upsample(size)
        return found > threshold * found.max()

    def overlay(self, image: Image.Image, strength: float = 0.75) -> Image.Image:
        """The picture, coloured where the map is high and dimmed where it is low.

        Args:
            strength: of the colours, 0…1.

        Raises:
            InputError: it is no picture, or no such strength.
        """
        from matplotlib import colormaps

        image = picture(image)
        strength = finite_number(
            "strength", strength, 1, "0 shows the picture, 1 the map alone.", 0
        )
        heat = self.upsample((image.height, image.width))
        heat = (heat / heat.max().clamp(min=1e-8)).numpy()
        colours = Image.fromarray((colormaps[HEAT](heat)[..., :3] * 255).astype(np.uint8))
        return Image.blend(image.convert("L").convert("RGB"), colours, strength)

    def image(self, size: tuple[int, int] | None = None) -> Image.Image:
        """The map as a picture (height, width), as bright as its own maximum.

        Args:
            size: as large as 128 pixels allow when not given, with cells that are squares.

        Raises:
            InputError: no such size.
        """
        from matplotlib import colormaps

        values = self.tensor()
        colours = colormaps[HEAT]((values / values.max().clamp(min=1e-8)).numpy())[..., :3]
        small = Image.fromarray((colours * 255).astype(np.uint8))
        times = max(1, 128 // max(small.size))
        high, wide = (times * small.height, times * small.width) if size is None else _sides(size)
        return small.resize((wide, high), Image.Resampling.NEAREST)

    def _repr_png_(self):
        return self.image()._repr_png_()

    def __repr__(self):
        chosen = {"step": self.step, "layer": self.layer, "head": self.head}
        which = [f"{name} {value}" for name, value in chosen.items() if value is not None]
        which += ["among words"] if self.among else []
        rows, columns = self.tensor().shape
        size = f"{rows}×{columns}"
        return (
            f"Heatmap({self.name!r} of prompt {self.prompt}, {size}, {', '.join(which) or 'mean'})"
        )
