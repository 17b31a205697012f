"""Checks of the capstone: a task of one's own, and a page that says all it should."""

from __future__ import annotations

import ast
import re

import numpy as np
from PIL import Image

from ...edits.edit import Edit
from ...edits.layout import placements
from ...errors import P2PError
from ...prompts.words import words
from ...result import EditResult
from ...toyland.counterfactual import Counterfactual
from ...toyland.reader import Reading
from ...view.figures import difference
from ..capstone import PARTS, Handin, variant
from .base import need, of_kind, passed

EXAMPLE = "Vera"
WORDS = 25  # in each part of the text
DIFFERENT = 12  # of them
LIMIT = 0.1  # the rest may change by so much on average, 0…1
REST = 0.05  # of the picture, at least, or there is no rest to speak of
WEAK = "How long are the source's maps used, and which method inverts with room for an edit?"
HINTS = {
    **dict.fromkeys(("swap", "recolour", "background"), WEAK),
    **dict.fromkeys(("autumn", "night", "restyle", "snow", "add"), f"{WEAK} Is a word too quiet?"),
}


def check_plan(name: str, task: Counterfactual, plan: Edit, tokenizer) -> str:
    """Exercise 11.1: a task drawn from one's own name, and an edit that its two prompts allow."""
    need(
        isinstance(name, str) and name.strip().casefold() not in ("", EXAMPLE.casefold()),
        f"{EXAMPLE}'s task is the example. Which name is yours?",
    )
    of_kind(task, Counterfactual, "Draw your task with variant(name).")
    need(
        (task.source, task.target) == (variant(name).source, variant(name).target),
        "The task is not the one of this name. Draw it with variant(name), after the name.",
    )
    need(isinstance(plan, Edit), "The plan is no edit. Replace and Refine are two kinds of edit.")
    try:
        taken = plan.matrices(tokenizer, task.source, task.target, 10)[0]
    except P2PError as error:
        need(False, f"This edit does not fit your prompts. It says: {error}")
    need(
        bool(taken.any()),
        "This edit takes nothing from the source: all of S is zero. When should the target use "
        "the source's maps?",
    )
    need(
        not placements(plan),
        "This edit moves things. Your prompts ask for other words, or for more of them.",
    )
    lent = taken.any(1).any(0)  # (target token,): whether it gets any source token's map
    empty = [w.text for w in words(tokenizer, task.target) if not lent[list(w.tokens)].all()]
    alike = len(task.source.split()) == len(task.target.split())
    need(
        not (alike and empty),
        f"This edit lends no map to {', '.join(empty)}, though a word of your source stands in that place. "
        "Which edit lends the old word's map to the new one?",
    )
    return passed(f"“{task.source}” → “{task.target}” by {plan!r}")


def check_own_edit(result: EditResult, task: Counterfactual, reading: Reading) -> str:
    """Exercise 11.2: the reader sees what is new, the objects are there, and the rest has stayed.

    Where no rest is left, as at night, the picture must be closer to the true edit than before.
    """
    of_kind(result, EditResult, "Give what p2p.edit returned.")
    of_kind(task, Counterfactual, "Draw your task with variant(name).")
    before, truth = task.pictures
    need(
        _same(result.before, before),
        "The source is not your task's picture. Invert task.pictures[0], and edit the inversion.",
    )
    need(task.seen(reading), f"The reader does not see “{task.target}” yet. {HINTS[task.kind]}")
    found = {one.name for one in reading.objects}
    lost = [thing.name for thing in task.after.things if thing.name not in found]
    need(not lost, f"The reader sees no {', '.join(lost)} any more. Is the edit too strong?")
    colours = {one.name: one.colour for one in reading.objects}
    for thing in task.after.things if task.after.style != "old photo" else ():
        need(
            thing.colour is None or colours[thing.name] == thing.colour,
            f"The {thing.name} is {colours[thing.name]}, and your target says {thing.colour}.",
        )
    rest = ~task.changed
    if rest.mean() > REST:
        changed = difference(before, result.image)[rest].mean()
        need(
            changed <= LIMIT,
            f"The rest of the picture changed by {changed:.1%}, more than {LIMIT:.0%}. What keeps "
            "an edit local, or makes it gentler?",
        )
    far, near = (difference(truth, image).mean() for image in (before, result.image))
    need(
        near < far,
        f"Your picture is {near:.1%} away from the true edit, and the picture before is {far:.1%} "
        "away: it has changed in another way than it should.",
    )
    return passed(f"“{task.target}”, {near:.1%} away from the true edit ({far:.1%} before)")


def check_handin(page: Handin) -> str:
    """Exercise 11.3: a page that has its author, its pictures, its code and its four texts."""
    need(
        isinstance(page, Handin),
        "It is not the page yet. Make it with handin(author, result, code, said, pipe).",
    )
    need(
        page.author.strip().casefold() != EXAMPLE.casefold(),
        "The page does not say whose it is.",
    )
    need(
        page.result is not None and not _same(page.result.source, page.result.image),
        "The picture after is the picture before. What did the edit change?",
    )
    _code(page.code)
    for part in PARTS:
        said = (page.said or {}).get(part, "")
        found = re.findall(r"\w+", str(said or ""))
        count = len(found)
        need(bool(count), f"The text under “{part}” is missing.")
        need(
            count >= WORDS,
            f"Under “{part}” there are {count} words. Write two or three sentences, {WORDS} words "
            "at least.",
        )
        need(
            len({word.casefold() for word in found}) >= DIFFERENT,
            f"The text under “{part}” says the same words again and again.",
        )
    texts = [" ".join(page.said[part].split()) for part in PARTS]
    need(len(set(texts)) == len(texts), "Two of your texts are the same.")
    need(
        any(character.isdigit() for character in "".join(texts)),
        "There is no number in your text. Which one supports what you say: decibels, a share, "
        "how many of how many?",
    )
    return passed("pictures, code, settings and four texts: the page can be sent")


def _same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and bool((np.asarray(a) == np.asarray(b)).all())


def _code(code: str):
    """Raise NotYet unless this is Python that calls `edit`."""
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        need(False, f"The code on the page is no Python: {error.msg}.")
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {getattr(call, "attr", getattr(call, "id", "")) for call in calls}
    need(
        f"def {EXAMPLE.lower()}(" not in code,
        f"This is {EXAMPLE}'s function. Give the one that made your picture.",
    )
    need(
        "edit" in names,
        "The code on the page never calls edit(). Give the function that made the picture.",
    )
