"""`p2p check`: an environment check with one timed edit, in lines that can be pasted into a bug report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time

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


MISSING = {
    "p2p-helpers": ": it is imported from a folder",
    "jupyterlab": "; only the notebooks need it",
    "ipywidgets": "; only the notebooks and the studio need it",
}


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
            line(True, f"{name} is not installed{MISSING.get(name, '')}")
    import torch

    from ..errors import P2PError
    from ..memory import free_bytes
    from ..pipelines import best_device, load_pipeline
    from ..run import edit
    from ..values import first_line

    device = best_device()
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        line(
            True,
            f"device: {torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free",
        )
    else:
        line(True, f"device: {device}, {torch.get_num_threads()} threads")
    left = free_bytes("cpu")
    if left is not None:
        line(True, f"memory: {left / 2**30:.1f} GiB available; an edit needs about 1")
    try:
        start = time.time()
        pipe = load_pipeline("toyland", device=device)
        line(True, f"embedded model found, loaded in {time.time() - start:.1f} s")
        edit(pipe, "a cat on the beach", "a dog on the beach", steps=1, progress=False)
        start = time.time()
        edit(pipe, "a cat on the beach", "a dog on the beach", steps=30, progress=False)
        line(True, f"one edit, 2 prompts, 30 steps: {time.time() - start:.1f} s")
    except P2PError as error:
        line(False, str(error))
    except Exception as error:  # whatever it is, the report shall have it
        line(False, f"{type(error).__name__}: {first_line(error)}")
    print("Everything works." if not count else f"{count} problem(s).")
    return count
