"""The capstone: a task of one's own for every student, and the page that is handed in."""

from __future__ import annotations

import hashlib
import html
import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..arguments import check_pipeline
from ..errors import InputError, SceneError
from ..provenance import model_facts, settings_of
from ..result import EditResult
from ..toyland.counterfactual import EDITS, Counterfactual, counterfactual
from ..toyland.world import SPLITS, scene_at
from ..values import shown, whole_number
from ..view.html import figures
from ..view.page import Page

# Adding an object is left out, since it may come anywhere, and falling snow, since it changes most of the picture.
TRIES = 1000  # scenes that are drawn for an edit
KINDS = ("swap", "recolour", "background", "autumn", "night", "restyle")
PARTS = ("What I wanted", "What I predicted", "What I did, and why", "Where it fails")
STYLE = """
body { font: 17px/1.5 system-ui, sans-serif; color: #1b1b1f; background: #fff; max-width: 46em; margin: 2em auto; padding: 0 1em }
pre { background: #f4f4f6; padding: 1em; overflow-x: auto; font-size: 14px }
th { text-align: left; vertical-align: top; padding-right: 1em; font-weight: 600 }
td { overflow-wrap: anywhere }
"""


def variant(
    name: str, kinds: Sequence[str] | str | None = KINDS, objects: int = 1
) -> Counterfactual:
    """A scene of the embedded world and an edit of it, drawn from a name.

    The same name always gets the same task, and another name another one. The scene is of the test
    split, which the model has never seen. Spaces around the name and capital letters do not count.

    Args:
        name: a student's name, or any other text.
        kinds: of edits to draw from, of `toyland.EDITS`; None for all of them.
        objects: how many the scene has, 1 or 2.

    Returns:
        the scene with its picture and prompt, and the edit with its prompt and its true result.

    Raises:
        InputError: no name, no kinds, or another number of objects.
        SceneError: a kind of edit that this world does not have.
    """
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{shown(name)} is no name. Give a text, e.g. variant('Ada Lovelace').")
    objects = whole_number("objects", objects, 1, 2, "So many a scene has.")
    kinds = EDITS if kinds is None else kinds
    if not isinstance(kinds, Iterable):
        raise InputError(f"kinds={shown(kinds)}: name some of {', '.join(EDITS)}.")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    unknown = [kind for kind in kinds if kind not in EDITS]
    if unknown:
        raise SceneError(f"There is no edit {unknown[0]!r}. Kinds are {', '.join(EDITS)}.")
    if not kinds:
        raise InputError("No kind of edit is left to draw from. Leave `kinds` out, or name one.")
    digest = hashlib.sha256(name.strip().casefold().encode()).digest()
    rng = np.random.default_rng(list(digest))
    kind = kinds[int(rng.integers(len(kinds)))]
    for _ in range(TRIES):  # several scenes in a hundred allow every kind
        scene = scene_at("test", int(rng.integers(len(SPLITS["test"]))), objects)
        try:
            return counterfactual(scene, kind, rng)
        except SceneError as error:
            why = error
    raise why


@dataclass(frozen=True, eq=False)
class Handin(Page):
    """A page that a student hands in. `save` writes it to a file, and it needs no network."""

    author: str = ""
    code: str = ""
    said: Mapping[str, str] | None = None
    result: EditResult | None = None


def handin(
    author: str,
    result: EditResult,
    code: Callable | str,
    said: Mapping[str, str],
    pipe,
    truth: Image.Image | None = None,
) -> Handin:
    """One page with the pictures of an edit, the code, the settings and the author's words.

    Args:
        author: whose page it is.
        result: of `edit`.
        code: the function that made the result, whose text is shown, or the text itself.
        said: the author's text under each of the four headings of `PARTS`.
        pipe: the pipeline that made the result; the page names its model and its packages.
        truth: the picture that the edit should have given, where that is known.

    Raises:
        InputError: no result of `edit`, or one of another pipeline; no author; code whose text Python cannot find; other headings,
            or words that are no texts; a truth that is no picture.
        AttentionControlError: `pipe` is no pipeline.
    """
    if not isinstance(result, EditResult):
        raise InputError(f"{shown(result)} is no result. Give what p2p.edit returned.")
    check_pipeline(pipe)
    if result.origin is not None:
        result.origin.check(pipe)
    if not isinstance(author, str) or not author.strip():
        raise InputError(f"author={shown(author)}: give a name, e.g. 'Ada Lovelace'.")
    _check_said(said)
    text = _text_of(code)
    if truth is not None and not isinstance(truth, Image.Image):
        raise InputError(
            f"truth={shown(truth)}: give a picture, as task.pictures[1] of task = variant(name), or leave it out."
        )
    pictures = [(result.before, f"before: {result.source_prompt}")]
    pictures += [
        (image, f"after: {prompt}")
        for image, prompt in zip(result.images, result.target_prompts, strict=True)
    ]
    if truth is not None:
        pictures.append((truth, "what it should have given"))
    title = f"{result.source_prompt} → {' / '.join(result.target_prompts)}"
    body = [
        f"<h1>{html.escape(title)}</h1><p>{html.escape(author)}</p>",
        figures(pictures, width=220),
        *(_part(heading, text) for heading, text in said.items()),
        f"<h2>The code</h2><pre>{html.escape(text)}</pre>",
        f"<h2>The settings</h2>{_table(_settings(result, pipe))}",
    ]
    page = _whole(title, "\n".join(body))
    return Handin(page, title, 900, author=author, code=text, said=dict(said), result=result)


def _check_said(said: object):
    """Refuse what is no text for each of the four headings."""
    if not isinstance(said, Mapping) or not all(isinstance(one, str) for one in said.values()):
        raise InputError(
            f"said={shown(said)}: give a text under each heading, e.g. {{{PARTS[0]!r}: 'A dog in place of the cat.'}}."
        )
    wrong = [f"{shown(one)} is none of them" for one in said if one not in PARTS]
    wrong += [f"{one!r} is missing" for one in PARTS if one not in said]
    if wrong:
        raise InputError(f"said has the headings {', '.join(PARTS)}; {wrong[0]}.")


def _text_of(code: Callable | str) -> str:
    """A function's text, or the text that was given."""
    if isinstance(code, str) and code.strip():
        return code
    try:
        return textwrap.dedent(inspect.getsource(code)).strip()  # type: ignore[arg-type]
    except (OSError, TypeError) as error:
        raise InputError(
            f"The text of {shown(code)} cannot be found: {error}. Define the function in a cell of "
            "the notebook, or give its text."
        ) from error


def _settings(result: EditResult, pipe) -> dict[str, object]:
    each = [settings_of(result, number) for number in range(len(result.images))]
    said = {key: value for key, value in each[0].items() if value is not None}
    if len(each) > 1:
        for name in ("target", "edit"):
            del said[name]
            said |= {f"{name} {number}": one[name] for number, one in enumerate(each, 1)}
    inversion = result.origin and result.origin.inversion
    if inversion is not None:
        said["inversion"] = f"{inversion.method}, reconstruction {inversion.psnr:.1f} dB"
    facts = model_facts(pipe)
    packages = [f"{name} {version}" for name, version in facts["packages"].items()]
    said["model"] = facts["model"] or type(pipe).__name__
    said["packages"] = ", ".join([facts["package"], *packages])
    return said | {"device": facts["device"], "numbers": facts["dtype"]}


def _part(heading: str, text: str) -> str:
    paragraphs = [part.strip() for part in str(text).split("\n\n") if part.strip()]
    inside = "".join(f"<p>{html.escape(part)}</p>" for part in paragraphs)
    return f"<h2>{html.escape(heading)}</h2>{inside}"


def _table(said: Mapping[str, object]) -> str:
    rows = (
        f"<tr><th>{html.escape(key.replace('_', ' '))}</th><td>{html.escape(str(value))}</td></tr>"
        for key, value in said.items()
    )
    return f"<table>{''.join(rows)}</table>"


def _whole(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style>\n{body}\n</html>\n"
    )
