"""The folder of results: a job's folder is there complete or not at all, and is written once."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import BatchError, InputError
from ..inversion.fingerprint import differences
from ..values import file_path

MODEL, TABLE, ROW = "model.json", "results.jsonl", "row.json"
PARTS, BEGUN, INVERSIONS = "parts", "begun", "inversions"
FULL = (errno.ENOSPC, errno.EDQUOT)
UNREAD = ". Remove its folder; the same command then makes that job again."
UNKNOWN = ", so nobody knows of which model these results are. Remove it if you know, or give another folder."
STALE = 3600  # seconds after which what a killed run left is removed


class Gone(Exception):
    """The row of a finished job is not there any more: another process tries the job again."""


class Store:
    """A folder of results.

    Raises:
        BatchError: it cannot be made or written to.
    """

    def __init__(self, out: str | Path):
        self.out = file_path("out", out, "results").absolute()
        try:
            for name in (PARTS, BEGUN, INVERSIONS):
                (self.out / name).mkdir(parents=True, exist_ok=True)
            for part in (self.out / PARTS).iterdir():
                with contextlib.suppress(OSError):  # another process may have removed it
                    ours = re.fullmatch("[0-9a-f]{16}", part.name)  # and nothing of the user's
                    if ours and time.time() - part.stat().st_mtime > STALE:
                        shutil.rmtree(part)
            for part in (self.out / INVERSIONS).glob(".*.part"):  # what a killed worker was writing
                with contextlib.suppress(OSError):
                    if time.time() - part.stat().st_mtime > STALE:
                        part.unlink()
        except OSError as error:
            raise self._unwritten(error) from error

    def folder(self, name: str) -> Path:
        """Where a job's results lie. There are 256 folders above them, so that none is too full."""
        return self.out / name[:2] / name

    def has(self, name: str) -> bool:
        """Whether a job is finished, with pictures or with an error."""
        return (self.folder(name) / ROW).exists()

    def row(self, name: str) -> dict:
        """What is said of a finished job. Raises BatchError if that is damaged."""
        return _read(self.folder(name) / ROW, UNREAD)

    def failed(self, name: str) -> bool:
        """Whether a job is finished with an error."""
        try:
            return self.row(name)["error"] is not None
        except FileNotFoundError:
            return False

    def stamp(self, name: str) -> int | None:
        """When the row of a job was written, to tell a new one from an old one; None without a row."""
        try:
            return (self.folder(name) / ROW).stat().st_mtime_ns
        except FileNotFoundError:
            return None

    def inversion(self, group: str) -> Path:
        """Where the inversion of a source is kept."""
        return self.out / INVERSIONS / f"{group}.safetensors"

    def forget(self, name: str):
        """Remove the results of a job, all at once.

        Raises:
            BatchError: they cannot be removed.
        """
        part = self.out / PARTS / secrets.token_hex(8)
        try:
            os.rename(self.folder(name), part)
        except FileNotFoundError:  # another process was faster
            return
        except OSError as error:
            raise self._unwritten(error) from error
        shutil.rmtree(part, ignore_errors=True)

    def write(self, row: Mapping, pictures: Mapping[str, Callable[[Path], None]]) -> dict:
        """Write a job's row and pictures, all of them or nothing; what is there already stays.

        Args:
            row: its "name" is the job's.
            pictures: file name → what writes the file.

        Raises:
            BatchError: they cannot be written, as when the disk is full.
        """
        place = self.folder(str(row["name"]))
        part = self.out / PARTS / secrets.token_hex(8)
        try:
            part.mkdir()
            for name, save in pictures.items():
                save(part / name)
            (part / ROW).write_bytes(_line(row))
            for file in [*part.iterdir(), part]:
                _to_disk(file)
            place.parent.mkdir(exist_ok=True)
            os.rename(part, place)
            _to_disk(place.parent)
        except OSError as error:
            shutil.rmtree(part, ignore_errors=True)
            if self.has(str(row["name"])):  # another worker was faster
                return self.row(str(row["name"]))
            raise self._unwritten(error) from error
        return dict(row)

    def model(self) -> dict:
        """What is remembered of the model of these results; nothing before the first.

        Raises:
            BatchError: the file is damaged.
        """
        file = self.out / MODEL
        return _read(file, UNKNOWN) if file.exists() else {}

    def check_model(self, name: str, facts: Mapping):
        """Remember the model of these results.

        Raises:
            InputError: they were made with another.
        """
        file = self.out / MODEL
        if not file.exists():
            self._replace(file, [_line({"name": name, **facts})])
        then = self.model()
        other = differences(then, facts)
        if other:
            listed = "\n  ".join(other)
            raise InputError(
                f"{self.out} holds results of another model, {then['name']}:\n  {listed}\n"
                "Give another folder."
            )

    def begin(self, group: str) -> int:
        """Note that a worker begins with a source; gives how often one has died there.

        One that got further with the checkpoint of its inversion did not die for nothing: deaths before it no longer count.
        """
        file, checkpoint = self.out / BEGUN / group, self.inversion(group).with_suffix(".part")
        deaths = int(file.read_text(encoding="utf-8") or 0) if file.exists() else 0
        if (
            deaths
            and checkpoint.exists()
            and checkpoint.stat().st_mtime_ns > file.stat().st_mtime_ns
        ):
            deaths = 1
        self._note(group, deaths + 1)
        return deaths

    def went_on(self, group: str):
        """Note that a job of the source is finished: deaths before it no longer count."""
        self._note(group, 1)

    def _note(self, group: str, count: int):
        try:
            (self.out / BEGUN / group).write_text(str(count), encoding="utf-8")
        except OSError as error:
            raise self._unwritten(error) from error

    def end(self, group: str):
        """Note that the worker is still alive."""
        with contextlib.suppress(OSError):  # a disk that cannot be written to says so elsewhere
            (self.out / BEGUN / group).unlink(missing_ok=True)

    def write_table(self, names: Iterable[str]) -> tuple[Path, int]:
        """Write one line for each job, in the order of the jobs. Gives the file and the number of errors.

        Raises:
            BatchError: it cannot be written.
            Gone: another process tries a job again.
        """
        failed = set()

        def lines() -> Iterator[bytes]:
            for name in names:
                try:
                    row = self.row(name)
                except FileNotFoundError:
                    raise Gone(name) from None
                if row["error"] is not None:
                    failed.add(name)
                yield _line(row)

        self._replace(self.out / TABLE, lines())
        return self.out / TABLE, len(failed)

    def check_room(self, error: BaseException):
        """Raise BatchError if an error, or what caused it, says that the disk is full."""
        for one in (error, error.__cause__):
            if isinstance(one, OSError) and one.errno in FULL:
                raise self._unwritten(one) from error

    def _replace(self, file: Path, lines: Iterable[bytes]):
        """Write a small file, all of it or nothing."""
        part = self.out / PARTS / secrets.token_hex(8)
        try:
            part.mkdir()
            with open(part / file.name, "wb") as written:
                written.writelines(lines)
            _to_disk(part / file.name)
            os.replace(part / file.name, file)
            _to_disk(file.parent)
        except OSError as error:
            raise self._unwritten(error) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _unwritten(self, error: OSError) -> BatchError:
        return BatchError(
            f"The results cannot be written to {self.out}: {error.strerror or error}. What is "
            "finished is kept. Make room, or give another folder; the same command then goes on."
        )


def _read(file: Path, advice: str) -> dict:
    """A file of one entry. Raises BatchError with this advice if it is damaged."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BatchError(f"{file} is damaged{advice}")
    return found


def _line(row: Mapping) -> bytes:
    """A row as JSON; half a character, which no encoding takes, as JSON's own escape for it."""
    text = json.dumps(row, ensure_ascii=False, default=str)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _to_disk(path: Path):
    """Wait until a file or folder is on the disk. Windows opens no folders, and syncs what it may write.

    Some file systems of a network sync no folders.
    """
    if os.name == "nt":
        if path.is_dir():
            return
        handle = os.open(path, os.O_RDWR)
    else:
        handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL or not path.is_dir():
            raise
    finally:
        os.close(handle)


def results(out: str | Path) -> Iterator[dict]:
    """The rows of a folder of results, also while a batch runs, in no certain order.

    Each has "name", "job", "error" (None, or its kind and message), "folder", "pictures" (files in
    it), "metrics" (for each target) and "provenance".

    Raises:
        InputError: there is no such folder.
        BatchError: a row is damaged.
    """
    place = file_path("out", out, "results")
    if not place.is_dir():
        raise InputError(f"There is no folder {place}. Give the one that run_jobs() wrote to.")
    for file in sorted(place.glob(f"??/*/{ROW}")):
        try:
            row = _read(file, UNREAD)
        except FileNotFoundError:  # it is tried again
            continue
        yield row
