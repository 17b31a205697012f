"""The checks of the exercises on transformers: right answers pass, plausible wrong ones are told what is wrong."""

import itertools

import torch

from p2p_helpers.course.checks import check_joint_rule, check_reverse_euler, check_text_share

from .test_checks import refused


def test_text_share_exercise():
    assert check_text_share(lambda scores, n: scores.softmax(-1)[:, -n:].sum(-1)).startswith("✓")
    refused(
        check_text_share,
        ((lambda scores, n: scores[:, -n:].softmax(-1).sum(-1),), "over a whole row"),
        ((lambda scores, n: scores.softmax(-1)[:, :-n].sum(-1),), "what the pixels get"),
        ((lambda scores, n: scores.softmax(-1)[:, -n:],), "one share for each pixel"),
        ((lambda scores, n: scores.softmax(-1)[:, -n:].mean(-1),), "Pixel 0 gives the text"),
    )


def joined(source, target, mapping, lent):
    pixels = len(source)
    own = source if lent else target
    return torch.cat([own[:, :pixels], source[:, pixels:] @ mapping], 1)


def test_joint_rule_exercise():
    assert check_joint_rule(joined).startswith("✓")
    refused(
        check_joint_rule,
        ((lambda source, target, mapping, lent: target,), "still the target's own"),
        ((lambda source, target, mapping, lent: source,), "not lined up by M"),
        (
            (lambda source, target, mapping, lent: joined(source, target, mapping.T, lent),),
            "times M",
        ),
        (
            (lambda source, target, mapping, lent: joined(source, target, mapping, True),),
            "not lent",
        ),
        ((lambda source, target, mapping, lent: source[:, 1:],), "gave one of"),
    )


def backwards(velocity, x, sigmas):
    for i in reversed(range(len(sigmas) - 1)):
        x = x - (sigmas[i + 1] - sigmas[i]) * velocity(x, sigmas[i + 1])
    return x


def forwards(velocity, x, sigmas):
    for before, after in itertools.pairwise(sigmas):
        x = x + (after - before) * velocity(x, before)
    return x


def at_the_wrong_level(velocity, x, sigmas):
    for i in reversed(range(len(sigmas) - 1)):
        x = x - (sigmas[i + 1] - sigmas[i]) * velocity(x, sigmas[i])
    return x


def test_reverse_euler_exercise():
    assert check_reverse_euler(backwards).startswith("✓")
    refused(
        check_reverse_euler,
        ((lambda velocity, x, sigmas: x,), "still the picture"),
        ((forwards,), "That is sampling"),
        ((at_the_wrong_level,), "With v = σ"),
    )
