"""PIE-Bench's folder: pictures, the prompts before and after, and masks of what may change."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from ..batch import Job
from ..blend import LocalBlend
from ..edits.edit import Edit
from ..edits.words import Refine, Replace, Reweight
from ..errors import InputError, PromptError
from ..prompts.words import words
from ..values import file_path, shown

SIDE = 512  # of the masks, and of the pictures
LISTING, PICTURES = "mapping_file.json", "annotation_images"
KINDS = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change content",
    "5": "change pose",
    "6": "change colour",
    "7": "change material",
    "8": "change background",
    "9": "change style",
}
CROSS, SELF = 0.4, 0.6  # shares of the steps, of the benchmark's Prompt-to-Prompt
LOUDER = 2.0  # the weight that it gives the blended word


@dataclass(frozen=True)
class PieEdit:
    """One edit of the benchmark.

    Args:
        key: its name in the listing.
        kind: what is done, a key of `KINDS`.
        picture: the file.
        source, target: what it shows, and what it should show; without brackets.
        blended: the word before and the word after whose places may change; empty where none are.
        runs: where the mask is set, as numbers of pixels: a start, a length, a start, a length …
    """

    key: str
    kind: str
    picture: Path
    source: str
    target: str
    blended: tuple[str, ...]
    runs: tuple[int, ...]

    @property
    def mask(self) -> Bool[np.ndarray, "512 512"]:
        """Where the picture may change."""
        return decode_mask(self.runs)

    def edit(self, tokenizer, refine: bool = False) -> Edit:
        """How the benchmark's Prompt-to-Prompt edits it, but swapping words where there are as many.

        The benchmark refines always, with maps of words in 0.4 of the steps and of pixels in 0.6, and
        gives the blended word the weight 2.

        Args:
            tokenizer: the model's, which says what a word is.
            refine: whether to refine always, too.
        """
        change: Edit = Refine(cross_steps=CROSS, self_steps=SELF)
        if not refine and _as_many(tokenizer, self.source, self.target):
            change = Replace(cross_steps=CROSS, self_steps=SELF)
        if self.blended:
            change = change | Reweight(
                {self.blended[-1]: LOUDER}, cross_steps=CROSS, self_steps=SELF
            )
        return change

    def job(self, change: Edit, **more) -> Job:
        """The edit as a job of a batch; `more` are the method of inverting, the steps and the guidance scale.

        Raises InputError where it cannot be one.
        """
        blend = LocalBlend(tuple(dict.fromkeys(self.blended))) if self.blended else None
        return Job(
            source=self.source,
            target=self.target,
            picture=self.picture,
            edit=change,
            local_blend=blend,
            **more,
        )


def decode_mask(runs: Sequence[int]) -> Bool[np.ndarray, "512 512"]:
    """Where the picture may change, from the benchmark's list of runs.

    A run is the number of its first pixel, row by row, and how many there are; what goes beyond the
    last pixel is cut off. The outermost pixels are always set, as the benchmark's own code sets them.

    Raises:
        InputError: the list has an odd length or negative numbers in it.
    """
    runs = list(runs) if isinstance(runs, Iterable) else [runs]
    if len(runs) % 2 or any(not isinstance(run, Integral) or run < 0 for run in runs):
        raise InputError(
            f"A mask of {len(runs)} numbers, {shown(runs[:4])} …, is no list of runs: a start "
            "and a length for each, none of them negative."
        )
    flat = np.zeros(SIDE * SIDE, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start : start + length] = True
    mask = flat.reshape(SIDE, SIDE)
    mask[[0, -1]] = True
    mask[:, [0, -1]] = True
    return mask


def read_pie(folder: str | Path) -> list[PieEdit]:
    """The edits of a folder in PIE-Bench's layout, in the listing's order.

    Args:
        folder: it has `mapping_file.json` and the pictures in `annotation_images`.

    Raises:
        InputError: the listing is missing, damaged or empty, an entry lacks something, or a picture
            is not there.
    Reference: Ju et al. 2023 (arXiv 2310.01506).
    """
    place = file_path("folder", folder)
    listing = place / LISTING
    if not listing.is_file():
        raise InputError(
            f"There is no {listing}. PIE-Bench is a folder with {LISTING} and {PICTURES}; "
            "https://github.com/cure-lab/PnPInversion says where to get it."
        )
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{listing} is no JSON: {error}.") from None
    if not isinstance(entries, Mapping) or not entries:
        raise InputError(f"{listing} names no edits. It maps a name to each one's entry.")
    found = [_edit(place, key, entry) for key, entry in entries.items()]
    missing = [edit.picture for edit in found if not edit.picture.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(found)} pictures are missing, the first is {missing[0]}. "
            f"Unpack all of {PICTURES}."
        )
    return found


def _edit(folder: Path, key: str, entry: object) -> PieEdit:
    """One entry of the listing."""
    try:
        edit = PieEdit(
            key,
            str(entry["editing_type_id"]),  # type: ignore[index]
            folder / PICTURES / entry["image_path"],  # type: ignore[index]
            _plain(entry["original_prompt"]),  # type: ignore[index]
            _plain(entry["editing_prompt"]),  # type: ignore[index]
            tuple(entry.get("blended_word", "").split()),  # type: ignore[attr-defined]
            tuple(entry["mask"]),  # type: ignore[index]
        )
        decode_mask(edit.runs)
    except InputError as error:
        raise InputError(f"{LISTING}, {key}: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{LISTING}, {key}: {type(error).__name__} {error}. An entry has image_path, "
            "original_prompt, editing_prompt, editing_type_id, blended_word and mask."
        ) from None
    if edit.kind not in KINDS:
        raise InputError(f"{LISTING}, {key}: editing_type_id {edit.kind} is none of 0 to 9.")
    return edit


def _plain(prompt: str) -> str:
    """A prompt without the brackets around what is new in it."""
    return " ".join(prompt.replace("[", "").replace("]", "").split())


def _as_many(tokenizer, source: str, target: str) -> bool:
    """Whether two prompts have as many words. One that is too long to be read has not: its job says so."""
    try:
        return len(words(tokenizer, source)) == len(words(tokenizer, target))
    except PromptError:
        return False
