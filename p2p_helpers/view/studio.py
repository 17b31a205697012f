"""The studio: type two prompts, turn words up and down, see the edit.

Built on ipywidgets, for a notebook or for Voilà.
"""

from __future__ import annotations

import base64
import copy
import dataclasses
import html
import io
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import ipywidgets as w
import numpy as np
import torch
from PIL import Image

from ..blend import LocalBlend
from ..edits.edit import Edit
from ..edits.words import Refine, Replace, Reweight
from ..errors import P2PError
from ..images import load_image
from ..inversion.artefact import Inversion
from ..inversion.methods import METHODS, invert
from ..prompts.align import refinement_alignment, replacement_matrix
from ..prompts.words import words
from ..result import EditResult
from ..run import edit
from .figures import word_colour

KINDS = {"word swap": Replace, "refinement": Refine}
FADER = (-2.0, 4.0)


@dataclass(frozen=True)
class Settings:
    """All that decides a picture of the studio.

    `json.dumps(dataclasses.asdict(settings))` is its export.
    """

    source: str = "a cat on the beach"
    target: str = "a dog on the beach"
    kind: str = "word swap"
    weights: tuple[float, ...] = ()  # one for each word of the target; words beyond are 1
    cross_steps: float = 0.8
    self_steps: float = 0.4
    blend: str = ""  # words of local blend with commas between; none for no blend
    seed: int = 3
    steps: int = 20
    method: str = ""  # of inversion, if a picture was uploaded
    # The target's words as Reweight takes them, one for each weight.
    phrases: tuple = field(default=(), compare=False)

    def __post_init__(self):  # JSON knows no tuples
        object.__setattr__(self, "weights", tuple(self.weights))
        phrases = tuple(p if isinstance(p, str) else tuple(p) for p in self.phrases)
        object.__setattr__(self, "phrases", phrases)

    @property
    def edit(self) -> Edit:
        """The edit."""
        change = KINDS[self.kind](cross_steps=self.cross_steps, self_steps=self.self_steps)
        turned = {p: c for p, c in zip(self.phrases, self.weights, strict=False) if c != 1}
        return change | Reweight(turned) if turned else change

    @property
    def local_blend(self) -> LocalBlend | None:
        """The local blend, if any."""
        found = tuple(word.strip() for word in self.blend.split(",") if word.strip())
        return LocalBlend(found) if found else None

    def python(self) -> str:
        """The exact call, to paste into a notebook that has `pipe`."""
        change = repr(self.edit)
        for name in ("Replace", "Refine", "Reweight"):
            change = change.replace(f"{name}(", f"p2p.{name}(")
        lines = ["import p2p_helpers as p2p", ""]
        start = repr(self.source)
        if self.method:
            lines += ['image = p2p.load_image("my-photo.png", pipe)']
            lines += [
                f"inversion = p2p.invert(pipe, image, {self.source!r}, method={self.method!r}, "
                f"steps={self.steps})"
            ]
            start = "inversion"
        end = [f"    seed={self.seed},", f"    steps={self.steps},"] if not self.method else []
        blend = []
        if self.local_blend:
            blend = [f"    local_blend=p2p.LocalBlend({self.local_blend.words!r}),"]
        return "\n".join(
            [
                *lines,
                "result = p2p.edit(",
                "    pipe,",
                f"    {start},",
                f"    {self.target!r},",
                f"    {change},",
                *blend,
                *end,
                ")",
            ]
        )


class Cancelled(Exception):
    """A run that another one replaced."""


class Studio:
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
        self._photo: Image.Image | None = None
        self._inversion: tuple[tuple, Inversion] | None = None
        # A tokenizer serves one thread at a time, and the run uses the pipeline's.
        self._tokenizer = copy.deepcopy(pipe.tokenizer)
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()  # held where a run ends, is shown or stops counting
        self._wanted = 0  # the number of the run that counts
        self._phrases: tuple = ()
        self._build()
        self._load(settings or Settings())

    def _build(self):
        wide, style = w.Layout(width="auto"), {"description_width": "7em"}
        self.source = w.Text(
            description="source", layout=wide, style=style, continuous_update=False
        )
        self.target = w.Text(
            description="target", layout=wide, style=style, continuous_update=False
        )
        self.kind = w.Dropdown(options=list(KINDS), description="kind of edit", style=style)
        self.cross = w.FloatSlider(
            min=0, max=1, step=0.05, description="cross steps", style=style, continuous_update=False
        )
        self.self_ = w.FloatSlider(
            min=0, max=1, step=0.05, description="self steps", style=style, continuous_update=False
        )
        self.blend = w.Text(
            description="local blend",
            placeholder="words, e.g. cat, dog",
            style=style,
            continuous_update=False,
        )
        self.seed = w.IntText(description="seed", style=style)
        self.steps = w.BoundedIntText(min=1, max=200, description="steps", style=style)
        self.upload = w.FileUpload(
            accept="image/*", multiple=False, description="edit a picture of mine", layout=wide
        )
        self.method = w.Dropdown(
            options=METHODS, value="direct", description="inversion", style=style
        )
        self.forget = w.Button(description="without picture")
        self.run = w.Button(description="Edit", button_style="primary")
        self.cancel = w.Button(description="Cancel", disabled=True)
        self.undo = w.Button(description="Undo", disabled=True)
        self.bar = w.IntProgress(
            min=0, max=1, description="", layout=w.Layout(width="auto", height="20px")
        )
        self.error, self.mask = w.HTML(), w.HTML()
        self.faders, self.words = [], w.VBox()
        self.pictures, self.code, self.files = (
            w.HTML(),
            w.Textarea(rows=12, layout=wide, description="as Python"),
            w.HTML(),
        )
        for control in (self.source, self.target, self.kind):
            control.observe(lambda change: self._line_up(), "value")
        self.run.on_click(lambda button: self.start())
        self.cancel.on_click(lambda button: self.stop())
        self.undo.on_click(lambda button: self._undo())
        self.forget.on_click(lambda button: self._forget())
        self.upload.observe(lambda change: self._take(change["new"]), "value")
        how = [self.kind, self.words, self.cross, self.self_, self.blend, self.seed, self.steps]
        picture = [w.HBox([self.upload, self.forget]), self.method]
        buttons = w.HBox([self.run, self.cancel, self.undo])
        sides = w.Layout(flex="1 1 330px", min_width="300px")
        left = w.VBox([self.source, self.target, *how, *picture, buttons], layout=sides)
        right = w.VBox(
            [self.bar, self.error, self.mask, self.pictures, self.code, self.files],
            layout=w.Layout(flex="2 1 420px", min_width="300px"),
        )
        self.view = w.Box(
            [left, right], layout=w.Layout(display="flex", flex_flow="row wrap", grid_gap="24px")
        )
        self._take(None)

    def _ipython_display_(self):
        from IPython.display import display

        display(self.view)

    @property
    def settings(self) -> Settings:
        """What the controls say."""
        weights = tuple(round(fader.value, 2) for fader in self.faders)  # sliders add up rounding
        schedules = round(self.cross.value, 2), round(self.self_.value, 2)
        method = self.method.value if self._photo else ""
        prompts = self.source.value, self.target.value, self.kind.value
        return Settings(
            *prompts,
            weights,
            *schedules,
            self.blend.value,
            self.seed.value,
            self.steps.value,
            method,
            self._phrases,
        )

    def _load(self, settings: Settings):
        """Put the controls where settings say."""
        self.source.value, self.target.value, self.kind.value = (
            settings.source,
            settings.target,
            settings.kind,
        )
        self.cross.value, self.self_.value, self.blend.value = (
            settings.cross_steps,
            settings.self_steps,
            settings.blend,
        )
        self.seed.value, self.steps.value = settings.seed, settings.steps
        self.method.value = settings.method or self.method.value
        self._line_up()
        for fader, weight in zip(self.faders, settings.weights, strict=False):
            fader.value = weight

    def _line_up(self):
        """A fader for each word of the target, which says whose map the word takes."""
        tokenizer, source, target = self._tokenizer, self.source.value, self.target.value
        before = {f.tooltip: f.value for f in self.faders}
        try:
            old, new = words(tokenizer, source), words(tokenizer, target)
            align = replacement_matrix if self.kind.value == "word swap" else refinement_alignment
            found = align(tokenizer, source, target)
            lends = found if self.kind.value == "word swap" else found[0] * found[1]
        except P2PError as error:
            self.error.value = _message(error)
            return
        self.error.value, self.faders, names, lines = "", [], [], []
        style = {"description_width": "7em"}
        for word in new:
            names.append(word.text)
            takes = [o.text for o in old if lends[list(o.tokens)][:, list(word.tokens)].any()]
            said = f"map of “{' '.join(takes)}”" if takes else "its own map: new"
            key = f"{word.text} {names.count(word.text)}"
            fader = w.FloatSlider(
                before.get(key, 1.0),
                min=FADER[0],
                max=FADER[1],
                step=0.25,
                description=word.text,
                tooltip=key,
            )
            fader.style = {**style, "handle_color": word_colour(word.text)}
            fader.layout, fader.continuous_update = (
                w.Layout(flex="1 1 auto", width="auto", min_width="0"),
                False,
            )
            self.faders.append(fader)
            lines.append(w.HBox([fader, w.Label(said, layout=w.Layout(width="9.5em"))]))
        self._phrases = tuple(
            (n, names[: i + 1].count(n)) if names.count(n) > 1 else n for i, n in enumerate(names)
        )
        self.words.children = lines

    def _take(self, uploaded):
        """A picture to edit, or none."""
        photo = None
        if uploaded:
            try:
                photo = load_image(io.BytesIO(bytes(uploaded[0]["content"])), self.pipe)
                self.error.value = ""
            except P2PError as error:
                self.error.value = _message(error)
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
                    f'<img alt="" src="{_url(_mask_picture(tensors["mask"][0], (96, 96)))}"> {said}'
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
                self.error.value = _message(error)
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
                    _mask_picture(result.masks[-1, 0], result.source.size),
                    "white: where it may change",
                )
            )
        self.pictures.value = _figures(shown)
        self.code.value = settings.python()
        exported = json.dumps(dataclasses.asdict(settings), indent=1).encode()
        links = [
            ("picture (PNG)", "edit.png", _url(result.image)),
            ("settings (JSON)", "edit.json", _url(exported)),
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


def _mask_picture(mask: torch.Tensor, size: tuple[int, int]) -> Image.Image:
    """A mask (row, column) as a picture of this size (width, height), white where it is true."""
    return Image.fromarray((mask.cpu().numpy() * 255).astype(np.uint8)).resize(
        size, Image.Resampling.NEAREST
    )


def _figures(pictures: Sequence[tuple[Image.Image, str]]) -> str:
    """Pictures side by side, each over what it is."""
    style, figures = "margin:0 12px 12px 0;width:min(220px,100%)", []
    for image, name in pictures:
        said = html.escape(name)
        figures.append(
            f'<figure style="{style}"><img alt="{said}" src="{_url(image)}" '
            f'style="width:100%"><figcaption>{said}</figcaption></figure>'
        )
    return f'<div style="display:flex;flex-wrap:wrap">{"".join(figures)}</div>'


def _message(error: Exception) -> str:
    style = "border-left:4px solid #b3005e;padding:4px 10px"
    return f'<div role="alert" style="{style}">{html.escape(str(error))}</div>'


def _url(content: Image.Image | bytes) -> str:
    if isinstance(content, bytes):
        return f"data:application/json;base64,{base64.b64encode(content).decode()}"
    buffer = io.BytesIO()
    content.convert("RGB").save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
