"""Checks of notebook 08: other models."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from ...attention.layers import halved, map_level
from ...edits.schedule import active_steps
from ...values import shown
from .base import given, need, number, passed, several


def check_map_bytes(
    answer: Callable[[Sequence[tuple[int, int]], int, int, bool, int], float],
) -> str:
    """Exercise 08.1.

    A function of the layers, (heads, pixels) each, the tokens, the prompts, whether there is
    guidance, and the bytes of one number, that gives the bytes of all cross-attention maps of one
    step.
    """
    one = given(answer, [(1, 10)], 5, 1, False, 1)
    one = number(one, f"It returned {shown(one)}; bytes are one number.")
    need(
        one == 50,
        "One layer of one head, 10 pixels, 5 tokens, one prompt, no guidance, 1 byte each: "
        f"{one:g} bytes. What shape has a map?",
    )
    for layers, tokens, prompts, guided, each, what in (
        ([(1, 10)], 5, 1, False, 4, "every number takes 4 bytes. Where do they come in?"),
        (
            [(3, 10)],
            5,
            1,
            False,
            1,
            "the layer has 3 heads. How many maps does a token have in it?",
        ),
        ([(1, 10)], 5, 3, False, 1, "3 prompts run side by side. Whose maps are counted?"),
        (
            [(1, 10)],
            5,
            1,
            True,
            1,
            "there is guidance. How many rows does the UNet then get for one prompt?",
        ),
        (
            [(1, 10), (2, 40)],
            5,
            1,
            False,
            1,
            "there are two layers, of different heads and pixels. Are all of them counted?",
        ),
        (
            [(8, 4096), (8, 1024)],
            77,
            2,
            True,
            2,
            "everything comes together. Is a factor used twice, or added where it should multiply?",
        ),
    ):
        right = (
            sum(heads * pixels for heads, pixels in layers) * tokens * prompts * (1 + guided) * each
        )
        why = f"With layers={layers}, {what}"
        need(number(given(answer, layers, tokens, prompts, guided, each), why) == right, why)
    return passed("counted, not guessed: bytes follow from shapes")


def check_fit(answer: Callable[[float, torch.dtype], float]) -> str:
    """Exercise 08.2: a function of a model's million weights and their dtype that gives GiB."""

    def size(million_weights: float, dtype: torch.dtype) -> float:
        made = given(answer, million_weights, dtype)
        return number(made, f"It returned {shown(made)}; a size is one number.")

    made = {
        dtype: size(1000.0, dtype)
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    }
    full, half = made[torch.float32], made[torch.float16]
    need(
        full != half,
        f"A thousand million weights take {full:.2f} GiB in float32 and the same in float16. How "
        "many bytes has a number of each?",
    )
    need(
        math.isclose(full, 2 * half, rel_tol=1e-3)
        and math.isclose(made[torch.bfloat16], half, rel_tol=1e-3),
        f"float32 gives {full:.2f}, float16 {half:.2f}, bfloat16 {made[torch.bfloat16]:.2f} GiB. "
        "Ask each dtype for its itemsize.",
    )
    need(
        math.isclose(made[torch.float64], 2 * full, rel_tol=1e-3),
        "float64 is not twice float32. Ask the dtype for its itemsize.",
    )
    right = 1e9 * 4 / 2**30
    close = math.isclose(full, 4.0, rel_tol=1e-6) or math.isclose(
        full, right * 2**30 / 10**9, rel_tol=1e-6
    )
    need(not close, f"{full:.2f} are gigabytes, of 10⁹ bytes. How many bytes has a GiB?")
    need(
        math.isclose(full, right, rel_tol=1e-3),
        f"A thousand million float32 weights are not {full:.4g} GiB. Go through the units.",
    )
    need(
        math.isclose(size(10.0, torch.float32), right / 100, rel_tol=1e-3),
        "Ten million weights are not a hundredth of that.",
    )
    return passed("a lower bound, before anything runs")


def check_last_steps(
    answer: Sequence[int], share: float = 0.6, runs: Sequence[int] = (7, 9, 30)
) -> str:
    """Exercise 08.3.

    For runs of so many steps, in how many of them a cross schedule of this share is on.
    """
    why = f"Give {len(runs)} numbers, one for each of {', '.join(map(str, runs))}."
    for steps, mine in zip(runs, several(answer, len(runs), why), strict=True):
        why = f"With {steps} steps you say {shown(mine)}; a step is taken whole or not at all."
        mine = number(mine, why)
        need(mine == int(mine), why)
        right = int(active_steps(share, steps).sum())
        need(mine <= steps, f"With {steps} steps it cannot be on in {mine:g}.")
        said = f"With {steps} steps it is not on in {int(mine)}"
        need(
            mine != right + 1,
            f"{said}. Is the fraction cut off or rounded up, or did you count the first step that "
            "is off?",
        )
        need(
            mine == right,
            f"{said}. Of what number do the authors take the share for cross-attention? "
            "`help(p2p.active_steps)` says it.",
        )
    return passed("with few steps a share is a coarse thing")


def check_size(answer: tuple[int, int], most: int = 400_000) -> str:
    """Exercise 08.4.

    Height and width of a landscape 3:2 picture for Stable Diffusion 1.5 (8 pixels to a cell of the
    latent, halved three times) of at most so many pixels, whose local blend takes its maps at a
    quarter of the latent, 16 rows or more.
    """
    sides = several(answer, 2, "Give two numbers, height and width in pixels.")
    why = f"{shown(answer)} are no sides in whole pixels."
    height, width = (number(side, why) for side in sides)
    need(all(side == int(side) and side > 0 for side in (height, width)), why)
    need(
        2 * width == 3 * height,
        f"{height}×{width} (height × width) is {width / height:.3g}:1. Landscape 3:2 is 1.5:1.",
    )
    need(
        not (height % 8 or width % 8),
        f"{height}×{width} is no whole number of latent cells. How many pixels is a cell wide?",
    )
    rows, columns = height // 8, width // 8
    odd = [(a, b) for a, b in (halved(rows, columns, n) for n in range(3)) if a % 2 or b % 2]
    need(
        not odd,
        f"On the way down there are {'×'.join(map(str, odd[0])) if odd else ''} cells, which do "
        "not halve evenly.",
    )
    level = map_level(rows, columns, [0, 1, 2])
    shape = "×".join(map(str, halved(rows, columns, level)))
    need(
        level == 2,
        f"Local blend would take its maps after {level} halving(s), {shape}: a quarter of this "
        "latent has fewer than 16 rows. Go larger.",
    )
    need(
        height * width <= most,
        f"{height}×{width} are more than {most:,} pixels. Is there a smaller one that still fits?",
    )
    return passed(f"{rows}×{columns} cells, and masks of {shape}")
