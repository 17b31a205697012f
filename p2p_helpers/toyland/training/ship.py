"""Put what is trained so far, finished or not, where the package finds it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from ...paths import data_folder
from .diffusion import diffusion
from .transformer import transformer


def ship(config: dict, out: Path, device: str):
    """Copy the averaged weights of the last checkpoints and the reader, as far as they are trained, into data/toyland.

    Its checksums are written anew.
    """
    folder, copied = data_folder("toyland"), 0
    for stage, made, name in (
        (diffusion, "pipeline", "pipeline"),
        (transformer, "transformer-pipeline", "transformer"),
    ):
        settings = config[stage.__name__]
        if not (out / settings.get("run", stage.__name__) / "checkpoint.pt").exists():
            continue
        stage({**config, stage.__name__: {**settings, "steps": 0}}, out, device)  # saves only
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(out / made, folder / name)
        copied += 1
    if not copied:
        raise SystemExit(
            f"{out} has no checkpoint. Train first: python -m p2p_helpers.toyland.training diffusion"
        )
    reader = out / "reader.safetensors"
    if reader.exists():
        shutil.copy(reader, folder)
    wanted = ["pipeline/**/*", "transformer/**/*", "reader.*"]
    files = sorted(f for pattern in wanted for f in folder.glob(pattern) if f.is_file())
    sums = {
        f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }
    (folder / "checksums.json").write_text(json.dumps(sums, indent=2) + "\n")
    print(f"shipped {sum(f.stat().st_size for f in files) / 1e6:.1f} MB")
