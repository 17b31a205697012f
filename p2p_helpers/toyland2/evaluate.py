"""Measure the embedded model on scenes it never saw: `python -m p2p_helpers.toyland.evaluate`.

Writes every figure to a JSON file; the model card and the README quote that file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..blend import LocalBlend
from ..edits import Edit, Replace, Reweight
from ..errors import SceneError
from ..metrics import psnr
from .counterfactual import swap
from .reader import CELL, Found, Reading, load_reader
from .world import Scene, caption, scene_at

NO_CONTROL = Replace(cross_steps=0.0, self_steps=0.0)
AROUND = 2  # cells around the objects that do not count as background


def agreement(scenes: list[Scene], readings: list[Reading]) -> dict[str, float | int]:
    """How often the reader finds what the captions say. Shares in 0…1; an object counts only if its name is found.

    Colour is judged where the caption names one and the style has colours; it counts as wrong if its object is not found.
    """
    names = ("background", "style", "night", "snow", "autumn", "one object", "two objects", "colour")
    rows: dict[str, list[bool]] = {name: [] for name in names}
    for scene, reading in zip(scenes, readings, strict=True):
        found = {f.name: f for f in reading.objects}
        rows["background"].append(reading.background == scene.background)
        rows["style"].append(reading.style == ("plain" if scene.style == "photo" else scene.style))
        for switch in ("night", "snow", "autumn"):
            rows[switch].append(getattr(reading, switch) == (getattr(scene, switch) > 0))
        rows["one object" if len(scene.things) == 1 else "two objects"].append(all(t.name in found for t in scene.things))
        if scene.style != "old photo":
            rows["colour"] += [t.name in found and found[t.name].colour == t.colour for t in scene.things if t.colour]
    return {name: float(np.mean(right)) if right else float("nan") for name, right in rows.items()} | {"scenes": len(scenes)}


def overlap(a: Found, b: Found) -> float:
    """Intersection over union of two objects' boxes, 0…1."""
    left, top = max(a.box[0], b.box[0]), max(a.box[1], b.box[1])
    right, bottom = min(a.box[2], b.box[2]), min(a.box[3], b.box[3])
    common = max(right - left, 0) * max(bottom - top, 0)
    areas = sum((f.box[2] - f.box[0]) * (f.box[3] - f.box[1]) for f in (a, b))
    return common / (areas - common)


def behind(*found: Found | None) -> np.ndarray:
    """The pixels at least two cells from all objects, bool (height, width)."""
    busy = np.zeros((16, 16), bool)
    for f in found:
        if f is not None:
            busy |= f.cells
    for _ in range(AROUND):
        padded = np.pad(busy, 1)
        busy = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:] | busy
    return ~np.kron(busy, np.ones((CELL, CELL), bool)).astype(bool)


def swap_cases(count: int, far: bool, split: str = "test") -> list[tuple[Scene, Scene, str, str]]:
    """Swaps in one-object scenes: before, after, the old and the new word."""
    cases, i = [], 0
    while len(cases) < count:
        scene = scene_at(split, i, objects=1)
        try:
            after, _, old, new = swap(scene, np.random.default_rng(i), far)
            cases.append((scene, after, old, new))
        except SceneError:
            pass
        i += 1
    return cases


def judge_swaps(pipe, reader, cases, change: Edit, local_blend: bool = False, *, steps: int = 30) -> dict[str, float | int]:
    """Swap words and let the reader judge.

    Returns:
        `seen` (share of swaps after which the new object is named), `overlap` (of the two objects' boxes, median), `background`
        (PSNR in dB, median, behind the objects), and how many source pictures showed the old object at all (only those count).
    """
    from ..run import edit

    seen, overlaps, kept = [], [], []
    for i, (before, after, old, new) in enumerate(cases):
        blend = LocalBlend((old, new)) if local_blend else None
        result = edit(pipe, caption(before), caption(after), change, local_blend=blend, seed=i, steps=steps, progress=False)
        source, target = ({f.name: f for f in r.objects} for r in reader.read([result.source, result.image]))
        if old not in source:
            continue
        seen.append(new in target)
        if new in target:
            overlaps.append(overlap(source[old], target[new]))
        where = behind(source[old], target.get(new))
        kept.append(psnr(np.asarray(result.source), np.asarray(result.image), where))
    return {
        "seen": float(np.mean(seen)),
        "overlap": float(np.median(overlaps)) if overlaps else float("nan"),
        "background": float(np.median(kept)),
        "judged": len(seen),
        "swaps": len(cases),
    }


def judge_faders(pipe, reader, count: int, weights=(1.0, 0.0, -2.0), *, steps: int = 30) -> dict[str, float]:
    """Turn "falling snow" down: the share of pictures in which the reader still sees snow, by weight."""
    from ..run import edit

    cases = [s for s in (scene_at("test", i) for i in range(40 * count)) if s.snow][:count]
    still: dict[str, list[bool]] = {str(w): [] for w in weights}
    for i, scene in enumerate(cases):
        text = caption(scene)
        edits = [Reweight({"falling snow": w}, cross_steps=1.0) for w in weights]
        result = edit(pipe, text, [text] * len(weights), edits, seed=i, steps=steps, progress=False)
        for w, reading in zip(weights, reader.read(result.images), strict=True):
            still[str(w)].append(reading.snow)
    return {w: float(np.mean(seen)) for w, seen in still.items()}


def generate(pipe, prompts: list[str], steps: int = 30, guidance_scale: float | None = None) -> list[Image.Image]:
    """One picture for each prompt; prompt number i gets seed i."""
    pipe.set_progress_bar_config(disable=True)
    scale = pipe.tokenizer.init_kwargs["guidance_scale"] if guidance_scale is None else guidance_scale
    images = []
    for i in range(0, len(prompts), 16):
        generators = [torch.Generator().manual_seed(j) for j in range(i, min(i + 16, len(prompts)))]
        images += pipe(prompts[i : i + 16], num_inference_steps=steps, guidance_scale=scale, generator=generators).images
    return images


SWAPS = {
    "no control": (NO_CONTROL, False),
    "word swap 0.8/0.4": (Replace(), False),
    "word swap 0.4/0.2, all layers": (Replace(cross_steps=0.4, self_steps=0.2, self_size=1.0), False),
    "word swap 0.4/0.2, all layers, local blend": (Replace(cross_steps=0.4, self_steps=0.2, self_size=1.0), True),
}


def main(arguments: list[str] | None = None):
    """The command line."""
    from ..pipelines import load_pipeline

    parser = argparse.ArgumentParser(prog="python -m p2p_helpers.toyland.evaluate", description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--swaps", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--model", default="toyland")
    parser.add_argument("--reader", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    chosen = parser.parse_args(arguments)
    pipe, reader = load_pipeline(chosen.model), load_reader(chosen.reader)
    scenes = [scene_at("test", i) for i in range(chosen.scenes)]
    images = generate(pipe, [caption(s) for s in scenes], chosen.steps)
    figures = {"generated": agreement(scenes, reader.read(images)), "steps": chosen.steps}
    print(json.dumps(figures, indent=2), flush=True)
    for far in (False, True):
        cases = swap_cases(chosen.swaps, far)
        for name, (change, blend) in SWAPS.items():
            key = f"{'far' if far else 'near'} swaps: {name}"
            figures[key] = judge_swaps(pipe, reader, cases, change, blend, steps=chosen.steps)
            print(key, json.dumps(figures[key]), flush=True)
    figures["snow still seen"] = judge_faders(pipe, reader, max(chosen.swaps // 2, 8), steps=chosen.steps)
    (chosen.out / "evaluation.json").write_text(json.dumps(figures, indent=2))
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
