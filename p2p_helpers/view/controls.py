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
from ..prompts.words import phrases, unknown_words, vocabulary, words
from .figures import word_colour
from .html import known_words, message, note
from .settings import KINDS, Settings
from .stage import Stage

FADER = (-2.0, 4.0)


class Controls:
    """Widgets for all of `Settings`, with a fader for each word of the target and a box for each object.

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
        style = {"description_width": "6em"}

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
        self.suggestion = w.HTML()
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
        self.forget = button("without picture")
        self.method = line(w.Dropdown, "inversion", options=METHODS, value="direct")
        self.run = button("Edit", button_style="primary")
        self.cancel, self.undo = button("Cancel", disabled=True), button("Undo", disabled=True)
        self.bar = w.IntProgress(
            min=0,
            max=1,
            layout=w.Layout(width="auto", flex="2 1 0", height="12px", align_self="center"),
        )
        self.error, self.mask, self.stage = w.HTML(), w.HTML(), Stage()
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
        self.stage.observe(lambda change: self._moved(), "places")
        self._arrange()

    def _arrange(self):
        """Controls and pictures side by side, on a phone one over the other; what starts an edit stays in view."""
        wrap = {"display": "flex", "flex_flow": "row wrap", "grid_gap": "8px 24px"}
        prompts = [self.source, self.target, self.suggestion, self.note, self.known]
        words = [self.kind, self.words, self.cross, self.self_, self.blend]
        rest = [w.HBox([self.seed, self.steps]), w.HBox([self.upload, self.forget]), self.method]
        left = w.VBox(
            [*prompts, *words, *rest], layout=w.Layout(flex="1 1 340px", min_width="300px")
        )
        for shown in (self.stage, self.pictures):
            shown.layout = w.Layout(flex="1 1 280px", min_width="0", max_width="420px")
        right = w.VBox(
            [
                w.Box([self.stage, self.pictures], layout=w.Layout(**wrap)),
                self.mask,
                self.code,
                self.files,
            ],
            layout=w.Layout(flex="2 1 420px", min_width="300px"),
        )
        for button in (self.run, self.cancel, self.undo):
            button.layout.flex = "0 1 140px"
        buttons = w.HBox([self.run, self.cancel, self.undo, self.bar])
        actions = w.VBox([self.error, buttons], layout=w.Layout(flex="1 0 100%"))
        actions.add_class("p2p-actions")
        self.view = w.Box([left, right, actions], layout=w.Layout(**wrap))

    def _let_go(self):
        """A user let go of a slider: the picture follows, where the prompts allow one."""
        if not self._loading and not self.run.disabled:
            self._released()

    def _moved(self):
        """Objects that go elsewhere leave the source's self-attention maps, which hold the old layout."""
        self.self_.disabled = bool(self.stage.said())

    def _have(self, photo: Image.Image | None):
        """Edit this picture, or generated ones."""
        before, self._photo = self._photo, photo
        shown = None if photo else "none"
        self.method.layout.display = self.forget.layout.display = shown
        self.seed.disabled = photo is not None
        if photo:
            self.stage.show(photo, "your picture, cut to a square; press Edit to find its objects")
            self.stage.places = []
        elif before:
            self.stage.clear()

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
            self.stage.said(),
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
            weights = (*settings.weights, *[1.0] * len(self.faders))  # words beyond are 1
            for fader, weight in zip(self.faders, weights, strict=False):
                fader.value = weight
            self.stage.put(settings.places)
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
        self._phrases = phrases(new)
        self.faders, names, lines, kept = [], [], [], {}
        style = {"description_width": "6em"}
        for word, own in zip(new, self._phrases, strict=True):
            names.append(word.text)
            takes = {
                phrase: other.text
                for phrase, other in zip(phrases(old), old, strict=True)
                if lends[list(other.tokens)][:, list(word.tokens)].any()
            }
            kept |= dict.fromkeys(takes, own)
            said = f"map of “{' '.join(takes.values())}”" if takes else "its own map: new"
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
                w.Layout(flex="1 1 220px", width="auto", min_width="0"),
                False,
            )
            fader.observe(lambda change: self._let_go(), "value")
            self.faders.append(fader)
            beside = w.Label(said, layout=w.Layout(flex="0 0 8.5em"))
            lines.append(w.HBox([fader, beside], layout=w.Layout(flex_flow="row wrap")))
        self.words.children = lines
        self.stage.offer(kept)
        self._moved()
