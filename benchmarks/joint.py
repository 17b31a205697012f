"""What an edit costs in joint attention: `python -m benchmarks.joint`. Prints a table; nothing is asserted.

The attention alone, in the shapes of Stable Diffusion 3.5 medium (24 heads of 64, 333 tokens of text) and Flux.1 (24 heads of 128,
512 tokens) at 512 and 1024 pixels: one call of a step with one source and one target, random numbers, float32 (bfloat16 on a GPU).
Then three blocks of Stable Diffusion 3.5 medium's width with random weights, a step of the whole pipeline. Every run has a plain one
beside it, whose seconds stand there, too. Two parts, `attention` and `blocks`; both when none is named.
"""

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

import p2p_helpers as p2p
from p2p_helpers.attention.layers import Layer
from p2p_helpers.attention.phases import Wish
from p2p_helpers.attention.terms import SAME, attend
from p2p_helpers.attention.transformers import Flux, StableDiffusion3
from p2p_helpers.memory import measured
from tests.transformers import build

from .editing import GPU, timed

DEVICE, DTYPE = ("cuda", torch.bfloat16) if GPU else ("cpu", torch.float32)
SHAPES = {
    "Stable Diffusion 3.5 medium": (24, 64, 333, StableDiffusion3.ORDER, 4),
    "Flux.1": (24, 128, 512, Flux.ORDER, 2),
}
WIDE = {"attention_head_dim": 64, "num_attention_heads": 24, "num_layers": 3}
WIDE |= {"caption_projection_dim": 24 * 64, "sample_size": 64, "pos_embed_max_size": 64}


def wishes(tokens: int) -> dict[str, Wish]:
    """Name → what the target asks for: matrices as an edit has them, dense, where none is zero or the same."""
    s, t = torch.eye(tokens, device=DEVICE), torch.eye(tokens, device=DEVICE)
    new = torch.arange(tokens, device=DEVICE) == 3
    return {
        "swap, pixels injected": Wish((SAME, None), 1.0),
        "swap of a longer word, pixels injected": Wish((s, None), 1.0),
        "refine, pixels injected": Wish((s * ~new, t * new), 1.0),
        "swap, own pixels": Wish((SAME, None), 0.0),
        "pixels injected alone": Wish(None, 1.0),
    }


def ratio(run, plain, times: int) -> str:
    """Seconds and peak memory, each as a multiple of the plain run's: medians of pairs in turn, and the largest peaks."""
    run(), plain()
    pairs = [[measured(DEVICE, lambda f=f: timed(f)) for f in (run, plain)] for _ in range(times)]
    times_as_long = statistics.median(own / other for (own, _), (other, _) in pairs)
    alone = statistics.median(other for _, (other, _) in pairs)
    peaks = [max(peak or 0 for _, peak in one) for one in zip(*pairs, strict=True)]
    memory = f"; memory {peaks[0] / peaks[1]:.2f}" if all(peaks) else ""
    return f"{times_as_long:.2f}; plain {alone:.2f} s{memory}"


def attention(name: str, pixels: int, times: int) -> dict[str, str]:
    """Ratios of every edit to one plain call."""
    heads, width, tokens, order, rows = SHAPES[name]
    side = pixels // 8
    layer = Layer("", "joint", "block", 1, heads, order)
    places = layer.places((side, side), tokens)
    count = layer.keys((side, side), tokens)
    # as processors lay it out: the heads of a token side by side
    q, k, v = (
        torch.randn(rows, count, heads, width, device=DEVICE, dtype=DTYPE).transpose(1, 2)
        for _ in range(3)
    )
    source, own = rows - 2, rows - 1
    found = {}
    for edit, wish in wishes(tokens).items():
        terms = {own: wish.terms(layer, (side, side), source, own)}
        found[edit] = ratio(
            lambda terms=terms: attend(q, k, v, terms, places),
            lambda: F.scaled_dot_product_attention(q, k, v),
            times,
        )
    return found


def blocks(pixels: int, times: int) -> Iterator[tuple[str, str]]:
    """Every edit, and its ratio to a step of the whole pipeline, with three blocks."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = build("sd3.5", Path(folder), **WIDE).to(DEVICE, DTYPE)
    prompts = ["a cat on the beach", "a dog on the beach"]
    common = {"height": pixels, "width": pixels, "guidance_scale": 4.0}
    edits = {
        "swap, pixels injected": p2p.Replace(cross_steps=1.0, self_steps=1.0),
        "refine, pixels injected": p2p.Refine(cross_steps=1.0, self_steps=1.0),
        "swap, own pixels": p2p.Replace(cross_steps=1.0, self_steps=0.0),
        "pixels injected alone": p2p.Replace(cross_steps=0.0, self_steps=1.0),
        "a fader": p2p.Reweight({"beach": 2.0}, cross_steps=1.0, self_steps=1.0),
        "InjectQK": p2p.InjectQK(self_steps=1.0),
    }

    def plain():
        pipe(prompts, num_inference_steps=1, **common)

    def edited(change, **more):
        target = f"{prompts[0]} at night" if isinstance(change, p2p.Refine) else prompts[1]
        if isinstance(change, p2p.Reweight):
            target = prompts[0]
        p2p.edit(pipe, prompts[0], target, change, steps=1, progress=False, **common, **more)

    for name, change in edits.items():
        yield name, ratio(lambda c=change: edited(c), plain, times)
    swap = edits["swap, pixels injected"]
    yield "local blend", ratio(lambda: edited(swap, local_blend=("cat", "dog")), plain, times)
    yield "recorded", ratio(lambda: edited(swap, record=True), plain, times)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.joint", description=__doc__.split("\n")[0]
    )
    parser.add_argument("parts", nargs="*", default=["attention", "blocks"])
    parser.add_argument("--times", type=int, default=5, help="pairs for each figure")
    parser.add_argument("--pixels", type=int, nargs="+", default=[512, 1024])
    chosen = parser.parse_args()
    if "attention" in chosen.parts:
        for name, pixels in itertools.product(SHAPES, chosen.pixels):
            for edit, found in attention(name, pixels, chosen.times).items():
                print(f"{name}, attention alone, {pixels} px | {edit} | {found}", flush=True)
    if "blocks" in chosen.parts:
        for pixels in chosen.pixels:
            for edit, found in blocks(pixels, chosen.times):
                name = "three blocks of Stable Diffusion 3.5 medium"
                print(f"{name}, {pixels} px | {edit} | {found}", flush=True)


if __name__ == "__main__":
    main()
