"""The studio's controls: what a user sets, as widgets and as `Settings`."""

from __future__ import annotations

import copy
from collections.abc import Callable

import ipywidgets as w
from PIL import Image

from ..attention.families import family_of
from ..errors import P2PError
from ..inversion.methods import METHODS
from ..prompts.align import refinement_alignment, replacement_matrix
from ..prompts.words import unknown_words, vocabulary, words
from .figures import word_colour
from .html import figures, known_words, message, note
from .settings import KINDS, Settings

FADER = (-2.0, 4.0)


class Controls:
    """Widgets for all of `Settings`, with a fader for each word of the target.

    Args:
        pipe: a pipeline; its tokenizer is copied.
        released: called when a user lets go of a fader or a schedule.
    """

    def __init__(self, pipe, released: Callable[[], None]):
        # A tokenizer serves one thread at a time, and a run uses the pipeline's.
        self._tokenizer = copy.deepcopy(family_of(pipe).tokenizer(pipe, {}))
        self._photo: Image.Image | None = None
        self._phrases: tuple = ()
        self._loading = False
        self._released = released
        self._build()

    def _build(self):
        """Make the widgets and lay them out."""
        style = {"description_width": "7em"}

        def line(kind, description: str, flex: str = "0 0 auto", **more):
            """A control with its name, on a line of its own or on a share of one."""
            layout = w.Layout(width="auto", flex=flex, min_width="0")
            return kind(description=description, style=style, layout=layout, **more)

        def button(description: str, **more):
            layout = w.Layout(width="auto", flex="1 1 0", min_width="0")
            return w.Button(description=description, layout=layout, **more)

        text = {"continuous_update": False}
        share = {"min": 0, "max": 1, "step": 0.05, "continuous_update": False}
        self.source = line(w.Text, "source", **text)
        self.target = line(w.Text, "target", **text)
        self.note, self.known = w.HTML(), w.HTML(known_words(vocabulary(self._tokenizer)))
        self.kind = line(w.Dropdown, "kind of edit", options=list(KINDS))
        self.cross = line(w.FloatSlider, "cross steps", **share)
        self.self_ = line(w.FloatSlider, "self steps", **share)
        self.blend = line(w.Text, "local blend", placeholder="words, e.g. cat, dog", **text)
        self.seed = line(w.IntText, "seed", "1 1 0")
        self.steps = line(w.BoundedIntText, "steps", "1 1 0", min=1, max=200)
        self.upload = w.FileUpload(
            accept="image/*",
            multiple=False,
            description="edit a picture of mine",
            layout=w.Layout(width="auto", flex="1 1 0"),
        )
        self.forget, self.preview = button("without picture"), w.HTML()
        self.method = line(w.Dropdown, "inversion", options=METHODS, value="direct")
        self.run = button("Edit", button_style="primary")
        self.cancel, self.undo = button("Cancel", disabled=True), button("Undo", disabled=True)
        self.bar = w.IntProgress(min=0, max=1, layout=w.Layout(width="auto", height="12px"))
        self.error, self.mask = w.HTML(), w.HTML()
        self.faders, self.words = [], w.VBox()
        self.pictures, self.code, self.files = (
            w.HTML(),
            w.Textarea(rows=12, layout=w.Layout(width="auto"), description="as Python"),
            w.HTML(),
        )
        for control in (self.source, self.target, self.kind):
            control.observe(lambda change: self._line_up(), "value")
        for slider in (self.cross, self.self_):
            slider.observe(lambda change: self._let_go(), "value")
        prompts = [self.source, self.target, self.note, self.known, self.kind, self.words]
        how = [self.cross, self.self_, self.blend, w.HBox([self.seed, self.steps])]
        picture = [w.HBox([self.upload, self.forget]), self.preview, self.method]
        buttons = w.HBox([self.run, self.cancel, self.undo])
        left = w.VBox(
            [*prompts, *how, *picture, buttons],
            layout=w.Layout(flex="1 1 340px", min_width="300px"),
        )
        right = w.VBox(
            [self.bar, self.error, self.mask, self.pictures, self.code, self.files],
            layout=w.Layout(flex="2 1 420px", min_width="300px"),
        )
        self.view = w.Box(
            [left, right], layout=w.Layout(display="flex", flex_flow="row wrap", grid_gap="24px")
        )

    def _let_go(self):
        """A user let go of a slider: the picture follows, where the prompts allow one."""
        if not self._loading and not self.run.disabled:
            self._released()

    def _have(self, photo: Image.Image | None):
        """Edit this picture, or generated ones."""
        self._photo = photo
        shown = "flex" if photo else "none"
        self.method.layout.display = self.forget.layout.display = shown
        self.preview.value = (
            figures([(photo, "your picture, cut to a square")], 72) if photo else ""
        )
        self.seed.disabled = photo is not None

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
        self._loading = True
        try:
            self.source.value, self.target.value = settings.source, settings.target
            self.kind.value, self.blend.value = settings.kind, settings.blend
            self.cross.value, self.self_.value = settings.cross_steps, settings.self_steps
            self.seed.value, self.steps.value = settings.seed, settings.steps
            self.method.value = settings.method or self.method.value
            self._line_up()
            for fader, weight in zip(self.faders, settings.weights, strict=False):
                fader.value = weight
        finally:
            self._loading = False

    def _line_up(self):
        """A fader for each word of the target, which says whose map the word takes."""
        tokenizer, source, target = self._tokenizer, self.source.value, self.target.value
        before = {f.tooltip: f.value for f in self.faders}
        try:
            old, new = words(tokenizer, source), words(tokenizer, target)
            align = replacement_matrix if self.kind.value == "word swap" else refinement_alignment
            found = align(tokenizer, source, target)
            lends = found if self.kind.value == "word swap" else found[0] * found[1]
            unknown = unknown_words(tokenizer, source) | unknown_words(tokenizer, target)
        except P2PError as error:
            self.error.value, self.run.disabled = message(error), True
            return
        near = [
            f"“{word}”" + (f" (“{known}”?)" if known else "") for word, known in unknown.items()
        ]
        self.note.value = note(f"The model has never seen {', '.join(near)}." if near else "")
        self.error.value, self.run.disabled = "", False
        self.faders, names, lines = [], [], []
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
            fader.observe(lambda change: self._let_go(), "value")
            self.faders.append(fader)
            lines.append(w.HBox([fader, w.Label(said, layout=w.Layout(width="9.5em"))]))
        self._phrases = tuple(
            (n, names[: i + 1].count(n)) if names.count(n) > 1 else n for i, n in enumerate(names)
        )
        self.words.children = lines
