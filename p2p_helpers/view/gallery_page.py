"""A page and a figure of what a batch made: its sources, each beside its edits."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..batch.store import TABLE
from ..edits.words import Replace
from ..errors import InputError
from ..paths import data_folder
from ..pipelines import EMBEDDED
from ..values import file_path
from .figures import figure_png, gallery
from .page import Page

PAGE, FIGURE = "index.html", "gallery.png"
NO_CONTROL = Replace(cross_steps=0.0, self_steps=0.0)


def examples(model: str) -> Path:
    """The file of jobs that shows what a model can do.

    For the embedded model, sentences of its world. For others, the paper's own kinds of edit (Hertz et al. 2022).
    """
    name = "toyland" if model in EMBEDDED else "paper"
    return data_folder("gallery") / f"{name}.jsonl"


def write_gallery(results: str | Path) -> Path:
    """Write `index.html` and `gallery.png` into a folder of results; give the page's path.

    Args:
        results: what `run_jobs` or `p2p batch` wrote. Jobs with an error are left out.

    Raises:
        InputError: the folder has no finished batch, or none of its jobs has pictures.
    """
    folder = file_path("results", results)
    if not (folder / TABLE).is_file():
        raise InputError(f"{folder} has no {TABLE}: give the folder of a finished batch.")
    lines = (folder / TABLE).read_text(encoding="utf-8").rstrip("\n").split("\n")
    rows = [row for row in map(json.loads, lines) if row["error"] is None]
    if not rows:
        raise InputError(f"No job of {folder} has pictures. {TABLE} says why.")
    shown = [_shown(row) for row in rows]
    data = {"rows": shown, "made": _made(rows[0]["provenance"])}
    page = folder / PAGE
    Page.of("gallery.html", data, "Gallery of edits", height=800).save(page)
    (folder / FIGURE).write_bytes(_figure(folder, shown))
    return page


def _shown(row: dict) -> list[dict]:
    """The source and the edits of one row: where the picture is, the prompt's words and what was done."""
    settings = row["provenance"]["settings"]
    source, first = settings[0]["source"], settings[0]
    drawn = ", ".join(
        f"{name} {first[name]}" for name in ("seed", "steps", "guidance_scale") if name in first
    )
    prompts = [source, *(one["target"] for one in settings)]
    said = [drawn, *(_said(one) for one in settings)]
    return [
        {"picture": f"{row['folder']}/{file}", "words": _words(source, prompt), "said": line}
        for file, prompt, line in zip(row["pictures"], prompts, said, strict=True)
    ]


def _said(settings: dict) -> str:
    """What an edit did, in one line."""
    if settings["edit"] == repr(NO_CONTROL):
        return "the same seed, no control"
    blend = settings["local_blend"]
    return settings["edit"] if blend is None else f"{settings['edit']}, {blend}"


def _words(source: str, target: str) -> list[tuple[str, bool]]:
    """The target's words, each with whether the source does not have it there."""
    before, after = source.split(), target.split()
    found = [(word, True) for word in after]
    for block in difflib.SequenceMatcher(None, before, after, autojunk=False).get_matching_blocks():
        for place in range(block.b, block.b + block.size):
            found[place] = (after[place], False)
    return found


def _made(provenance: dict) -> str:
    """What the pictures were made with, in one line."""
    packages = [f"{name} {version}" for name, version in provenance["packages"].items()]
    names = ("model", "package", "device", "dtype")
    return "Made with " + ", ".join([*(str(provenance[name]) for name in names), *packages])


def _figure(folder: Path, rows: Sequence[Sequence[dict]]) -> bytes:
    """All pictures in one figure, a row for each source."""
    columns = max(map(len, rows))
    images: list[Image.Image] = []
    titles: list[str] = []
    for row in rows:
        for one in row:
            with Image.open(folder / one["picture"]) as file:
                file.thumbnail((260, 260))  # as large as it is shown
                images.append(file.convert("RGB"))
            titles.append(" ".join(word for word, _ in one["words"]))
        side = images[-1].size
        images += [Image.new("RGB", side, "white")] * (columns - len(row))
        titles += [""] * (columns - len(row))
    return figure_png(gallery(images, titles, columns=columns, width=2.6 * columns))
