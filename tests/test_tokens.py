"""Words ↔ tokens, with words of one, two and three tokens."""

import contextlib
import copy
import json
import unicodedata
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

import p2p_helpers as p2p
from p2p_helpers.prompts.words import warn_of_unknown_words
from p2p_helpers.toyland import vocabulary
from p2p_helpers.toyland.tokenizer import SPLIT_WORDS

from .conftest import fast_tokenizers


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
    assert [w.text for w in p2p.words(tokenizer, "a cat... a dog!?")] == [
        "a",
        "cat",
        "...",
        "a",
        "dog",
        "!?",
    ]
    assert (
        p2p.replacement_matrix(tokenizer, "a cat...", "a cat !")
        .sum(1)
        .allclose(torch.ones(tokenizer.model_max_length))
    )


def test_find_words(tokenizer):
    prompt = "a cat, a snowman and a Cat in the  snow"
    assert p2p.find_words(tokenizer, prompt, "cat") == [2, 9]
    assert p2p.find_words(tokenizer, prompt, ("CAT", 2)) == [9]
    assert (
        p2p.find_words(tokenizer, prompt, "the snow")
        == p2p.find_words(tokenizer, prompt, " the   Snow")
        == [11, 12]
    )
    assert p2p.find_words(tokenizer, prompt, "cat, a") == [2, 3, 4]
    with pytest.raises(
        p2p.PromptError,
        match="(?s)'showman' is not in.*Did you mean 'snowman'.*words are: a, cat, ,, a",
    ):
        p2p.find_words(tokenizer, prompt, "showman")
    with pytest.raises(p2p.PromptError, match="'cat' occurs 2 time.*no number 3"):
        p2p.find_words(tokenizer, prompt, ("cat", 3))
    for nothing in ("", "  "):
        with pytest.raises(p2p.PromptError, match="is not in the prompt"):
            p2p.find_words(tokenizer, prompt, nothing)


def test_accents_and_emoji(tokenizer):
    decomposed = unicodedata.normalize("NFD", "café")
    assert decomposed != "café"
    for prompt in ("a café 🙂🏽 in space", f"a {decomposed} 🙂🏽 in space"):
        for phrase in ("café", "CAFÉ", decomposed):
            found = p2p.find_words(tokenizer, prompt, phrase)
            assert "café" in tokenizer.decode(tokenizer(prompt).input_ids[found[0] : found[-1] + 1])
        emoji = p2p.find_words(tokenizer, prompt, "🙂🏽")
        assert len(emoji) > 2 and emoji[-1] + 1 == p2p.find_words(tokenizer, prompt, "in")[0]
    source, target = "a 🙂 café, in space", "a cat cake, in space"
    mapping = p2p.replacement_matrix(tokenizer, source, target)
    old, new = (p2p.find_words(tokenizer, prompt, "space") for prompt in (source, target))
    assert mapping[old, new] == 1


PIECES = ["horse", "Émile", "naïve", "🙂", "🏽👍", "don't", "don’t", "7up", "t-shirt", "a_b"]
PIECES += [",", "...", "!?", "東京", "½", "हिन्दी", "\x1c"]
pieces = st.sampled_from([*vocabulary(), *PIECES])
gaps = st.sampled_from([" ", "  ", "\t", "\x85", "\u3000", ""])


def as_typed(word: str) -> str:
    """A word in one of its spellings."""
    return unicodedata.normalize("NFC", word).replace("’", "'").casefold()


@settings(max_examples=250, deadline=None)
@given(st.lists(st.tuples(pieces, gaps), min_size=1, max_size=6), st.data())
def test_find_words_inverts_tokenisation(tokenizer, spaced, data):
    """The tokens found for a word spell it, every time it occurs; no token has two words."""
    prompt = "".join(a + b for a, b in spaced)
    try:
        found = p2p.words(tokenizer, prompt)
    except p2p.PromptError:
        return
    ids = tokenizer(prompt).input_ids
    covered = [t for w in found for t in w.tokens]
    assert covered == list(range(1, len(ids) - 1))
    word = data.draw(st.sampled_from(found))
    positions = p2p.find_words(tokenizer, prompt, word.text)
    alone = tokenizer(word.text).input_ids[1:-1]
    same = [w for w in found if as_typed(w.text) == as_typed(word.text)]
    # A curly apostrophe has other tokens than a straight one. An accent at a word's end is read
    # together with the punctuation that follows.
    plain = unicodedata.category(word.text[-1])[0] != "M"
    if plain and all(w.text == word.text for w in same):
        assert [ids[t] for t in positions] == alone * len(same)
    assert [
        t for n in range(len(same)) for t in p2p.find_words(tokenizer, prompt, (word.text, n + 1))
    ] == positions


any_text = st.text(st.characters(exclude_categories=[]), max_size=30)  # lone surrogates, too


@settings(max_examples=250, deadline=None)
@given(any_text, any_text)
def test_any_text_has_words_or_an_explanation(tokenizer, source, target):
    for line_up in (p2p.replacement_matrix, p2p.refinement_alignment):
        with contextlib.suppress(p2p.PromptError):
            line_up(tokenizer, source, target)


@pytest.fixture(scope="module")
def clips_apostrophes(tokenizer):
    """A tokenizer with CLIP's token `'s`, taken from any quoted word that begins with an s."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"]["'s</w>"] = len(state["model"]["vocab"])
    state["model"]["merges"].append(["'", "s</w>"])
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.model = Tokenizer.from_str(json.dumps(state)).model
    return other


@fast_tokenizers
def test_a_token_over_two_words_belongs_to_one(clips_apostrophes):
    tok, prompt = clips_apostrophes, "a sign 'stop' in space"
    assert "'s</w>" in tok.tokenize(prompt)
    owned = [t for w in p2p.words(tok, prompt) for t in w.tokens]
    assert owned == list(range(1, len(tok(prompt).input_ids) - 1))
    assert len(p2p.find_words(tok, prompt, "stop")) > 1
    for target in ("a sign 'stop' in space", "a sign 'snow' in space"):
        assert (
            p2p.replacement_matrix(tok, prompt, target)
            .sum(1)
            .allclose(torch.ones(tok.model_max_length))
        )


def test_unknown_words_are_named_with_the_closest(toyland):
    with pytest.warns(
        p2p.UnknownWordWarning, match="never seen 'horse', 'blu'.*Closest: house, blue"
    ):
        warn_of_unknown_words(toyland.tokenizer, "a horse on the blu beach")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unknown_words(toyland.tokenizer, "A Cat, on the beach!")


def test_too_long_a_prompt_says_which_words_fall_off(tokenizer):
    with pytest.raises(p2p.PromptError, match="34 tokens.*reads 32.*would not see: and dog"):
        p2p.words(tokenizer, "a cat " * 15 + "and dog")
