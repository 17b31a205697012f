"""An edit as the studio shows it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from PIL import Image

from ..masks import mask_picture
from ..placing import Whereabouts
from ..result import EditResult
from .html import figures, url
from .settings import Settings


@dataclasses.dataclass
class Shown:
    """A finished edit.

    Args:
        settings: what the controls said.
        photo: the uploaded picture, if there was one.
        result: what `edit` gave.
        found: where the source's objects are.
        free: the target without control, from the same noise.
    """

    settings: Settings
    photo: Image.Image | None
    result: EditResult
    found: Sequence[Whereabouts]
    free: Image.Image | None = None

    @property
    def start(self) -> tuple:
        """All that decides the source."""
        return self.settings.start, self.photo

    @property
    def noise(self) -> tuple:
        """All that decides the target without control."""
        return self.start, self.settings.target

    def panel(self) -> str:
        """The pictures but for the source, as HTML."""
        settings, result = self.settings, self.result
        shown = []
        if self.free is not None:
            shown.append((self.free, "the target without control, same seed"))
        if result.masks is not None:
            mask = mask_picture(result.masks[-1, 0], result.source.size)
            shown.append((mask, "white: where it may change"))
        made = figures([(result.image, f"target: {settings.target}")], 420)
        return made + figures(shown)

    def links(self) -> str:
        """Links to save the picture and the settings, as HTML."""
        exported = json.dumps(dataclasses.asdict(self.settings), indent=1).encode()
        files = [
            ("picture (PNG)", "edit.png", url(self.result.image)),
            ("settings (JSON)", "edit.json", url(exported)),
        ]
        link = '<a style="text-decoration:underline" download="{}" href="{}">{}</a>'
        return " · ".join(link.format(file, address, name) for name, file, address in files)
