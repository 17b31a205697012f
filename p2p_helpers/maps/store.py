"""Recorded maps in one file."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ..errors import InputError
from ..paths import whole
from ..prompts.offsets import with_offsets
from ..prompts.several import Tokenizers, parts_of
from ..values import first_line
from .recorded import AttentionMaps, Record

FORMAT = 4
MEANS = ("sums", "by_head")  # layer → tensor
SINGLE = ("by_step", "all")  # layer, step → tensor


def _packed(tokenizer) -> Tensor:
    """A tokenizer in bytes, with all that was added to it.

    Maps are found by words without the model.
    """
    text = with_offsets(tokenizer).backend_tokenizer.to_str()
    return torch.from_numpy(np.frombuffer(zlib.compress(text.encode()), np.uint8).copy())


def _unpacked(packed: Tensor, length: int) -> PreTrainedTokenizerFast:
    """The tokenizer again. Its backend writes the start and end tokens itself."""
    text = zlib.decompress(packed.numpy().tobytes()).decode()
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises no other kind
        raise ValueError(
            f"its tokenizer cannot be read, perhaps since a newer tokenizers wrote it: {error}"
        ) from error
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length)


def _tokenizer(tensors: dict[str, Tensor], lengths: Sequence[int]):
    """The tokenizer of a model, or those of several text encoders; taken out of the tensors."""
    parts: list = []
    for n, length in enumerate(lengths):
        packed = tensors.pop(f"tokenizer/{n}", None)
        parts.append(length if packed is None else _unpacked(packed, length))
    return parts[0] if len(parts) == 1 else Tokenizers(parts)


def _stacked(single: Mapping[tuple[str, int], Tensor]) -> dict[str, Tensor]:
    """Layer → (step, …), from layer and step → tensor."""
    layers = dict.fromkeys(layer for layer, _ in single)
    steps = {layer: sorted(step for name, step in single if name == layer) for layer in layers}
    return {layer: torch.stack([single[layer, step] for step in steps[layer]]) for layer in layers}


def save(maps: AttentionMaps, path: Path):
    """Write maps; a file of this name is replaced when the new one is complete. Raises InputError."""
    parts = list(parts_of(maps.tokenizer))
    tensors = {
        f"tokenizer/{n}": _packed(part) for n, (part, _, _) in enumerate(parts) if part is not None
    }
    for kind in MEANS:
        tensors |= {f"{kind}/{layer}": tensor for layer, tensor in getattr(maps, kind).items()}
    for kind in SINGLE:
        stacked = _stacked(getattr(maps, kind))
        tensors |= {f"{kind}/{layer}": tensor for layer, tensor in stacked.items()}
    about = {
        "format": FORMAT,
        "prompts": maps.prompts,
        "lengths": [length for _, _, length in parts],
        "columns": maps.columns,
        "record": vars(maps.record),
        "steps": maps.steps,
        "level": maps.level,
        "shapes": maps.shapes,
        "kinds": maps.kinds,
        "counts": maps.counts,
        "level_layers": maps.level_layers,
    }
    try:
        with whole(path) as part:
            save_file(tensors, part, {"attention maps": json.dumps(about)})
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path} cannot be written: {first_line(error)}. Give a file in a folder that is there."
        ) from error


def _read(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """What a file says of itself, and its tensors."""
    try:
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get("attention maps")
            if said is None:
                raise InputError(
                    f"{path} holds no attention maps. Write them with maps.save(path)."
                )
            about = json.loads(said)
            if about["format"] > FORMAT:
                raise InputError(f"A newer p2p_helpers wrote {path}. Update this one to read it.")
            if about["format"] < FORMAT:
                raise InputError(f"{path} is of a form that was never released. Record it again.")
            return about, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} cannot be read: {first_line(error)}. Write maps with maps.save(path)."
        ) from None


def load(path: Path) -> AttentionMaps:
    """Read what `save` wrote. Raises InputError."""
    about, tensors = _read(path)
    try:
        return _maps(about, tensors)
    except (KeyError, ValueError, TypeError, AttributeError, zlib.error) as error:
        raise InputError(
            f"{path} is damaged ({first_line(error)}). Record the maps again."
        ) from error


def _maps(about: dict, tensors: dict[str, Tensor]) -> AttentionMaps:
    """The maps of a file."""
    tokenizer = _tokenizer(tensors, about["lengths"])
    maps = AttentionMaps(tokenizer, about["prompts"], Record(**about["record"]))
    maps.columns = about["columns"]
    maps.steps = about["steps"]
    maps.level = tuple(about["level"])
    maps.shapes = {layer: tuple(shape) for layer, shape in about["shapes"].items()}
    maps.kinds = about["kinds"]
    maps.counts = about["counts"]
    maps.level_layers = about["level_layers"]
    for name, tensor in tensors.items():
        kind, layer = name.split("/", 1)
        kept = getattr(maps, kind)
        if kind in MEANS:
            kept[layer] = tensor
        else:
            kept.update({(layer, step): one for step, one in enumerate(tensor)})
    return maps
