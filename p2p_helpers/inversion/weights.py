"""The weights of a network and of the adapters on it, known again however they are kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

FUSED = re.compile(r"\.to_(qkv|kv|added_qkv)\.")  # copies that fuse_qkv_projections makes
COMPILED = "_orig_mod."  # what torch.compile's wrapper puts before names


def digests(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Hash names, shapes, and some 64 values of each tensor, rounded to float16 and to bfloat16.

    A model that was moved to half precision shares one of the two with what it was before.
    """
    found = {"float16": hashlib.sha256(), "bfloat16": hashlib.sha256()}
    for name, weight in tensors:
        few = weight.flatten()[:: max(1, weight.numel() // 64)].detach().cpu()
        for dtype, digest in found.items():
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            digest.update(few.to(getattr(torch, dtype)).view(torch.int16).numpy().tobytes())
    return {dtype: digest.hexdigest()[:16] for dtype, digest in found.items()}


def own_weights(part: nn.Module) -> dict[str, Tensor]:
    """A network's weights by name, in order.

    A compiled wrapper, fused projections, and layers that an adapter replaced leave no trace.
    """
    tuned = tuple(f"{name}." for name, _ in _tuned(part))
    found = {}
    for key, weight in _state(part).items():
        adapter = key.startswith(tuned) and ".base_layer." not in key
        if not adapter and not FUSED.search(key):
            found[key.replace(COMPILED, "").replace(".base_layer.", ".")] = weight
    return dict(sorted(found.items()))


def adapters(parts: Iterable[nn.Module]) -> dict[str, list[str]]:
    """The adapters (LoRA and its kin) that act, each with its scale.

    Their names are shown, but do not count.
    """
    weights: dict[str, list[tuple[str, Tensor]]] = {}
    scales: dict[str, set[str]] = {}
    for place, part in enumerate(parts):
        state = _state(part)
        for name, layer in _tuned(part):
            for adapter, scale in _acting(layer).items():
                scales.setdefault(adapter, set()).add(scale)
                where = f"{place} {name.replace(COMPILED, '')} {scale}"
                weights.setdefault(adapter, []).extend(
                    (f"{where} {key.split('.')[0]}", state[f"{name}.{key}"])
                    for key in layer.state_dict()
                    if adapter in key.split(".") and not key.startswith("base_layer.")
                )
    hashed = [digests(own) for own in weights.values()]
    return {
        "shown": [f"{name} at scale {' and '.join(sorted(scales[name]))}" for name in scales],
        "float16": sorted(digest["float16"] for digest in hashed),
        "bfloat16": sorted(digest["bfloat16"] for digest in hashed),
    }


def _state(part: nn.Module) -> dict[str, Tensor]:
    """Every tensor of a network by its name, also where accelerate offloads it."""
    state = part.state_dict()
    for name, module in part.named_modules():
        hook = getattr(module, "_hf_hook", None)  # accelerate's, or several in one
        before = f"{name}." if name else ""
        own = [before + key for key, _ in module.named_parameters(recurse=False)]
        for kept in (getattr(h, "weights_map", None) for h in getattr(hook, "hooks", [hook])):
            if kept is not None:
                away = [key for key in own if state[key].is_meta]
                state |= {key: kept[key.rpartition(".")[2]] for key in away}
    return state


def _tuned(part: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers in whose place PEFT has put its own, by name."""
    return [
        (name, module)
        for name, module in part.named_modules()
        if hasattr(module, "base_layer") and hasattr(module, "active_adapters")
    ]


def _acting(layer) -> dict[str, str]:
    """The adapters that change what one layer gives, and their scales.

    A fused one is not among them: it is in the layer's own weights.
    """
    if layer.disable_adapters:
        return {}
    scaling = getattr(layer, "scaling", None)  # of the adapters that this layer has, by name
    scales = {name: scaling.get(name, 0.0) if scaling else 1.0 for name in layer.active_adapters}
    merged = layer.merged_adapters
    return {
        name: f"{float(scale):.6g}"
        for name, scale in scales.items()
        if scale != 0 and name not in merged
    }
