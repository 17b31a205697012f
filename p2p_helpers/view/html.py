"""Pieces of HTML that the studio shows."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image


def figures(pictures: Sequence[tuple[Image.Image, str]], width: int = 168) -> str:
    """Pictures side by side, each over what it is; the width is in pixels of the page."""
    style, figures = f"margin:0;width:min({width}px,100%)", []
    for image, name in pictures:
        said = html.escape(name)
        figures.append(
            f'<figure style="{style}"><img alt="{said}" src="{url(image)}" '
            f'style="width:100%"><figcaption style="line-height:1.4">{said}</figcaption></figure>'
        )
    return f'<div style="display:flex;flex-wrap:wrap;gap:12px;margin-bottom:12px">{"".join(figures)}</div>'


def message(error: Exception, before: str = "") -> str:
    """What an error says, in a box that screen readers announce."""
    style = "border-left:4px solid #b3005e;padding:4px 10px;line-height:1.4"
    return f'<div role="alert" style="{style}">{html.escape(before + str(error))}</div>'


def note(text: str) -> str:
    """A remark that stops nothing, in a box that screen readers announce."""
    style = "border-left:4px solid #b08900;padding:0 10px;line-height:1.4"
    return f'<div role="status" style="{style}">{html.escape(text)}</div>' if text else ""


def known_words(words: Sequence[str]) -> str:
    """The words that a model knows, folded up; nothing where it does not say."""
    if not words:
        return ""
    shown = html.escape(", ".join(words))
    return (
        f"<details><summary>The {len(words)} words that this model knows</summary>"
        f'<div style="line-height:1.4">{shown}</div></details>'
    )


def url(content: Image.Image | bytes) -> str:
    """A picture, or the bytes of a JSON file, as a URL that holds it."""
    if isinstance(content, bytes):
        return f"data:application/json;base64,{base64.b64encode(content).decode()}"
    buffer = io.BytesIO()
    content.convert("RGBA" if content.mode == "RGBA" else "RGB").save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
