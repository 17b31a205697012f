"""The few figures that the README shows: `python -m benchmarks.summary` writes them from the stored files, and measures nothing."""

import json
from pathlib import Path

from p2p_helpers.toyland.evaluate import quote

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
        f"network, sees the new object in {swap['seen']:.0%}"
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


if __name__ == "__main__":
    quote(ROOT / "README.md", "summary", table())
