"""Real pictures edited, against the truth: `python -m benchmarks.inversion`. Prints tables; JSON and a figure go to runs/benchmarks.

The renderer paints a scene and what an edit of it should give; every method of inversion gets the first picture and both prompts, and so
do two things a user would otherwise do: the new prompt from the same noise without control, and img2img. Scenes, edits and seeds are
those of data/benchmark/inversion.json. Every process has one core, and seconds are what a way uses of
it. Peak memory is measured on the first scene, each way in a process of its own, above the loaded model.
"""

import argparse
import concurrent.futures
import itertools
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from skimage.metrics import structural_similarity

import p2p_helpers as p2p
from p2p_helpers.inversion import METHODS
from p2p_helpers.metrics import psnr
from p2p_helpers.provenance import machine
from p2p_helpers.toyland import EDITS, SceneError, counterfactual, load_reader, scene_at
from p2p_helpers.toyland.evaluate import quote

from .editing import peak_mib, reset_peak

ROOT = Path(__file__).parent.parent
LIST = ROOT / "data" / "benchmark" / "inversion.json"
OUT = ROOT / "runs" / "benchmarks"
STEPS, GUIDANCE = 15, 7.5
STRENGTHS = (0.4, 0.6, 0.8)  # of img2img
NO_CONTROL = "same noise, no control"
FASTER = "null-text, from the prompt"
FASTER_INNER = 3  # optimiser steps, since it starts near its end
NAMES = (*METHODS[:2], FASTER, *METHODS[2:], NO_CONTROL, *(f"img2img, {s}" for s in STRENGTHS))
LEAST = 0.02  # of the picture has to be outside the changed region to measure a background at all


def draw(count: int, first: int = 5000) -> list[dict]:
    """The list: test scenes in order, each with the kind of edit used least so far, if it fits."""
    used, drawn = dict.fromkeys(EDITS, 0), []
    for index in range(first, first + 50 * count):
        for kind in [kind for kind in EDITS if used[kind] == min(used.values())]:
            try:
                counterfactual(scene_at("test", index), kind, np.random.default_rng(index))
            except SceneError:
                continue
            used[kind] += 1
            drawn.append({"scene": index, "kind": kind, "seed": index})
            break
        if len(drawn) == count:
            break
    return drawn


class Counter:
    """Rows that go through a UNet: one evaluation each, whatever the batch."""

    def __init__(self, unet):
        self.rows = 0
        unet.register_forward_pre_hook(self)

    def __call__(self, module, inputs):
        self.rows += len(inputs[0])


class Bench:
    """One process's pipeline, reader and counter."""

    def __init__(self):
        torch.set_num_threads(1)
        self.pipe, self.reader = p2p.load_pipeline("toyland", device="cpu"), load_reader()
        self.img2img = StableDiffusionImg2ImgPipeline(
            **self.pipe.components, requires_safety_checker=False
        )
        self.img2img.set_progress_bar_config(disable=True)
        self.counter = Counter(self.pipe.unet)

    def cost(self, work):
        """What a piece of work gives, and its seconds and UNet evaluations."""
        rows, start = self.counter.rows, time.process_time()
        given = work()
        return given, {
            "seconds": time.process_time() - start,
            "evaluations": self.counter.rows - rows,
        }

    def ceiling(self, picture) -> float:
        """PSNR of the autoencoder alone."""
        vae = self.pipe.vae
        with torch.no_grad():
            latent = vae.encode(self.pipe.image_processor.preprocess(picture)).latent_dist.mode()
            again = self.pipe.image_processor.postprocess(vae.decode(latent).sample)[0]
        return psnr(np.asarray(picture), np.asarray(again))

    def judge(self, wanted, image) -> dict:
        """An edited picture against the truth."""
        before, after = (np.asarray(picture) for picture in wanted.pictures)
        made, changed = np.asarray(image), wanted.changed
        _, similar = structural_similarity(before, made, channel_axis=-1, full=True)
        outside = ~changed if (~changed).mean() > LEAST else None
        return {
            "kind": wanted.kind,
            "seen": wanted.seen(self.reader.read([image])[0]),
            "error": float(np.abs(made[changed].astype(float) - after[changed]).mean() / 255),
            "background psnr": None if outside is None else psnr(before, made, outside),
            "background ssim": None if outside is None else float(similar.mean(-1)[outside].mean()),
        }

    def ways(self, wanted, seed: int):
        """Name → a function that gives an inversion or None, and one that makes the edited picture from it."""
        picture, common = (
            wanted.pictures[0],
            {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE},
        )

        def by(**how):
            def invert():
                return p2p.invert(
                    self.pipe,
                    picture,
                    wanted.source,
                    steps=STEPS,
                    guidance_scale=GUIDANCE,
                    progress=False,
                    **how,
                )

            def edit(inversion):
                blend = wanted.local_blend
                return p2p.edit(
                    self.pipe,
                    inversion,
                    wanted.target,
                    wanted.edit,
                    local_blend=blend,
                    progress=False,
                ).image

            return invert, edit

        def uncontrolled(inversion):
            self.pipe.set_progress_bar_config(disable=True)
            with inversion.sampling(self.pipe):
                return self.pipe(
                    [wanted.target], **inversion.arguments(self.pipe, 1), **common
                ).images[0]

        def noised(strength):
            start = {
                "image": picture,
                "strength": strength,
                "generator": torch.Generator().manual_seed(seed),
            }
            return self.img2img(wanted.target, **start, **common).images[0]

        return {
            **{method: by(method=method) for method in METHODS},
            FASTER: by(init="prompt", inner_steps=FASTER_INNER),
            NO_CONTROL: (by(method="ddim")[0], uncontrolled),
            **{
                f"img2img, {strength}": (lambda: None, lambda _, s=strength: noised(s))
                for strength in STRENGTHS
            },
        }

    def scene(self, case: dict) -> list[dict]:
        """All ways on one scene, a row for each."""
        wanted, rows = (
            counterfactual(
                scene_at("test", case["scene"]), case["kind"], np.random.default_rng(case["seed"])
            ),
            [],
        )
        best = self.ceiling(wanted.pictures[0])
        for name, (invert, edit) in self.ways(wanted, case["seed"]).items():
            inversion, inverting = self.cost(invert)
            if inversion:
                inverting["evaluations"] -= (
                    2 * STEPS
                )  # its reconstruction, which an edit does not need
            image, editing = self.cost(lambda edit=edit, inversion=inversion: edit(inversion))
            cost = {key: inverting[key] + editing[key] for key in editing}
            back = inversion.psnr if inversion and name != NO_CONTROL else None
            rows.append(
                {
                    "scene": case["scene"],
                    "way": name,
                    **self.judge(wanted, image),
                    **cost,
                    "reconstruction": back,
                    "ceiling": best,
                }
            )
        return rows


_bench = None


def work(case: dict) -> list[dict]:
    """One scene, in a process that keeps its pipeline."""
    global _bench
    _bench = _bench or Bench()
    return _bench.scene(case)


def memory(case: dict, name: str) -> float:
    """Peak MiB of one way above the loaded model. In a process that has done nothing else."""
    bench = Bench()
    invert, edit = bench.ways(
        counterfactual(
            scene_at("test", case["scene"]), case["kind"], np.random.default_rng(case["seed"])
        ),
        0,
    )[name]
    reset_peak()
    before = peak_mib()
    edit(invert())
    return peak_mib() - before


def interval(values: list[float]) -> tuple[float, float] | None:
    """Mean, and half of its 95 % interval (1.96 standard errors)."""
    known = np.asarray([v for v in values if v is not None], float)
    return (
        (float(known.mean()), float(1.96 * known.std(ddof=1) / len(known) ** 0.5))
        if len(known) > 1
        else None
    )


def share(seen: list[bool]) -> float | None:
    """How many of them, 0…1."""
    return sum(seen) / len(seen) if seen else None


MEASURES = {  # of a row; scale and digits in the table
    "reconstruction": ("reconstruction, dB", 1, 1),
    "short": ("below ceiling, dB", 1, 2),
    "background psnr": ("background PSNR, dB", 1, 1),
    "background ssim": ("background SSIM", 1, 3),
    "error": ("error inside, %", 100, 1),
    "seen": ("edit seen, %", 100, 0),
    "seconds": ("seconds", 1, 1),
    "evaluations": ("UNet evaluations", 1, 0),
}


def ways_rows(rows: list[dict], way: str) -> list[dict]:
    """The rows of one way, in the order of the scenes."""
    return sorted(
        (row for row in rows if row["way"] == way), key=lambda row: (row["scene"], row["kind"])
    )


def difference(a: float | None, b: float | None) -> float | None:
    """a − b, where both were measured."""
    return None if a is None or b is None else a - b


def summarise(rows: list[dict], peaks: dict[str, float]) -> dict:
    """Way → measure → mean and half interval; img2img at the strength whose edits are seen most, and in a tie err least."""
    for row in rows:
        row["short"] = (
            None if row["reconstruction"] is None else row["ceiling"] - row["reconstruction"]
        )
    summary, direct = {}, ways_rows(rows, "direct")
    for name in NAMES:
        own = ways_rows(rows, name)
        summary[name] = {measure: interval([row[measure] for row in own]) for measure in MEASURES}
        summary[name]["peak MiB"] = peaks.get(name)
        summary[name]["over direct"] = {  # the same scenes, so what makes a scene hard falls out
            measure: interval(
                [
                    difference(row[measure], other[measure])
                    for row, other in zip(own, direct, strict=True)
                ]
            )
            for measure in ("background psnr", "error", "seen")
        }
        summary[name]["by kind"] = {
            k: share([row["seen"] for row in own if row["kind"] == k]) for k in EDITS
        }
    tried = [name for name in NAMES if name.startswith("img2img")]
    best = max(tried, key=lambda name: (summary[name]["seen"][0], -summary[name]["error"][0]))
    return {name: figures for name, figures in summary.items() if name not in tried or name == best}


def table(summary: dict) -> str:
    """Markdown: mean ± half of the 95 % interval."""
    titles = [*(title for title, _, _ in MEASURES.values()), "peak memory, MiB"]
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (1 + len(titles)) + "|"]
    for name, figures in summary.items():
        cells = [
            "–"
            if figures[m] is None
            else f"{round(figures[m][0] * scale, digits) + 0.0:.{digits}f} ± {figures[m][1] * scale:.{digits}f}"
            for m, (_, scale, digits) in MEASURES.items()
        ]
        lines.append(f"| {name} | " + " | ".join([*cells, f"{figures['peak MiB']:.0f}"]) + " |")
    lines += [
        "",
        "| more than direct, same scenes | background PSNR, dB | error inside, % | edit seen, % |",
        "|---|---|---|---|",
    ]
    for name, figures in summary.items():
        cells = [
            f"{scale * a:+.{n}f} ± {scale * da:.{n}f}"
            for (a, da), scale, n in zip(
                figures["over direct"].values(), (1, 100, 100), (1, 1, 0), strict=True
            )
        ]
        lines += [] if name == "direct" else [f"| {name} | " + " | ".join(cells) + " |"]
    lines += ["", "| edit seen, % | " + " | ".join(EDITS) + " |", "|---" * (1 + len(EDITS)) + "|"]
    for name, figures in summary.items():
        cells = [
            "–" if seen is None else f"{100 * seen:.0f}" for seen in figures["by kind"].values()
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(summary: dict):
    """What should stay, and what should change: a line for each way, with its seconds."""
    import matplotlib.pyplot as plt

    drawn, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained", sharey=True)
    names = [f"{name}, {figures['seconds'][0]:.1f} s" for name, figures in summary.items()]
    for ax, measure, factor in ((axes[0], "background psnr", 1), (axes[1], "seen", 100)):
        for place, figures in enumerate(summary.values()):
            ax.errorbar(
                factor * figures[measure][0],
                place,
                xerr=factor * figures[measure][1],
                fmt="o",
                color="black",
                capsize=3,
            )
        ax.set(
            xlabel=MEASURES[measure][0],
            yticks=range(len(names)),
            yticklabels=names,
            ylim=(len(names) - 0.5, -0.5),
        )
        ax.grid(alpha=0.3)
    axes[0].set_title("What should stay, stays", loc="left")
    axes[1].set_title("What should change, changes", loc="left")
    return drawn


def publish(results: dict):
    """Summarise the rows of a run; store the figures for the notebook, the picture, and the tables of docs/measured.md."""
    results["summary"] = summarise(
        results["rows"], {name: figures["peak MiB"] for name, figures in results["summary"].items()}
    )
    LIST.with_name("measured.json").write_text(
        json.dumps({k: v for k, v in results.items() if k != "rows"}, indent=1) + "\n"
    )
    figure(results["summary"]).savefig(ROOT / "data" / "pictures" / "inversion.png", dpi=100)
    quote(ROOT / "docs" / "measured.md", "inversion", table(results["summary"]))


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.inversion", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--scenes", type=int, default=64, help="how many of the list, from its start"
    )
    parser.add_argument("--processes", type=int, default=min(os.cpu_count(), 8))
    parser.add_argument(
        "--publish",
        action="store_true",
        help="store the last run's figures in data/ and docs/measured.md, and run nothing",
    )
    parser.add_argument("--draw", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.draw:
        LIST.parent.mkdir(exist_ok=True)
        LIST.write_text(
            "[\n" + ",\n".join(json.dumps(case) for case in draw(chosen.draw)) + "\n]\n"
        )
        return
    if chosen.publish:
        publish(json.loads((OUT / "inversion.json").read_text()))
        return
    cases = json.loads(LIST.read_text())[: chosen.scenes]
    start, rows, alone = time.time(), [], multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        chosen.processes, alone, max_tasks_per_child=1
    ) as pool:
        peaks = dict(zip(NAMES, pool.map(memory, itertools.repeat(cases[0]), NAMES), strict=False))
    with concurrent.futures.ProcessPoolExecutor(chosen.processes, alone) as pool:
        for number, found in enumerate(pool.map(work, cases), 1):
            rows += found
            print(f"{number} of {len(cases)} scenes, {time.time() - start:.0f} s", flush=True)
    summary = summarise(rows, peaks)
    OUT.mkdir(parents=True, exist_ok=True)
    about = {"machine": machine(), "scenes": len(cases)}
    about |= {"steps": STEPS, "guidance scale": GUIDANCE}
    about["minutes"] = (time.time() - start) / 60
    (OUT / "inversion.json").write_text(
        json.dumps({**about, "summary": summary, "rows": rows}, indent=1)
    )
    figure(summary).savefig(OUT / "inversion.png", dpi=100)
    print(json.dumps(about), table(summary), sep="\n\n")


if __name__ == "__main__":
    main()
