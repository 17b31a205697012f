"""A job: one source, one or several targets, and how each is edited. A line of JSON, or a row of Parquet."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..arguments import as_blend, check_numbers, check_prompts, one_each, targets, whole_seed
from ..blend import LocalBlend
from ..edits.edit import Edit
from ..edits.layout import placements
from ..edits.printed import made, parsed, read_edit
from ..errors import InputError
from ..inversion import METHODS
from ..values import FILES, file_path, shown

BLEND = "Write words, or LocalBlend(('cat', 'dog'), threshold=0.4)."


@dataclass(frozen=True)
class Job:
    """One source and the edits of it that are wanted, as `edit` takes them.

    The source is a prompt; or a picture, with the prompt that says what it shows; or a saved
    inversion, which has a prompt of its own.

    Args:
        target: the prompt of the edited picture, or several.
        edit: what to do, for all targets or one for each; as an `Edit` or in its printed form.
        source: the source's prompt.
        picture: the file of a real picture, to be inverted.
        inversion: a file that `Inversion.save` wrote.
        local_blend: words, or a `LocalBlend` without a mask, also in its printed form.
        method: of inverting the picture, see `invert`.
        seed, steps, guidance_scale, negative_prompt: as for `edit`.

    Raises:
        InputError: a value that cannot be used, a file that is not there, or more than one source.
    """

    target: str | Sequence[str]
    edit: str | Edit | Sequence[str | Edit] = "Replace()"
    source: str | None = None
    picture: str | Path | None = None
    inversion: str | Path | None = None
    local_blend: object = None
    method: str | None = None
    seed: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None

    def __post_init__(self):
        self._check_source()
        prompts = targets(self.target)
        edits = one_each(_edits(self.edit), prompts)
        blend = _blend(self.local_blend)
        masked = [one for edit in edits for one in placements(edit) if one.mask is not None]
        if masked:
            raise InputError(
                f"A job's edit has no mask, and {masked[0]!r} has one. Leave it out, or make this edit with p2p_helpers.edit()."
            )
        source = "from the inversion" if self.source is None else self.source
        check_prompts([source, *prompts], self.negative_prompt)
        guidance = 1.0 if self.guidance_scale is None else self.guidance_scale
        check_numbers(guidance, 1 if self.steps is None else self.steps)
        if self.seed is not None:  # Python's own numbers, as JSON has them
            object.__setattr__(self, "seed", whole_seed(self.seed))
        if self.steps is not None:
            object.__setattr__(self, "steps", int(self.steps))
        if self.guidance_scale is not None:  # 7 is 7.0
            object.__setattr__(self, "guidance_scale", float(guidance))
        for name, value in (("target", prompts), ("edit", edits)):
            object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "local_blend", blend)
        for name in ("picture", "inversion"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _file(name, getattr(self, name)))
        _ = self.name, self.group  # now: a file may go away

    def _check_source(self):
        """Refuse no source, two of them, and what does not go with the one."""
        if self.inversion is not None and (self.picture is not None or self.source is not None):
            raise InputError("An inversion has its picture and prompt; leave picture, source out.")
        if self.inversion is None and not isinstance(self.source, str):
            raise InputError(
                f"source={shown(self.source)}: give the source's prompt, of a picture what it "
                "shows, or the file of an inversion."
            )
        if self.picture is not None and self.method not in (None, *METHODS):
            raise InputError(f"method={shown(self.method)}: methods are {', '.join(METHODS)}.")
        if self.picture is None and self.method is not None:
            raise InputError("A method is for inverting a picture, and the job has none.")
        real = self.picture is not None or self.inversion is not None
        if real and (self.seed is not None or self.negative_prompt is not None):
            raise InputError(
                "A real picture brings its own noise, and a batch edits it without a negative prompt; leave seed, "
                "negative_prompt out."
            )

    @functools.cached_property
    def name(self) -> str:
        """The job's hash: of all that it asks for, and of its files' contents."""
        return _hash(self._said(list(self.row())))

    @functools.cached_property
    def group(self) -> str:
        """The hash of what makes the source. Jobs that share it share one run of the source."""
        return _hash(self._said(SOURCE))

    def row(self) -> dict:
        """The job as a line of JSON has it."""
        row = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        row["target"] = list(self.target)
        row["edit"] = [repr(edit) for edit in self.edit]
        row["local_blend"] = None if self.local_blend is None else repr(self.local_blend)
        return {name: value for name, value in row.items() if value is not None}

    def _said(self, names: Sequence[str]) -> dict:
        """Parts of the row, with files by their contents."""
        row = self.row()
        said = {name: row.get(name) for name in names}
        for name in ("picture", "inversion"):
            if said.get(name) is not None:
                said[name] = _file_hash(said[name])
        return said


SOURCE = (
    "source",
    "picture",
    "inversion",
    "method",
    "seed",
    "steps",
    "guidance_scale",
    "negative_prompt",
)


@dataclass(frozen=True)
class Refused:
    """A line that is no job, and why."""

    line: object
    error: InputError

    @property
    def name(self) -> str:
        """The line's hash."""
        return _hash({"line": self.line})


def read_jobs(path: str | Path) -> Iterator[Job | Refused]:
    """The jobs of a file, in its order. A line that is no job is `Refused`, and ends nothing.

    Args:
        path: one job a line, as JSON (.jsonl), or one a row (.parquet, which needs pyarrow). Paths in
            it are seen from its folder.

    Raises:
        InputError: there is no such file, it is a picture or an inversion, or it cannot be read.
    """
    file = file_path("jobs", path, "jobs.jsonl")
    if not file.is_file():
        raise InputError(f"There is no file {file}. Give one with a job, as JSON, on each line.")
    if file.suffix.lower() in FILES:
        raise InputError(f"{file} holds no jobs. Give a file with a job, as JSON, on each line.")
    try:
        for row in _parquet(file) if file.suffix == ".parquet" else _lines(file):
            try:
                yield job_of(row, file.parent)
            except InputError as error:
                yield Refused(row, error)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from None


def job_of(row: object, folder: Path = Path()) -> Job:
    """The job that a row is; paths are seen from the folder. Raises InputError."""
    if isinstance(row, Unread):
        raise InputError("The line is no UTF-8. Save the file as UTF-8.")
    if not isinstance(row, Mapping):
        try:
            row = json.loads(str(row))
        except (ValueError, RecursionError) as error:
            raise InputError(f"The line is no JSON: {error}.") from None
    if not isinstance(row, Mapping):
        raise InputError('A job is a JSON object, e.g. {"source": "a cat", "target": "a dog"}.')
    known = [field.name for field in dataclasses.fields(Job)]
    unknown = sorted(set(row) - set(known))
    if unknown:
        raise InputError(f"A job has no {', '.join(unknown)}. It may have: {', '.join(known)}.")
    if row.get("target") is None:
        raise InputError("The job has no target. Give the prompt of the edited picture.")
    given = {name: value for name, value in row.items() if value is not None}
    for name in ("picture", "inversion"):
        if isinstance(given.get(name), str):
            given[name] = folder / file_path(name, given[name])
    for name in ("seed", "steps"):  # a column with gaps holds 3.0 for 3
        if isinstance(given.get(name), float) and given[name].is_integer():
            given[name] = int(given[name])
    return Job(**given)


def _file(name: str, value: str | Path) -> str:
    """The whole path of a file that can be read."""
    file = file_path(name, value)
    try:
        if not file.is_file():
            slashes = " Write its folders with /." if "\\" in str(file) and os.sep == "/" else ""
            raise InputError(f"{name}: there is no file {file}.{slashes}")
        found = str(file.resolve())
        _file_hash(found)
    except OSError as error:
        raise InputError(f"{name}: {shown(value)} cannot be read: {error.strerror}.") from None
    return found


def _lines(file: Path) -> Iterator[str | Unread]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines):
            line = line.removeprefix(b"\xef\xbb\xbf") if not number else line  # Windows' mark
            try:
                text = line.decode().strip()
            except UnicodeDecodeError:
                yield Unread(line.decode("latin-1").strip())
                continue
            if not number and text.startswith("["):
                raise InputError(
                    f"{file} is a list in JSON, and jobs stand one in a line. Write it anew: jq -c '.[]' {file.name} > jobs.jsonl"
                )
            if text:
                yield text


class Unread(str):
    """A line that is no UTF-8, as Latin-1 reads it."""


def _parquet(file: Path) -> Iterator[dict]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise InputError(
            'Parquet needs pyarrow: pip install "p2p-helpers[cluster]". Or give the jobs as JSON.'
        ) from None
    try:
        for some in ParquetFile(file).iter_batches():
            for row in some.to_pylist():
                yield {
                    name: None if value != value else value  # a gap may be NaN
                    for name, value in row.items()
                    if not name.startswith("__index_level_")  # pandas' own
                }
    except (ArrowException, OSError) as error:
        raise InputError(f"{file} is no Parquet file, or a damaged one: {error}.") from None


def _edits(given: object) -> Edit | list[Edit]:
    """Edits, of which some or all are texts."""
    if isinstance(given, (list, tuple)):
        return [read_edit(one) if isinstance(one, str) else one for one in given]
    return read_edit(given) if isinstance(given, str) else given  # type: ignore[return-value]


def _blend(given: object) -> LocalBlend | None:
    """Words, pairs of a word and its number, or a printed blend."""
    if isinstance(given, str) and given.lstrip().startswith("LocalBlend"):
        given = made(parsed(given, BLEND), {"LocalBlend": LocalBlend}, BLEND)
    elif isinstance(given, list):
        given = [tuple(word) if isinstance(word, list) else word for word in given]
    blend = as_blend(given)
    if blend is not None and blend.mask is not None:
        raise InputError(f"A job's local blend has no mask. {BLEND}")
    return blend


def _hash(said: object) -> str:
    text = json.dumps(said, sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:32]


def _file_hash(path: str) -> str:
    """SHA-256 of a file, read again when it has changed."""
    return _hash_of(path, Path(path).stat().st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _hash_of(path: str, changed: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
