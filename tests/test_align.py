"""The matrices that line up two prompts, with words of one, two and three tokens."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import p2p_helpers as p2p
from p2p_helpers.prompts.several import Tokenizers
from p2p_helpers.toyland import OBJECTS, Scene, Thing, caption, scene_at

from .test_tokens import pieces


def test_same_prompt_is_the_identity(tokenizer):
    torch.testing.assert_close(
        p2p.replacement_matrix(tokenizer, "a cat", "a cat"), torch.eye(tokenizer.model_max_length)
    )


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [  # (source token, target token) → share; positions count from the start token
        ("a cat in space", "a dog in space", {(2, 2): 1, (3, 3): 1, (4, 4): 1, (5, 5): 1}),
        (
            "a cat in space",
            "a snowman in space",
            {(2, 2): 0.5, (2, 3): 0.5, (3, 4): 1, (4, 5): 1, (5, 6): 1},
        ),
        (
            "a snowman in space",
            "a cat in space",
            {(2, 2): 1, (3, 2): 1, (4, 3): 1, (5, 4): 1, (6, 5): 1},
        ),
        (
            "a snowman in space",
            "a butterfly in space",
            {(2, 2): 1 / 3, (3, 4): 1 / 3, (4, 5): 1, (6, 7): 1},
        ),
        ("a snowman in space", "a mushroom in space", {(2, 2): 1, (2, 3): 0, (3, 3): 1, (4, 4): 1}),
        (
            "cat and a dog",
            "snowman and a pumpkin",
            {(1, 1): 0.5, (1, 2): 0.5, (2, 3): 1, (4, 5): 0.5, (4, 6): 0.5, (5, 7): 1},
        ),
    ],
)
def test_swaps_by_hand(tokenizer, source, target, expected):
    matrix = p2p.replacement_matrix(tokenizer, source, target)
    for (i, j), share in expected.items():
        assert matrix[i, j] == pytest.approx(share), (i, j)


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(OBJECTS), st.sampled_from(OBJECTS), st.integers(0, 5000))
def test_every_row_is_a_share_and_every_token_has_a_map(tokenizer, old, new, index):
    scene = scene_at("train", index)
    background = {"background": scene.background}
    source, target = (
        caption(Scene((Thing(name), Thing("tree")), **background)) for name in (old, new)
    )
    matrix = p2p.replacement_matrix(tokenizer, source, target)
    torch.testing.assert_close(
        matrix.sum(1), torch.ones(len(matrix))
    )  # attention stays a probability
    assert (matrix.sum(0) > 0).all()  # no target token is left without a map
    swapped = {
        t for p, w in ((source, old), (target, new)) for t in p2p.find_words(tokenizer, p, w)
    }
    for a, b in zip(p2p.words(tokenizer, source), p2p.words(tokenizer, target), strict=True):
        if a.text == b.text and not swapped & {*a.tokens, *b.tokens}:
            assert all(matrix[i, j] == 1 for i, j in zip(a.tokens, b.tokens, strict=True))


# Source, target, (source word, target word) that must be lined up, target words that must be new.
REFINEMENTS = [
    (
        "a house in space",
        "a photo of a house in space",
        {(("a", 1), ("a", 2)), ("house", "house"), ("space", "space")},
        ["photo", "of"],
    ),
    (
        "a cat in space",
        "a watercolor painting of a cat in space",
        {("cat", "cat")},
        ["watercolor", "painting"],
    ),
    (
        "a cat in space",
        "a cat in space with falling snow",
        {("cat", "cat"), ("space", "space")},
        ["with falling snow"],
    ),
    ("a snowman", "a red snowman", {("snowman", "snowman")}, ["red"]),
    (
        "a butterfly in space",
        "a watercolor painting in space",
        {("in space", "in space")},
        ["watercolor"],
    ),  # they share the piece `ter`
    ("a red cat in space", "a cat in space", {("cat", "cat"), ("space", "space")}, []),
    ("a cat", "dog and snowman", set(), ["dog and snowman"]),
    ("A Cat", "a cat, alone", {("cat", "cat")}, [", alone"]),
]


@pytest.mark.parametrize(("source", "target", "pairs", "new"), REFINEMENTS)
def test_refinements_by_hand(tokenizer, source, target, pairs, new):
    matrix, old = p2p.refinement_alignment(tokenizer, source, target)
    for a, b in pairs:
        for i, j in zip(
            p2p.find_words(tokenizer, source, a), p2p.find_words(tokenizer, target, b), strict=True
        ):
            assert matrix[i, j] == 1 and matrix[:, j].sum() == 1 and old[j]
    for word in new:
        columns = p2p.find_words(tokenizer, target, word)
        assert not old[columns].any() and not matrix[:, columns].any()
    assert old[0] and old[-1]  # start and padding


def best_score(a: list, b: list) -> int:
    """The longest common subsequence by trying everything.

    The score of Needleman–Wunsch with these costs.
    """
    return max(
        (
            n
            for n in range(len(a) + 1)
            for c in itertools.combinations(a, n)
            if is_subsequence(c, b)
        ),
        default=0,
    )


def is_subsequence(part, whole) -> bool:
    rest = iter(whole)
    return all(x in rest for x in part)


few = st.lists(st.sampled_from(["a", "cat", "snowman", "red", "and"]), min_size=1, max_size=6)


@settings(max_examples=250, deadline=None)
@given(few, few)
def test_refinement_keeps_as_many_words_as_can_be(tokenizer, source, target):
    matrix, old = p2p.refinement_alignment(tokenizer, " ".join(source), " ".join(target))
    kept = [w for w in p2p.words(tokenizer, " ".join(target)) if old[list(w.tokens)].all()]
    assert len(kept) == best_score(source, target)
    assert ((matrix.sum(0) == 0) == ~old).all()
    rows = [
        matrix[: len(tokenizer(" ".join(source)).input_ids) - 1, t].argmax().item()
        for w in kept
        for t in w.tokens
    ]
    assert rows == sorted(set(rows))  # in order, none twice


@settings(max_examples=250, deadline=None)
@given(st.lists(pieces, min_size=1, max_size=6).map(" ".join))
def test_a_prompt_refined_into_itself_is_the_identity(tokenizer, prompt):
    try:
        matrix, old = p2p.refinement_alignment(tokenizer, prompt, prompt)
    except p2p.PromptError:
        return
    torch.testing.assert_close(matrix, torch.eye(len(matrix)))
    assert old.all()


@settings(max_examples=300, deadline=None)
@given(few, few)
def test_refinement_lines_up_padding_by_position(tokenizer, source, target):
    """As the authors do, whose map from target to source is arange(len(y), length) there."""
    source, target = " ".join(source), " ".join(target)
    matrix, old = p2p.refinement_alignment(tokenizer, source, target)
    source_end, target_end = (len(tokenizer(text).input_ids) - 1 for text in (source, target))
    padding = slice(target_end + 1, None)
    assert torch.equal(matrix[:, padding], torch.eye(len(matrix))[:, padding])
    assert old[padding].all()
    assert matrix[source_end, target_end] == 1
    lent = matrix[source_end + 1 : target_end + 1]  # the target has words in these places
    assert not lent.any()


def test_different_word_counts_show_both_prompts(tokenizer):
    with pytest.raises(
        p2p.PromptMismatch, match=r"source, 2 words: a \| cat\n.*target, 3 words: a \| red \| cat"
    ):
        p2p.replacement_matrix(tokenizer, "a cat", "a red cat")


@pytest.mark.parametrize(
    ("align", "target"),
    [
        (lambda *given: p2p.refinement_alignment(*given)[0], "a cat on the beach at night"),
        (p2p.replacement_matrix, "a snowman on the beach"),
    ],
)
def test_several_encoders_have_a_block_each(tokenizer, align, target):
    source = "a cat on the beach"
    one = align(tokenizer, source, target)
    two = align(Tokenizers((tokenizer, tokenizer)), source, target)
    assert torch.equal(two, torch.block_diag(one, one))
    empty = align(Tokenizers((tokenizer, 3)), source, target)  # positions that no encoder fills
    assert torch.equal(empty, torch.block_diag(one, torch.eye(3)))
