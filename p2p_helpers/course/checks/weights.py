"""Checks for reweighting."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...edits.words import Reweight
from ...toyland import Reading
from ...values import shown
from .base import given, need, number, numbers, passed, several


def check_fader_matrices(
    s: Tensor, t: Tensor, tokenizer, prompt: str, weights: dict[str, float]
) -> str:
    """Exercise 04.1: S and T of a fader while it is on, both (token, token)."""
    right_s = Reweight(weights, cross_steps=1.0).matrices(tokenizer, prompt, prompt, 1)[0][0]
    s, t = (numbers(matrix, right_s) for matrix in (s, t))
    need(
        s.shape == t.shape == right_s.shape,
        f"S and T should be tensors of shape {tuple(right_s.shape)}.",
    )
    need(
        not t.any(),
        "T is not zero, so the target adds its own maps. Whose maps does it use while the edit is "
        "on?",
    )
    need(
        torch.equal(s, torch.diag(s.diagonal())),
        "S has entries off its diagonal: a word would look where another looked.",
    )
    wrong = (s.diagonal() != right_s.diagonal()).nonzero().flatten().tolist()
    need(
        not wrong,
        f"The entry of token {wrong[0] if wrong else ''} is wrong. Which tokens are turned, and "
        "what do the others have?",
    )
    return passed("one word turned, all others as they were")


def check_row_sums(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Exercise 04.2: the sums of each pixel's scaled attention.

    A function of a map (pixel, token) and faders (token,).
    """
    maps = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).softmax(1)
    for c in (
        torch.ones(5),
        torch.tensor([1.0, 1.0, 3.0, 1.0, 1.0]),
        torch.tensor([0.0, 1.0, -2.0, 1.0, 4.0]),
    ):
        made = numbers(given(answer, maps.clone(), c), maps)
        need(
            made.shape == (7,),
            f"7 pixels gave {tuple(made.shape)}: one number for each pixel.",
        )
        which = "With all faders at 1 every" if (c == 1).all() else f"With faders {c.tolist()} a"
        need(
            torch.allclose(made, maps @ c, atol=1e-5),
            f"{which} row sums to something else. Scale each column first.",
        )
    return passed("where a word is loud, the layer is louder than it was")


def check_compose(answer: Callable[..., tuple[Tensor, Tensor]]) -> str:
    """Exercise 04.3: S and T of two edits in turn, from S₁, T₁, S₂, T₂, each (token, token)."""
    s1, t1, s2, t2, source, target = torch.randn(
        6, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    made = given(answer, s1, t1, s2, t2)
    both = several(made, 2, "It should return two matrices, as in `return S, T`.")
    s, t = (numbers(matrix, s1) for matrix in both)
    need(
        s.shape == t.shape == s1.shape,
        f"S and T should be {tuple(s1.shape)} each, as S₁ is; they are {tuple(s.shape)} and {tuple(t.shape)}.",
    )
    after = (source @ s1 + target @ t1) @ s2 + target @ t2
    need(
        torch.allclose(source @ s, source @ s1 @ s2, atol=1e-5),
        "S is not yet what stands behind A_s. In which order do the two act?",
    )
    need(
        torch.allclose(target @ t, after - source @ s1 @ s2, atol=1e-5),
        "T is not yet what stands behind A_t. What does the second edit do to T₁?",
    )
    return passed("two edits are one")


def check_fader(weight: float, mine: Reading, gentler: Reading, style: str, name: str) -> str:
    """Exercise 04.4.

    The highest weight of a style's word, up to a half, at which the reader no longer sees the
    style, but the object.

    `mine` is what the reader sees at the weight, `gentler` at half a point more.
    """
    weight = number(weight, f"{shown(weight)} is no weight. Give a number.")
    need(
        any(f.name == name for f in mine.objects),
        f"At {weight:g} the reader sees no {name} any more. That was too much.",
    )
    need(mine.style != style, f"At {weight:g} it is still a {style}.")
    need(
        mine.style == "plain",
        f"At {weight:g} it is no {style}, but no plain picture either: the reader says {mine.style}.",
    )
    need(
        gentler.style == style,
        f"At {weight:g} it is no {style} any more, but at {weight + 0.5:g} neither. Be gentler.",
    )
    return passed(f"at {weight:g} the {style} is gone, and the {name} stays")
