"""The studio: type two prompts, turn words up and down, see the edit.

Built on ipywidgets, for a notebook or for Voilà.
"""

from __future__ import annotations

import dataclasses
import io
import json
import threading
from collections.abc import Callable

import torch
from PIL import Image

from ..errors import P2PError
from ..images import load_image
from ..inversion.artefact import Inversion
from ..inversion.methods import invert
from ..result import EditResult
from ..run import edit
from .controls import Controls
from .html import figures, mask_picture, message, url
from .settings import Settings


class Cancelled(Exception):
    """A run that another one replaced."""


class Studio(Controls):
    """The studio for one pipeline; a notebook shows it as it is.

    A run goes on in a thread of its own, and looks after every step whether another one was asked
    for. `settings` is what the controls say, `result` the edit shown, `history` the settings,
    uploaded picture and result of the finished ones that were not undone, the last twenty.

    Args:
        pipe: a pipeline, e.g. from `load_pipeline`.
        settings: to begin with.
    """

    def __init__(self, pipe, settings: Settings | None = None):
        self.pipe, self.result, self.history = pipe, None, []
        self._inversion: tuple[tuple, Inversion] | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()  # held where a run ends, is shown or stops counting
        self._wanted = 0  # the number of the run that counts
        super().__init__(pipe)
        self.run.on_click(lambda button: self.start())
        self.cancel.on_click(lambda button: self.stop())
        self.undo.on_click(lambda button: self._undo())
        self.forget.on_click(lambda button: self._forget())
        self.upload.observe(lambda change: self._take(change["new"]), "value")
        self._have(None)
        self._load(settings or Settings())

    def _ipython_display_(self):
        from IPython.display import display

        display(self.view)

    def _take(self, uploaded):
        """A picture to edit, or none."""
        photo = None
        if uploaded:
            try:
                photo = load_image(io.BytesIO(bytes(uploaded[0]["content"])), self.pipe)
                self.error.value = ""
            except P2PError as error:
                self.error.value = message(error)
        self._have(photo)

    def _forget(self):
        self.upload.value = ()  # or the same file could not be uploaded again
        self._have(None)

    def _have(self, photo: Image.Image | None):
        self._photo = photo
        self.method.layout.display = self.forget.layout.display = "flex" if self._photo else "none"
        self.seed.disabled = self._photo is not None

    def start(self):
        """Begin an edit with the present settings; a run that is under way ends after its step."""
        self.stop()
        number, before, settings, photo = self._wanted, self._thread, self.settings, self._photo
        self.error.value, self.bar.value, self.bar.max, self.cancel.disabled = (
            "",
            0,
            max(settings.steps, 1),
            False,
        )
        self._thread = threading.Thread(
            target=self._work, args=(number, before, settings, photo), daemon=True
        )
        self._thread.start()

    def stop(self):
        """End the run after its step; nothing of it is shown from now on."""
        with self._lock:
            self._wanted += 1
        self.cancel.disabled = True

    def wait(self):
        """Until the last run has ended."""
        if self._thread:
            self._thread.join()

    def _work(
        self,
        number: int,
        before: threading.Thread | None,
        settings: Settings,
        photo: Image.Image | None,
    ):
        if before:
            before.join()  # it ends after its step; a pipeline runs one thing at a time

        def stepped(step: int):
            if number != self._wanted:
                raise Cancelled
            self.bar.value = step + 1

        def after_step(pipe, step, timestep, tensors):
            stepped(step)
            if "mask" in tensors:
                said = f"step {step + 1}: white may change"
                self.mask.value = (
                    f'<img alt="" src="{url(mask_picture(tensors["mask"][0], (96, 96)))}"> {said}'
                )
            return tensors

        try:
            if number != self._wanted:
                return
            source, more = self._from(settings, photo, stepped)
            more |= {"local_blend": settings.local_blend, "callback": after_step, "progress": False}
            result = edit(self.pipe, source, settings.target, settings.edit, **more)
            with self._lock:
                if number != self._wanted:
                    raise Cancelled
                self.history = [*self.history, (settings, photo, result)][-20:]
                self._show(settings, result)
        except Cancelled:
            self.bar.value = 0
        except Exception as error:
            if number == self._wanted:
                self.error.value = message(error)
            if not isinstance(error, (P2PError, torch.OutOfMemoryError)):
                raise
        finally:
            self.mask.value = ""
            if number == self._wanted:
                self.cancel.disabled = True

    def _from(
        self, settings: Settings, photo: Image.Image | None, stepped: Callable[[int], None]
    ) -> tuple[str | Inversion, dict]:
        """The source prompt, or the uploaded picture's inversion.

        The last one is kept for the same picture, prompt, method and steps.
        """
        if not settings.method:
            return settings.source, {"seed": settings.seed, "steps": settings.steps}
        key = (settings.source, settings.method, settings.steps, photo)
        if self._inversion is None or self._inversion[0] != key:
            how = {
                "method": settings.method,
                "steps": settings.steps,
                "callback": stepped,
                "progress": False,
            }
            self._inversion = (key, invert(self.pipe, photo, settings.source, **how))
        return self._inversion[1], {}

    def _show(self, settings: Settings, result: EditResult):
        self.result = result
        self.undo.disabled = len(self.history) < 2
        shown = [
            (result.source, f"source: {settings.source}"),
            (result.image, f"target: {settings.target}"),
        ]
        if result.masks is not None:
            shown.append(
                (
                    mask_picture(result.masks[-1, 0], result.source.size),
                    "white: where it may change",
                )
            )
        self.pictures.value = figures(shown)
        self.code.value = settings.python()
        exported = json.dumps(dataclasses.asdict(settings), indent=1).encode()
        links = [
            ("picture (PNG)", "edit.png", url(result.image)),
            ("settings (JSON)", "edit.json", url(exported)),
        ]
        link = '<a style="text-decoration:underline" download="{}" href="{}">{}</a>'
        self.files.value = " · ".join(link.format(file, url, name) for name, file, url in links)

    def _undo(self):
        """Back to the edit before."""
        if len(self.history) > 1:
            self.stop()
            self.history.pop()
            settings, photo, result = self.history[-1]
            self._have(photo)
            self._load(settings)
            self._show(settings, result)
