"""Pages that need no kernel and no network: a notebook shows them, a file keeps them."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import InputError
from ..images import picture
from ..values import file_path, listed
from .figures import pictures
from .html import url


@dataclass(frozen=True)
class Page:
    """A page that needs no kernel and no network.

    Shown by a notebook as it is; `save` writes it to a file.
    """

    page: str
    title: str
    height: int = 460

    @classmethod
    def of(cls, template: str, data: dict, title: str, height: int) -> Page:
        """A page of this folder, with its data."""
        page = (Path(__file__).parent / template).read_text(encoding="utf-8")
        text = json.dumps(data).replace("<", "\\u003c")
        return cls(page.replace("/*DATA*/null", text), title, height)

    def save(self, path: str | Path):
        """Write the page as one HTML file. Raises InputError where it cannot be written."""
        place = file_path("path", path)
        try:
            place.write_text(self.page, encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"{place} cannot be written: {error.strerror}. Give a file in a folder that is there."
            ) from error

    def __repr__(self) -> str:
        return f"Page({self.title!r}, {len(self.page) / 1000:.0f} kB)"

    def _repr_html_(self) -> str:
        style = f"width:100%;height:{self.height}px;border:0"
        title, page = html.escape(self.title), html.escape(self.page)
        return f'<iframe title="{title}" style="{style}" srcdoc="{page}"></iframe>'


def slider(
    images: Iterable[Image.Image],
    labels: Iterable[object],
    title: str,
    before: Image.Image | None = None,
) -> Page:
    """A slider through pictures that are made already.

    Args:
        images: one for each position.
        labels: what each is, as a number on the scale.
        title: what the slider changes, as `cross_steps`.
        before: what stands beside them, the source of edits.

    Raises:
        InputError: not one label for each picture, fewer than two, or one that is no picture.
    """
    images, labels = pictures(images), listed("labels", labels, "one label for each picture")
    if len(images) != len(labels) or len(images) < 2:
        raise InputError(
            f"{len(images)} pictures and {len(labels)} labels: give slider(images, labels, title) one label for each "
            "picture, and two pictures at least."
        )
    data = {
        "title": title,
        "before": None if before is None else url(picture(before)),
        "images": [url(image) for image in images],
        "labels": [str(label) for label in labels],
    }
    return Page.of("slider.html", data, f"{title}: a slider", height=340)
