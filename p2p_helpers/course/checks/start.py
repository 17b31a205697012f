"""Checks of notebooks 00 and 01: pictures, seeds, maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...attention.columns import attention_maps
from ...maps.heatmap import Heatmap
from ...toyland.reader import Reader
from ...values import shown
from .base import given, need, number, numbers, of_kind, passed, several


def check_seed(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> str:
    """Exercise 00.1.

    Two pictures that are alike to the pixel and a third that is not, each uint8 (height, width, 3).
    """
    first, second, third = (numbers(picture) for picture in (first, second, third))
    need(
        first.shape == second.shape == third.shape,
        "The three pictures have different sizes. Give three pictures as arrays.",
    )
    need(
        bool((first == second).all()),
        "The first two differ. What must be the same for the same picture, and did you make it "
        "anew for each run?",
    )
    need(
        bool((first != third).any()),
        "The third is the same picture again. What besides the prompt decides the picture?",
    )
    return passed("prompt and seed fix the picture")


def check_guidance(answer: Callable[[Tensor, Tensor, float], Tensor]) -> str:
    """Exercise 00.2: classifier-free guidance.

    A function of the guess without the prompt, the guess with it, and the scale.
    """
    without, with_prompt = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    for w, what in (
        (1.0, "only the guess with the prompt should be left"),
        (0.0, "only the guess without it should be left"),
        (4.0, "it should go four times the way"),
    ):
        made = numbers(given(answer, without.clone(), with_prompt.clone(), w), without)
        need(
            made.shape == (3, 4),
            f"It should return a tensor (3, 4), like the guesses, not {made!r:.60}.",
        )
        need(
            torch.allclose(made, without + w * (with_prompt - without), atol=1e-6),
            f"At w = {w:g} your answer is wrong: there {what}.",
        )
    return passed("away from the guess that knows no prompt")


Box = tuple[int, int, int, int]  # left, top, right, bottom


def check_boxes(
    source: str,
    target: str,
    boxes: Mapping[int, tuple[Box, Box]],
    two: Callable[[str, str, int], Sequence[Image.Image]],
    reader: Reader,
) -> str:
    """Exercise 00.3.

    A prompt, the same with one word changed, the object's boxes before and after for ten seeds, and
    a function of both prompts and a seed that makes the two pictures. Three seeds are read again.
    """
    need(
        isinstance(source, str) and isinstance(target, str),
        "Give two prompts that differ in one word.",
    )
    old, new = source.split(), target.split()
    changed = sum(a != b for a, b in zip(old, new, strict=False))
    need(
        len(old) == len(new) and changed == 1,
        f"“{source}” and “{target}” do not differ in exactly one word.",
    )
    need(isinstance(boxes, Mapping), "Give a mapping: each seed to its pair of boxes.")
    need(len(boxes) == 10, f"{len(boxes)} seeds with their boxes; give ten.")
    known = {}
    for seed, pair in boxes.items():
        both = numbers(pair)
        need(both.shape == (2, 4), f"Seed {seed}: {pair!r} is no pair of boxes.")
        known[seed] = [tuple(map(int, box)) for box in both]
    for seed in list(known)[::4]:
        made = given(two, source, target, seed)
        pictures = several(made, 2, f"With seed {seed} two() does not give two pictures.")
        _read_again(seed, known[seed], pictures, reader)
    middles = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2, a) for a, b in known.values()]
    stayed = sum(
        left <= x <= right and top <= y <= bottom for x, y, (left, top, right, bottom) in middles
    )
    shift = np.mean(
        [max(abs(x - (a[0] + a[2]) / 2), abs(y - (a[1] + a[3]) / 2)) for x, y, a in middles]
    )
    return passed(
        f"the middle moves by {shift:.1f} pixels on average and lies in the old box in {stayed} of "
        "10; keep the numbers"
    )


def _read_again(seed: int, pair: Sequence[tuple], pictures: list[Image.Image], reader: Reader):
    """Make sure that the boxes of one seed are those of its pictures."""
    for picture in pictures:
        of_kind(picture, Image.Image, "Let two() return two pictures.")
    need(
        not np.array_equal(*map(np.asarray, pictures)),
        f"With seed {seed} two() does not give two different pictures.",
    )
    readings = reader.read(pictures)
    for which, box, seen in zip(("before", "after"), pair, readings, strict=True):
        found = [thing.box for thing in seen.objects]
        need(bool(found), f"Seed {seed}, {which}: the reader sees no object. Take another seed.")
        need(box in found, f"Seed {seed}, {which}: you give {box}; the reader sees {found}.")


def check_map(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Exercise 01.1.

    A function of queries (pixel, width) and keys (token, width) that gives the map (pixel, token).
    """
    made, right = _two_maps(answer, 16)
    need(
        made.shape == (9, 5),
        f"9 pixels and 5 tokens gave {tuple(made.shape)}; a map has a row for each pixel and a column for each "
        "token.",
    )
    need((made >= 0).all().item(), "Some entries are negative. A map holds shares of attention.")
    rows = made.sum(1)
    need(
        torch.allclose(rows, torch.ones(9), atol=1e-4),
        "The rows do not sum to 1. Each pixel shares out its attention over the tokens.",
    )
    which = "decided" if made.max() > right.max() else "even"
    need(
        torch.allclose(made, right, atol=1e-4),
        f"Nearly: the rows sum to 1, but the shares are too {which}. How long is a row of Q?",
    )
    made, right = _two_maps(answer, 25)
    need(
        made.shape == right.shape and torch.allclose(made, right, atol=1e-4),
        "With another width it is wrong. How long is a row of Q there?",
    )
    return passed("a pixel's question, and its answers")


def _two_maps(answer: Callable[[Tensor, Tensor], Tensor], width: int) -> tuple[Tensor, Tensor]:
    """The answer's map and the right one, of nine pixels and five tokens."""
    query, key = (
        3 * torch.randn(n, width, generator=torch.Generator().manual_seed(n)) for n in (9, 5)
    )
    made = numbers(given(answer, query, key)).float()
    return made, attention_maps(query[None, None], key[None, None])[0, 0]


def check_mask(answer: Tensor | np.ndarray, truth: np.ndarray, least: float) -> str:
    """Exercise 01.2.

    A bool mask with at least so much intersection over union with the true one, both (height,
    width).
    """
    mask = numbers(answer).numpy()
    need(
        mask.shape == truth.shape and mask.dtype == bool,
        f"The mask is {mask.dtype} {mask.shape}; it should be bool {truth.shape}.",
    )
    need(
        mask.any() and not mask.all(),
        "The mask holds nothing or everything. Try a threshold between 0 and 1.",
    )
    overlap = (mask & truth).sum() / (mask | truth).sum()
    need(overlap < 1, "This is the true mask itself. Make yours from the map.")
    ratio = mask.sum() / truth.sum()
    size = (
        "too large"
        if ratio > 1.15
        else "too small"
        if ratio < 0.85
        else "of about the right size, but not in the right place"
    )
    need(
        overlap >= least,
        f"Intersection over union is {overlap:.2f}, less than {least}; the mask is {size}.",
    )
    return passed(f"intersection over union {overlap:.2f}")


def check_head(heat: Heatmap, layer: int, head: int) -> str:
    """Exercise 01.3.

    The layer's number and the head whose map has the largest share within the mean map's mask.
    """
    mask, layers = heat.mask(0.5), heat.maps.layers

    def inside(where: int, which: int) -> float:
        found = heat.at(layer=where, head=which).tensor()
        return (found[mask].sum() / found.sum()).item()

    layer = number(layer, f"{shown(layer)} is no layer's number.")
    head = number(head, f"{shown(head)} is no head's number.")
    at_level = [layers.index(name) for name in heat.maps.level_layers]
    need(
        layer in at_level,
        f"Layer {layer} is none of those at the map level, whose numbers are {at_level}.",
    )
    count = heat.maps.heads
    need(head in range(count), f"There is no head {head}; count {count} heads from 0.")
    best = max(inside(a, b) for a in at_level for b in range(count))
    mine = inside(int(layer), int(head))
    need(
        mine >= best - 1e-4,
        f"{mine:.0%} of this head's attention is within the mask; another has more. Have you tried "
        "all?",
    )
    return passed(f"{mine:.0%} of its attention to the word is on the object")
