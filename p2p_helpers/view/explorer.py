"""Views to play with, on top of figures that already tell the story."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ..errors import InputError
from ..maps.heatmap import Heatmap
from ..maps.recorded import AttentionMaps
from ..result import EditResult
from .figures import pictures, word_colour
from .map_figures import maps_of, short_layer_names
from .page import Page

STEPS = 12  # shown at most, evenly spread, so that the page stays small


def explore(
    result: EditResult | AttentionMaps, images: Sequence[Image.Image] | None = None
) -> Page:
    """A view of recorded maps: hover a word for its map over the picture, a pixel for its words.

    Choose picture, step, layer and head.

    Args:
        result: an edit made with `record=True`, or maps from `p2p.record`.
        images: the picture of each prompt; a result has its own.

    Raises:
        InputError: nothing was recorded, there are not as many pictures as prompts, or one is none.
    """
    maps = maps_of(result)
    if images is None and isinstance(result, EditResult):
        images = [result.source, *result.images]
    images = [] if images is None else pictures(images)
    if len(images) != len(maps.prompts):
        raise InputError(
            f"There are {len(maps.prompts)} prompts; explore(maps, images) takes a picture of each, and got {len(images)}."
        )
    layers, steps = maps.level_layers, maps.spread_steps(STEPS)
    heads = maps.heads if maps.detailed_layers == layers else 0  # of single layers
    prompts = [
        _prompt(maps, number, image, layers, heads, steps) for number, image in enumerate(images)
    ]
    data = {
        "grid": maps.level,
        "steps": steps,
        "layers": short_layer_names(layers),
        "heads": heads,
        "prompts": prompts,
    }
    return Page.of("explorer.html", data, "Attention explorer", height=460)


def _prompt(
    maps: AttentionMaps,
    number: int,
    image: Image.Image,
    layers: Sequence[str],
    heads: int,
    steps: Sequence[int],
) -> dict:
    """One prompt's picture, words and maps for the page.

    Average, steps, and each layer's mean and heads, in bytes.
    """
    own = maps.of(number)
    start = [own.start] if own.has_start else []
    words = [*start, *own.words, own.end, *([own.padding] if own.padding.tokens else [])]
    views = [words, *([w.at(step=s) for w in words] for s in steps)]
    for layer in layers:
        views.append([w.at(layer=layer) for w in words])
        views += [[w.at(layer=layer, head=head) for w in words] for head in range(heads)]
    values = np.stack([[heat.numpy() for heat in view] for view in views])
    values = values.clip(0)  # (view, word, row, column); a negative fader's is dark
    scales = values.max((2, 3), keepdims=True)
    small = np.round(values / np.maximum(scales, 1e-9) * 255).astype(np.uint8)
    return {
        "text": maps.prompts[number],
        "words": [heat.name for heat in words],
        "colours": [word_colour(heat.name) for heat in words],
        "first": len(start) + _most_telling(own.words),
        "maps": base64.b64encode(small.tobytes()).decode(),
        "scales": [float(f"{float(s):.4g}") for s in scales.flatten()],
        "picture": _data_url(image),
    }


def _most_telling(words: Sequence[Heatmap]) -> int:
    """The word whose map is the least even: what to show first."""
    spread = [heat.numpy().max() / max(heat.numpy().mean(), 1e-9) for heat in words]
    return int(np.argmax(spread)) if spread else 0


def _data_url(image: Image.Image) -> str:
    buffer, small = io.BytesIO(), max(image.size) <= 256
    kind = "png" if small else "jpeg"
    options = {} if small else {"quality": 88}
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
