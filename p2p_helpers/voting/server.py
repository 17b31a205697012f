"""Serve a study's page and store its votes: `p2p study serve FOLDER`."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ..errors import InputError
from .make import PAGE, VOTES, read_key

MOST_BYTES = 1_000_000  # of one request: thousands of votes
CHOICES = ("left", "right", "same")
TABLE = """create table if not exists votes (
    study text, voter text, item integer, a integer, b integer, choice integer, seconds real,
    primary key (study, voter, item, a, b)
)"""


def read(vote: Mapping, key: Mapping) -> tuple:
    """A vote as a row: the pictures by their numbers, the smaller first, and the one chosen, or −1.

    Raises:
        InputError: it is none of this study's.
    """
    try:
        study, voter, item = str(vote["study"]), str(vote["voter"])[:100], int(vote["item"])
        left, right, choice = int(vote["left"]), int(vote["right"]), vote["choice"]
        seconds = float(vote.get("seconds", 0))
        methods = key["items"][item]
        fits = left != right and min(item, left, right) >= 0 and max(left, right) < len(methods)
        if study != key["study"] or choice not in CHOICES or not fits:
            raise ValueError(choice)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise InputError(f"This is no vote of this study: {str(vote)[:200]}") from error
    chosen = {"left": left, "right": right, "same": -1}[choice]
    return study, voter, item, min(left, right), max(left, right), chosen, seconds


def store(folder: Path, votes: Iterable[Mapping]) -> int:
    """Store votes, each once; those of a page that sends them again change nothing. Gives how many were read."""
    key = read_key(folder)
    rows = [read(vote, key) for vote in votes]
    with closing(sqlite3.connect(folder / VOTES, timeout=30)) as base, base:
        base.execute("pragma journal_mode=wal")
        base.execute("pragma synchronous=full")  # a vote that was answered is on the disk
        base.execute(TABLE)
        base.executemany("insert or ignore into votes values (?, ?, ?, ?, ?, ?, ?)", rows)
    return len(rows)


def stored(folder: Path) -> list[tuple]:
    """All rows of a folder's votes. Raises InputError where they cannot be read."""
    file = folder / VOTES
    if not file.exists():
        return []
    try:
        with closing(sqlite3.connect(file, timeout=30)) as base:
            base.execute(TABLE)
            return base.execute("select * from votes").fetchall()
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"{file} cannot be read: {error}. Take a copy of it that can, or move it away to begin without its votes."
        ) from error


class _Handler(BaseHTTPRequestHandler):
    folder: Path

    def _answer(self, status: HTTPStatus, content: bytes = b"", kind: str = "text/plain"):
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        """The page, and nothing else of the folder: the key stays where it is."""
        if self.path.partition("?")[0] in ("/", f"/{PAGE}"):
            self._answer(HTTPStatus.OK, (self.folder / PAGE).read_bytes(), "text/html")
        else:
            self._answer(HTTPStatus.NOT_FOUND)

    def do_POST(self):
        """Votes, as a list in JSON."""
        said = self.headers.get("Content-Length") or ""
        length = int(said) if said.isdecimal() else 0
        if self.path != "/votes" or not 0 < length <= MOST_BYTES:
            self._answer(HTTPStatus.BAD_REQUEST)
            return
        try:
            votes = json.loads(self.rfile.read(length))
            store(self.folder, votes if isinstance(votes, list) else [votes])
        except (InputError, ValueError) as error:
            self._answer(HTTPStatus.BAD_REQUEST, str(error).encode())
            return
        self._answer(HTTPStatus.NO_CONTENT)

    def log_message(self, format, *args):
        """Nothing: a class makes thousands of lines."""


def serve(folder: Path, host: str = "127.0.0.1", port: int = 8000) -> ThreadingHTTPServer:
    """A server for a study, which `serve_forever` runs.

    Raises:
        InputError: the folder holds no study, or a damaged one; the host or the port cannot be used.
    """
    read_key(folder)
    stored(folder)  # now: a vote that cannot be stored is lost
    handler = type("Handler", (_Handler,), {"folder": folder})
    try:
        return ThreadingHTTPServer((host, port), handler)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"Nothing can be served at {host}:{port}: {getattr(error, 'strerror', None) or error}. Take another port or host."
        ) from error
