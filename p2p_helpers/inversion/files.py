"""The files of an inversion: written whole or not at all, read as if a stranger had made them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import InversionError
from ..paths import whole

FORMAT = 2  # 1 had no number, no hashes of its fields, and facts as texts
SAID = "p2p_helpers"  # the entry of a file's metadata that says what the file holds, as JSON
HASHES = "sha256"  # the entry with the hash of every other one and of every tensor
OLD = {"inversion": "inversion", "checkpoint": "run"}  # what the first entry was called in format 1
DTYPES = {"F32": torch.float32, "U8": torch.uint8}


class Stored(NamedTuple):
    """What a file holds: plain values, and tensors of its own memory."""

    path: Path
    format: int
    said: dict
    tensors: dict[str, Tensor]


def damaged(path: Path, field: str, why: str) -> InversionError:
    """The error for a field that cannot be as it is."""
    return InversionError(
        f"{path} is damaged, or this package did not write it: {field} {why}. Take another copy of the file, or invert the picture again."
    )


def check_folder(path: Path):
    """Refuse a file in a folder that is not there. Raises InversionError."""
    if not path.parent.is_dir():
        raise InversionError(f"There is no folder {path.parent} for {path.name}. Make it first.")


def write(path: Path, kind: str, tensors: Mapping[str, Tensor], said: Mapping):
    """Write one safetensors file. What stood there before stays until the new one is complete.

    Raises:
        InversionError: the file cannot be written, whatever the reason.
    """
    check_folder(path)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, "kind": kind, **said})
    hashes = {name: _hash(tensor) for name, tensor in tensors.items()}
    hashes[SAID] = hashlib.sha256(text.encode()).hexdigest()
    content = save(tensors, {SAID: text, HASHES: json.dumps(hashes)})
    try:
        with whole(path) as part:
            part.write_bytes(content)
    except (OSError, ValueError) as error:
        raise InversionError(
            f"{path} cannot be written: {error}. A file that stood there before is as it was. Give another name or folder, or make room."
        ) from error


def read(path: Path, kind: str) -> Stored:
    """Read what `write` wrote, or a file of format 1. The caller checks the values.

    Raises:
        InversionError: no such file, another kind of file, a newer format, or a damaged field.
    """
    try:
        if not path.is_file():  # a pipe would keep us waiting
            raise InversionError(f"There is no file {path}. Give the name of a saved {kind}.")
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            format, said = _said(path, kind, metadata)
            tensors = {name: _tensor(path, file, name) for name in file.keys()}  # noqa: SIM118
    except InversionError:
        raise
    except (SafetensorError, OSError, ValueError, MemoryError) as error:
        raise InversionError(
            f"{path} cannot be read, is no safetensors file, or a damaged one: {error}. Make one with invert(...).save(path)."
        ) from error
    if format > 1:
        _check_hashes(path, metadata, tensors)
    return Stored(path, format, said, {name: tensor.clone() for name, tensor in tensors.items()})


def _hash(tensor: Tensor) -> str:
    """SHA-256 of a tensor's content."""
    return hashlib.sha256(np.ascontiguousarray(tensor.numpy())).hexdigest()


def _tensor(path: Path, file, name: str) -> Tensor:
    """One tensor, of the two types that we write."""
    dtype = file.get_slice(name).get_dtype()
    if dtype not in DTYPES:
        raise damaged(path, name, f"holds {dtype}; only {' and '.join(DTYPES)} are used")
    return file.get_tensor(name)


def _json(path: Path, field: str, text: str) -> dict:
    """A JSON object of the metadata."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise damaged(path, field, "is no JSON") from None
    if not isinstance(value, dict):
        raise damaged(path, field, "is no JSON object")
    return value


def _said(path: Path, kind: str, metadata: dict[str, str]) -> tuple[int, dict]:
    """The number of the format, and what the file says about itself."""
    if SAID not in metadata and OLD[kind] in metadata:
        return 1, _said_in_format_1(path, kind, metadata)
    if SAID not in metadata:
        raise InversionError(
            f"{path} holds no finished {kind} of ours. Make one with invert(...).save(path)."
        )
    said = _json(path, SAID, metadata[SAID])
    number = said.pop("format", None)
    if type(number) is not int or number < 2:
        raise damaged(path, "format", f"is {number!r}")
    if number > FORMAT:
        raise InversionError(
            f"{path} has the format {number}; this version of p2p_helpers reads up to {FORMAT}. Install a newer one."
        )
    if said.pop("kind", None) != kind:
        raise InversionError(f"{path} is another kind of file, and no {kind}.")
    return number, said


def _said_in_format_1(path: Path, kind: str, metadata: dict[str, str]) -> dict:
    """The same, from the first layout, where every fact was a text."""
    said = _json(path, OLD[kind], metadata[OLD[kind]])
    texts = metadata if kind == "inversion" else said
    facts = {key: texts[key] for key in ("model", "package", "image sha256") if key in texts}
    names = {"float16": "weights", "bfloat16": "weights in bfloat16"}
    facts["weights"] = {dtype: texts[key] for dtype, key in names.items() if key in texts}
    schedule = texts.get("noise schedule")
    if not isinstance(schedule, str):
        raise damaged(path, "noise schedule", "is missing or no text")
    facts["noise schedule"] = _json(path, "noise schedule", schedule)
    for key in ("image sha256", "weights", "weights in bfloat16", "noise schedule"):
        said.pop(key, None)
    return {**said, "facts": facts}


def _check_hashes(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]):
    """Compare every field with the hash that was written with it."""
    hashes = _json(path, HASHES, metadata.get(HASHES, ""))
    now = {name: _hash(tensor) for name, tensor in tensors.items()}
    now[SAID] = hashlib.sha256(metadata[SAID].encode()).hexdigest()
    for field in sorted(set(hashes) | set(now)):
        if hashes.get(field) != now.get(field):
            raise damaged(path, field, "is not what was written (its SHA-256 differs)")
