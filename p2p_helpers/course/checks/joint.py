"""Checks for joint attention and flows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .base import given, need, numbers, passed


def check_text_share(answer: Callable[[Tensor, int], Tensor]) -> str:
    """Exercise 9.1: how much of each pixel's attention the text gets.

    A function of the scores (pixel, key), pixels first among the keys, and how many of the keys are tokens of text.
    """
    rng = torch.Generator().manual_seed(0)
    for pixels, tokens in ((4, 3), (9, 2), (6, 6)):
        scores = torch.randn(pixels, pixels + tokens, generator=rng)
        share = numbers(given(answer, scores, tokens), scores)
        need(
            share.shape == (pixels,),
            f"{pixels} pixels gave {tuple(share.shape)}: one share for each pixel.",
        )
        need(
            not torch.allclose(share, torch.ones(pixels)),
            "Every share is 1. The softmax goes over a whole row, text and pixels.",
        )
        maps = scores.softmax(-1)
        need(
            not torch.allclose(share, maps[:, :-tokens].sum(-1), atol=1e-5),
            "That is what the pixels get. The text's keys are the last ones.",
        )
        need(
            torch.allclose(share, maps[:, -tokens:].sum(-1), atol=1e-5),
            f"Pixel 0 gives the text {maps[0, -tokens:].sum():.3f}, and you have {share[0]:.3f}.",
        )
    return passed("each pixel's attention to all words together")


def check_joint_rule(answer: Callable[[Tensor, Tensor, Tensor, bool], Tensor]) -> str:
    """Exercise 9.2: the edit rule for joint attention.

    A function of two maps (pixel, key) with pixels first among the keys, M (token, token), and whether pixels are lent.
    """
    rng = torch.Generator().manual_seed(1)
    for pixels, tokens, lent in ((4, 3, True), (9, 4, False), (5, 2, False)):
        source, target = torch.randn(2, pixels, pixels + tokens, generator=rng).softmax(-1)
        mapping = torch.eye(tokens).roll(1, 0)
        mapping[0] /= 2  # a word of one token shares its map between two
        mapping[0, 0] = 0.5
        made = numbers(given(answer, source.clone(), target.clone(), mapping, lent), target)
        need(
            made.shape == target.shape,
            f"Two maps of {tuple(target.shape)} gave one of {tuple(made.shape)}.",
        )
        words, own = made[:, pixels:], made[:, :pixels]
        need(
            not torch.allclose(words, target[:, pixels:]),
            "The words' columns are still the target's own. They come after the pixels'.",
        )
        need(
            not torch.allclose(words, source[:, pixels:]),
            "The words' columns are the source's, but they are not lined up by M.",
        )
        need(
            torch.allclose(words, source[:, pixels:] @ mapping, atol=1e-6),
            "The words' columns should be the source's, times M.",
        )
        whose = "source" if lent else "target"
        right = source if lent else target
        need(
            torch.allclose(own, right[:, :pixels]),
            f"With pixels {'lent' if lent else 'not lent'}, the pixels' columns should be the {whose}'s.",
        )
    return passed("words from the source, and pixels where they are lent")


def check_reverse_euler(
    answer: Callable[[Callable[[Tensor, float], Tensor], Tensor, Sequence[float]], Tensor],
) -> str:
    """Exercise 9.3: from a picture to its noise, by Euler's steps backwards.

    A function of the velocity v(x, σ), the picture, and the noise levels σ in the order of sampling, the last one 0.
    """
    flows = {
        "v = 1": lambda x, sigma: torch.ones_like(x),
        "v = σ": lambda x, sigma: torch.full_like(x, sigma),
        "v = x": lambda x, sigma: x,
        "v = x + σ": lambda x, sigma: x + sigma,  # here the order of the steps counts
    }
    for name, velocity in flows.items():
        for sigmas in ([1.0, 0.5, 0.0], [1.0, 0.8, 0.3, 0.1, 0.0]):
            picture = torch.tensor([1.0, -2.0])
            x = picture.clone()
            for i in reversed(range(len(sigmas) - 1)):
                x = x - (sigmas[i + 1] - sigmas[i]) * velocity(x, sigmas[i + 1])
            made = numbers(given(answer, velocity, picture.clone(), list(sigmas)), x)
            need(made.shape == x.shape, f"A picture of (2,) gave {tuple(made.shape)}.")
            need(not torch.equal(made, picture), "This is still the picture.")
            forwards = picture.clone()
            for before, after in itertools.pairwise(sigmas):
                forwards = forwards + (after - before) * velocity(forwards, before)
            need(
                name == "v = x" or not torch.allclose(made, forwards),
                "That is sampling. Go the other way: from σ = 0 up to σ = 1.",
            )
            other = picture.clone()
            for before, after in itertools.pairwise(sigmas):
                other = other - (after - before) * velocity(other, after)
            need(
                name != "v = x + σ" or not torch.allclose(made, other),
                "These are the right steps in the wrong order. Which one is the first on the way back?",
            )
            need(
                torch.allclose(made, x, atol=1e-5),
                f"With {name} and σ = {sigmas} the noise should be {x.tolist()}, and you have {made.tolist()}.",
            )
    return passed("the picture's noise, a step for each pair of noise levels")
