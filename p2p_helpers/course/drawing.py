"""A few shapes for the course's diagrams, drawn as SVG: boxes, arrows, curves and words, in light and in dark."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

Point = tuple[float, float]

# name → (fill, ink) by day, (fill, ink) by night
COLOURS = {
    "plain": (("#ffffff", "#1b1b1f"), ("#2a2a31", "#ececf1")),
    "source": (("#dbe8fb", "#123a74"), ("#1c3557", "#cfe2ff")),
    "target": (("#fde3c8", "#7a3a00"), ("#57371a", "#ffe0bf")),
    "words": (("#e4f2dc", "#22521a"), ("#25401f", "#d5f0c9")),
    "marked": (("#f9d7e8", "#8a0046"), ("#5a1c3d", "#ffd0e6")),
}
PAPER, LINE = ("#f6f6f8", "#5c5c66"), ("#17171b", "#a9a9b4")
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"
BOLD = "**"  # around a line


def _style() -> str:
    def sheet(night: int) -> str:
        paper, line = (PAPER, LINE)[night]
        rules = [
            f".paper{{fill:{paper}}}",
            f".line{{stroke:{line};fill:none;stroke-width:1.6}}",
            f".tip{{fill:{line}}}",
            f".note{{fill:{line}}}",
        ]
        for name, by in COLOURS.items():
            fill, ink = by[night]
            rules.append(f".{name}{{fill:{fill};stroke:{ink}}} .{name}-ink{{fill:{ink}}}")
        return "".join(rules)

    return f"<style>{sheet(0)}@media (prefers-color-scheme: dark){{{sheet(1)}}}</style>"


@dataclass
class Drawing:
    """A diagram that a notebook shows, as an SVG picture.

    Args:
        width, height: in pixels.
        about: what it shows, for those who cannot see it.
    """

    width: int
    height: int
    about: str
    parts: list[str] = field(default_factory=list)

    def text(
        self, at: Point, label: str, kind: str = "note", size: int = 13, anchor: str = "middle"
    ) -> Drawing:
        """Words around a point; "\\n" begins a new line, and a line within **stars** is bold."""
        x, y = at
        lines = label.split("\n")
        ink = "note" if kind == "note" else f"{kind}-ink"
        top = y - (len(lines) - 1) * size * 0.62 + size * 0.36
        for number, line in enumerate(lines):
            weight = ' font-weight="600"' if line.startswith(BOLD) else ""
            shown = escape(line.removeprefix(BOLD).removesuffix(BOLD))
            self.parts.append(
                f'<text x="{x:g}" y="{top + number * size * 1.24:g}" class="{ink}" font-size="{size}" '
                f'text-anchor="{anchor}"{weight}>{shown}</text>'
            )
        return self

    def box(self, at: Point, size: Point, label: str = "", kind: str = "plain") -> Drawing:
        """A box with its upper left corner at a point, and its label in the middle."""
        (x, y), (wide, high) = at, size
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" rx="7" class="{kind}" stroke-width="1.4"/>'
        )
        return self.text((x + wide / 2, y + high / 2), label, kind) if label else self

    def arrow(self, *points: Point, dashed: bool = False) -> Drawing:
        """A straight line through points, with a tip at its end."""
        path = " ".join(f"{'L' if i else 'M'}{x:g},{y:g}" for i, (x, y) in enumerate(points))
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(f'<path d="{path}" class="line" marker-end="url(#tip)"{dash}/>')
        return self

    def curve(self, *points: Point, dashed: bool = False) -> Drawing:
        """A smooth line through points, with a tip at its end."""
        path = [f"M{points[0][0]:g},{points[0][1]:g}"]
        for (x, y), (to_x, to_y) in itertools.pairwise(points):
            middle = (x + to_x) / 2
            path.append(f"C{middle:g},{y:g} {middle:g},{to_y:g} {to_x:g},{to_y:g}")
        dash = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(f'<path d="{" ".join(path)}" class="line" marker-end="url(#tip)"{dash}/>')
        return self

    def grid(self, at: Point, values: Sequence[Sequence[float]], cell: float, kind: str) -> Drawing:
        """A matrix as squares, fuller for larger values (0…1)."""
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                x, y = at[0] + column * cell, at[1] + row * cell
                self.parts.append(
                    f'<rect x="{x:g}" y="{y:g}" width="{cell:g}" height="{cell:g}" class="plain" stroke-width="0.6"/>'
                )
                if value:
                    self.parts.append(
                        f'<rect x="{x + 1:g}" y="{y + 1:g}" width="{cell - 2:g}" height="{cell - 2:g}" '
                        f'class="{kind}-ink" opacity="{value:g}"/>'
                    )
        return self

    def svg(self) -> str:
        """The picture as a text."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" font-family="{escape(FONT)}">'
        )
        tip = (
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto-start-reverse"><path d="M0,0 L10,5 L0,10 z" class="tip"/></marker></defs>'
        )
        paper = f'<rect width="{self.width}" height="{self.height}" rx="12" class="paper"/>'
        return f"{head}<title>{escape(self.about)}</title>{_style()}{tip}{paper}{''.join(self.parts)}</svg>"

    def _repr_svg_(self) -> str:
        return self.svg()

    def __repr__(self) -> str:
        return f"Drawing: {self.about}"
