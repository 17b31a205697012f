"""The memory that is free, what a call takes, and how many targets fit in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

MOST = 32  # targets in one call; more gain nothing
UNMEASURED = 8  # where nothing says how much memory is free
USED = {"cuda": 0.8, "cpu": 0.5}  # of what is free: a CPU's process is killed where a GPU's is told
MEMINFO, STATUS, CLEAR = Path("/proc/meminfo"), Path("/proc/self/status"), "/proc/self/clear_refs"

Result = TypeVar("Result")


def free_bytes(device: str) -> int | None:
    """Memory that is free on a device, where it is known."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device == "cpu" and MEMINFO.exists():
        return _kib(MEMINFO, "MemAvailable")
    return None


def measured(device: str, call: Callable[[], Result]) -> tuple[Result, int | None]:
    """What a call gives, and its peak memory above what was in use before, where it is known."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = call()
        return result, torch.cuda.max_memory_allocated(device) - before
    if device != "cpu" or not STATUS.exists():
        return call(), None
    try:
        Path(CLEAR).write_text("5")  # the peak is counted from here
    except OSError:
        return call(), None
    before = _kib(STATUS, "VmRSS")
    result = call()
    return result, _kib(STATUS, "VmHWM") - before


def fitting(free: int | None, peak: int | None, prompts: int, kind: str, share: float) -> int:
    """How many targets go in one call beside the source.

    Args:
        free: bytes.
        peak: bytes that a call of so many prompts took.
        prompts: source and targets of that call.
        kind: "cuda" or "cpu".
        share: of the device's memory that is this process's.
    """
    if free is None or peak is None:
        return UNMEASURED
    budget = free * USED.get(kind, 0.5) * share
    each = max(1, peak / prompts)
    return max(1, min(MOST, int(budget / each) - 1))


def is_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory has run out."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    known = (
        "out of memory",
        "can't allocate memory",
        "not enough memory",
        "Cannot allocate memory",
        "ALLOC_FAILED",  # cuBLAS
    )
    return isinstance(error, kinds) or any(said in str(error) for said in known)


def _kib(file: Path, field: str) -> int:
    """A field of one of Linux's tables, in bytes."""
    return int(file.read_text().split(f"{field}:")[1].split()[0]) * 1024
