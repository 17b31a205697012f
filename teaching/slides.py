"""Slides that need no network, with speaker notes: `python -m teaching.slides`.

Every notebook gives a deck of its own, and each half of the talk in `talk.md` another one. The notes
stand in `talk.md`, under a heading for each stretch of the talk.
"""

from __future__ import annotations

import copy
import mimetypes
import re
import shutil
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

import nbformat
import sphinx_revealjs
import ziamath
from math_core import LatexToMathML
from nbconvert import SlidesExporter
from traitlets.config import Config

HERE = Path(__file__).parent
NOTEBOOKS = HERE.parent / "notebooks"
TALK = HERE / "talk.md"
STRETCH = re.compile(r"^### (\d+)–(\d+): (.+?)\. (.+)$", re.M)
SECTION = re.compile(r"(\d\d) §(\d+)")
HEADING = re.compile(r"^## (\d+)\. ", re.M)
FORMULA = re.compile(r"(```.*?```|`[^`\n]+`)|\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.S)
BADGES = re.compile(r"^\[!\[Open in .*\n\n?", re.M)
HIDDEN = re.compile(r"MATH([DI])([0-9a-f]+)HTAM")
LINK = re.compile(r"(?<!!)\[([^]]*)\]\((?!https?:|#)([^)\s]+)\)")
mimetypes.add_type("image/webp", ".webp")  # Python knows it from 3.13 on
to_mathml = LatexToMathML().convert_with_local_state


@dataclass(frozen=True)
class Stretch:
    """Some minutes of the talk: from when to when, which sections are shown, and the notes."""

    start: int
    end: int
    sections: tuple[tuple[str, int], ...]  # (number of the notebook, number of its section)
    title: str
    notes: str


def talk(text: str) -> list[list[Stretch]]:
    """The stretches of each half, from the text of `talk.md`."""
    halves = re.split(r"^## .*half.*$", text, flags=re.M)[1:]
    return [_stretches(half) for half in halves]


def _stretches(half: str) -> list[Stretch]:
    found = list(STRETCH.finditer(half))
    ends = [*(match.start() for match in found[1:]), len(half)]
    stretches = []
    for match, end in zip(found, ends, strict=True):
        sections = tuple((number, int(part)) for number, part in SECTION.findall(match[3]))
        notes = half[match.end() : end].strip()
        stretches.append(Stretch(int(match[1]), int(match[2]), sections, match[4], notes))
    return stretches


def sections(notebook) -> dict[int, list]:
    """The cells of a notebook by the number of their section; 0 is what comes before the first."""
    number, found = 0, {0: []}
    for cell in notebook.cells:
        heading = HEADING.match(cell.source)
        if heading:
            number = int(heading[1])
            found[number] = []
        found[number].append(cell)
    return found


def for_slides(cell):
    """A copy of a cell as slides want it: formulas hidden, links that lead nowhere unlinked."""
    cell = copy.deepcopy(cell)
    cell.id = uuid.uuid4().hex[:8]  # cells of several notebooks may share an id
    if cell.cell_type == "markdown":
        text = BADGES.sub("", cell.source).replace("](../data/", "](data/")
        cell.source = FORMULA.sub(_hide, LINK.sub(_link, text))
    return cell


def _hide(match: re.Match) -> str:
    """A formula as a word that Markdown leaves alone."""
    if match[1]:  # code
        return match[1]
    return f"MATH{'D' if match[2] else 'I'}{(match[2] or match[3]).encode().hex()}HTAM"


def _show(match: re.Match) -> str:
    return to_mathml(bytes.fromhex(match[2]).decode(), displaystyle=match[1] == "D")


def _link(match: re.Match) -> str:
    deck = re.fullmatch(r"(\d\d_\w+)\.ipynb", match[2])
    return f"[{match[1]}]({deck[1]}.html)" if deck else match[1]


def notes_cell(stretch: Stretch):
    """The speaker notes of a stretch."""
    text = f"**{stretch.start}–{stretch.end} minutes.** {stretch.notes}"
    cell = nbformat.v4.new_markdown_cell(FORMULA.sub(_hide, LINK.sub(r"\1", text)))
    cell.metadata["slideshow"] = {"slide_type": "notes"}
    return cell


def with_notes(cells: list, stretch: Stretch | None) -> list:
    """The cells of a section as slides want them, with the notes of the stretch on every slide."""
    found = []
    for cell in cells:
        if _kind(cell) == "skip":
            continue
        found.append(for_slides(cell))
        if stretch and (len(found) == 1 or _kind(cell) in ("slide", "subslide")):
            found.append(notes_cell(stretch))
    return found


def _kind(cell) -> str:
    return cell.metadata.get("slideshow", {}).get("slide_type", "-")


def title_cell(text: str):
    """A slide with a heading."""
    cell = nbformat.v4.new_markdown_cell(f"# {text}")
    cell.metadata["slideshow"] = {"slide_type": "slide"}
    return cell


def decks() -> dict[str, list]:
    """The name of every deck, and its cells."""
    halves = talk(TALK.read_text(encoding="utf-8"))
    read = {p: nbformat.read(p, as_version=4) for p in sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))}
    parts = {path.stem[:2]: sections(notebook) for path, notebook in read.items()}
    noted = {key: one for half in halves for one in half for key in one.sections}
    found = {}
    for path in read:
        number = path.stem[:2]
        pieces = parts[number].items()
        found[path.stem] = [
            cell for part, cells in pieces for cell in with_notes(cells, noted.get((number, part)))
        ]
    for i, half in enumerate(halves, 1):
        cells = [title_cell(f"Prompt-to-Prompt, hands on: half {i} of 2")]
        for stretch in half:
            for number, part in stretch.sections:
                cells += with_notes(parts[number][part], stretch)
        found[f"talk-{i}"] = cells
    return found


def write(folder: Path) -> list[Path]:
    """Write every deck, and reveal.js with the font of the formulas beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(sphinx_revealjs.__file__).parent / "_static" / "revealjs"
    for part in ("dist", "plugin/notes"):
        shutil.copytree(source / part, folder / "reveal" / part, dirs_exist_ok=True)
    font = Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf"
    shutil.copy(font, folder / "reveal")
    exporter = _exporter()
    written = []
    for name, cells in decks().items():
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"title": name})
        resources = {"metadata": {"name": name, "path": str(NOTEBOOKS.parent)}}
        page, _ = exporter.from_notebook_node(notebook, resources)
        written.append(folder / f"{name}.html")
        written[-1].write_text(HIDDEN.sub(_show, page), encoding="utf-8")
    return written


def _exporter() -> SlidesExporter:
    settings = {
        "template_file": str(HERE / "deck.html.j2"),
        "reveal_url_prefix": "reveal",
        "reveal_theme": "white",  # the usual one fetches fonts
        "embed_images": True,
        "exclude_input_prompt": True,
        "exclude_output_prompt": True,
    }
    return SlidesExporter(config=Config({"SlidesExporter": settings}))


if __name__ == "__main__":
    for path in write(Path(sys.argv[1] if len(sys.argv) > 1 else "runs/slides")):
        print(path)
