"""A pretend GPU: tensors that say device "fakegpu" and compute on the CPU.

Mixing devices raises as CUDA does. Copies between the devices and waits for a result are counted by the line of ours, or
of diffusers, that asks for them. Built on torch's backend for private use, which every torch since 2.9 can have in Python.
"""

from __future__ import annotations

import collections
import contextlib
import sys
from pathlib import Path

import torch
import torch.utils.backend_registration as registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = "fakegpu"
CALLS: collections.Counter = collections.Counter()  # (kind, place) → how often
# A small CPU tensor may be an index, or be copied from.
FREE = {
    "aten::index.Tensor",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::copy_",
    "aten::_to_copy",
    "aten::index",
}
SYNCS = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::nonzero",
    "aten::is_nonzero",
    "aten::masked_select",
}
_state = {"ready": False}


def available() -> bool:
    """Make the backend, once a process. False where this torch cannot."""
    setup = getattr(registration, "_setup_privateuseone_for_python_backend", None)
    if setup is None:
        return False
    if not _state["ready"]:
        setup(DEVICE)
        # Gradient checkpointing asks every backend for this, also where nothing lies on it.
        getattr(torch, DEVICE).get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
        _state["ready"] = True
    return True


def _place() -> str:
    """The innermost line of the package that runs, or "diffusers"."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if "p2p_helpers" in path.parts:
            return f"{path.name}:{frame.f_lineno}"
        frame = frame.f_back
    return "others"


class OnDevice(torch.Tensor):
    """A tensor that says that it is on the device; `inner` is on the CPU."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=f"{DEVICE}:0",
            requires_grad=inner.requires_grad,
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"OnDevice({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class Dispatch(TorchDispatchMode):
    """For what makes tensors on the device from none."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _is_device(device) -> bool:
    return device is not None and torch.device(device).type == DEVICE


def _inner(value):
    if isinstance(value, OnDevice):
        return value.inner
    if isinstance(value, torch.device) and value.type == DEVICE:
        return torch.device("cpu")
    return value


def _outer(value):
    return OnDevice(value) if isinstance(value, torch.Tensor) else value


def _run(func, args, kwargs):
    name = func._schema.name
    tensors = [
        value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)
    ]
    there = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    here = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim() > 0]
    if there and here and name not in FREE:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found {DEVICE}:0 and cpu! {name} at {_place()}"
        )
    if there and here and name != "aten::copy_" and name in FREE:
        CALLS["copy", _place()] += 1  # a list or a CPU tensor as index goes to the device first
    if there and name in SYNCS:
        CALLS["sync", _place()] += 1
    out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
    if name == "aten::_to_copy":
        device = kwargs.get("device")
        to = _is_device(device) or (device is None and bool(there))
        if to != bool(there) and tensors[0].dim() > 0:
            CALLS["copy" if not kwargs.get("non_blocking") else "copy behind", _place()] += 1
        return OnDevice(out) if to else out
    if name == "aten::copy_" and isinstance(args[0], OnDevice) != isinstance(args[1], OnDevice):
        CALLS["copy", _place()] += 1
    if func._schema.is_mutable and isinstance(args[0], torch.Tensor) and not name.endswith("out"):
        return args[0]
    stays = bool(there) and name != "aten::_local_scalar_dense"
    return tree_map(_outer, out) if stays or _is_device(kwargs.get("device")) else out


def moved(pipe):
    """The pipeline with its networks on the device."""
    for part in pipe.components.values():
        if not isinstance(part, torch.nn.Module):
            continue
        for module in part.modules():
            for name, weight in list(module._parameters.items()):
                if weight is not None:
                    on_device = OnDevice(weight.detach())
                    module._parameters[name] = torch.nn.Parameter(
                        on_device, requires_grad=weight.requires_grad
                    )
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[name] = OnDevice(buffer)
    return pipe


@contextlib.contextmanager
def counting():
    """Within the `with` block the device works; gives the counter of copies and syncs."""
    CALLS.clear()
    with Dispatch():
        yield CALLS
