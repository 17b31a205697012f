"""Put what is trained so far, finished or not, where the package finds it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from ...paths import data_folder
from .diffusion import diffusion


def ship(config: dict, out: Path, device: str):
    """Copy the averaged weights of the last checkpoint and the reader, if it is trained, into data/toyland, with their checksums."""
    if not (out / "diffusion" / "checkpoint.pt").exists():
        raise SystemExit(
            f"{out}/diffusion has no checkpoint. Train first: python -m p2p_helpers.toyland.training diffusion"
        )
    diffusion(
        {**config, "diffusion": {**config["diffusion"], "steps": 0}}, out, device
    )  # no step is taken: only loads and saves
    folder = data_folder("toyland")
    shutil.rmtree(folder / "pipeline", ignore_errors=True)
    shutil.copytree(out / "pipeline", folder / "pipeline")
    reader = out / "reader.safetensors"
    if reader.exists():
        shutil.copy(reader, folder)
    files = sorted(
        f for f in [*folder.glob("pipeline/**/*"), *folder.glob("reader.*")] if f.is_file()
    )
    sums = {
        f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }
    (folder / "checksums.json").write_text(json.dumps(sums, indent=2) + "\n")
    print(f"shipped {sum(f.stat().st_size for f in files) / 1e6:.1f} MB")
