"""The studio: type two prompts, turn words up and down, drag objects, see the edit.

Built on ipywidgets, for a notebook or for Voilà.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

import torch
from PIL import Image

from ..errors import P2PError
from ..inversion.artefact import Inversion
from ..inversion.methods import invert
from ..masks import mask_picture
from ..placing import Whereabouts, whereabouts
from ..result import EditResult
from ..run import edit
from ..stages import runs_of
from .html import message, url
from .settings import KINDS, Settings
from .shown import Shown
from .upload import Uploads


class Cancelled(Exception):
    """A run that another one replaced."""


class Studio(Uploads):
    """The studio for one pipeline; a notebook shows it as it is.

    The first edit begins when the studio is shown; a slider that is let go begins another. A run
    goes on in a thread of its own, and looks after every step whether another one was asked for.
    After the edit it makes the target without control, from the same noise, where the prompts differ. `settings` is what the
    controls say, `result` the edit shown, `history` the finished ones that were not undone, the last
    twenty. After an edit that is refused the controls are those of the picture shown.

    Args:
        pipe: a pipeline, e.g. from `load_pipeline`.
        settings: to begin with.
    """

    def __init__(self, pipe, settings: Settings | None = None):
        self.result = None
        self.history: list[Shown] = []
        self._inversion: tuple[tuple, Inversion] | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()  # held where a run ends, is shown or stops counting
        self._wanted = 0  # the number of the run that counts
        super().__init__(pipe, self.start)
        self.run.on_click(lambda button: self.start())
        self.cancel.on_click(lambda button: self.stop())
        self.undo.on_click(lambda button: self._undo())
        self._have(None)
        self._load(settings or Settings())

    def _ipython_display_(self):
        from IPython.display import display

        display(self.view)
        if self.result is None:
            self.start()

    def start(self):
        """Begin an edit with the present settings; a run that is under way ends after its step."""
        self.stop()
        number, before, settings, photo = self._wanted, self._thread, self.settings, self._photo
        self.error.value, self.bar.value, self.cancel.disabled = "", 0, False
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
        """Until the last run has ended, and a picture's prompt is suggested."""
        for thread in (self._describer, self._thread):
            if thread:
                thread.join()

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
            stepped(self.bar.value)
            if "mask" in tensors:
                said = f"step {step + 1}: white may change"
                self.mask.value = (
                    f'<img alt="" src="{url(mask_picture(tensors["mask"][0], (96, 96)))}"> {said}'
                )
            return tensors

        made = "the edit"
        try:
            if number != self._wanted:
                return
            runs = runs_of(settings.edit) + settings.frees  # and the target without control
            self.bar.max = runs * max(settings.steps, 1)
            source, more = self._from(settings, photo, stepped)
            self.bar.value = 0
            more |= {"local_blend": settings.local_blend, "callback": after_step, "progress": False}
            before = self.history[-1] if self.history else None
            known = before if before and before.start == (settings.start, photo) else None
            result = edit(
                self.pipe, source, settings.target, settings.edit, record=known is None, **more
            )
            found = known.found if known else self._find(result)
            done = Shown(settings, photo, dataclasses.replace(result, recorded=None), found)
            with self._lock:
                if number != self._wanted:
                    raise Cancelled
                done.free = self._free_of(done)
                self.history = [*self.history, done][-20:]
                self._show(done)
            if done.free is None and settings.frees:
                made = "the picture without control"
                off = KINDS[settings.kind](cross_steps=0.0, self_steps=0.0)
                how = {"callback": after_step, "progress": False}
                free = edit(self.pipe, done.result, settings.target, off, **how).image
                with self._lock:
                    done.free = free
                    if number == self._wanted:
                        self._show(done)
            self.bar.value = self.bar.max
        except Cancelled:
            self.bar.value = 0
        except Exception as error:
            with self._lock:
                if number == self._wanted:
                    if self.history:
                        self._back_to(self.history[-1])
                    refused = f"“{settings.source}” → “{settings.target}”: {made} was not made: "
                    self.error.value = message(error, refused)
            if not isinstance(error, (P2PError, torch.OutOfMemoryError)):
                raise
        finally:
            self.mask.value = ""
            if number == self._wanted:
                self.cancel.disabled = True

    def _find(self, result: EditResult) -> list[Whereabouts]:
        """Where the source's objects are."""
        factor = getattr(self.pipe, "vae_scale_factor", 1)
        size = (result.source.height // factor, result.source.width // factor)
        return whereabouts(result.maps, size)

    def _free_of(self, done: Shown) -> Image.Image | None:
        """The target without control, if the edit before had the same."""
        before = self.history[-1] if self.history else None
        return before.free if before and before.noise == done.noise else None

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

    def _show(self, done: Shown):
        """Put an edit into the panel of pictures."""
        self.result = done.result
        self.undo.disabled = len(self.history) < 2
        self._set(done)
        self.pictures.value, self.files.value = done.panel(), done.links()
        self.code.value = done.settings.python()

    def _set(self, done: Shown):
        """Put an edit's source on the stage, unless another picture is to be edited by now."""
        if done.photo is self._photo:
            self.stage.show(done.result.source, f"source: {done.settings.source}", done.found)

    def _have(self, photo: Image.Image | None):
        """Edit this picture, or generated ones."""
        super()._have(photo)
        if photo is None and self.history:
            self._set(self.history[-1])

    def _back_to(self, done: Shown):
        """Set the controls as they were for an edit."""
        if done.photo is not self._photo:
            self.upload.value = ()  # or the same file could not be uploaded again
            self._seek("")
            self._have(done.photo)
        self._set(done)
        self._load(done.settings)

    def _undo(self):
        """Back to the edit before."""
        if len(self.history) > 1:
            self.stop()
            self.history.pop()
            self._back_to(self.history[-1])
            self._show(self.history[-1])
