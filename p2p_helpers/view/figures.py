"""Static figures. Each function returns a matplotlib Figure that a notebook shows once."""

from __future__ import annotations

import colorsys
import io
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from ..edits.edit import Edit
    from ..maps.heatmap import Heatmap
    from ..maps.recorded import AttentionMaps
    from ..result import EditResult

CHANGE_COLOURS = "magma"  # perceptually uniform, and in greyscale still dark to light


def difference(a: Image.Image, b: Image.Image) -> np.ndarray:
    """How much each pixel changed between two pictures of one size.

    Mean over channels, 0…1, (height, width).

    Raises:
        InputError: the sizes differ.
    """
    if a.size != b.size:
        raise InputError(
            f"The pictures have different sizes, {a.size} and {b.size}. Compare pictures made with "
            "one pipeline setting."
        )
    before, after = (np.asarray(image.convert("RGB"), float) for image in (a, b))
    return np.abs(before - after).mean(-1) / 255


SMALL_WORDS = frozenset(
    ["a", "an", "the", "of", "in", "on", "at", "with", "and", "start", "end", "padding"]
)


def _luminance(rgb: Sequence[float]) -> float:
    """Relative luminance, 0…1, of a colour 0…1 (WCAG 2.2)."""
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb)
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def word_colour(word: str) -> str:
    """The colour of a word in every figure and view, as "#rrggbb".

    Grey for articles, prepositions, start and end.

    The word alone decides it, in any case. All are dark enough to be read on white (a contrast of
    4.5 and more).
    """
    word = word.strip().casefold()
    if word in SMALL_WORDS or not any(letter.isalpha() for letter in word):
        return "#5e5e66"
    # From 1948 on, words that often meet in Toyland's prompts differ.
    number = zlib.crc32(word.encode(), 1948)
    saturation, darkness = ((0.9, 0.16), (0.55, 0.13), (0.95, 0.05))[number // 36 % 3]
    shades = (
        colorsys.hsv_to_rgb(number % 36 / 36, saturation, value)
        for value in np.arange(0.98, 0.1, -0.01)
    )
    brightest = next(rgb for rgb in shades if _luminance(rgb) < darkness)
    return "#" + "".join(f"{round(255 * c):02x}" for c in brightest)


def _blank(rows: int, columns: int, width: float, beside: float = 0.0) -> tuple[Figure, np.ndarray]:
    """A figure of square panels without axes, (rows, columns), with so many inches beside them.

    Nothing is left behind in pyplot.
    """
    size = (width - beside) / columns
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, rows * size * 1.16), layout="constrained", squeeze=False
    )
    plt.close(figure)  # or the notebook would show it a second time
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def gallery(
    images: Sequence[Image.Image],
    titles: Sequence[str] | None = None,
    *,
    columns: int = 4,
    width: float = 9.0,
    colours: Sequence[str] | None = None,
) -> Figure:
    """Pictures in a grid, each under its title.

    Args:
        images: pictures of any sizes.
        titles: one for each picture, or none.
        columns: pictures in a row.
        width: of the figure, in inches.
        colours: of the titles, one for each picture; black when not given.

    Raises:
        InputError: no picture, or another number of titles than of pictures.
    """
    titles = [""] * len(images) if titles is None else titles
    if not images or len(titles) != len(images):
        raise InputError(
            f"{len(images)} pictures and {len(titles)} titles; give at least one picture, and a "
            "title for each or none at all."
        )
    columns = min(columns, len(images))
    figure, axes = _blank(-(-len(images) // columns), columns, width)
    colours = ["black"] * len(images) if colours is None else colours
    for ax, image, title, colour in zip(axes.flat, images, titles, colours, strict=False):
        ax.imshow(np.asarray(image.convert("RGB")), interpolation="nearest")
        ax.set_title(_wrapped(title, 120 / columns), fontsize=9, color=colour)
    return figure


def grid(
    images: Sequence[Sequence[Image.Image]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str = "",
    width: float = 9.0,
    notes: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """Pictures in a table with named rows and columns.

    A sweep over two schedules, a fader strip, maps of layers and steps.

    Args:
        images: rows of pictures, all rows as long.
        rows, columns: their names.
        title: over the whole figure.
        width: of the figure, in inches.
        notes: what stands under each picture, small.

    Raises:
        InputError: rows and columns do not fit the pictures.
    """
    fits = len(images) == len(rows) and all(len(row) == len(columns) for row in images)
    if not rows or not columns or not fits:
        raise InputError(
            f"{[len(row) for row in images]} pictures in each row do not fit {len(rows)} rows and "
            f"{len(columns)} columns."
        )
    figure, axes = _blank(len(rows), len(columns), width, 0.3 + 0.08 * min(16, max(map(len, rows))))
    for name, line, pictures in zip(rows, axes, images, strict=True):
        for ax, picture in zip(line, pictures, strict=True):
            ax.imshow(np.asarray(picture.convert("RGB")), interpolation="nearest")
        line[0].text(
            -0.06,
            0.5,
            _wrapped(name, 16),
            transform=line[0].transAxes,
            ha="right",
            va="center",
            fontsize=9,
        )
    for ax, note in zip(axes.flat, [note for line in notes or [] for note in line], strict=False):
        ax.text(0.5, -0.03, note, transform=ax.transAxes, ha="center", va="top", fontsize=7)
    for ax, name in zip(axes[0], columns, strict=True):
        ax.set_title(_wrapped(name, 110 / len(columns)), fontsize=9)
    if title:
        figure.suptitle(_wrapped(title, 110), fontsize=10)
    return figure


def word_maps(maps: AttentionMaps, image: Image.Image | None = None, *, prompt: int = 0) -> Figure:
    """Where the picture looks at each word of one prompt, start and end token included.

    If the picture is given, the maps are laid over it.

    Every map is as bright as its own maximum, as in the paper's Figure 4; the figure above it is
    that maximum, a share of attention.

    Args:
        maps: recorded maps.
        image: the picture that the prompt made.
        prompt: which, 0 for the source.
    """
    own = maps.of(prompt)
    heats = [own.start, *own.words, own.end]
    pictures = [heat.image() if image is None else heat.overlay(image) for heat in heats]
    titles = [f"{heat.name}\n{heat.numpy().max():.2f}" for heat in heats]
    colours = [word_colour(heat.name) for heat in heats]
    if image is not None:
        pictures = [image, *pictures]
        titles = ["the picture\n", *titles]
        colours = ["black", *colours]
    count = len(pictures)
    columns = count if count <= 8 else -(-count // 2)
    return gallery(pictures, titles, columns=columns, width=10, colours=colours)


def map_forming(heat: Heatmap, *, count: int = 6) -> Figure:
    """How one word's map forms over the steps, `count` of them evenly spread."""
    steps = heat.maps.spread_steps(count)
    titles = [f"{heat.name}, step {step}" for step in steps]
    colours = [word_colour(heat.name)] * len(steps)
    pictures = [heat.at(step=step).image() for step in steps]
    return gallery(pictures, titles, columns=len(steps), colours=colours)


def layers_and_steps(heat: Heatmap, *, count: int = 6) -> Figure:
    """One word's map in every layer of the map level (rows) at some steps (columns).

    The maximum stands under each.
    """
    layers, steps = heat.maps.level_layers, heat.maps.spread_steps(count)
    maps = [[heat.at(step=step, layer=layer) for step in steps] for layer in layers]
    return _map_grid(
        maps,
        short_layer_names(layers),
        [f"step {step}" for step in steps],
        title=f"“{heat.name}” by layer and step",
    )


def heads(heat: Heatmap) -> Figure:
    """One word's map in every head (columns) of every layer of the map level (rows).

    The maximum stands under each.
    """
    layers, names = heat.maps.level_layers, [f"head {head}" for head in range(heat.maps.heads)]
    maps = [[heat.at(layer=layer, head=head) for head in range(len(names))] for layer in layers]
    return _map_grid(
        maps,
        short_layer_names(layers),
        names,
        title=f"“{heat.name}” by layer and head",
        width=1.6 + 1.4 * len(names),
    )


def _map_grid(
    maps: Sequence[Sequence[Heatmap]], rows: Sequence[str], columns: Sequence[str], **more
) -> Figure:
    """A grid of maps, each as bright as its own maximum, which stands under it."""
    notes = [[f"{heat.numpy().max():.2f}" for heat in line] for line in maps]
    pictures = [[heat.image() for heat in line] for line in maps]
    return grid(pictures, rows, columns, notes=notes, **more)


def short_layer_names(layers: Sequence[str]) -> list[str]:
    """up_blocks.2.attentions.1.… → up 2.1"""
    parts = [layer.split(".") for layer in layers]
    return [f"{p[0].split('_')[0]} {p[1]}.{p[3]}" if p[0] != "mid_block" else "mid" for p in parts]


def self_components(
    maps: AttentionMaps, image: Image.Image, *, prompt: int = 0, count: int = 6
) -> Figure:
    """The parts that self-attention sees.

    The picture and the first principal components of its mean self-attention map.
    """
    parts = maps.of(prompt).self_attention.components(count)
    figure, axes = _blank(1, count + 1, 10)
    axes[0, 0].imshow(np.asarray(image), interpolation="nearest")
    axes[0, 0].set_title("the picture", fontsize=9)
    for number, (ax, part) in enumerate(zip(axes[0, 1:], parts, strict=True), start=1):
        ax.imshow(part.numpy(), cmap="cividis", interpolation="nearest")
        ax.set_title(f"component {number}", fontsize=9)
    return figure


def _wrapped(text: str, width: float) -> str:
    lines = [""]
    for word in text.replace("$", r"\$").split(" "):  # or matplotlib would typeset mathematics
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def show(result: EditResult) -> Figure:
    """Source | target | what changed, one row for each target of an edit.

    With local blend its last mask too, over the target.
    """
    columns, width = (3, 9.0) if result.masks is None else (4, 11.0)
    figure, axes = _blank(len(result.images), columns, width)
    for number, (row, image, prompt) in enumerate(
        zip(axes, result.images, result.target_prompts, strict=True)
    ):
        row[0].imshow(np.asarray(result.source), interpolation="nearest")
        row[0].set_title(_wrapped(f"source: {result.source_prompt}", 38), fontsize=9)
        row[1].imshow(np.asarray(image), interpolation="nearest")
        row[1].set_title(_wrapped(f"target: {prompt}", 38), fontsize=9)
        changed = difference(result.source, image)
        picture = row[2].imshow(
            changed,
            cmap=CHANGE_COLOURS,
            vmin=0,
            vmax=max(0.5, changed.max()),
            interpolation="nearest",
        )
        row[2].set_title(f"what changed: {changed.mean():.1%} on average", fontsize=9)
        figure.colorbar(picture, ax=row[2], fraction=0.046, label="mean change of a pixel, 0…1")
        if result.masks is not None:
            last = Image.fromarray(result.masks[-1, number].numpy())
            mask = np.asarray(last.resize(image.size, Image.Resampling.NEAREST))
            pixels = np.asarray(image)
            dimmed = np.where(mask[..., None], pixels, pixels // 4 + 160)
            row[3].imshow(dimmed, interpolation="nearest")
            if 0 < mask.mean() < 1:
                row[3].contour(mask, levels=[0.5], colors="black", linewidths=1)
            row[3].set_title(f"blend mask: {mask.mean():.0%} may change", fontsize=9)
    return figure


def _token_names(tokenizer, prompt: str) -> list[str]:
    readable = {"<|startoftext|>": "start", "<|endoftext|>": "end"}
    return [
        readable.get(t, t.replace("</w>", "").replace("$", r"\$"))
        for t in tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)
    ]


def _matrix(ax, matrix: Tensor, rows: list[str], columns: list[str], aspect: str = "equal"):
    """Draw the part of a matrix that has names.

    Darker is larger, and every entry but zeros is written.
    """
    part = matrix[: len(rows), : len(columns)].detach().float().cpu().numpy()
    ax.imshow(np.abs(part), cmap="Greys", vmin=0, vmax=max(1.0, np.abs(part).max()), aspect=aspect)
    for (i, j), share in np.ndenumerate(part):
        if share:
            dark = abs(share) > 0.6 * max(1.0, np.abs(part).max())
            ax.text(
                j,
                i,
                f"{share:.2g}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    ax.set_xticks(range(len(columns)), columns, rotation=90)
    ax.set_yticks(range(len(rows)), rows)
    _colour_words(ax)


def _colour_words(ax):
    """Every word along the sides in its own colour."""
    for label in [*ax.get_xticklabels(), *ax.get_yticklabels()]:
        label.set_color(word_colour(label.get_text()))


def alignment(tokenizer, source: str, target: str, matrix: Tensor) -> Figure:
    """A source-token × target-token matrix with the tokens written along its sides.

    Start, words and end, without the padding.

    Args:
        tokenizer: the pipeline's.
        source, target: the two prompts.
        matrix: M, S or T of one step, (source token, target token).
    """
    rows, columns = _token_names(tokenizer, source), _token_names(tokenizer, target)
    figure, ax = plt.subplots(
        figsize=(1.6 + 0.42 * len(columns), 1.2 + 0.34 * len(rows)), layout="constrained"
    )
    plt.close(figure)
    _matrix(ax, matrix, rows, columns)
    ax.set_xlabel("target token takes its map …")
    ax.set_ylabel("… from source token")
    return figure


def show_edit(
    edit: Edit, tokenizer, source: str, target: str, *, step: int = 0, steps: int = 30
) -> Figure:
    """An edit as it is.

    S and T of one step, and for every target token the steps in which it uses the source's map or
    its own.

    Args:
        edit: any edit or composition.
        tokenizer: the pipeline's.
        source, target: the two prompts.
        step: whose S and T are drawn, from 0.
        steps: of the run.

    Raises:
        InputError: no such step. What the edit raises for these prompts.
    """
    if not 0 <= step < steps:
        raise InputError(f"step={step} is not one of {steps} steps; count from 0.")
    s, t = edit.matrices(tokenizer, source, target, steps)
    rows, columns = _token_names(tokenizer, source), _token_names(tokenizer, target)
    height = 1.8 + 0.22 * max(len(rows), len(columns) + 1)
    figure, axes = plt.subplots(
        1, 3, figsize=(11, height), layout="constrained", width_ratios=[1.1, 1.1, 1]
    )
    plt.close(figure)
    _matrix(axes[0], s[step], rows, columns, "auto")
    axes[0].set_title(f"S, step {step}: taken from the source's maps", fontsize=9)
    axes[0].set_ylabel("source token")
    _matrix(axes[1], t[step], columns, columns, "auto")
    axes[1].set_title(f"T, step {step}: kept of its own maps", fontsize=9)
    for ax in axes[:2]:
        ax.set_xlabel("target token")
    for ax, matrix in zip(axes, (s[step], t[step]), strict=False):
        if not matrix.any():
            ax.text(
                0.5,
                0.5,
                "all zero",
                transform=ax.transAxes,
                ha="center",
                va="center",
                fontsize=9,
                color="grey",
            )
    from_source, own = (m.abs().sum(1)[:, : len(columns)].T for m in (s, t))  # (target token, step)
    share = torch.cat(
        [from_source / (from_source + own).clamp(min=1e-6), edit.self_schedule(steps)[None].float()]
    )
    off = torch.nonzero(from_source + own == 0)  # turned down to nothing
    axes[2].imshow(
        share.numpy(),
        cmap="Greys",
        vmin=0,
        vmax=1.25,
        aspect="auto",
        interpolation="nearest",
        extent=(0, steps, len(share), 0),
    )
    axes[2].set_yticks(np.arange(len(share)) + 0.5, [*columns, "self-attention"])
    for label, name in zip(axes[2].get_yticklabels(), columns, strict=False):
        label.set_color(word_colour(name))
    axes[2].hlines(range(1, len(share)), 0, steps, colors="white", linewidth=2)
    axes[2].axvline(step + 0.5, color="black", linestyle=":", linewidth=1)
    axes[2].set_xlabel("step")
    axes[2].scatter(
        off[:, 1] + 0.5, off[:, 0] + 0.5, marker="x", s=12, color="black", linewidth=0.8
    )
    none = "; ×: none" if len(off) else ""
    axes[2].set_title(f"dark: the source's map; white: its own{none}", fontsize=9)
    figure.suptitle(_wrapped(repr(edit), 110), fontsize=10)
    return figure


def figure_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
