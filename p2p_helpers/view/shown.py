"""An edit as the studio shows it."""

from __future__ import annotations

import dataclasses
import json

from PIL import Image

from ..result import EditResult
from .html import figures, mask_picture, url
from .settings import Settings


@dataclasses.dataclass
class Shown:
    """A finished edit.

    Args:
        settings: what the controls said.
        photo: the uploaded picture, if there was one.
        result: what `edit` gave.
        free: the target without control, from the same noise.
    """

    settings: Settings
    photo: Image.Image | None
    result: EditResult
    free: Image.Image | None = None

    @property
    def noise(self) -> tuple:
        """All that decides the target without control."""
        said = self.settings
        return said.source, said.target, said.seed, said.steps, said.method, self.photo

    def panel(self) -> str:
        """The pictures side by side, as HTML."""
        settings, result = self.settings, self.result
        shown = [
            (result.source, f"source: {settings.source}"),
            (result.image, f"target: {settings.target}"),
        ]
        if self.free is not None:
            shown.append((self.free, "the target without control, same seed"))
        if result.masks is not None:
            mask = mask_picture(result.masks[-1, 0], result.source.size)
            shown.append((mask, "white: where it may change"))
        return figures(shown)

    def links(self) -> str:
        """Links to save the picture and the settings, as HTML."""
        exported = json.dumps(dataclasses.asdict(self.settings), indent=1).encode()
        files = [
            ("picture (PNG)", "edit.png", url(self.result.image)),
            ("settings (JSON)", "edit.json", url(exported)),
        ]
        link = '<a style="text-decoration:underline" download="{}" href="{}">{}</a>'
        return " · ".join(link.format(file, address, name) for name, file, address in files)
