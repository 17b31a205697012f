"""How well objects are moved, resized, doubled, removed and swapped: `python -m benchmarks.layout`.

Prints a table and writes `runs/benchmarks/layout.json`. The scenes were in no training, and the reader sees in them what their
caption says; they have one object, or two that change places. Generated ones are judged by the reader (where it finds the object)
and by the source's own pixels, painted ones by their true result, too. In place: the boxes of the object found and of the wanted one
have an intersection over union of at least a half; a doubled one fills most of both places. Clear: of the place that it left at most
a tenth is read as an object.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

import p2p_helpers as p2p
from p2p_helpers.errors import SceneError
from p2p_helpers.metrics import psnr
from p2p_helpers.provenance import machine
from p2p_helpers.toyland import caption, load_reader, render, scene_at
from p2p_helpers.toyland.evaluate import quote
from p2p_helpers.toyland.layout import overlap
from p2p_helpers.toyland.world import SIZE

from .inversion import interval

OUT = Path("runs/benchmarks/layout.json")
MEASURED = Path(__file__).parent.parent / "data" / "benchmark" / "layout.json"
CELL = 8  # pixels of one latent pixel
FAR = 3  # cells an object is moved at least
SCALES = {"smaller": 0.7, "larger": 1.4}
ONE = ("moved", *SCALES, "removed", "doubled")  # edits of one object


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
        found["doubled"] = (lambda word: p2p.Duplicate(word, dx=right, dy=down), None, shift)
    return found


def judge(reader, source, image, word, old, name, wanted, shift) -> dict:
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
    if name == "doubled":  # most of both places is read as the object
        there = np.roll(old.cells, (shift[1], shift[0]), (0, 1))
        mine = found[word].cells if word in found else np.zeros((16, 16), bool)
        row["done"] = bool(min(mine[old.cells].mean(), mine[there].mean()) >= 0.5)
        kept &= ~inside(wanted_box(old.box, shift), CELL)
    elif wanted is None:
        row["done"] = bool(word not in found and cells[old.cells].mean() <= 0.1)
    else:
        row["overlap"] = overlap(found[word].box, wanted) if word in found else 0.0
        row["done"] = row["overlap"] >= 0.5
        kept &= ~inside(wanted, CELL)
        left = old.cells & ~(inside(wanted, CELL).reshape(16, CELL, 16, CELL).mean((1, 3)) > 0.25)
        row["clear"] = bool(not left.any() or cells[left].mean() <= 0.1)
    before, after = np.asarray(source), np.asarray(image)
    if kept.any():
        row["background"] = psnr(before, after, kept)
    if name == "moved":
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
    if name in ("moved", "doubled"):
        changes = {"x": thing.x + shift[0] * CELL, "y": thing.y + shift[1] * CELL}
    elif name in SCALES:
        changes = {"size": round(thing.size * SCALES[name])}
    else:
        return scene.replace(things=())
    return scene.replace(0, **changes)


def measure(pipe, reader, kind: str, count: int, first: int, steps: int) -> dict[str, list[dict]]:
    """Edit → a row of figures for each of so many scenes in which the reader sees what the caption says, and which have room."""
    rows: dict[str, list[dict]] = {name: [] for name in (*ONE, "places swapped")}
    for objects, names in ((1, ONE), (2, ("places swapped",))):
        number = first
        while min(len(rows[name]) for name in names) < count:
            scene, number = scene_at("test", number, objects=objects), number + 1
            things = [thing.name for thing in scene.things]
            source, picture = source_of(pipe, scene, kind, steps)
            seen = {one.name: one for one in reader.read([picture])[0].objects}
            if sorted(seen) != sorted(things):
                continue
            if objects == 2:
                rows["places swapped"] += swapped(pipe, reader, scene, source, picture, seen)
                continue
            rng = np.random.default_rng(number)
            for name, (make, wanted, shift) in edits_of(seen[things[0]].box, rng).items():
                if len(rows[name]) >= count:
                    continue
                result = p2p.edit(pipe, source, caption(scene), make(things[0]), progress=False)
                row = judge(
                    reader, picture, result.image, things[0], seen[things[0]], name, wanted, shift
                )
                if kind == "painted":
                    row |= against_truth(result.image, scene, name, shift)
                rows[name].append(row)
    return rows


def source_of(pipe, scene, kind: str, steps: int):
    """A scene's picture, recorded once, and as it was before the model saw it."""
    prompt, how = caption(scene), {"record": True, "progress": False}
    if kind == "generated":
        made = p2p.edit(pipe, prompt, prompt, seed=0, steps=steps, **how)
        return made, made.source
    picture = render(scene)[0]
    found = p2p.invert(pipe, picture, prompt, method="direct", steps=steps, progress=False)
    return p2p.edit(pipe, found, prompt, **how), picture


def against_truth(image, scene, name: str, shift) -> dict[str, float]:
    """The object against the renderer's own answer, where it can paint one."""
    try:
        truth, masks = render(true_scene(scene, name, shift))
    except SceneError:
        return {}
    if not len(masks) or not masks[0].any():
        return {}
    return {"truth": psnr(np.asarray(truth), np.asarray(image), masks[0])}


def swapped(pipe, reader, scene, source, picture, seen) -> list[dict]:
    """Two objects change their places from left to right: the figures of both, as one row; none if one would leave the picture."""
    one, other = (seen[thing.name] for thing in scene.things)
    middles = [(box[0] + box[2]) / 2 for box in (one.box, other.box)]
    cells = round((middles[1] - middles[0]) / CELL)
    shifts = (cells, 0), (-cells, 0)
    wanted = [wanted_box(x.box, shift) for x, shift in zip((one, other), shifts, strict=True)]
    if abs(cells) < FAR or any(box[0] < 0 or box[2] > SIZE for box in wanted):
        return []
    far = cells * CELL / SIZE
    edit = p2p.Move(one.name, dx=far) | p2p.Move(other.name, dx=-far)
    image = p2p.edit(pipe, source, caption(scene), edit, progress=False).image
    found = {x.name: x for x in reader.read([image])[0].objects}
    overlaps = [
        overlap(found[x.name].box, box) if x.name in found else 0.0
        for x, box in zip((one, other), wanted, strict=True)
    ]
    row = {"overlap": float(np.mean(overlaps)), "done": min(overlaps) >= 0.5}
    kept = ~np.any([inside(box, CELL) for box in (one.box, other.box, *wanted)], axis=0)
    if kept.any():
        row["background"] = psnr(np.asarray(picture), np.asarray(image), kept)
    return [row]


def summary(rows: dict[str, list[dict]]) -> dict:
    """Every figure: a mean and half of its 95 % interval, or a share and its interval's two ends (Wilson 1927)."""
    found = {}
    for name, ones in rows.items():
        keys = sorted({key for one in ones for key in one})
        found[name] = {"scenes": len(ones)}
        for key in keys:
            values = [one[key] for one in ones if key in one]
            found[name][key] = shares(values) if key in ("done", "clear") else interval(values)
    return found


def shares(values: list[bool]) -> tuple[float, float, float]:
    """The share of what is true, and the ends of its 95 % interval."""
    ends = binomtest(sum(values), len(values)).proportion_ci(method="wilson")
    return sum(values) / len(values), float(ends.low), float(ends.high)


def table(results: dict) -> str:
    """Markdown: a row for each kind of picture and edit."""
    heads = ("", "done", "old place clear", "overlap", "object, dB", "background, dB", "scenes")
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]

    def said(one: dict, key: str, digits: int) -> str:
        if key not in one:
            return "–"
        if len(one[key]) == 3:
            share, low, high = one[key]
            return f"{share:.0%} ({low:.0%} to {high:.0%})"
        mean, half = one[key]
        return f"{mean:.{digits}f} ± {half:.{digits}f}"

    for kind in ("generated", "painted"):
        for name, one in results[kind].items():
            figures = [said(one, "done", 0), said(one, "clear", 0), said(one, "overlap", 2)]
            figures += [said(one, "truth", 1), said(one, "background", 1), str(one["scenes"])]
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
    if {"generated", "painted"} <= results.keys():
        print(table(results))


if __name__ == "__main__":
    main()
