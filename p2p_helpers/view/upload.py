"""A picture of the user's own: read, shown, and described."""

from __future__ import annotations

import dataclasses
import io
import threading

from PIL import Image

from ..describing import describe
from ..errors import ImageError, P2PError
from ..images import load_image
from .controls import Controls
from .html import message, note

MAX_BYTES = 25_000_000  # of an uploaded file
SUGGESTED = (
    "This prompt is a suggestion, made from your picture. Check that it says what the picture shows, "
    "then press Edit, or change a word of the target first."
)


class Uploads(Controls):
    """Controls that take a picture and suggest a prompt for it, in a thread of its own.

    Args: as for `Controls`.
    """

    def __init__(self, pipe, released):
        self.pipe = pipe
        self._describer: threading.Thread | None = None
        super().__init__(pipe, released)
        self.upload.observe(lambda change: self._take(change["new"]), "value")
        self.forget.on_click(lambda button: self._forget())
        for prompt in (self.source, self.target):
            prompt.observe(lambda change: self._typed(), "value")

    def _take(self, uploaded):
        """A picture to edit, or none."""
        photo = None
        if uploaded:
            try:
                content = uploaded[0]["content"]
                if len(content) > MAX_BYTES:
                    raise ImageError(
                        f"The file has {len(content) / 1e6:.1f} MB; at most {MAX_BYTES / 1e6:.0f} MB "
                        "are taken. Save the picture smaller, e.g. as a JPEG 2000 pixels wide."
                    )
                photo = load_image(io.BytesIO(bytes(content)), self.pipe)
                self.error.value = ""
            except P2PError as error:
                self.error.value = message(error)
                self.upload.value = ()  # or the same file could not be uploaded again
        self._have(photo)
        self._seek("")
        if photo is not None:
            said = self.source.value, self.target.value
            self._seek("A prompt for your picture is being looked for. You can write it, too.")
            self._describer = threading.Thread(
                target=self._describe, args=(photo, said), daemon=True
            )
            self._describer.start()

    def _forget(self):
        self.upload.value = ()  # or the same file could not be uploaded again
        self._have(None)
        self._seek("")

    def _seek(self, said: str):
        """Whether a prompt is looked for: meanwhile every key that is pressed counts as the user's own prompt."""
        self.suggestion.value = note(said)
        self.source.continuous_update = self.target.continuous_update = bool(said)

    def _typed(self):
        """A prompt that the user writes is no suggestion."""
        if not self._loading:
            self.suggestion.value = ""

    def _describe(self, photo: Image.Image, before: tuple[str, str]):
        """Fill in the prompt that a picture seems to have, unless the user has written one."""
        prompt, said = "", ""
        try:
            prompt, said = describe(photo, self.pipe), SUGGESTED
        except Exception as error:
            said = f"No prompt could be suggested; please write what your picture shows. {error}"
            if not isinstance(error, P2PError):
                raise
        finally:
            if photo is self._photo:
                untouched = (self.source.value, self.target.value) == before
                self._seek("")
                if untouched and prompt:
                    new = {"source": prompt, "target": prompt, "weights": (), "blend": ""}
                    self._load(dataclasses.replace(self.settings, **new))
                self.suggestion.value = note(said if untouched else "")
