"""The exercises' checks: right answers pass, plausible wrong ones are told what is wrong."""

import numpy as np
import pytest
import torch
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.checks import NotYet, check_schedule, check_seed, check_swap_matrix
from p2p_helpers.editing import EditResult
from p2p_helpers.toyland.reader import Found, Reading

PAIR = ("a butterfly in space", "a cat in space")


def test_seed_exercise():
    a, b = np.zeros((4, 4, 3), np.uint8), np.ones((4, 4, 3), np.uint8)
    assert check_seed(a, a, b).startswith("✓")
    with pytest.raises(NotYet, match="first two differ"):
        check_seed(a, b, b)
    with pytest.raises(NotYet, match="same picture again"):
        check_seed(a, a, a)


def wrong_matrices(tokenizer):
    right = p2p.replacement_matrix(tokenizer, *PAIR)
    length = len(right)
    shared = right.clone()
    shared[2:5, 2] = 1 / 3  # averages the three tokens instead of passing all of each on
    early = torch.eye(length)
    early[3:, :] = early[3:, :].roll(-1, 1)  # shifted by one place instead of two
    first_only = right.clone()
    first_only[3:5] = 0  # forgets two of the three tokens
    return [
        (torch.eye(length), "wrong place"),
        (shared, "does not sum to 1"),
        (early, "."),
        (first_only, "does not sum to 1"),
        (right[:5], "shape"),
    ]


def test_matrix_exercise(tokenizer):
    assert check_swap_matrix(p2p.replacement_matrix(tokenizer, *PAIR), tokenizer, *PAIR).startswith("✓")
    for answer, says in wrong_matrices(tokenizer):
        with pytest.raises(NotYet, match=says):
            check_swap_matrix(answer, tokenizer, *PAIR)


def test_schedule_exercise():
    black, grey = (Image.new("RGB", (128, 128), (v,) * 3) for v in (0, 40))
    cells = np.ones((16, 16), bool)

    def answer(image, *seen, target="a dog", size=1.0):
        result = EditResult(black, [image], "a cat", [target], [p2p.Replace(self_size=size)], 0, 30, 4.0, None)
        reading = Reading([Found(name, "natural", cells) for name in seen], "beach", "plain", False, False)
        return check_schedule(result, reading, "a cat", "a dog", "cat", "dog", 0.05)

    assert answer(black, "dog").startswith("✓")
    for wrong, says in [
        (lambda: answer(black, "cat"), "sees cat; it should be a dog"),
        (lambda: answer(black, "cat", "dog"), "no cat"),
        (lambda: answer(grey, "dog"), "changed by"),
        (lambda: answer(black, "dog", target="a fox"), "prompts"),
        (lambda: answer(black, "dog", size=0.25), "self_size"),
    ]:
        with pytest.raises(NotYet, match=says):
            wrong()
