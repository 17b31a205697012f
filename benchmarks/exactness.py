"""How exact edits are: `python -m benchmarks.exactness`. Prints a table; nothing is asserted.

Every case of `tests/test_exact.py` on the embedded model, 20 steps: the largest difference of the
final latents to the paper's equations with every map written out, in standard deviations. With
self-attention injected in every layer and in the smallest only. Beside it, what rounding alone
does: the equations in float32 against the equations in float64.
"""

import torch

import p2p_helpers as p2p
from tests import materialised
from tests.test_exact import CASES, STEPS, apart, converted

SIZES = {"every layer": (1.0, 256), "smallest layer": (0.25, 16)}  # self_size, pixels of a layer


def noise(pipe) -> torch.Tensor:
    """The same start in any numbers, for both prompts, (prompt, channel, height, width)."""
    start = torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    return start.repeat(2, 1, 1, 1).to(pipe.unet.dtype)


def equations(pipe, name: str, pixels: int) -> torch.Tensor:
    """Final latents of a case by the equations, (prompt, channel, height, width)."""
    source, target, _, equation, schedule = CASES[name]
    alpha = materialised.schedule(pipe.tokenizer, target, STEPS, schedule)
    edits = [(equation(pipe.tokenizer), alpha)]
    how = {"self_pixels": pixels, "latents": noise(pipe)}
    return materialised.run(pipe, [source, target], edits, STEPS, int(0.4 * STEPS), **how)[0]


def ours(pipe, name: str, self_size: float) -> torch.Tensor:
    """The same by `p2p.edit`."""
    source, target, change, *_ = CASES[name]
    change |= p2p.Reweight({}, cross_steps=1.0, self_steps=0.4, self_size=self_size)
    start, kept = noise(pipe), []

    def keep(pipe, step, timestep, tensors):
        kept.append(tensors["latents"].clone())
        return tensors

    how = {"steps": STEPS, "guidance_scale": 4.0, "progress": False}
    p2p.edit(pipe, source, target, change, latents=start, callback=keep, **how)
    return kept[-1]


def main():
    """The command line."""
    single = p2p.load_pipeline("toyland", device="cpu")
    single.set_progress_bar_config(disable=True)
    double = converted(single, torch.float64)
    print("| case | self-attention | float32 | float64 | rounding alone |\n|---|---|---|---|---|")
    worst = [0.0, 0.0, 0.0]
    for name in CASES:
        for where, (self_size, pixels) in SIZES.items():
            theirs = [equations(pipe, name, pixels) for pipe in (single, double)]
            made = [ours(pipe, name, self_size) for pipe in (single, double)]
            found = [apart(*pair) for pair in zip(made, theirs, strict=True)]
            found.append(apart(*theirs))
            worst = [max(pair) for pair in zip(worst, found, strict=True)]
            print(f"| {name} | {where} | " + " | ".join(f"{x:.1e}" for x in found) + " |")
    print("| largest | | " + " | ".join(f"{x:.1e}" for x in worst) + " |")


if __name__ == "__main__":
    main()
