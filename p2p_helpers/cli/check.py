"""`p2p check`: an environment check with one timed edit, in lines that can be pasted into a bug report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import time
from pathlib import Path

PACKAGES = (
    "p2p-helpers",
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "pillow",
    "matplotlib",
    "jupyterlab",
    "ipywidgets",
)


def problems() -> int:
    """Print the check; gives how many things do not work."""
    count = 0

    def line(ok: bool, what: str):
        nonlocal count
        count += not ok
        print(f"{'OK     ' if ok else 'PROBLEM'}  {what}", flush=True)

    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    line(sys.version_info >= (3, 10), f"Python {platform.python_version()} on {machine}")
    for name in PACKAGES:
        try:
            line(True, f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            line(True, f"{name} is not installed; only the notebooks need it")
    import torch

    from ..errors import ModelError
    from ..pipelines import best_device, load_pipeline
    from ..run import edit

    device = best_device()
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        line(
            True,
            f"device: {torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free",
        )
    else:
        line(True, f"device: {device}, {torch.get_num_threads()} threads")
    if Path("/proc/meminfo").exists():
        free = (
            int(re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) / 2**20
        )
        line(True, f"memory: {free:.1f} GiB available; an edit needs about 1")
    try:
        start = time.time()
        pipe = load_pipeline("toyland", device=device)
        line(True, f"embedded model found, loaded in {time.time() - start:.1f} s")
        edit(pipe, "a cat on the beach", "a dog on the beach", steps=1, progress=False)
        start = time.time()
        edit(pipe, "a cat on the beach", "a dog on the beach", steps=30, progress=False)
        line(True, f"one edit, 2 prompts, 30 steps: {time.time() - start:.1f} s")
    except ModelError as error:
        line(False, str(error))
    print("Everything works." if not count else f"{count} problem(s).")
    return count
