"""The page of a blind comparison."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..errors import InputError
from ..result import EditResult
from ..values import file_path, shown
from ..view.html import url

PAGE, KEY, VOTES = "index.html", "key.json", "votes.sqlite"
DOWNLOADED = "votes*.json"  # what voters send who had no server
QUESTION = "Which picture is the better edit?"


@dataclass(frozen=True)
class Comparison:
    """One thing to judge: the same edit by two or more methods.

    Args:
        what: what the edit was meant to do, e.g. “a cat on the beach → a dog on the beach”.
        edits: method → its picture, or the `EditResult` whose first picture it is.
        source: the picture before; a result's own when not given, of an inversion the real one.

    Raises:
        InputError: no words, no methods' names, or something else than pictures.
    """

    what: str
    edits: Mapping[str, Image.Image | EditResult]
    source: Image.Image | None = None

    def __post_init__(self):
        if not isinstance(self.what, str):
            raise InputError(
                f"what={shown(self.what)}: say in words what the edit was meant to do."
            )
        if not isinstance(self.edits, Mapping) or not all(isinstance(n, str) for n in self.edits):
            raise InputError(
                f"edits={shown(self.edits)}: give the methods by their names, e.g. {{'direct': result, 'ddim': other}}."
            )
        for method, one in self.pictures.items():
            if not isinstance(one, Image.Image):
                raise InputError(
                    f"{method!r} of {self.what!r} is {shown(one)}; give a picture or an EditResult."
                )
        if self.source is not None and not isinstance(self.source, Image.Image):
            raise InputError(
                f"source={shown(self.source)}: give the picture before, e.g. load_image(file), or leave it out."
            )

    @property
    def pictures(self) -> dict[str, Image.Image]:
        """Method → picture."""
        return {
            method: one.image if isinstance(one, EditResult) else one
            for method, one in self.edits.items()
        }

    @property
    def before(self) -> Image.Image | None:
        """The picture before, where it is known."""
        results = [one.before for one in self.edits.values() if isinstance(one, EditResult)]
        return self.source if self.source is not None or not results else results[0]


def study(comparisons: Sequence[Comparison], folder: str | Path, question: str = QUESTION) -> Path:
    """Make a blind comparison of edits: one page that needs no network and no account.

    A voter sees two pictures at a time, beside the picture before, and chooses by click or by arrow
    key. Sides and order are another for every voter, and the page does not hold the methods' names:
    those are in `key.json` beside it. Votes are a file to download at the end; where
    `p2p study serve FOLDER` serves the page, each is stored at once.

    Args:
        comparisons: what to judge, all of the same two or more methods.
        folder: where the page goes; it is made where it is missing.
        question: asked above the pictures.

    Returns:
        the page's path.

    Raises:
        InputError: nothing to compare, no list of comparisons, other methods in one comparison than in
            another, a folder with votes of another study, or one that cannot be written.
    """
    several = list(comparisons) if isinstance(comparisons, Iterable) else [None]
    if not all(isinstance(one, Comparison) for one in several):
        raise InputError(
            f"comparisons={shown(comparisons)}: give a list of Comparison(...), also where there is one."
        )
    methods = _methods(comparisons)
    items = []
    for number, one in enumerate(comparisons):
        order = np.random.default_rng([number, len(methods)]).permutation(len(methods))
        pictures = one.pictures
        items.append(
            {
                "what": one.what,
                "source": None if one.before is None else url(one.before),
                "pictures": [url(pictures[methods[i]]) for i in order],
                "methods": [methods[i] for i in order],
            }
        )
    said = json.dumps([question, items], sort_keys=True).encode()
    name = hashlib.sha256(said).hexdigest()[:16]
    key = {"study": name, "items": [item.pop("methods") for item in items]}
    place = file_path("folder", folder, "swaps")
    try:
        return _written(place, key, {"study": name, "question": question, "items": items})
    except OSError as error:
        raise InputError(
            f"{place} cannot be written: {error.strerror or error}. Take another folder."
        ) from error


def _written(place: Path, key: dict, data: dict) -> Path:
    """Write a study's page and its key; gives the page's path."""
    place.mkdir(parents=True, exist_ok=True)
    votes = (place / VOTES).exists() or any(place.glob(DOWNLOADED))
    if votes and _other(place, key):
        raise InputError(f"{place} holds the votes of another study. Take another folder.")
    page = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    text = json.dumps(data).replace("<", "\\u003c")
    (place / PAGE).write_text(page.replace("/*DATA*/null", text), encoding="utf-8")
    (place / KEY).write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
    return place / PAGE


def read_key(place: Path) -> dict:
    """A study's name, and what its pictures are.

    Raises:
        InputError: the folder holds no study, or a damaged one.
    """
    file = place / KEY
    if not file.is_file():
        raise InputError(f"{place} holds no study. Make one with p2p_helpers.study().")
    try:
        key = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        key = None
    if not isinstance(key, dict) or not {"study", "items"} <= key.keys():
        raise InputError(
            f"{file} is damaged. Make the study there once more, of the same comparisons; its votes are kept."
        )
    return key


def _other(place: Path, key: dict) -> bool:
    """Whether a folder holds another study than this; what is damaged is made anew."""
    try:
        return read_key(place)["study"] != key["study"]
    except InputError:
        return False


def _methods(comparisons: Sequence[Comparison]) -> list[str]:
    """The methods' names, the same in every comparison."""
    if not comparisons:
        raise InputError("There is nothing to compare. Give at least one Comparison.")
    methods = list(comparisons[0].edits)
    if len(methods) < 2:
        raise InputError(f"{comparisons[0].what!r} has {len(methods)} method; two are needed.")
    for one in comparisons:
        if set(one.edits) != set(methods):
            raise InputError(
                f"{one.what!r} compares {', '.join(one.edits)}, the first one {', '.join(methods)}. "
                "All must compare the same methods."
            )
    return methods
