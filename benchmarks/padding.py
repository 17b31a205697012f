"""How refinement should line up padding: `python -m benchmarks.padding`.

Prints a table; every figure goes to runs/benchmarks.

The same refinement runs twice beside one source: with the padding in its order (the first pad token
of the source with the first of the target, and so on), and with the padding by its position, as in
the authors' code. Both share everything else. Sources are painted test scenes, inverted by the
direct method, and pictures generated from the same captions. The renderer says what each edit of a
painted scene should give.
"""

import argparse
import contextlib
import json
import time
from pathlib import Path

import numpy as np
import torch

import p2p_helpers as p2p
from p2p_helpers.edits.schedule import word_schedule
from p2p_helpers.metrics import psnr
from p2p_helpers.prompts.align import _align_rest_in_order, _ends
from p2p_helpers.provenance import machine
from p2p_helpers.toyland import (
    COLOURABLE,
    Counterfactual,
    SceneError,
    counterfactual,
    load_reader,
    scene_at,
)

from .inversion import LEAST, interval

OUT = Path(__file__).parent.parent / "runs" / "benchmarks"
KINDS = ("snow", "night", "restyle", "colour")
FIRST = 7000  # of the test scenes
MEASURES = {  # of a row; title, scale and digits in the table
    "kept": ("PSNR against the source, dB", 1, 1),
    "truth": ("PSNR against the truth, dB", 1, 1),
    "seen": ("edit seen, %", 100, 0),
}


class InOrder(p2p.Refine):
    """Refinement that lines padding up in its order, whatever its position."""

    def matrices(self, tokenizer, source: str, target: str, steps: int):
        mapping, _ = p2p.refinement_alignment(tokenizer, source, target)
        source_end, target_end = _ends(tokenizer, source, target)
        mapping[:, target_end:] = 0
        _align_rest_in_order(mapping, source_end, target_end)
        alpha = word_schedule(tokenizer, target, self.cross_steps, steps)[:, None] * mapping.any(0)
        return mapping * alpha, torch.eye(len(mapping)) * (1 - alpha)


WAYS = {"in order": InOrder(), "by position": p2p.Refine()}


def refinement(index: int, kind: str) -> Counterfactual:
    """A test scene and its refinement of one kind.

    Raises SceneError if the scene does not allow it.
    """
    scene, rng = scene_at("test", index), np.random.default_rng(index)
    if kind != "colour":
        return counterfactual(scene, kind, rng)
    plain = [
        i
        for i, thing in enumerate(scene.things)
        if thing.name in COLOURABLE and thing.colour is None
    ]
    if not plain or scene.style == "old photo":
        raise SceneError("Nothing in this scene can be given a colour.")
    known = list(COLOURABLE[scene.things[plain[0]].name])
    new = known[int(rng.integers(len(known)))]
    return Counterfactual("recolour", scene, scene.replace(plain[0], colour=new), (new,))


def draw(kind: str, count: int) -> list[tuple[int, Counterfactual]]:
    """The first test scenes that one kind of edit fits, with their numbers."""
    drawn, index = [], FIRST
    while len(drawn) < count:
        with contextlib.suppress(SceneError):
            drawn.append((index, refinement(index, kind)))
        index += 1
    return drawn


def judge(wanted: Counterfactual, source, image, reading, painted: bool) -> dict:
    """One edited picture.

    Without something that must not change, the whole picture is compared with the source.
    """
    made = np.asarray(image)
    outside = None
    if painted and (~wanted.changed).mean() > LEAST:
        outside = ~wanted.changed
    truth = psnr(np.asarray(wanted.pictures[1]), made) if painted else None
    return {
        "kept": psnr(np.asarray(source), made, outside),
        "truth": truth,
        "seen": wanted.seen(reading),
    }


def measure(
    pipe, reader, wanted: Counterfactual, index: int, steps: int, guidance: float
) -> list[dict]:
    """Both ways on one scene, painted and generated: a row for each."""
    run = {"guidance_scale": guidance, "progress": False}
    inversion = p2p.invert(
        pipe, wanted.pictures[0], wanted.source, method="direct", steps=steps, **run
    )
    rows = []
    for kind, source, more in (
        ("painted", inversion, {}),
        ("generated", wanted.source, {"seed": index, "steps": steps}),
    ):
        result = p2p.edit(
            pipe, source, [wanted.target] * len(WAYS), list(WAYS.values()), **run, **more
        )
        readings = reader.read(result.images)
        for way, image, reading in zip(WAYS, result.images, readings, strict=True):
            found = judge(wanted, result.source, image, reading, kind == "painted")
            rows.append({"scene": index, "source": kind, "way": way, **found})
    return rows


def summarise(rows: list[dict]) -> list[dict]:
    """For each source, kind and measure.

    The mean of each way, and their paired difference with its 95 % interval.
    """
    table = []
    for source in ("painted", "generated"):
        for kind in (*KINDS, "all"):
            chosen = [
                row for row in rows if row["source"] == source and kind in (row["kind"], "all")
            ]
            for name in MEASURES:
                order, position = (
                    [row[name] for row in chosen if row["way"] == way] for way in WAYS
                )
                if None in order:
                    continue
                gains = [float(b) - float(a) for a, b in zip(order, position, strict=True)]
                means = {"in order": float(np.mean(order)), "by position": float(np.mean(position))}
                better = {"better": sum(g > 0 for g in gains), "worse": sum(g < 0 for g in gains)}
                table.append(
                    {
                        "source": source,
                        "kind": kind,
                        "measure": name,
                        **means,
                        "gain": interval(gains),
                        **better,
                    }
                )
    return table


def show(table: list[dict]) -> str:
    """Markdown."""
    titles = ("source", "kind", "measure", *WAYS, "gain", "better, worse")
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in table:
        title, scale, n = MEASURES[row["measure"]]
        a, b = scale * row["in order"], scale * row["by position"]
        gain, half = (scale * value for value in row["gain"])
        cells = [row["source"], row["kind"], title, f"{a:.{n}f}", f"{b:.{n}f}"]
        cells += [f"{gain:+.{n}f} ± {half:.{n}f}", f"{row['better']}, {row['worse']}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.padding", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--scenes", type=int, default=15, help="of each kind of edit")
    parser.add_argument("--steps", type=int, default=15)
    chosen = parser.parse_args()
    pipe, reader = p2p.load_pipeline("toyland", device="cpu"), load_reader()
    guidance = pipe.tokenizer.init_kwargs["guidance_scale"]
    rows, start = [], time.time()
    for kind in KINDS:
        for index, wanted in draw(kind, chosen.scenes):
            rows += [
                {"kind": kind, **row}
                for row in measure(pipe, reader, wanted, index, chosen.steps, guidance)
            ]
        print(f"{kind}: {chosen.scenes} scenes, {time.time() - start:.0f} s", flush=True)
    table = summarise(rows)
    OUT.mkdir(parents=True, exist_ok=True)
    about = {
        "machine": machine(),
        "scenes of each kind": chosen.scenes,
        "steps": chosen.steps,
        "guidance scale": guidance,
    }
    (OUT / "padding.json").write_text(json.dumps({**about, "table": table, "rows": rows}, indent=1))
    print(json.dumps(about), show(table), sep="\n\n")


if __name__ == "__main__":
    main()
