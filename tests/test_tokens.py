"""Words ↔ tokens and the matrix that lines up two prompts, with words of one, two and three tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import p2p_helpers as p2p
from p2p_helpers.tokens import check_known_words
from p2p_helpers.toyland import OBJECTS, Scene, Thing, caption, scene_at, vocabulary
from p2p_helpers.toyland.tokenizer import SPLIT_WORDS


def test_vocabulary_words_have_the_tokens_they_should(tokenizer):
    for word in vocabulary():
        pieces = list(SPLIT_WORDS.get(word, (word,)))
        pieces[-1] += "</w>"
        assert tokenizer.tokenize(word) == pieces


def test_words_and_positions(tokenizer):
    found = p2p.words(tokenizer, "A  Snowman, and a café 🙂")
    assert [w.text for w in found] == ["A", "Snowman", ",", "and", "a", "café", "🙂"]
    assert found[1].tokens == (2, 3)  # the start token is 0
    covered = [t for w in found for t in w.tokens]
    assert covered == list(range(1, 1 + len(covered)))  # every token belongs to one word


def test_a_run_of_punctuation_is_one_word(tokenizer):
    assert [w.text for w in p2p.words(tokenizer, "a cat... a dog!?")] == ["a", "cat", "...", "a", "dog", "!?"]
    assert p2p.replacement_matrix(tokenizer, "a cat...", "a cat !").sum(1).allclose(torch.ones(tokenizer.model_max_length))


def test_find_words(tokenizer):
    prompt = "a cat, a snowman and a Cat in the snow"
    assert p2p.find_words(tokenizer, prompt, "cat") == [2, 9]
    assert p2p.find_words(tokenizer, prompt, "the snow") == [11, 12]
    with pytest.raises(p2p.PromptError, match="Did you mean 'snowman'"):
        p2p.find_words(tokenizer, prompt, "showman")


def test_unknown_words_are_named_with_the_closest(toyland):
    with pytest.raises(p2p.PromptError, match="'horse'.*house"):
        check_known_words(toyland.tokenizer, "a horse on the beach")
    check_known_words(toyland.tokenizer, "A Cat, on the beach!")


def test_same_prompt_is_the_identity(tokenizer):
    torch.testing.assert_close(p2p.replacement_matrix(tokenizer, "a cat", "a cat"), torch.eye(tokenizer.model_max_length))


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [  # (source token, target token) → share; positions count from the start token
        ("a cat in space", "a dog in space", {(2, 2): 1, (3, 3): 1, (4, 4): 1, (5, 5): 1}),
        ("a cat in space", "a snowman in space", {(2, 2): 0.5, (2, 3): 0.5, (3, 4): 1, (4, 5): 1, (5, 6): 1}),
        ("a snowman in space", "a cat in space", {(2, 2): 1, (3, 2): 1, (4, 3): 1, (5, 4): 1, (6, 5): 1}),
        ("a snowman in space", "a butterfly in space", {(2, 2): 1 / 3, (3, 4): 1 / 3, (4, 5): 1, (6, 7): 1}),
        ("a snowman in space", "a mushroom in space", {(2, 2): 1, (2, 3): 0, (3, 3): 1, (4, 4): 1}),
        ("cat and a dog", "snowman and a pumpkin", {(1, 1): 0.5, (1, 2): 0.5, (2, 3): 1, (4, 5): 0.5, (4, 6): 0.5, (5, 7): 1}),
    ],
)
def test_swaps_by_hand(tokenizer, source, target, expected):
    matrix = p2p.replacement_matrix(tokenizer, source, target)
    for (i, j), share in expected.items():
        assert matrix[i, j] == pytest.approx(share), (i, j)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(OBJECTS), st.sampled_from(OBJECTS), st.integers(0, 5000))
def test_every_row_is_a_share_and_every_token_has_a_map(tokenizer, old, new, index):
    scene = scene_at("train", index)
    background = {"background": scene.background}
    source, target = (caption(Scene((Thing(name), Thing("tree")), **background)) for name in (old, new))
    matrix = p2p.replacement_matrix(tokenizer, source, target)
    torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)))  # attention stays a probability
    assert (matrix.sum(0) > 0).all()  # no target token is left without a map
    swapped = {t for p, w in ((source, old), (target, new)) for t in p2p.find_words(tokenizer, p, w)}
    for a, b in zip(p2p.words(tokenizer, source), p2p.words(tokenizer, target), strict=True):
        if a.text == b.text and not swapped & {*a.tokens, *b.tokens}:
            assert all(matrix[i, j] == 1 for i, j in zip(a.tokens, b.tokens, strict=True))


def test_different_word_counts_show_both_prompts(tokenizer):
    with pytest.raises(p2p.PromptMismatch, match=r"source, 2 words: a \| cat\n.*target, 3 words: a \| red \| cat"):
        p2p.replacement_matrix(tokenizer, "a cat", "a red cat")


def test_too_long_a_prompt_says_which_words_fall_off(tokenizer):
    with pytest.raises(p2p.PromptError, match="34 tokens.*reads 32.*would not see: and dog"):
        p2p.words(tokenizer, "a cat " * 15 + "and dog")
