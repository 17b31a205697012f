"""The checks of notebook 08: right answers pass, plausible wrong ones are told what is wrong."""

import math

import pytest
import torch

import p2p_helpers as p2p
from p2p_helpers.course.checks import (
    NotYet,
    check_fit,
    check_last_steps,
    check_map_bytes,
    check_size,
)


def refused(check, *answers):
    """Every (answer, what the message says) is told what is wrong."""
    for answer, says in answers:
        with pytest.raises(NotYet, match=says):
            check(answer)


def test_map_bytes_exercise():
    def right(layers, tokens, prompts, guided, each):
        return (
            sum(heads * pixels for heads, pixels in layers) * tokens * prompts * (1 + guided) * each
        )

    assert check_map_bytes(right).startswith("✓")
    refused(
        check_map_bytes,
        (
            lambda layers, tokens, prompts, guided, each: (
                sum(p for h, p in layers) * tokens * prompts * (1 + guided) * each
            ),
            "3 heads",
        ),
        (
            lambda layers, tokens, prompts, guided, each: right(
                layers, tokens, prompts, False, each
            ),
            "guidance",
        ),
        (
            lambda layers, tokens, prompts, guided, each: right(layers, tokens, 1, guided, each),
            "3 prompts",
        ),
        (
            lambda layers, tokens, prompts, guided, each: right(
                layers[:1], tokens, prompts, guided, each
            ),
            "two layers",
        ),
        (
            lambda layers, tokens, prompts, guided, each: right(layers, tokens, prompts, guided, 1),
            "4 bytes",
        ),
        (
            lambda layers, tokens, prompts, guided, each: (
                right(layers, tokens, prompts, guided, each) * (2 if tokens > 70 else 1)
            ),
            "everything",
        ),
        (
            lambda layers, tokens, prompts, guided, each: (
                sum(h * p * p for h, p in layers) * prompts * (1 + guided) * each
            ),
            "What shape",
        ),
        (
            lambda layers, tokens, prompts, guided, each: right(
                layers, tokens, prompts + guided, False, each
            ),
            "everything comes together",
        ),
        (lambda *arguments: [1], "one number"),
    )


def test_fit_exercise():
    assert check_fit(lambda million, dtype: million * 1e6 * dtype.itemsize / 2**30).startswith("✓")
    refused(
        check_fit,
        (lambda million, dtype: million * 1e6 * 4 / 2**30, "the same in float16"),
        (lambda million, dtype: million * 1e6 * dtype.itemsize / 1e9, "gigabytes"),
        (lambda million, dtype: million * 1e6 * dtype.itemsize / 2**20, "units"),
        (
            lambda million, dtype: million * 1e6 * (2 if dtype == torch.float16 else 4) / 2**30,
            "itemsize",
        ),
        (
            lambda million, dtype: million * 1e6 * (2 if dtype.itemsize == 2 else 4) / 2**30,
            "float64",
        ),
        (lambda million, dtype: million * 1e6 * dtype.itemsize * 8 / 2**30, "units"),
        (lambda million, dtype: (million + 1) * 1e6 * dtype.itemsize / 2**30, "Ten million"),
        (lambda million, dtype: f"{million} GiB", "one number"),
    )


def test_last_steps_exercise():
    runs = (7, 9, 30)
    right = [int(p2p.active_steps(0.6, steps).sum()) for steps in runs]
    assert right == [4, 6, 18]
    assert check_last_steps(right).startswith("✓")
    refused(
        check_last_steps,
        ([int(0.6 * steps) for steps in runs], "With 9 steps it is not on in 5"),
        ([0.6 * (steps + 1) for steps in runs], "whole or not at all"),
        ([math.ceil(0.6 * steps) for steps in runs], "With 7 steps it is not on in 5.*rounded up"),
        ([round(0.6 * (steps + 1)) for steps in runs], "With 7 steps it is not on in 5"),
        ([8, 6, 18], "cannot be on in 8"),
        ([4, 6], "3 numbers"),
        ([4, 6, 17], "With 30 steps"),
    )


def test_size_exercise():
    fits = [(h, w) for h in range(8, 1025) for w in [h * 3 // 2] if _passes((h, w))]
    assert fits == [(512, 768)]  # the only one, so that the exercise has one answer
    refused(
        check_size,
        ((768, 512), "Landscape"),
        ((512, 512), "Landscape"),
        ((500, 750), "latent cells"),
        ((528, 792), "do not halve evenly"),
        ((384, 576), r"1 halving\(s\), 24×36.*larger"),
        ((640, 960), "more than 400,000"),
        ((512,), "two numbers"),
        ((512.5, 768.75), "whole pixels"),
    )


def _passes(size):
    try:
        return check_size(size).startswith("✓")
    except NotYet:
        return False
