"""Figures of attention maps: by word, step, layer and head."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..errors import InputError
from ..images import picture
from ..maps.heatmap import Heatmap
from ..maps.recorded import AttentionMaps
from ..result import EditResult
from ..values import shown
from .figures import blank, gallery, grid, word_colour


def maps_of(given: EditResult | AttentionMaps) -> AttentionMaps:
    """The maps of a result, or maps themselves. Raises InputError for what has none."""
    maps = given.maps if isinstance(given, EditResult) else given
    if isinstance(maps, AttentionMaps):
        return maps
    raise InputError(
        f"Recorded maps are needed, of edit(..., record=True) or of record(), not {shown(given)}."
    )


def _heat(given) -> Heatmap:
    """One word's map. Raises InputError for what is none."""
    if isinstance(given, Heatmap):
        return given
    raise InputError(f"One word's map is needed, e.g. result.maps['cat'], not {shown(given)}.")


def word_maps(
    maps: EditResult | AttentionMaps, image: Image.Image | None = None, *, prompt: int = 0
) -> Figure:
    """Where the picture looks at each word of one prompt, the end token included, and the start token where there is one.

    If the picture is given, the maps are laid over it.

    Every map is as bright as its own maximum, as in the paper's Figure 4; the figure above it is
    that maximum, a share of attention.

    Args:
        maps: recorded maps, or a result that has them.
        image: the picture that the prompt made.
        prompt: which, 0 for the source.

    Raises:
        InputError: nothing was recorded, or there is no such prompt.
    """
    own = maps_of(maps).of(prompt)
    heats = [*([own.start] if own.has_start else []), *own.words, own.end]
    pictures = [heat.image() if image is None else heat.overlay(image) for heat in heats]
    titles = [f"{heat.name}\n{heat.numpy().max():.2f}" for heat in heats]
    colours = [word_colour(heat.name) for heat in heats]
    if image is not None:
        pictures = [image, *pictures]
        titles = ["the picture\n", *titles]
        colours = ["black", *colours]
    count = len(pictures)
    columns = count if count <= 8 else min(8, -(-count // 2))
    return gallery(pictures, titles, columns=columns, width=10, colours=colours)


def map_forming(heat: Heatmap, *, count: int = 6) -> Figure:
    """How one word's map forms over the steps.

    Args:
        heat: the word's map, as `maps["cat"]`.
        count: how many steps are drawn at most, evenly spread.

    Raises:
        InputError: it is no word's map, no such number of steps, or the single steps were not kept.
    """
    heat = _heat(heat)
    steps = heat.maps.spread_steps(count)
    titles = [f"{heat.name}, step {step}" for step in steps]
    colours = [word_colour(heat.name)] * len(steps)
    pictures = [heat.at(step=step).image() for step in steps]
    return gallery(pictures, titles, columns=len(steps), colours=colours)


def layers_and_steps(heat: Heatmap, *, count: int = 6) -> Figure:
    """One word's map in every layer of the map level (rows) at some steps (columns).

    The maximum stands under each. Of joint attention there is one row, for all layers together.

    Args:
        heat: the word's map, as `maps["cat"]`.
        count: how many steps are drawn at most, evenly spread.

    Raises:
        InputError: it is no word's map, or no such number of steps.
    """
    heat = _heat(heat)
    layers, steps = heat.maps.detailed_layers, heat.maps.spread_steps(count)
    maps = [[heat.at(step=step, layer=layer) for step in steps] for layer in layers]
    return _map_grid(
        maps,
        _names(layers),
        [f"step {step}" for step in steps],
        title=f"“{heat.name}” by layer and step",
    )


def heads(heat: Heatmap) -> Figure:
    """One word's map in every head (columns) of every layer of the map level (rows).

    The maximum stands under each. Of joint attention there is one row, for all layers together.

    Args:
        heat: the word's map, as `maps["cat"]`.

    Raises:
        InputError: it is no word's map.
    """
    heat = _heat(heat)
    layers, names = heat.maps.detailed_layers, [f"head {head}" for head in range(heat.maps.heads)]
    maps = [[heat.at(layer=layer, head=head) for head in range(len(names))] for layer in layers]
    return _map_grid(
        maps,
        _names(layers),
        names,
        title=f"“{heat.name}” by layer and head",
        width=1.6 + 1.4 * len(names),
    )


def _names(layers: Sequence[str] | Sequence[None]) -> list[str]:
    """What the rows of a figure are called."""
    named = [layer for layer in layers if layer is not None]
    return short_layer_names(named) if named else ["all layers"]


def _map_grid(
    maps: Sequence[Sequence[Heatmap]], rows: Sequence[str], columns: Sequence[str], **more
) -> Figure:
    """A grid of maps, each as bright as its own maximum, which stands under it."""
    notes = [[f"{heat.numpy().max():.2f}" for heat in line] for line in maps]
    pictures = [[heat.image() for heat in line] for line in maps]
    return grid(pictures, rows, columns, notes=notes, **more)


def short_layer_names(layers: Sequence[str]) -> list[str]:
    """up_blocks.2.attentions.1.… → up 2.1, single_transformer_blocks.3.… → single 3

    Where an attention has several layers, as in Stable Diffusion XL, their number is in the name: up 2.1.7.
    """
    names = [_short(layer.split(".")) for layer in layers]
    longer = [".".join(filter(str.isdigit, layer.split("."))) for layer in layers]
    return [
        f"{name.split()[0]} {numbers}" if names.count(name) > 1 else name
        for name, numbers in zip(names, longer, strict=True)
    ]


def _short(parts: Sequence[str]) -> str:
    kind = parts[0].split("_")[0]
    if kind == "mid":
        return "mid"
    if parts[0].endswith("blocks") and parts[1].isdigit() and parts[2] in ("attn", "attn2"):
        return f"{'single' if kind == 'single' else 'block'} {parts[1]}"
    return f"{kind} {parts[1]}.{parts[3]}"


def self_components(
    maps: EditResult | AttentionMaps, image: Image.Image, *, prompt: int = 0, count: int = 6
) -> Figure:
    """The parts that self-attention sees.

    The picture and the first principal components of its mean self-attention map.

    Args:
        maps: a result's, or the result itself.
        image: the picture of the prompt.
        prompt: its number, 0 for the source.
        count: of the components.

    Raises:
        InputError: nothing was recorded, no such prompt, no picture, or no such number of components.
    """
    parts = maps_of(maps).of(prompt).self_attention.components(count)
    figure, axes = blank(1, count + 1, 10)
    axes[0, 0].imshow(np.asarray(picture(image)), interpolation="nearest")
    axes[0, 0].set_title("the picture", fontsize=9)
    for number, (ax, part) in enumerate(zip(axes[0, 1:], parts, strict=True), start=1):
        ax.imshow(part.numpy(), cmap="cividis", interpolation="nearest")
        ax.set_title(f"component {number}", fontsize=9)
    return figure
