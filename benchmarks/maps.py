"""How well word maps find objects: `python -m benchmarks.maps`. Prints a table, and stores it for notebook 01 with `--publish`.

Painted test scenes are inverted by DDIM and sampled back without guidance, while attention is recorded, so that every object's true mask
is known. Three ways to make a mask of a word's maps; each with the threshold that is best on validation scenes:
the paper's (mean of the layers at a quarter of the sides), DAAM's (all layers enlarged and summed; Tang et al. 2022, arXiv 2210.04885),
and ours (`Heatmap.refine`: all sizes fused, then spread along self-attention).
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMInverseScheduler

import p2p_helpers as p2p
from p2p_helpers.inversion.pivot import _pivot
from p2p_helpers.provenance import machine
from p2p_helpers.toyland import caption, render, scene_at
from p2p_helpers.toyland.world import SIZE

from .inversion import interval

MEASURED = Path(__file__).parent.parent / "data" / "benchmark" / "maps.json"
STEPS = 10
THRESHOLDS = np.arange(0.05, 0.96, 0.05)
WAYS = {
    "mean at 16×16": lambda heat: heat.upsample((SIZE, SIZE)),
    "all layers, enlarged and summed": lambda heat: heat.fused((SIZE, SIZE)),
    "spread along self-attention": lambda heat: heat.refine((SIZE, SIZE)),
}


def maps_of(pipe, scene):
    """Recorded maps of a scene's picture."""
    picture, masks = render(scene)
    pivot = _pivot(pipe, picture, caption(scene), STEPS, DDIMInverseScheduler.from_config)
    with p2p.record(pipe) as maps:
        start = {"num_inference_steps": STEPS, "guidance_scale": 1.0, "output_type": "latent"}
        pipe([caption(scene)], latents=pivot[:1], **start)
    return maps, masks


def score(pipe, split: str, count: int) -> dict[str, dict]:
    """Way → intersection over union at each threshold (object, threshold), and whether the peak is on the object (object,)."""
    found = {way: {"iou": [], "pointing": []} for way in WAYS}
    for scene in (scene_at(split, i) for i in range(count)):
        maps, masks = maps_of(pipe, scene)
        for thing, mask in zip(scene.things, torch.from_numpy(masks), strict=True):
            for way, make in WAYS.items():
                heat = make(maps[thing.name])
                share = heat / heat.max()
                made = torch.stack([share > t for t in THRESHOLDS])
                union, both = (made | mask).sum((1, 2)), (made & mask).sum((1, 2))
                found[way]["iou"].append((both / union).tolist())
                found[way]["pointing"].append(bool(mask.flatten()[heat.argmax()]))
    return found


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.maps", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument(
        "--publish", action="store_true", help="store the figures in data/benchmark"
    )
    chosen = parser.parse_args()
    pipe = p2p.load_pipeline("toyland", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    tuning, test = (
        score(pipe, "validation", max(chosen.scenes // 4, 1)),
        score(pipe, "test", chosen.scenes),
    )
    table = {}
    for way in WAYS:
        best = int(np.mean(tuning[way]["iou"], axis=0).argmax())
        iou = [row[best] for row in test[way]["iou"]]
        table[way] = {
            "threshold": float(THRESHOLDS[best]),
            "iou": interval(iou),
            "pointing": interval(test[way]["pointing"]),
        }
        table[way]["objects"] = len(iou)
        (mean, half), (hit, around) = table[way]["iou"], table[way]["pointing"]
        print(
            f"{way:34} IoU {mean:.3f} ± {half:.3f} at threshold {THRESHOLDS[best]:.2f}; peak on object {hit:.1%} ± {around:.1%}"
        )
    if chosen.publish:
        about = {"machine": machine(), "scenes": chosen.scenes, "steps": STEPS}
        MEASURED.write_text(json.dumps({**about, "ways": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
