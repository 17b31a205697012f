"""Which resolutions of cross-attention carry control, and what cross-attention up to 8×8 or 16×16 in *training* changes.

`python -m benchmarks.resolutions edits` needs no training: word swaps of the embedded model with maps lent in the layers of one size
or several. `python -m benchmarks.resolutions train 8` and `train 16` go on from the embedded model's UNet with its 16×16 attention
layers taken away, without any there or with fresh ones, for equally many equal batches; each goes on where it was. `compare` measures
both, and `pictures` draws both for docs/resolutions.md. The paper wishes for cross-attention at higher resolutions (Hertz et al. 2022,
section 5).
"""

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.paths import data_folder
from p2p_helpers.provenance import machine
from p2p_helpers.toyland import load_reader, render
from p2p_helpers.toyland.evaluate import agreement, generate, judge_swaps, quote, swap_cases
from p2p_helpers.toyland.training.diffusion import diffusion
from p2p_helpers.toyland.world import SIZE, caption, phrase_of, scene_at
from p2p_helpers.view.figures import figure_png, grid

from .inversion import interval
from .maps import THRESHOLDS, maps_of
from .pictures import SWAPS

OUT = Path("runs/resolutions")
MEASURED = Path(__file__).parent.parent / "data" / "benchmark" / "resolutions.json"
PAGE = Path(__file__).parent.parent / "docs" / "resolutions.md"
PICTURES = MEASURED.parent.parent / "pictures"
SHOWN = (2001, 2004)  # test scenes
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


def edit_table(found: dict) -> str:
    """Markdown: what word swaps do with the maps of some sizes."""
    rows = [
        "| maps lent in the layers of | new object seen | boxes' overlap | background |",
        "|---|---|---|---|",
    ]
    for sizes, one in found["edits"].items():
        figures = f"{one['seen']:.0%} | {_said(one['overlap'], '.2f')} | {_said(one['background'], '.1f')} dB"
        rows.append(f"| {sizes} | {figures} |")
    return "\n".join(rows)


def trained_table(found: dict) -> str:
    """Markdown: what the models trained with other cross-attention do."""
    rows = [
        "| | " + " | ".join(f"trained up to {name}" for name in found["trained"]) + " |",
        "|---" * (1 + len(found["trained"])) + "|",
    ]
    models = found["trained"].values()

    def row(name: str, figure):
        rows.append(f"| {name} | " + " | ".join(map(figure, models)) + " |")

    row("one object is there", lambda one: f"{one['generated']['one object']:.0%}")
    row("both of two objects are there", lambda one: f"{one['generated']['two objects']:.0%}")
    row("the colour is right", lambda one: f"{one['generated']['colour']:.0%}")
    for size in LEVELS:
        row(f"overlap of its {size} maps with true masks", lambda one, s=size: _iou(one["maps"], s))
    for what in ("no control", "word swap"):
        row(f"{what}: new object seen", lambda one, w=what: f"{one[w]['seen']:.0%}")
        row(f"{what}: boxes' overlap", lambda one, w=what: _said(one[w]["overlap"], ".2f"))
        row(f"{what}: background", lambda one, w=what: f"{_said(one[w]['background'], '.1f')} dB")
    return "\n".join(rows)


def _said(figure: float | None, form: str) -> str:
    """A figure, or a dash where nothing was seen that it could be measured on."""
    return "–" if figure is None else format(figure, form)


def _iou(maps: dict, size: str) -> str:
    if size not in maps:
        return "none"
    mean, half = maps[size]
    return f"{mean:.2f} ± {half:.2f}"


def publish(found: dict):
    """Quote the stored figures in docs/resolutions.md."""
    if "edits" in found:
        quote(PAGE, "edits", edit_table(found))
    if "trained" in found:
        quote(PAGE, "trained", trained_table(found))


def edit_pictures(pipe):
    """Chosen swaps with the maps lent in the layers of no size, of one size, and of all."""
    rows, names = [], []
    for source, old, new, seed in SWAPS[:3]:
        subsets = ((), *SUBSETS[:3], SUBSETS[-1])
        swaps = [
            p2p.Replace(
                cross_steps=0.8 if sizes else 0.0,
                self_steps=0.0,
                layers=[name for size in sizes for name in LEVELS[size]] or None,
            )
            for sizes in subsets
        ]
        targets = [source.replace(phrase_of(old), phrase_of(new))] * len(swaps)
        made = p2p.edit(pipe, source, targets, swaps, seed=seed, steps=20, progress=False)
        rows.append([made.source, *made.images])
        names.append(f"{old} → {new}")
    columns = ["source", "no maps", "4×4 alone", "8×8 alone", "16×16 alone", "all"]
    return grid(rows, names, columns, width=10)


def map_pictures():
    """A scene's object as the layers of every size see it, by what the model was trained with."""
    rows, names = [], []
    for highest in (8, 16):
        pipe = p2p.load_pipeline(OUT / str(highest) / "pipeline", device="cpu")
        for number in SHOWN:
            scene = scene_at("test", number)
            maps, _ = maps_of(pipe, scene)
            heats: dict[str, list] = {}
            for layer, name in enumerate(maps.layers):
                size = "×".join(map(str, maps.shapes[name]))
                heat = maps[scene.things[0].name].at(layer=layer).tensor()
                heats.setdefault(size, []).append(heat)
            drawn = [render(scene)[0]]
            for size in LEVELS:
                if size in heats:
                    mean = torch.stack(heats[size]).mean(0)
                    grey = Image.fromarray((255 * mean / mean.max()).byte().numpy())
                    drawn.append(grey.resize((SIZE, SIZE), Image.Resampling.NEAREST))
                else:
                    drawn.append(Image.new("L", (SIZE, SIZE), 255))
            rows.append(drawn)
            names.append(f"{scene.things[0].name}, up\nto {highest}×{highest}")
    return grid(rows, names, ["painted", *LEVELS], width=7)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resolutions", description=__doc__.split("\n")[0]
    )
    parser.add_argument("what", choices=("edits", "train", "compare", "pictures"))
    parser.add_argument("highest", nargs="?", type=int, choices=(8, 16))
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--swaps", type=int, default=20, help="near ones, and as many far ones")
    chosen = parser.parse_args()
    if chosen.what == "train":
        train(chosen.highest, chosen.steps)
        return
    if chosen.what == "pictures":
        pipe = p2p.load_pipeline("toyland", device="cpu")
        (PICTURES / "resolutions.png").write_bytes(figure_png(edit_pictures(pipe)))
        (PICTURES / "resolutions-maps.png").write_bytes(figure_png(map_pictures()))
        return
    if chosen.what == "edits":
        pipe = p2p.load_pipeline("toyland", device="cpu")
        found = {"edits": edits(pipe, load_reader(), chosen.swaps)}
        found["maps"] = sharpness(pipe, chosen.scenes)
    else:
        found = {"trained": compare(chosen.scenes, chosen.swaps)}
    before = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    figures = before | found
    figures["machine"] = before.get("machine", {}) | dict.fromkeys(found, machine())
    MEASURED.write_text(json.dumps(figures, indent=1) + "\n")
    publish(figures)


if __name__ == "__main__":
    main()
