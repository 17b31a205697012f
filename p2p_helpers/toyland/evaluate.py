"""Measure the embedded model on scenes it never saw: `python -m p2p_helpers.toyland.evaluate`.

Writes every figure to a JSON file and a contact sheet of generated pictures; the model card and the README quote that file.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..blend import LocalBlend
from ..edits.edit import Edit
from ..edits.words import Replace
from ..metrics import psnr
from ..paths import data_folder
from ..pipelines import best_device, load_pipeline
from ..run import edit
from .counterfactual import swap
from .reader import Found, Reading, load_reader
from .render import render
from .world import OBJECTS, SIZE, Scene, caption, scene_at


def agreement(scenes: list[Scene], readings: list[Reading]) -> dict[str, float | int]:
    """How often the reader finds what the captions say. Shares in 0…1; an object counts only if its name is found.

    Colour is judged where the caption names one and the style is not a pencil sketch; it counts as wrong if its object is not found.
    """
    rows: dict[str, list[bool]] = {
        k: []
        for k in ("background", "style", "night", "snow", "one object", "two objects", "colour")
    }
    for scene, reading in zip(scenes, readings, strict=True):
        found = {f.name: f for f in reading.objects}
        rows["background"].append(reading.background == scene.background)
        rows["style"].append(reading.style == ("plain" if scene.style == "photo" else scene.style))
        rows["night"].append(reading.night == (scene.night > 0))
        rows["snow"].append(reading.snow == (scene.snow > 0))
        rows["one object" if len(scene.things) == 1 else "two objects"].append(
            all(t.name in found for t in scene.things)
        )
        if scene.style != "sketch":
            rows["colour"] += [
                t.name in found and found[t.name].colour == t.colour
                for t in scene.things
                if t.colour
            ]
    return {
        name: float(np.mean(right)) if right else float("nan") for name, right in rows.items()
    } | {"scenes": len(scenes)}


def _outside(*found: Found | None) -> np.ndarray:
    keep = np.ones((SIZE, SIZE), bool)
    for f in found:
        if f is not None:
            left, top, right, bottom = f.box
            keep[top:bottom, left:right] = False
    return keep


def _landed(old: Found, new: Found | None) -> bool:
    """Whether the new object's middle lies in the old one's box."""
    if new is None:
        return False
    left, top, right, bottom = old.box
    x, y = (new.box[0] + new.box[2]) / 2, (new.box[1] + new.box[3]) / 2
    return left <= x <= right and top <= y <= bottom


def judge_swaps(
    pipe,
    reader,
    count: int,
    change: Edit,
    local_blend: bool = False,
    *,
    split: str = "test",
    steps: int = 30,
) -> dict[str, float | int]:
    """Swap one word in `count` captions and let the reader judge; with `local_blend` on the old and the new word.

    `Replace(cross_steps=0.0, self_steps=0.0)` is the same seed without control.

    Returns:
        `landed` (share of swaps after which the new object is seen where the old one was), `gone` (the old object is no longer
        seen), `background psnr` (dB, median, outside both objects' boxes, edited against source picture), and how many of the source
        pictures showed the old object at all (only those are judged).
    """
    landed, gone, kept = [], [], []
    for i in range(count):
        scene = scene_at(split, i)
        after, _, old_name, new_name = swap(scene, np.random.default_rng(i))
        blend = LocalBlend((old_name, new_name)) if local_blend else None
        result = edit(
            pipe,
            caption(scene),
            caption(after),
            change,
            local_blend=blend,
            seed=i,
            steps=steps,
            progress=False,
        )
        source, target = result.source, result.image
        before, now = ({f.name: f for f in r.objects} for r in reader.read([source, target]))
        if old_name not in before:
            continue
        old, new = before[old_name], now.get(new_name)
        landed.append(_landed(old, new))
        gone.append(old_name not in now)
        kept.append(psnr(np.asarray(source), np.asarray(target), _outside(old, new)))
    return {
        "landed": float(np.mean(landed)),
        "gone": float(np.mean(gone)),
        "background psnr": float(np.median(kept)),
        "judged": len(landed),
        "swaps": count,
    }


def generate(
    pipe, prompts: list[str], steps: int = 30, guidance_scale: float | None = None
) -> list[Image.Image]:
    """One picture for each prompt; prompt number i gets seed i."""
    pipe.set_progress_bar_config(disable=True)
    scale = (
        pipe.tokenizer.init_kwargs["guidance_scale"] if guidance_scale is None else guidance_scale
    )
    images = []
    for i in range(0, len(prompts), 16):
        generators = [torch.Generator().manual_seed(j) for j in range(i, min(i + 16, len(prompts)))]
        images += pipe(
            prompts[i : i + 16],
            num_inference_steps=steps,
            guidance_scale=scale,
            generator=generators,
        ).images
    return images


TARGETS = {  # what this model is meant to reach, as shares
    "background": 0.98,
    "style": 0.95,
    "night": 0.95,
    "snow": 0.95,
    "one object": 0.95,
    "two objects": 0.85,
    "colour": 0.90,
}


NO_CONTROL = "same seed, no control"
SWAPS = {  # the edit, and whether with local blend; the third one's schedules were chosen on validation scenes
    "word swap": (Replace(), False),
    "word swap with local blend": (Replace(), True),
    "word swap, all self-attention": (
        Replace(cross_steps=0.8, self_steps=0.9, self_size=1.0),
        False,
    ),
    NO_CONTROL: (Replace(cross_steps=0.0, self_steps=0.0), False),
}


def report(figures: dict) -> str:
    """The measured figures as Markdown tables, as the README and the model card quote them."""
    made, renders = figures["generated"], figures["reader on renders"]
    lines = [
        f"On {made['scenes']} test prompts, {figures['steps']} steps, guidance {figures['guidance scale']}, judged by the reader:",
        "",
        "| found in the picture | generated | aim | the reader on painted scenes |",
        "|---|---|---|---|",
        *(
            f"| {name} | {made[name]:.1%} | {aim:.0%} | {renders[name]:.1%} |"
            for name, aim in TARGETS.items()
        ),
        "",
        f"Autoencoder on test renders: {figures['autoencoder psnr']:.1f} dB PSNR (aim 30).",
        "",
        f"Word swap on {figures['word swap']['swaps']} test captions; judged are those whose source picture shows the old object:",
        "",
        "| | new object where the old one was | old object gone | background PSNR, median | against no control | judged |",
        "|---|---|---|---|---|---|",
    ]
    for name, (change, _) in SWAPS.items():
        m = figures[name]
        quality, gain = (
            m["background psnr"],
            m["background psnr"] - figures[NO_CONTROL]["background psnr"],
        )
        shares = f"{m['landed']:.0%} | {m['gone']:.0%}"
        lines.append(
            f"| {name}: `{change}` | {shares} | {quality:.1f} dB | {gain:+.1f} dB | {m['judged']} of {m['swaps']} |"
        )
    return "\n".join(lines)


def publish(figures: dict, repository: Path):
    """Store the figures beside the model and quote them in its card and in the README, between their `measured` marks."""
    (repository / "data/toyland/evaluation.json").write_text(json.dumps(figures, indent=2) + "\n")
    for file in (repository / "README.md", repository / "data/toyland/MODEL_CARD.md"):
        before, _, rest = file.read_text().partition("<!-- measured -->\n")
        after = rest.partition("<!-- end -->")[2]
        file.write_text(f"{before}<!-- measured -->\n{report(figures)}\n<!-- end -->{after}")


def main(arguments: list[str] | None = None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m p2p_helpers.toyland.evaluate", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--swaps", type=int, default=200)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument(
        "--publish",
        action="store_true",
        help="write the figures into the model's folder, its card and the README",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"))
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    start = time.time()
    pipe, reader = load_pipeline("toyland", device=best_device()), load_reader()
    scenes = [scene_at("test", i) for i in range(chosen.prompts)]
    renders = [render(s)[0] for s in scenes]
    figures = {
        "steps": chosen.steps,
        "guidance scale": pipe.tokenizer.init_kwargs["guidance_scale"],
    }
    with torch.no_grad():
        quality = []
        for image in renders:
            pixels = (
                torch.from_numpy(np.asarray(image).copy())
                .permute(2, 0, 1)[None]
                .to(pipe.device)
                .float()
                / 127.5
                - 1
            )
            copy = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
            quality.append(-10 * ((copy - pixels).square().mean() / 4).log10().item())
    figures["autoencoder psnr"] = float(np.mean(quality))
    figures["reader on renders"] = agreement(scenes, reader.read(renders))
    print(json.dumps(figures, indent=2), flush=True)
    images = generate(pipe, [caption(s) for s in scenes], chosen.steps)
    readings = reader.read(images)
    figures["generated"] = agreement(scenes, readings)
    alone = [(s, r) for s, r in zip(scenes, readings, strict=True) if len(s.things) == 1]
    figures["objects found"] = {
        name: agreement(*zip(*pairs, strict=True))["one object"]
        for name in OBJECTS
        if (pairs := [(s, r) for s, r in alone if s.things[0].name == name])
    }
    sheet = Image.new("RGB", (8 * SIZE, 8 * SIZE))
    for i, image in enumerate(images[:64]):
        sheet.paste(image, (i % 8 * SIZE, i // 8 * SIZE))
    sheet.save(chosen.out / "contact-sheet.png")
    (chosen.out / "contact-sheet.txt").write_text("\n".join(caption(s) for s in scenes[:64]))
    print(json.dumps(figures, indent=2), flush=True)
    for name, (change, local_blend) in SWAPS.items():
        figures[name] = judge_swaps(
            pipe, reader, chosen.swaps, change, local_blend, steps=chosen.steps
        )
        print(name, json.dumps(figures[name]), flush=True)
    figures["minutes"] = (time.time() - start) / 60
    (chosen.out / "evaluation.json").write_text(json.dumps(figures, indent=2))
    print(json.dumps(figures, indent=2))
    if chosen.publish:
        publish(figures, data_folder("toyland").parent.parent)


if __name__ == "__main__":
    main()
