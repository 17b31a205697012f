"""Which resolutions of cross-attention carry control, and what cross-attention up to 8×8 or 16×16 in *training* changes.

`python -m benchmarks.resolutions edits` needs no training: word swaps of the embedded model with maps lent in the layers of one size
or several. `python -m benchmarks.resolutions train 8` and `train 16` go on from the embedded model's UNet with its 16×16 attention
layers taken away, without any there or with fresh ones, for equally many equal batches; each goes on where it was. `compare` measures
both. The paper wishes for cross-attention at higher resolutions (Hertz et al. 2022, section 5).
"""

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import torch

import p2p_helpers as p2p
from p2p_helpers.paths import data_folder
from p2p_helpers.provenance import machine
from p2p_helpers.toyland import load_reader
from p2p_helpers.toyland.evaluate import agreement, generate, judge_swaps, swap_cases
from p2p_helpers.toyland.training.diffusion import diffusion
from p2p_helpers.toyland.world import SIZE, caption, scene_at

from .inversion import interval
from .maps import THRESHOLDS, maps_of

OUT = Path("runs/resolutions")
MEASURED = Path(__file__).parent.parent / "data" / "benchmark" / "resolutions.json"
LEVELS = {
    "4×4": ("down_blocks.2", "mid_block", "up_blocks.0"),
    "8×8": ("down_blocks.1", "up_blocks.1"),
    "16×16": ("down_blocks.0", "up_blocks.2"),
}
SUBSETS = (
    ("4×4",),
    ("8×8",),
    ("16×16",),
    ("4×4", "8×8"),
    ("8×8", "16×16"),
    ("4×4", "8×8", "16×16"),
)


def edits(pipe, reader, swaps: int) -> dict[str, dict]:
    """Sizes → what word swaps do when maps are lent in layers of these sizes only, near and far swaps together."""
    cases = [*swap_cases(swaps, far=False), *swap_cases(swaps, far=True)]
    found = {}
    for sizes in ((), *SUBSETS):
        layers = [name for size in sizes for name in LEVELS[size]]
        lent = (
            {"cross_steps": 0.8, "layers": layers}
            if sizes
            else {"cross_steps": 0.0, "layers": None}
        )
        name = " and ".join(sizes) or "none"
        found[name] = judge_swaps(pipe, reader, cases, p2p.Replace(self_steps=0.0, **lent))
        print(name, json.dumps(found[name]), flush=True)
    return found


def sharpness(pipe, scenes: int) -> dict[str, tuple[float, float]]:
    """Size → intersection over union of masks made of its maps with objects' true masks, each at its best threshold."""
    scores: dict[str, list] = {}
    for scene in (scene_at("test", i) for i in range(scenes)):
        maps, masks = maps_of(pipe, scene)
        for thing, mask in zip(scene.things, torch.from_numpy(masks), strict=True):
            by_size: dict[str, list] = {}
            for number, name in enumerate(maps.layers):
                rows, columns = maps.shapes[name]
                heat = maps[thing.name].at(layer=number).upsample((SIZE, SIZE))
                by_size.setdefault(f"{rows}×{columns}", []).append(heat)
            for size, heats in by_size.items():
                mean = torch.stack(heats).mean(0)
                made = torch.stack([mean > t * mean.max() for t in THRESHOLDS])
                both, either = (made & mask).sum((1, 2)), (made | mask).sum((1, 2))
                scores.setdefault(size, []).append((both / either).tolist())
    best = {size: int(np.mean(rows, axis=0).argmax()) for size, rows in scores.items()}
    return {size: interval([row[best[size]] for row in rows]) for size, rows in scores.items()}


def train(highest: int, steps: int):
    """Train, or go on training, the UNet with cross-attention up to 8×8 or 16×16."""
    config = json.loads((data_folder("toyland") / "training.json").read_text())
    settings = copy.deepcopy(config["diffusion"])
    settings["start"] = str(data_folder("toyland") / "pipeline")
    settings["start_without"] = ["down_blocks.0.attentions", "up_blocks.2.attentions"]
    settings["steps"] = steps
    if highest == 8:
        settings["unet"]["down_block_types"][0] = "DownBlock2D"
        settings["unet"]["up_block_types"][-1] = "UpBlock2D"
    folder = OUT / str(highest)
    folder.mkdir(parents=True, exist_ok=True)
    diffusion(config | {"diffusion": settings}, folder, "cpu")


def compare(scenes: int, swaps: int) -> dict[str, dict]:
    """Highest resolution → pictures, maps and edits of the model trained with it."""
    reader, found = load_reader(), {}
    asked = [scene_at("test", i) for i in range(scenes)]
    cases = [*swap_cases(swaps, far=False), *swap_cases(swaps, far=True)]
    for highest in (8, 16):
        pipe = p2p.load_pipeline(OUT / str(highest) / "pipeline", device="cpu")
        images = generate(pipe, [caption(scene) for scene in asked])
        found[f"{highest}×{highest}"] = {
            "generated": agreement(asked, reader.read(images)),
            "maps": sharpness(pipe, scenes),
            "no control": judge_swaps(
                pipe, reader, cases, p2p.Replace(cross_steps=0.0, self_steps=0.0)
            ),
            "word swap": judge_swaps(pipe, reader, cases, p2p.Replace(self_steps=0.0)),
        }
        print(highest, json.dumps(found[f"{highest}×{highest}"]), flush=True)
    return found


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resolutions", description=__doc__.split("\n")[0]
    )
    parser.add_argument("what", choices=("edits", "train", "compare"))
    parser.add_argument("highest", nargs="?", type=int, choices=(8, 16))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--swaps", type=int, default=32, help="near ones, and as many far ones")
    chosen = parser.parse_args()
    if chosen.what == "train":
        train(chosen.highest, chosen.steps)
        return
    if chosen.what == "edits":
        pipe = p2p.load_pipeline("toyland", device="cpu")
        found = {"edits": edits(pipe, load_reader(), chosen.swaps)}
        found["maps"] = sharpness(pipe, chosen.scenes)
    else:
        found = {"trained": compare(chosen.scenes, chosen.swaps)}
    before = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    MEASURED.write_text(json.dumps(before | found | {"machine": machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
