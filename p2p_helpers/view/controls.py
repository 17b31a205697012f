"""The studio's controls: what a user sets, as widgets and as `Settings`."""

from __future__ import annotations

import copy

import ipywidgets as w
from PIL import Image

from ..errors import P2PError
from ..inversion.methods import METHODS
from ..prompts.align import refinement_alignment, replacement_matrix
from ..prompts.words import words
from .figures import word_colour
from .html import message
from .settings import KINDS, Settings

FADER = (-2.0, 4.0)


class Controls:
    """Widgets for all of `Settings`, with a fader for each word of the target.

    Args:
        pipe: a pipeline; its tokenizer is copied.
    """

    def __init__(self, pipe):
        # A tokenizer serves one thread at a time, and a run uses the pipeline's.
        self._tokenizer = copy.deepcopy(pipe.tokenizer)
        self._photo: Image.Image | None = None
        self._phrases: tuple = ()
        self._build()

    def _build(self):
        """Make the widgets and lay them out."""
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
            self.error.value = message(error)
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
