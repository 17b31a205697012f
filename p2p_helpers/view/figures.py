"""Static figures: pictures in rows and tables, and what all figures share.

Each function returns a matplotlib Figure that a notebook shows once.
"""

from __future__ import annotations

import colorsys
import io
import zlib
from collections.abc import Iterable, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import is_color_like
from matplotlib.figure import Figure
from PIL import Image

from ..errors import InputError
from ..images import picture
from ..masks import Mask, as_mask, mask_picture
from ..values import finite_number, listed, shown, whole_number

MOST_INCHES = 100
CHANGE_COLOURS = "magma"  # perceptually uniform, and in greyscale still dark to light


def pictures(given) -> list[Image.Image]:
    """Pictures that a user gave, or one. Raises InputError for what is none."""
    several = isinstance(given, Iterable) and not isinstance(given, (str, Image.Image))
    return [picture(one) for one in (given if several else [given])]


def difference(a: Image.Image, b: Image.Image) -> np.ndarray:
    """How much each pixel changed between two pictures of one size.

    Mean over channels, 0…1, (height, width).

    Raises:
        InputError: the sizes differ, or one is no picture.
    """
    before, after = picture(a), picture(b)
    if before.size != after.size:
        raise InputError(
            f"The pictures have different sizes, {before.size} and {after.size}. Compare pictures made with "
            "one pipeline setting."
        )
    return np.abs(np.asarray(before, float) - np.asarray(after, float)).mean(-1) / 255


def difference_image(a: Image.Image, b: Image.Image, times: float = 4.0) -> Image.Image:
    """Where two pictures of one size differ, as a picture: black is equal, and the brighter the more.

    Args:
        times: how much the difference is enlarged; a change by the `times`-th part of the grey range is brightest.

    Raises:
        InputError: the sizes differ, one is no picture, or no such enlargement.
    """
    times = finite_number("times", times, 1000, "4 is usual.", 0)
    shares = np.minimum(1, times * difference(a, b))
    return Image.fromarray(np.uint8(255 * plt.get_cmap(CHANGE_COLOURS)(shares)[..., :3]))


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


def blank(rows: int, columns: int, width: float, beside: float = 0.0) -> tuple[Figure, np.ndarray]:
    """A figure of square panels without axes, (rows, columns), with so many inches beside them.

    Nothing is left behind in pyplot.

    Raises:
        InputError: the figure cannot be as wide.
    """
    width = finite_number("width", width, MOST_INCHES, "It is in inches; 9 is usual.", 1 + beside)
    size = (width - beside) / columns
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, rows * size * 1.16), layout="constrained", squeeze=False
    )
    plt.close(figure)  # or the notebook would show it a second time
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def gallery(
    images: Sequence[Image.Image] | Image.Image,
    titles: Iterable[object] | None = None,
    *,
    columns: int = 4,
    width: float = 9.0,
    colours: Iterable[str] | None = None,
    masks: Iterable[Mask | None] | None = None,
) -> Figure:
    """Pictures in a grid, each under its title.

    Args:
        images: pictures of any sizes, or one.
        titles: one for each picture, or none; texts or numbers.
        columns: pictures in a row.
        width: of the figure, in inches.
        colours: of the titles, one for each picture; black when not given.
        masks: one for each picture, (height, width) of any size, or None for a picture without one: what is outside
            is paler, and a line goes around the rest.

    Raises:
        InputError: no picture, columns, width, colour or mask, or another number of titles, masks or colours than of pictures.
    """
    images = pictures(images)
    each, none = "one for each picture", [None] * len(images)
    titles = [""] * len(images) if titles is None else listed("titles", titles, each)
    masks = none if masks is None else listed("masks", masks, each)
    colours = ["black"] * len(images) if colours is None else listed("colours", colours, each)
    if not images or not len(titles) == len(masks) == len(colours) == len(images):
        raise InputError(
            f"{len(images)} pictures, {len(titles)} titles, {len(masks)} masks and {len(colours)} colours; give at least one "
            "picture, and a title, a mask and a colour for each or none at all."
        )
    for colour in colours:
        if not is_color_like(colour):
            raise InputError(
                f"colours: {shown(colour)} is no colour. Give a name, e.g. 'red', or a code, e.g. '#b3005e'."
            )
    columns = min(whole_number("columns", columns, 1, 1000, "4 are usual."), len(images))
    figure, axes = blank(-(-len(images) // columns), columns, width)
    for ax, image, title, colour, mask in zip(
        axes.flat, images, titles, colours, masks, strict=False
    ):
        draw(ax, image, mask)
        ax.set_title(wrapped(str(title), 120 / columns), fontsize=9, color=colour)
    return figure


def draw(ax, image: Image.Image, mask: Mask | None = None):
    """A picture on a panel, with a mask (height, width) of any size: paler outside, with a line around the rest."""
    image = picture(image)
    pixels = np.asarray(image)
    if mask is None:
        ax.imshow(pixels, interpolation="nearest")
        return
    inside = np.asarray(mask_picture(as_mask(mask), image.size)) > 0
    ax.imshow(np.where(inside[..., None], pixels, pixels // 4 + 180), interpolation="nearest")
    if 0 < inside.mean() < 1:
        ax.contour(inside, levels=[0.5], colors="black", linewidths=1)


def grid(
    images: Sequence[Sequence[Image.Image]],
    rows: Iterable[object],
    columns: Iterable[object],
    *,
    title: str = "",
    width: float = 9.0,
    notes: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """Pictures in a table with named rows and columns.

    A sweep over two schedules, a fader strip, maps of layers and steps.

    Args:
        images: rows of pictures, all rows as long.
        rows, columns: their names, or numbers.
        title: over the whole figure.
        width: of the figure, in inches.
        notes: what stands under each picture, small.

    Raises:
        InputError: rows and columns do not fit the pictures, or no such width.
    """
    lines = [pictures(row) for row in listed("images", images, "rows of pictures")]
    names = [str(name) for name in listed("rows", rows, "a name for each")]
    heads = [str(name) for name in listed("columns", columns, "a name for each")]
    written = listed("notes", [] if notes is None else notes, "rows of texts")
    below = [note for line in written for note in listed("notes", line, "rows of texts")]
    fits = len(lines) == len(names) and all(len(row) == len(heads) for row in lines)
    if not names or not heads or not fits:
        raise InputError(
            f"{[len(row) for row in lines]} pictures in each row do not fit {len(names)} rows and "
            f"{len(heads)} columns."
        )
    figure, axes = blank(len(names), len(heads), width, 0.3 + 0.08 * min(16, max(map(len, names))))
    for name, line, row in zip(names, axes, lines, strict=True):
        for ax, image in zip(line, row, strict=True):
            draw(ax, image)
        line[0].text(
            -0.06,
            0.5,
            wrapped(name, 16),
            transform=line[0].transAxes,
            ha="right",
            va="center",
            fontsize=9,
        )
    for ax, note in zip(axes.flat, below, strict=False):
        ax.text(0.5, -0.03, note, transform=ax.transAxes, ha="center", va="top", fontsize=7)
    for ax, name in zip(axes[0], heads, strict=True):
        ax.set_title(wrapped(name, 110 / len(heads)), fontsize=9)
    if title:
        figure.suptitle(wrapped(title, 110), fontsize=10)
    return figure


def wrapped(text: str, width: float) -> str:
    """Text in lines of so many characters, for matplotlib."""
    lines = [""]
    for word in text.replace("$", r"\$").split(" "):  # or matplotlib would typeset mathematics
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def figure_png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
