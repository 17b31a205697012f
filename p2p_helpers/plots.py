"""Static figures. Each function returns a matplotlib Figure that a notebook shows once."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from .editing import EditResult

CHANGE_COLOURS = "magma"  # perceptually uniform, and in greyscale still dark to light


def difference(a: Image.Image, b: Image.Image) -> np.ndarray:
    """How much each pixel changed between two pictures of one size: mean over channels, 0…1, (height, width).

    Raises:
        ValueError: the sizes differ.
    """
    if a.size != b.size:
        raise ValueError(f"The pictures have different sizes, {a.size} and {b.size}. Compare pictures made with one pipeline setting.")
    return np.abs(np.asarray(a.convert("RGB"), float) - np.asarray(b.convert("RGB"), float)).mean(-1) / 255


def _blank(rows: int, columns: int, width: float) -> tuple[Figure, np.ndarray]:
    """A figure of square panels without axes, (rows, columns), and nothing left behind in pyplot."""
    size = width / columns
    figure, axes = plt.subplots(rows, columns, figsize=(width, rows * size * 1.16), layout="constrained", squeeze=False)
    plt.close(figure)  # or the notebook would show it a second time
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def gallery(images: Sequence[Image.Image], titles: Sequence[str] | None = None, *, columns: int = 4, width: float = 9.0) -> Figure:
    """Pictures in a grid, each under its title.

    Args:
        images: pictures of any sizes.
        titles: one for each picture, or none.
        columns: pictures in a row.
        width: of the figure, in inches.

    Raises:
        ValueError: no picture, or another number of titles than of pictures.
    """
    titles = [""] * len(images) if titles is None else titles
    if not images or len(titles) != len(images):
        raise ValueError(
            f"{len(images)} pictures and {len(titles)} titles; give at least one picture, and a title for each or none at all."
        )
    columns = min(columns, len(images))
    figure, axes = _blank(-(-len(images) // columns), columns, width)
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        ax.imshow(np.asarray(image.convert("RGB")), interpolation="nearest")
        ax.set_title(_wrapped(title, 120 / columns), fontsize=9)
    return figure


def _wrapped(text: str, width: float) -> str:
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def show(result: EditResult) -> Figure:
    """Source | target | what changed, one row for each target of an edit."""
    figure, axes = _blank(len(result.images), 3, 9.0)
    for row, image, prompt in zip(axes, result.images, result.target_prompts, strict=True):
        row[0].imshow(np.asarray(result.source), interpolation="nearest")
        row[0].set_title(_wrapped(f"source: {result.source_prompt}", 38), fontsize=9)
        row[1].imshow(np.asarray(image), interpolation="nearest")
        row[1].set_title(_wrapped(f"target: {prompt}", 38), fontsize=9)
        changed = difference(result.source, image)
        picture = row[2].imshow(changed, cmap=CHANGE_COLOURS, vmin=0, vmax=max(0.5, changed.max()), interpolation="nearest")
        row[2].set_title(f"what changed: {changed.mean():.1%} on average", fontsize=9)
        figure.colorbar(picture, ax=row[2], fraction=0.046, label="mean change of a pixel, 0…1")
    return figure


def alignment(tokenizer, source: str, target: str, matrix: Tensor) -> Figure:
    """A source-token × target-token matrix with the tokens written along its sides; start, words and end, without the padding.

    Args:
        tokenizer: the pipeline's.
        source, target: the two prompts.
        matrix: M, S or T of one step, (source token, target token).
    """
    rows, columns = (tokenizer.convert_ids_to_tokens(tokenizer(p).input_ids) for p in (source, target))
    part = matrix[: len(rows), : len(columns)].detach().float().cpu().numpy()
    figure, ax = plt.subplots(figsize=(1.6 + 0.42 * len(columns), 1.2 + 0.34 * len(rows)), layout="constrained")
    plt.close(figure)
    ax.imshow(part, cmap="Greys", vmin=0, vmax=1)
    for (i, j), share in np.ndenumerate(part):
        if share:
            ax.text(j, i, f"{share:.2g}", ha="center", va="center", fontsize=8, color="white" if share > 0.6 else "black")
    readable = {"<|startoftext|>": "start", "<|endoftext|>": "end"}
    ax.set_xticks(range(len(columns)), [readable.get(t, t.replace("</w>", "")) for t in columns], rotation=60)
    ax.set_yticks(range(len(rows)), [readable.get(t, t.replace("</w>", "")) for t in rows])
    ax.set_xlabel("target token takes its map …")
    ax.set_ylabel("… from source token")
    return figure


def figure_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
