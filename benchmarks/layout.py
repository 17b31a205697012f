"""How well objects are moved, resized and removed: `python -m benchmarks.layout`. Prints a table and writes `runs/benchmarks/layout.json`.

Scenes with one object that no training saw, generated ones (judged by the reader: where it finds the object, and by the source's own
pixels) and painted ones (whose true result is painted, too). In place: the boxes of the object found and of the wanted one have an
intersection over union of at least a half. Clear: of the place that it left at most a tenth is read as an object.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import p2p_helpers as p2p
from p2p_helpers.errors import SceneError
from p2p_helpers.metrics import psnr
from p2p_helpers.provenance import machine
from p2p_helpers.toyland import caption, load_reader, render, scene_at
from p2p_helpers.toyland.evaluate import generate, quote
from p2p_helpers.toyland.layout import overlap
from p2p_helpers.toyland.world import SIZE

from .inversion import interval

OUT = Path("runs/benchmarks/layout.json")
MEASURED = Path(__file__).parent.parent / "data" / "benchmark" / "layout.json"
CELL = 8  # pixels of one latent pixel
FAR = 3  # cells an object is moved at least
SCALES = {"smaller": 0.7, "larger": 1.4}


def a_move(box, rng) -> tuple[int, int] | None:
    """Cells to the right and down, within the picture; None where there is no room."""
    left, top, right, bottom = (side // CELL for side in box)
    cells = SIZE // CELL
    rights = [d for d in range(-9, 10) if abs(d) >= FAR and left + d >= 0 and right + d <= cells]
    downs = [d for d in (-2, -1, 0, 1, 2) if top + d >= 0 and bottom + d <= cells]
    return (int(rng.choice(rights)), int(rng.choice(downs))) if rights and downs else None


def wanted_box(box, shift=(0, 0), scale=1.0):
    """Where the object should be: left, top, right, bottom."""
    left, top, right, bottom = box
    middle, wide, high = (left + right) / 2, (right - left) * scale, (bottom - top) * scale
    x, y = shift[0] * CELL, shift[1] * CELL
    return middle - wide / 2 + x, bottom - high + y, middle + wide / 2 + x, bottom + y


def inside(box, around=0) -> np.ndarray:
    """The pixels of a box, bool (height, width)."""
    mask = np.zeros((SIZE, SIZE), bool)
    left, top, right, bottom = (round(v) for v in box)
    mask[max(top - around, 0) : bottom + around, max(left - around, 0) : right + around] = True
    return mask


def edits_of(box, rng) -> dict:
    """Name → edit of a phrase, wanted box or None, shift."""
    found = {
        name: (lambda word, s=s: p2p.Resize(word, s), wanted_box(box, scale=s), None)
        for name, s in SCALES.items()
    }
    found = {k: v for k, v in found.items() if min(v[1][:2]) >= -4 and v[1][2] <= SIZE + 4}
    found["removed"] = (lambda word: p2p.Remove(word), None, None)
    shift = a_move(box, rng)
    if shift:
        right, down = (cells * CELL / SIZE for cells in shift)
        found["moved"] = (
            lambda word: p2p.Move(word, dx=right, dy=down),
            wanted_box(box, shift),
            shift,
        )
    return found


def judge(reader, source, image, name, old, wanted, shift) -> dict:
    """What the reader finds, and how much is as it was."""
    reading = reader.read([image])[0]
    found = {one.name: one for one in reading.objects}
    cells = (
        np.any([one.cells for one in reading.objects], axis=0)
        if reading.objects
        else np.zeros((16, 16), bool)
    )
    row = {}
    kept = ~inside(old.box, CELL)
    if wanted is None:
        row["done"] = name not in found and cells[old.cells].mean() <= 0.1
    else:
        row["overlap"] = overlap(found[name].box, wanted) if name in found else 0.0
        row["done"] = row["overlap"] >= 0.5
        kept &= ~inside(wanted, CELL)
        left = old.cells & ~(inside(wanted, CELL).reshape(16, CELL, 16, CELL).mean((1, 3)) > 0.25)
        row["clear"] = bool(not left.any() or cells[left].mean() <= 0.1)
    before, after = np.asarray(source), np.asarray(image)
    if kept.any():
        row["background"] = psnr(before, after, kept)
    if shift is not None:
        rows, columns = np.nonzero(old.cells.repeat(CELL, 0).repeat(CELL, 1))
        y, x = rows + shift[1] * CELL, columns + shift[0] * CELL
        there = (y >= 0) & (y < SIZE) & (x >= 0) & (x < SIZE)
        row["object"] = psnr(
            before[rows, columns][there][:, None], after[y[there], x[there]][:, None]
        )
    return row


def true_scene(scene, name, shift):
    """The painted scene after an edit, or None where the world cannot paint it."""
    thing = scene.things[0]
    if name == "moved":
        changes = {"x": thing.x + shift[0] * CELL, "y": thing.y + shift[1] * CELL}
    elif name in SCALES:
        changes = {"size": round(thing.size * SCALES[name])}
    else:
        return scene.replace(things=())
    return scene.replace(0, **changes)


def measure(pipe, reader, kind: str, count: int, first: int, steps: int) -> dict[str, list[dict]]:
    """Edit → a row of figures for each scene."""
    rows, number = {}, first
    while len(rows.get("moved", ())) < count:
        scene, number = scene_at("test", number, objects=1), number + 1
        word, prompt, rng = scene.things[0].name, caption(scene), np.random.default_rng(number)
        picture = render(scene)[0] if kind == "painted" else generate(pipe, [prompt], steps)[0]
        seen = {one.name: one for one in reader.read([picture])[0].objects}
        if list(seen) != [word]:
            continue
        source = prompt
        if kind == "painted":
            source = p2p.invert(pipe, picture, prompt, method="direct", steps=steps, progress=False)
        for name, (make, wanted, shift) in edits_of(seen[word].box, rng).items():
            more = {} if kind == "painted" else {"seed": 0, "steps": steps}
            result = p2p.edit(pipe, source, prompt, make(word), progress=False, **more)
            row = judge(reader, picture, result.image, word, seen[word], wanted, shift)
            if kind == "painted":
                try:
                    truth, masks = render(true_scene(scene, name, shift))
                    if len(masks) and masks[0].any():
                        row["truth"] = psnr(np.asarray(truth), np.asarray(result.image), masks[0])
                except SceneError:
                    pass
            rows.setdefault(name, []).append(row)
    return rows


def summary(rows: dict[str, list[dict]]) -> dict:
    """Mean and half of the 95 % interval of every figure."""
    found = {}
    for name, ones in rows.items():
        keys = sorted({key for one in ones for key in one})
        found[name] = {
            key: interval([float(one[key]) for one in ones if key in one]) for key in keys
        }
        found[name]["scenes"] = len(ones)
    return found


def table(results: dict) -> str:
    """Markdown: a row for each kind of picture and edit."""
    heads = ("", "done", "old place clear", "overlap", "object, dB", "background, dB", "scenes")
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]

    def said(one: dict, key: str, scale: float, digits: int) -> str:
        if key not in one:
            return "–"
        mean, half = one[key]
        return f"{scale * mean:.{digits}f} ± {scale * half:.{digits}f}"

    for kind in ("generated", "painted"):
        for name, one in results[kind].items():
            figures = [said(one, "done", 100, 0), said(one, "clear", 100, 0)]
            figures += [said(one, "overlap", 1, 2), said(one, "truth", 1, 1)]
            figures += [said(one, "background", 1, 1), str(one["scenes"])]
            rows.append("| " + " | ".join([f"{kind}, {name}", *figures]) + " |")
    return "\n".join(rows)


def publish():
    """Store the last run's figures, and quote them in docs/measured.md."""
    results = json.loads(OUT.read_text(encoding="utf-8"))
    MEASURED.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    quote(MEASURED.parent.parent.parent / "docs" / "measured.md", "layout", table(results))


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layout", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", default=["generated", "painted"])
    parser.add_argument("--publish", action="store_true", help="store the last run's figures")
    chosen = parser.parse_args()
    if chosen.publish:
        publish()
        return
    OUT.parent.mkdir(parents=True, exist_ok=True)
    pipe, reader = p2p.load_pipeline("toyland"), load_reader()
    results: dict = {"machine": machine()}
    for kind in chosen.kinds:
        rows = measure(pipe, reader, kind, chosen.scenes, 3000, chosen.steps)
        results[kind] = summary(rows)
        print(kind, json.dumps(results[kind], indent=1), flush=True)
        OUT.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
