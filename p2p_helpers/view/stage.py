"""The stage: the source's picture, on which objects are dragged, resized, duplicated and removed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import anywidget
import numpy as np
import torch
import torch.nn.functional as F
import traitlets
from PIL import Image
from torch import Tensor

from ..layout import CARRIED, Continuation, widened
from ..placing import Whereabouts
from ..prompts.words import Phrase
from .html import url
from .settings import Place


class Stage(anywidget.AnyWidget):
    """A picture with a box around each object. The page is in stage.js; these are what both sides know.

    Args:
        picture: its URL; empty for none.
        caption: what it is.
        grid: rows and columns of the latent; an object moves by whole cells.
        objects: what can be moved; see `offer`.
        places: where objects go, as `Place` has it. Their phrases are the source's.
    """

    _esm = Path(__file__).parent / "stage.js"
    _css = Path(__file__).parent / "stage.css"
    picture = traitlets.Unicode("").tag(sync=True)
    caption = traitlets.Unicode("").tag(sync=True)
    grid = traitlets.List([16, 16]).tag(sync=True)
    objects = traitlets.List([]).tag(sync=True)
    places = traitlets.List([]).tag(sync=True)

    def __init__(self):
        super().__init__()
        self.names: dict[Phrase, Phrase] = {}
        self._found: list[Whereabouts] = []

    def show(self, picture: Image.Image, caption: str, found: Sequence[Whereabouts] = ()):
        """Another picture, and where its objects are."""
        self._found = list(found)
        self._drawn = {one.phrase: drawn(picture, one) for one in found}
        if found:
            self.grid = list(found[0].core.shape)
        with self.hold_sync():
            self.picture, self.caption = url(picture), caption
            self.offer(self.names)

    def clear(self):
        """No picture, and no objects."""
        self._found = []
        with self.hold_sync():
            self.picture = self.caption = ""
            self.objects, self.places = [], []

    def offer(self, names: Mapping[Phrase, Phrase]):
        """Which objects may be moved: those that the target has, too.

        Args:
            names: their phrases in the source → those in the target.
        """
        self.names = dict(names)
        self.objects = [
            {
                "phrase": one.phrase,
                "name": spoken(names[one.phrase]),
                "replaces": "" if names[one.phrase] == one.phrase else spoken(one.phrase),
                **self._drawn[one.phrase],
            }
            for one in self._found
            if one.phrase in names
        ]

    def said(self) -> tuple[Place, ...]:
        """Where the target's objects go."""
        places = [Place(**place) for place in self.places]
        return tuple(
            dataclasses.replace(place, phrase=self.names[place.phrase])
            for place in places
            if place.phrase in self.names
        )

    def put(self, places: Sequence[Place]):
        """Put objects where settings say."""
        own = {target: source for source, target in self.names.items()}
        self.places = [
            dataclasses.asdict(dataclasses.replace(place, phrase=own[place.phrase]))
            for place in places
            if place.phrase in own
        ]


def spoken(phrase: Phrase) -> str:
    """A phrase as people say it."""
    return phrase if isinstance(phrase, str) else f"{phrase[0]} ({phrase[1]})"


def drawn(picture: Image.Image, one: Whereabouts) -> dict:
    """An object as the page draws it.

    `box` is left, top, right and bottom as shares of the picture, `cutout` the object alone, `behind` the hole that
    it leaves, filled with what surrounds it. Both are as large as the picture, and clear elsewhere.
    """
    rows, columns = one.core.shape
    tall, wide = (torch.where(one.core.any(axis))[0] for axis in (1, 0))
    sides = (
        wide.min() / columns,
        tall.min() / rows,
        (wide.max() + 1) / columns,
        (tall.max() + 1) / rows,
    )
    pixels = torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32).copy()).permute(
        2, 0, 1
    )
    size = (picture.height, picture.width)
    hole = widened(one.core) & ~one.others
    small = F.interpolate(pixels[None], one.core.shape, mode="area")[0]
    filled = Continuation.of(widened(hole) & ~one.others, one.others).fill(small)
    filled = _enlarged(filled, size)
    edge = ((_enlarged(one.soft * hole, size, "bicubic") - CARRIED) / 0.1 + 0.5).clamp(0, 1)
    return {
        "box": [round(float(side), 4) for side in sides],
        "cutout": _clear(pixels, edge),
        "behind": _clear(filled, (2 * _enlarged(hole, size)).clamp(0, 1)),
    }


def _enlarged(x: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """A map or a picture of the latent's size at the picture's."""
    channels = x.float().reshape(1, -1, *x.shape[-2:])
    return F.interpolate(channels, size, mode=mode, align_corners=False)[0]


def _clear(pixels: Tensor, opaque: Tensor) -> str:
    """A picture with transparency, as a URL."""
    values = torch.cat([pixels, opaque * 255]).permute(1, 2, 0).round().clamp(0, 255)
    return url(Image.fromarray(values.byte().numpy(), "RGBA"))
