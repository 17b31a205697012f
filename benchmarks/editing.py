"""What an edit costs: `python -m benchmarks.editing`. Prints a table and writes `runs/benchmarks/editing.json`; nothing is
asserted. `--publish` stores the last run's figures in `data/benchmark` for notebook 08, and its table in docs/measured.md.

The same two prompts in several ways: the plain pipeline; `p2p.edit` with all maps injected in every layer and step; a second edit of a
picture whose source is known, with the usual schedules; a refinement; a local blend; maps recorded for the figures; and every map written
out (as the tests have it). On the embedded model, and on the UNets of
Stable Diffusion 1.5 and XL with their published configurations and random weights, since time and memory do not depend on what the
weights are. Each model runs in a process of its own. Seconds are the fastest run's, since what else a machine does only adds. For the
ratios every run has a run of the plain pipeline beside it, now before it and now after it, and the median pair counts.
Peak memory is the GPU's, or without one the process's; it is also given without the weights.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from diffusers import DDIMScheduler

import p2p_helpers as p2p
from p2p_helpers.provenance import machine
from p2p_helpers.toyland.evaluate import quote
from tests import materialised
from tests.pipelines import DDIM, build

OUT = Path("runs/benchmarks")
ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "data" / "benchmark" / "editing.json"
PROMPTS = ["a cat on the beach", "a dog on the beach"]
LOAD = """
import time
from p2p_helpers import load_pipeline

start = time.time()
load_pipeline("toyland")
print(time.time() - start)
"""
GPU = torch.cuda.is_available()
# What runs: latent side, steps, numbers, repetitions. A CPU takes a minute for a step of XL at its full size, so there it is much smaller.
CASES = {
    "toyland": (16, 30, torch.float32, 15),
    "sd1": (64, 20, torch.float16, 5) if GPU else (64, 1, torch.float32, 2),
    "sdxl": (128, 20, torch.float16, 5) if GPU else (32, 1, torch.float32, 2),
}
NAMES = {"toyland": "Toyland", "sd1": "Stable Diffusion 1.5", "sdxl": "Stable Diffusion XL"}


def pipeline(model: str, dtype: torch.dtype):
    """The pipeline of a case with a DDIM scheduler."""
    if model == "toyland":
        pipe = p2p.load_pipeline("toyland")
    else:
        pipe = build(model, OUT / "tokenizer", small=False, dtype=dtype).to(
            "cuda" if GPU else "cpu"
        )
        pipe.scheduler = DDIMScheduler(**DDIM)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ways(pipe, side: int, steps: int) -> dict:
    """Name → a function that makes both pictures once."""
    night = f"{PROMPTS[0]} at night"
    common = {
        "guidance_scale": 4.0,
        "height": side * pipe.vae_scale_factor,
        "width": side * pipe.vae_scale_factor,
    }
    change = p2p.Replace(cross_steps=1.0, self_steps=1.0, self_size=1.0)
    blend = p2p.LocalBlend(("cat", "dog"))
    first = p2p.edit(pipe, *PROMPTS, steps=steps, progress=False, **common)
    written_out = [
        (
            materialised.swap(pipe.tokenizer, *PROMPTS),
            torch.ones(steps, pipe.tokenizer.model_max_length),
        )
    ]
    return {
        "plain": lambda: pipe(PROMPTS, num_inference_steps=steps, **common),
        "p2p.edit": lambda: p2p.edit(pipe, *PROMPTS, change, steps=steps, progress=False, **common),
        "second edit": lambda: p2p.edit(pipe, first, PROMPTS[1], progress=False),
        "refine": lambda: p2p.edit(
            pipe, PROMPTS[0], night, p2p.Refine(), steps=steps, progress=False, **common
        ),
        "local blend": lambda: p2p.edit(
            pipe, *PROMPTS, change, local_blend=blend, steps=steps, progress=False, **common
        ),
        "p2p.edit, recorded": lambda: p2p.edit(
            pipe, *PROMPTS, change, steps=steps, progress=False, record=True, **common
        ),
        "maps written out": lambda: materialised.run(
            pipe, PROMPTS, written_out, steps, steps, **common
        ),
    }


def reset_peak():
    """Start counting peak memory anew."""
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """Peak memory since `reset_peak` in MiB; without a GPU and Linux since the process began."""
    if GPU:
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def timed(run) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run()
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(model: str) -> dict:
    """Each way's seconds, its ratios to the plain pipeline and its peak memory, after one pair each to warm up."""
    side, steps, dtype, times = CASES[model]
    pipe = pipeline(model, dtype)
    runs = ways(pipe, side, steps)
    plain = runs["plain"]
    got = {name: {"runs": [], "ratios": [], "peak MiB": 0.0} for name in runs}
    reset_peak()
    loaded = peak_mib()
    for number in range(times + 1):
        for name, run in runs.items():
            seconds = {}
            for role in ("own", "plain")[:: 1 if number % 2 else -1]:
                reset_peak()
                seconds[role] = timed(run if role == "own" else plain)
                if role == "own":
                    got[name]["peak MiB"] = max(got[name]["peak MiB"], peak_mib())
            if number:  # the first is to warm up
                got[name]["runs"].append(seconds["own"])
                got[name]["ratios"].append(seconds["own"] / seconds["plain"])
    return {
        "size": side * pipe.vae_scale_factor,
        "steps": steps,
        "numbers": str(dtype).removeprefix("torch."),
        "million weights in the UNet": sum(p.numel() for p in pipe.unet.parameters()) / 1e6,
        "loaded MiB": loaded,
        "ways": {
            name: way | {"seconds": min(way["runs"]), "ratio": statistics.median(way["ratios"])}
            for name, way in got.items()
        },
    }


def table(results: dict) -> str:
    """Markdown: time and memory of each way and their ratios to the plain pipeline."""
    lines = [
        "| model | way | seconds | ratio | peak memory | ratio | without weights | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, case in results["models"].items():
        plain = case["ways"]["plain"]
        name = f"{NAMES[model]}, {case['size']} px, {case['steps']} step(s), {case['numbers']}"
        for way, got in case["ways"].items():
            own, plain_own = (w["peak MiB"] - case["loaded MiB"] for w in (got, plain))
            lines.append(
                f"| {name} | {way} | {got['seconds']:.2f} | {got['ratio']:.3f} "
                f"| {got['peak MiB']:.0f} MiB | {got['peak MiB'] / plain['peak MiB']:.3f} | {own:.0f} MiB | {own / plain_own:.3f} |"
            )
    return "\n".join(lines)


def short(results: dict) -> str:
    """Markdown: the table of docs/measured.md, and what recording adds."""
    heads = "| | plain | `p2p.edit` | second edit | refine | local blend | recorded | maps written out |"
    lines, recording = [heads, "|" + "---|" * 8], []
    for model, case in results["models"].items():
        plain, cells = case["ways"]["plain"], []
        for got in case["ways"].values():
            own, plain_own = (max(w["peak MiB"] - case["loaded MiB"], 1) for w in (got, plain))
            cells.append(
                f"{got['seconds']:.2f} s, {got['ratio']:.2f}; memory {own / plain_own:.2f}"
            )
        ways = case["ways"]
        more = ways["p2p.edit, recorded"]["ratio"] / ways["p2p.edit"]["ratio"] - 1
        recording.append(f"{more:+.0%} on {NAMES[model]}".replace("-", "−"))
        steps = "one step" if case["steps"] == 1 else f"{case['steps']} steps"
        lines.append(
            f"| {NAMES[model]}, {case['size']} px, {steps}, {case['numbers']} | "
            + " | ".join(cells)
            + " |"
        )
    return "\n".join([*lines, "", f"Recording adds to an edit: {', '.join(recording)}."])


def publish(results: dict):
    """Store the figures for notebook 08, and the short table in docs/measured.md, between its `editing` marks."""
    MEASURED.write_text(json.dumps(results, indent=1) + "\n")
    quote(ROOT / "docs" / "measured.md", "editing", short(results))


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.editing", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument(
        "--publish",
        action="store_true",
        help="store the last run's figures in data/ and docs/measured.md, and run nothing",
    )
    parser.add_argument("--measure", choices=list(CASES), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    if chosen.publish:
        publish(json.loads((OUT / "editing.json").read_text()))
        return
    if chosen.measure:
        print(json.dumps(measure(chosen.measure)))
        return
    loads = [
        float(
            subprocess.run(
                [sys.executable, "-c", LOAD], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(3)
    ]
    results = {"machine": machine(), "load seconds": statistics.median(loads), "models": {}}
    for model in chosen.models:
        command = [sys.executable, "-m", "benchmarks.editing", "--measure", model]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results["models"][model] = json.loads(run.stdout.splitlines()[-1])
        (OUT / "editing.json").write_text(json.dumps(results, indent=2))
    loading = f"loading the embedded model takes {results['load seconds']:.2f} s"
    print(f"{results['machine']}; {loading}\n")
    print(table(results))


if __name__ == "__main__":
    main()
