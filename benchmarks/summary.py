"""The few figures that the README shows, and what was wanted of the embedded model, there and in its card.

`python -m benchmarks.summary` writes them from the stored files, and measures nothing.
"""

import json
from pathlib import Path

from p2p_helpers.toyland.evaluate import AIMS, EDITS, quote
from p2p_helpers.toyland.sheets import score

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data"


def stored(name: str) -> dict:
    """A file of figures below data/."""
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def table() -> str:
    """Markdown: a question in each row, and what was measured."""
    toyland, maps = stored("toyland/evaluation.json"), stored("benchmark/maps.json")["ways"]
    models, inverted = (
        stored("benchmark/editing.json")["models"],
        stored("benchmark/measured.json")["summary"],
    )
    free, swap, blend = (
        toyland[f"far swaps: {name}"]
        for name in ("no control", "word swap, recommended", "word swap, recommended, local blend")
    )
    judged = score(**stored("toyland/sheets.json"))["swaps"]

    def cost(model: str) -> str:
        return f"{models[model]['ways']['p2p.edit']['ratio']:.2f}"

    def short(method: str) -> str:
        return f"{abs(inverted[method]['short'][0]):.1f} dB"

    moves = (
        f"no: the boxes of the old and the new object overlap by {free['overlap']:.2f}, what is behind them agrees to "
        f"{free['background']:.0f} dB ({free['swaps']} far swaps, as car → cat; medians)"
    )
    keeps = (
        f"yes: {swap['overlap']:.2f} and {swap['background']:.0f} dB, with local blend {blend['background']:.0f} dB; the reader, a "
        f"network, sees the new object in {swap['seen']:.0%}; in {judged['pictures']} other swaps it sees that object and no other in "
        f"{judged['reader']:.0%}, where two judges who saw no prompt name it in {judged['person']:.0%}"
    )
    exact = (
        "to rounding: against every map written out, 10⁻¹³ of a standard deviation in float64, and on small models of each "
        "architecture 10⁻¹⁰ at most"
    )
    price = f"{cost('sd1')} times in Stable Diffusion 1.5's shape, {cost('sdxl')} in XL's, {cost('toyland')} on Toyland"
    found = (
        f"intersection over union with the true masks {maps['spread along self-attention']['iou'][0]:.2f}, as the paper "
        f"averages them {maps['mean at 16×16']['iou'][0]:.2f}"
    )
    back = f"below what the autoencoder allows: plain DDIM {short('ddim')}, null-text {short('null-text')}, direct {short('direct')}"
    rows = {
        "question": "measured",
        "---": "---",
        "Does the same seed keep the layout when a word changes?": moves,
        "Does word swap?": keeps,
        "Is it what the paper says?": exact,
        "What does an edit cost, beside making the two pictures?": price,
        "Do word maps find their objects?": found,
        "How well is a real picture given back, at guidance 7.5?": back,
    }
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def aims() -> str:
    """Markdown: for each thing that was wanted of the embedded model what came out, met or not."""
    toyland, judged = stored("toyland/evaluation.json"), score(**stored("toyland/sheets.json"))
    rows = []

    def least(what: str, wanted: float, found: list[float], form: str, more: str = ""):
        said = ", ".join(format(one, form) for one in found)
        rows.append((what, f"≥ {wanted:{form}}", said + more, min(found) >= wanted))

    def most(what: str, wanted: float, found: float, form: str):
        rows.append((what, f"≤ {wanted:{form}}", format(found, form), found <= wanted))

    sheets = {
        "generated": ("the object of 64 generated pictures", 0.95, 2.7),
        "swaps": ("the new object of 64 word swaps", 0.90, 2.5),
        "painted": ("the new object of 64 word swaps in painted pictures", 0.90, 2.5),
    }
    for sheet, (what, named, looks) in sheets.items():
        found = judged[sheet]
        reader = f" (the reader names it alone in {found['reader']:.0%})"
        least(f"two judges who saw no prompt name {what}", named, [found["person"]], ".0%", reader)
        least("… and their looks, of 3", looks, [found["looks"]], ".1f")
    free, usual, swap, blend = (
        toyland[f"far swaps: {name}"]
        for name in (
            "no control",
            "word swap, usual schedules",
            "word swap, recommended",
            "word swap, recommended, local blend",
        )
    )
    held = f" ({usual['overlap']:.2f} with the usual schedules, where the reader sees the new object in {usual['seen']:.0%})"
    most("far swaps: boxes overlap, no control", 0.35, free["overlap"], ".2f")
    least("far swaps: boxes overlap, word swap", 0.75, [swap["overlap"]], ".2f", held)
    most("far swaps: what is behind, no control, dB", 20, free["background"], ".1f")
    held = f" ({usual['background']:.1f} with the usual schedules)"
    least("far swaps: what is behind, word swap, dB", 28, [swap["background"]], ".1f", held)
    least(
        "far swaps: what is behind, word swap with local blend, dB",
        34,
        [blend["background"]],
        ".1f",
    )
    made = toyland["generated"]
    for name in ("two objects", "colour"):
        least(f"the reader sees in generated pictures: {name}", AIMS[name], [made[name]], ".1%")
    names = ("background", "night", "snow")
    least("… place, night, snow", 0.99, [made[name] for name in names], ".1%")
    seen = {kind: toyland[f"painted: {kind}"]["seen"] for kind in EDITS}
    added = seen.pop("add")
    least(f"edits of painted pictures seen: {', '.join(seen)}", 0.95, [*seen.values()], ".0%")
    least("… adding an object", 0.60, [added], ".0%")
    for weight in ("0.0", "-2.0"):
        for phrase, found in toyland["snow still seen"].items():
            most(f"“{phrase}” × {float(weight):g}: snow still seen", 0.10, found[weight], ".0%")
    costs = stored("benchmark/editing.json")
    edit = costs["models"]["toyland"]["ways"]["p2p.edit"]["seconds"]
    most("an edit of 30 steps on two cores, seconds", 3, edit, ".1f")
    most("loading, seconds", 1, costs["load seconds"], ".1f")
    shipped = sum(f.stat().st_size for f in (DATA / "toyland" / "pipeline").rglob("*"))
    most("the pipeline's files, MB", 45, shipped / 1e6, ".1f")
    lines = [f"| {a} | {b} | {c} | {'yes' if met else '**no**'} |" for a, b, c, met in rows]
    return "\n".join(["| what | wanted | reached | met |", "|---|---|---|---|", *lines])


def world() -> str:
    """Markdown: what one changed word does to the world itself."""
    lines = [
        f"| {kind} | {found['overlap']:.2f} | {found['behind']:.1f} dB | {found['scenes']} |"
        for kind, found in stored("toyland/world.json").items()
    ]
    head = "| what is changed | overlap of the object's boxes | what is behind | scenes |"
    return "\n".join([head, "|---|---|---|---|", *lines])


if __name__ == "__main__":
    quote(ROOT / "README.md", "summary", table())
    card = DATA / "toyland" / "MODEL_CARD.md"
    quote(card, "world", world())
    for page in (ROOT / "README.md", card):
        quote(page, "aims", aims())
