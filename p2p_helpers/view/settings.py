"""All that decides a picture of the studio, as one value."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..blend import LocalBlend
from ..edits.edit import Edit
from ..edits.words import Refine, Replace, Reweight

KINDS = {"word swap": Replace, "refinement": Refine}


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
