"""Pieces of HTML that the studio shows."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image


def mask_picture(mask: torch.Tensor, size: tuple[int, int]) -> Image.Image:
    """A mask (row, column) as a picture of this size (width, height), white where it is true."""
    return Image.fromarray((mask.cpu().numpy() * 255).astype(np.uint8)).resize(
        size, Image.Resampling.NEAREST
    )


def figures(pictures: Sequence[tuple[Image.Image, str]]) -> str:
    """Pictures side by side, each over what it is."""
    style, figures = "margin:0 12px 12px 0;width:min(220px,100%)", []
    for image, name in pictures:
        said = html.escape(name)
        figures.append(
            f'<figure style="{style}"><img alt="{said}" src="{url(image)}" '
            f'style="width:100%"><figcaption>{said}</figcaption></figure>'
        )
    return f'<div style="display:flex;flex-wrap:wrap">{"".join(figures)}</div>'


def message(error: Exception) -> str:
    """What an error says, in a box that screen readers announce."""
    style = "border-left:4px solid #b3005e;padding:4px 10px"
    return f'<div role="alert" style="{style}">{html.escape(str(error))}</div>'


def url(content: Image.Image | bytes) -> str:
    """A picture, or the bytes of a JSON file, as a URL that holds it."""
    if isinstance(content, bytes):
        return f"data:application/json;base64,{base64.b64encode(content).decode()}"
    buffer = io.BytesIO()
    content.convert("RGB").save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
