"""Train the embedded model: `python -m p2p_helpers.toyland.training STAGE`.

Every number comes from data/toyland/training.json. A run writes into `runs/<stage>/`: `checkpoint.pt` every few minutes
(atomically, so a run killed at any moment goes on where it was, on the same loss curve), `log.csv` and a sample grid. What
a step sees follows from its number alone, never from a hidden random state.
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

import torch

from ...paths import data_folder

STAGES = ("autoencoder", "diffusion", "decoder", "transformer", "reader", "ship")


def main(arguments: list[str] | None = None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m p2p_helpers.toyland.training", description=__doc__.split("\n")[0]
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--config", type=Path, default=data_folder("toyland") / "training.json")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs"),
        help="checkpoints, logs and results; resumed from where it exists",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    config = json.loads(chosen.config.read_text())
    stage = importlib.import_module(f"{__package__}.{chosen.stage}")
    getattr(stage, chosen.stage)(config, chosen.out, chosen.device)


if __name__ == "__main__":
    main()
