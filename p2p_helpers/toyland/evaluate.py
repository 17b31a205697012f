"""Measure an embedded model on scenes it never saw: `python -m p2p_helpers.toyland.evaluate`.

Writes every figure to a JSON file; `--publish` stores it beside the model and quotes it in the model card. After it,
`python -m benchmarks.summary` says in the README and the card what was wanted and is met.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..attention.session import joined
from ..blend import LocalBlend
from ..edits.edit import Edit
from ..edits.words import Replace, Reweight
from ..errors import SceneError
from ..inversion.methods import usual_guidance
from ..metrics import psnr
from ..paths import data_folder
from .counterfactual import EDITS, Counterfactual, counterfactual, swap
from .layout import behind, overlap, world_figures
from .reader import CELL, Found, Reading, load_reader
from .render import render
from .world import Scene, caption, scene_at

NO_CONTROL = Replace(cross_steps=0.0, self_steps=0.0)


def agreement(scenes: list[Scene], readings: list[Reading]) -> dict[str, float | int]:
    """How often the reader finds what the captions say. Shares in 0…1; an object counts only if its name is found.

    Colour is judged where the caption names one and the style has colours; it counts as wrong if its object is not found.
    What no scene has, such as two objects, is left out.
    """
    names = (
        "background",
        "style",
        "night",
        "snow",
        "autumn",
        "one object",
        "two objects",
        "colour",
    )
    rows: dict[str, list[bool]] = {name: [] for name in names}
    for scene, reading in zip(scenes, readings, strict=True):
        found = {f.name: f for f in reading.objects}
        rows["background"].append(reading.background == scene.background)
        rows["style"].append(reading.style == ("plain" if scene.style == "photo" else scene.style))
        for switch in ("night", "snow", "autumn"):
            rows[switch].append(getattr(reading, switch) == (getattr(scene, switch) > 0))
        rows["one object" if len(scene.things) == 1 else "two objects"].append(
            all(t.name in found for t in scene.things)
        )
        if scene.style != "old photo":
            rows["colour"] += [
                t.name in found and found[t.name].colour == t.colour
                for t in scene.things
                if t.colour
            ]
    shares = {name: float(np.mean(right)) for name, right in rows.items() if right}
    return shares | {"scenes": len(scenes)}


def _mask(*found: Found) -> np.ndarray:
    cells = np.any([f.cells for f in found], axis=0)
    return cells.repeat(CELL, 0).repeat(CELL, 1)


def swap_cases(
    count: int, far: bool | None, split: str = "test", first: int = 0
) -> list[tuple[Scene, Scene, str, str]]:
    """Swaps in one-object scenes: before, after, the old and the new word.

    Args:
        far: between objects of other kinds, or of one; None for both.
        first: number of the first scene that is tried.
    """
    cases, i = [], first
    while len(cases) < count:
        scene = scene_at(split, i, objects=1)
        try:
            after, _, old, new = swap(scene, np.random.default_rng(i), far)
            cases.append((scene, after, old, new))
        except SceneError:
            pass
        i += 1
    return cases


def judge_swaps(
    pipe, reader, cases, change: Edit, local_blend: bool = False, *, steps: int = 30
) -> dict[str, float | int]:
    """Swap words and let the reader judge.

    Returns:
        `seen` (share of swaps after which the new object is named and the old one is not), of those swaps the medians `overlap`
        (of the two objects' boxes) and `background` (PSNR in dB behind the objects), and how many source pictures showed the old
        object at all (only those count).
    """
    from ..run import edit

    seen, overlaps, kept = [], [], []
    for i, (before, after, old, new) in enumerate(cases):
        blend = LocalBlend((old, new)) if local_blend else None
        result = edit(
            pipe,
            caption(before),
            caption(after),
            change,
            local_blend=blend,
            seed=i,
            steps=steps,
            progress=False,
        )
        source, target = (
            {f.name: f for f in r.objects} for r in reader.read([result.source, result.image])
        )
        if old not in source:
            continue
        seen.append(new in target and old not in target)
        if not seen[-1]:
            continue
        overlaps.append(overlap(source[old].box, target[new].box))
        where = behind(_mask(source[old], target[new]))
        kept.append(psnr(np.asarray(result.source), np.asarray(result.image), where))
    return {
        "seen": float(np.mean(seen)),
        "overlap": float(np.median(overlaps)) if overlaps else None,
        "background": float(np.median(kept)) if kept else None,
        "judged": len(seen),
        "swaps": len(cases),
    }


def painted_cases(
    count: int, kind: str, split: str = "test", first: int = 0, objects: int | None = None
) -> list[Counterfactual]:
    """Edits of one kind in painted pictures, with their true results; `first` as for `swap_cases`."""
    cases, i = [], first
    while len(cases) < count:
        try:
            rng = np.random.default_rng(i)
            cases.append(counterfactual(scene_at(split, i, objects=objects), kind, rng))
        except SceneError:
            pass
        i += 1
    return cases


def edit_painted(pipe, case: Counterfactual, change: Edit | None = None, *, steps: int = 30):
    """Invert a painted picture ("direct") and edit it, its kind's usual way if no edit is given."""
    from ..inversion.methods import invert
    from ..run import edit

    how = {"method": "direct", "steps": steps, "progress": False}
    inversion = invert(pipe, case.pictures[0], case.source, **how)
    blend = case.local_blend
    return edit(
        pipe, inversion, case.target, change or case.edit, local_blend=blend, progress=False
    )


def judge_painted(
    pipe, reader, cases: list[Counterfactual], change: Edit | None = None, *, steps: int = 30
) -> dict[str, float | int]:
    """Edit painted pictures and let the reader judge.

    Returns:
        `seen` (share of edits after which what is new is seen), `truth` and `kept` (PSNR in dB to the true result, in the whole
        picture and where nothing should change, medians).
    """
    seen, whole, kept = [], [], []
    for case in cases:
        image = edit_painted(pipe, case, change, steps=steps).image
        seen.append(case.seen(reader.read([image])[0]))
        true, made = np.asarray(case.pictures[1]), np.asarray(image)
        whole.append(psnr(true, made))
        if not case.changed.all():
            kept.append(psnr(true, made, ~case.changed))
    return {
        "seen": float(np.mean(seen)),
        "truth": float(np.median(whole)),
        "kept": float(np.median(kept)) if kept else None,
        "edits": len(cases),
    }


def judge_faders(
    pipe, reader, count: int, weights=(1.0, 0.5, 0.0, -2.0), *, steps: int = 30
) -> dict[str, dict[str, float]]:
    """Turn falling snow down: the share of pictures in which the reader still sees snow, by phrase and weight.

    In captions the preposition stands before nothing else, so it has learnt to mean snow; the phrase is turned with it and without it.
    The other words use the source's maps in the first 30 % only, or they would keep the places of the flakes.
    """
    from ..run import edit

    cases = [s for s in (scene_at("test", i) for i in range(40 * count)) if s.snow][:count]
    phrases = ("falling snow", "with falling snow")
    ways = [(phrase, weight) for phrase in phrases for weight in weights]
    edits = [
        Reweight({phrase: weight}, cross_steps={"default": 0.3, phrase: 1.0}, self_steps=0.2)
        for phrase, weight in ways
    ]
    seen: list[list[bool]] = []
    for i, scene in enumerate(cases):
        text = caption(scene)
        result = edit(pipe, text, [text] * len(edits), edits, seed=i, steps=steps, progress=False)
        seen.append([reading.snow for reading in reader.read(result.images)])
    shares = dict(zip(ways, np.mean(seen, axis=0), strict=True))
    return {p: {str(w): float(shares[p, w]) for w in weights} for p in phrases}


def generate(
    pipe, prompts: list[str], steps: int = 30, guidance_scale: float | None = None
) -> list[Image.Image]:
    """One picture for each prompt; prompt number i gets seed i."""
    scale = usual_guidance(pipe) if guidance_scale is None else guidance_scale
    images = []
    with joined(pipe, "sampled") as session:
        session.quiet()
        for i in range(0, len(prompts), 16):
            some = prompts[i : i + 16]
            generators = [torch.Generator().manual_seed(i + j) for j in range(len(some))]
            images += pipe(
                some, num_inference_steps=steps, guidance_scale=scale, generator=generators
            ).images
    return images


def autoencoder_psnr(pipe, pictures: list[Image.Image]) -> float:
    """What the autoencoder alone gives back, in dB, mean."""
    found = []
    for picture in pictures:
        pixels = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None]
        pixels = (pixels.float() / 127.5 - 1).to(pipe.device, pipe.vae.dtype)
        with torch.no_grad():
            copy = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mode()).sample
        copy = ((copy.float().clamp(-1, 1) + 1) * 127.5).round().byte()[0].permute(1, 2, 0)
        found.append(psnr(np.asarray(picture), copy.cpu().numpy()))
    return float(np.mean(found))


RECOMMENDED = Replace(cross_steps=0.3, self_steps=0.2)
SWAPS = {  # the edit, and whether with local blend
    "no control": (NO_CONTROL, False),
    "word swap, usual schedules": (Replace(), False),
    "word swap, recommended for near swaps": (Replace(cross_steps=0.5, self_steps=0.3), False),
    "word swap, recommended": (RECOMMENDED, False),
    "word swap, recommended, local blend": (RECOMMENDED, True),
}
AIMS = {
    "background": 0.99,
    "style": 0.99,
    "night": 0.99,
    "snow": 0.99,
    "autumn": 0.99,
    "one object": 0.99,
    "two objects": 0.96,
    "colour": 0.98,
}


def _said(number: float | None, form: str, unit: str = "") -> str:
    """A figure, or a dash where nothing could be measured."""
    return "–" if number is None else format(number, form) + unit


def report(figures: dict) -> str:
    """The measured figures as Markdown tables, as the model card quotes them."""
    made, renders = figures["generated"], figures["renders"]
    lines = [
        f"On {made['scenes']} test prompts, {figures['steps']} steps, judged by the reader:",
        "",
        "| found in the picture | generated | aim | painted scenes |",
        "|---|---|---|---|",
        *(
            f"| {name} | {made[name]:.1%} | {aim:.0%} | {renders[name]:.1%} |"
            for name, aim in AIMS.items()
            if name in made
        ),
        "",
        f"The autoencoder alone gives painted scenes back with {figures['autoencoder']:.1f} dB.",
        "",
        f"Word swaps in one-object pictures, {figures['swaps']} near ones (within a kind, as cat → dog) and as many far ones (car → cat). "
        "Overlap of the two objects' boxes, PSNR of what is behind them: medians.",
        "",
        "| | near: new object seen | overlap | background | far: new object seen | overlap | background |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (change, _) in SWAPS.items():
        cells = [
            f"{m['seen']:.0%} | {_said(m['overlap'], '.2f')} | {_said(m['background'], '.1f', ' dB')}"
            for m in (figures[f"{which} swaps: {name}"] for which in ("near", "far"))
        ]
        lines.append(f"| {name}: `{change}` | {' | '.join(cells)} |")
    kinds = [figures[f"painted: {kind}"] for kind in EDITS]
    snow = figures["snow still seen"]
    lines += [
        "",
        f'Edits of painted pictures (method "direct"), {kinds[0]["edits"]} of each kind; what should stay, against the true edit:',
        "",
        "| | " + " | ".join(EDITS) + " |",
        "|---" * (1 + len(EDITS)) + "|",
        "| edit seen | " + " | ".join(f"{m['seen']:.0%}" for m in kinds) + " |",
        "| what should stay | " + " | ".join(_said(m["kept"], ".1f", " dB") for m in kinds) + " |",
        "",
        "Share of pictures in which snow is still seen, by the words that are turned down and their weight:",
        "",
        "| | " + " | ".join(f"× {float(w):g}" for w in snow["falling snow"]) + " |",
        "|---" * (1 + len(snow["falling snow"])) + "|",
        *(
            f"| *{phrase}* | " + " | ".join(f"{share:.0%}" for share in found.values()) + " |"
            for phrase, found in snow.items()
        ),
    ]
    return "\n".join(lines)


def quote(file: Path, mark: str, text: str):
    """Put a text between a Markdown file's `<!-- mark -->` and the next `<!-- end -->`."""
    before, found, rest = file.read_text(encoding="utf-8").partition(f"<!-- {mark} -->\n")
    after = rest.partition("<!-- end -->")[2]
    file.write_text(f"{before}{found}{text}\n<!-- end -->{after}", encoding="utf-8")


MEASURED = {  # embedded model → its figures' file, and the model card's mark where they are quoted
    "toyland": ("evaluation.json", "measured"),
    "toyland-transformer": ("evaluation-transformer.json", "measured, transformer"),
}


def publish(figures: dict, model: str = "toyland"):
    """Store an embedded model's figures beside it and quote them in the model card, between its marks."""
    folder, (name, mark) = data_folder("toyland"), MEASURED[model]
    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    (folder / name).write_text(text, encoding="utf-8")
    quote(folder / "MODEL_CARD.md", mark, report(figures))


def main(arguments: list[str] | None = None):
    """The command line."""
    from ..pipelines import load_pipeline
    from ..provenance import machine

    parser = argparse.ArgumentParser(
        prog="python -m p2p_helpers.toyland.evaluate", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--swaps", type=int, default=40, help="near ones, and as many far ones")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument(
        "--world", action="store_true", help="only measure the world, without a model"
    )
    parser.add_argument("--model", default="toyland")
    parser.add_argument("--reader", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--publish", action="store_true", help="store the figures beside the model")
    chosen = parser.parse_args(arguments)
    if chosen.publish and chosen.model not in MEASURED:
        parser.error(f"--publish is for {' and '.join(MEASURED)}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.world:
        text = json.dumps(world_figures(), indent=2) + "\n"
        print(text, end="")
        if chosen.publish:
            (data_folder("toyland") / "world.json").write_text(text, encoding="utf-8")
        return
    pipe, reader = load_pipeline(chosen.model), load_reader(chosen.reader)
    scenes = [scene_at("test", i) for i in range(chosen.scenes)]
    renders = [render(scene)[0] for scene in scenes]
    images = generate(pipe, [caption(s) for s in scenes], chosen.steps)
    figures = {
        "machine": machine(),
        "steps": chosen.steps,
        "swaps": chosen.swaps,
        "generated": agreement(scenes, reader.read(images)),
        "renders": agreement(scenes, reader.read(renders)),
        "autoencoder": autoencoder_psnr(pipe, renders[:64]),
    }
    print(json.dumps(figures, indent=2), flush=True)
    for far in (False, True):
        cases = swap_cases(chosen.swaps, far)
        for name, (change, blend) in SWAPS.items():
            key = f"{'far' if far else 'near'} swaps: {name}"
            figures[key] = judge_swaps(pipe, reader, cases, change, blend, steps=chosen.steps)
            print(key, json.dumps(figures[key]), flush=True)
    for kind in EDITS:
        cases = painted_cases(max(chosen.swaps // 2, 4), kind)
        figures[f"painted: {kind}"] = judge_painted(pipe, reader, cases, steps=chosen.steps)
        print(kind, json.dumps(figures[f"painted: {kind}"]), flush=True)
    figures["snow still seen"] = judge_faders(
        pipe, reader, max(chosen.swaps // 2, 8), steps=chosen.steps
    )
    text = json.dumps(figures, indent=2, allow_nan=False)
    name, _ = MEASURED.get(chosen.model, MEASURED["toyland"])
    (chosen.out / name).write_text(text, encoding="utf-8")
    print(report(figures))
    if chosen.publish:
        publish(figures, chosen.model)


if __name__ == "__main__":
    main()
