"""What a prompt that is written for a picture is worth: `python -m benchmarks.describing`.

Writes data/benchmark/describing.json and the tables in docs/measured.md. First how often `p2p.describe` says of a painted test scene
what its caption says. Then word swaps in painted pictures, each inverted ("direct") with its true caption and with one that calls its
object something else; target, edit and local blend are the same but for that word.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import p2p_helpers as p2p
from p2p_helpers.errors import InputError
from p2p_helpers.metrics import psnr
from p2p_helpers.provenance import machine
from p2p_helpers.toyland import caption, load_reader, render, scene_at
from p2p_helpers.toyland.evaluate import painted_cases, quote
from p2p_helpers.toyland.world import OBJECTS, kind_of

from .inversion import interval
from .layout import shares

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "data" / "benchmark" / "describing.json"
PHOTO = "a photo of "  # it says nothing of the picture
RIGHT, WRONG = "its caption", "another object's name"


def agreement(pipe, scenes: int) -> dict[str, dict]:
    """Kind of scene → how many descriptions are the caption."""
    found: dict[str, list[bool]] = {"all but old photos": [], "old photos": []}
    for scene in (scene_at("test", i) for i in range(scenes)):
        wanted = caption(scene).removeprefix(PHOTO)
        try:
            said = p2p.describe(render(scene)[0], pipe).removeprefix(PHOTO)
        except InputError:
            said = ""
        kind = "old photos" if scene.style == "old photo" else "all but old photos"
        found[kind].append(said == wanted)
    return {kind: {"same": shares(same), "scenes": len(same)} for kind, same in found.items()}


def misnamed(case, rng) -> tuple[str, str]:
    """A caption in which the object has another kind's name, as long as the true one, and that name."""
    place = [thing.name for thing in case.before.things].index(case.words[0])
    found = []
    for name in OBJECTS:
        if kind_of(name) == kind_of(case.words[0]) or name in case.target.split():
            continue
        said = caption(case.before.replace(place, name=name, colour=None))
        if len(said.split()) == len(case.target.split()):
            found.append((said, name))
    return found[int(rng.integers(len(found)))]


def swaps(pipe, reader, count: int, steps: int) -> dict[str, dict]:
    """Prompt of the inversion → what comes back, and what the edit gives."""
    rows: dict[str, list[dict]] = {RIGHT: [], WRONG: []}
    for number, case in enumerate(painted_cases(count, "swap", objects=1)):
        rng, (old, new) = np.random.default_rng(number), case.words
        try:
            prompts = {RIGHT: (case.source, old), WRONG: misnamed(case, rng)}
        except ValueError:  # no other name makes a caption as long
            continue
        for name, (source, word) in prompts.items():
            how = {"method": "direct", "steps": steps, "progress": False}
            inversion = p2p.invert(pipe, case.pictures[0], source, **how)
            blend = p2p.LocalBlend((word, new))
            image = p2p.edit(
                pipe, inversion, case.target, case.edit, local_blend=blend, progress=False
            ).image
            true, made = np.asarray(case.pictures[1]), np.asarray(image)
            rows[name].append(
                {
                    "reconstruction": inversion.psnr,
                    "seen": case.seen(reader.read([image])[0]),
                    "background": psnr(true, made, ~case.changed),
                }
            )
    return {
        name: {
            "reconstruction": interval([one["reconstruction"] for one in ones]),
            "seen": shares([one["seen"] for one in ones]),
            "background": interval([one["background"] for one in ones]),
            "scenes": len(ones),
        }
        for name, ones in rows.items()
    }


def described_table(found: dict[str, dict]) -> str:
    """Markdown: how often a description is the caption."""
    rows = ["| painted test scenes | described as their captions say | scenes |", "|---|---|---|"]
    for kind, one in found.items():
        share, low, high = one["same"]
        rows.append(f"| {kind} | {share:.1%} ({low:.1%} to {high:.1%}) | {one['scenes']} |")
    return "\n".join(rows)


def prompts_table(found: dict[str, dict]) -> str:
    """Markdown: edits after inversions with a right and a wrong prompt."""
    rows = [
        "| inverted with | reconstruction, dB | new object seen | what should stay, dB | scenes |",
        "|---|---|---|---|---|",
    ]
    for name, one in found.items():
        share, low, high = one["seen"]
        back, kept = (
            f"{one[k][0]:.1f} ± {one[k][1]:.1f}" for k in ("reconstruction", "background")
        )
        rows.append(
            f"| {name} | {back} | {share:.0%} ({low:.0%} to {high:.0%}) | {kept} | {one['scenes']} |"
        )
    return "\n".join(rows)


TABLES = {"described": described_table, "prompts": prompts_table}


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.describing", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--swaps", type=int, default=64)
    parser.add_argument("--steps", type=int, default=15)
    chosen = parser.parse_args()
    pipe = p2p.load_pipeline("toyland", device="cpu")
    figures = {
        "machine": machine(),
        "steps": chosen.steps,
        "described": agreement(pipe, chosen.scenes),
        "prompts": swaps(pipe, load_reader(), chosen.swaps, chosen.steps),
    }
    MEASURED.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for mark, table in TABLES.items():
        quote(ROOT / "docs" / "measured.md", mark, table(figures[mark]))


if __name__ == "__main__":
    main()
