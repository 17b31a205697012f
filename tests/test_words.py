"""What counts as one word.

Hyphens, apostrophes, white space, tokens that were added, and text that no tokenizer takes.
"""

import copy
import time
import unicodedata

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.batch import Job
from p2p_helpers.prompts.split import split
from p2p_helpers.prompts.words import as_read, phrases, warn_of_unknown_words

from .conftest import fast_tokenizers

APOSTROPHES = "'’‘ʼ＇"
HYPHENS = "-‐‑"
ADDED = ("<cat-toy>", "<cat>", "*dog style*", "catlike", "<Big Thing>")
VECTORS = ("<fox>", "<fox>_1", "<fox>_2")
PLAIN = ("a", "cat", "dog", "fox", "toy", "style", "red", "thing", ",", "t-shirt")
plain = st.sampled_from(PLAIN)
prompts = st.lists(plain, min_size=1, max_size=3).map(" ".join)


def all_tokens(tokenizer, prompt):
    """The positions of all tokens but start and end."""
    return list(range(1, len(tokenizer(prompt).input_ids) - 1))


def owned(tokenizer, prompt):
    return [token for word in p2p.words(tokenizer, prompt) for token in word.tokens]


def test_a_chinese_sentence_is_split_at_its_spaces_alone():
    """As docs/add_your_model.md says."""
    for prompt, found in [
        ("一只猫在海滩上", ["一只猫在海滩上"]),
        ("一只 猫 在 海滩 上，夜", ["一只", "猫", "在", "海滩", "上", "，", "夜"]),
    ]:
        assert [prompt[start:end] for start, end in split(prompt, [])] == found


@pytest.fixture(scope="module")
def taught(tokenizer):
    """A tokenizer with tokens that textual inversion added."""
    other = copy.deepcopy(tokenizer)
    other.model_max_length = 77
    other.add_tokens([*ADDED, *VECTORS])
    return other


@fast_tokenizers
@pytest.mark.parametrize("name", ADDED)
def test_an_added_token_keeps_its_name(taught, name):
    prompt = f"a {name} and a cat, dog on the toy"
    assert p2p.words(taught, prompt)[1] == (name, (2,))
    assert (
        p2p.find_words(taught, prompt, name) == p2p.find_words(taught, prompt, name.upper()) == [2]
    )
    assert p2p.find_words(taught, prompt, "cat") == [5]
    for target in (f"a cat and a {name}, dog on the toy", f"a {name} and a {name}, dog on the toy"):
        assert p2p.replacement_matrix(taught, prompt, target)[2, 2] == 1
    _, old = p2p.refinement_alignment(taught, "a cat, alone", f"a {name}, alone")
    assert old.tolist()[:3] == [True, True, False]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([*PLAIN, *ADDED, " ".join(VECTORS)]), min_size=1, max_size=6),
    st.sampled_from([" ", "", "  ", "\t"]),
)
def test_added_tokens_stand_apart_wherever_they_are(taught, parts, gap):
    """`<cat-toy>` is not `cat`.

    What a word finds has no added token, and an added token finds itself only.
    """
    prompt = gap.join(parts)
    assert owned(taught, prompt) == all_tokens(taught, prompt)
    ids = taught(prompt).input_ids
    number = taught.added_tokens_encoder
    for word in p2p.words(taught, prompt):
        names = [name for token in word.tokens for name, n in number.items() if n == ids[token]]
        assert len(names) in (0, len(word.tokens))  # never a word of both
        if len(names) == 1:
            assert word.text.lower() == names[0].lower()
        elif names:
            assert (word.text, names) == (VECTORS[0], list(VECTORS[: len(names)]))


def test_several_vectors_are_one_word(taught):
    read = f"a {' '.join(VECTORS)} and a <fox> <fox>_1 on the beach"
    assert [w.text for w in p2p.words(taught, read)] == [
        "a",
        "<fox>",
        "and",
        "a",
        "<fox>",
        "on",
        "the",
        "beach",
    ]
    assert p2p.find_words(taught, read, ("<fox>", 1)) == [2, 3, 4]
    assert p2p.find_words(taught, read, "<fox> <fox>_1") == [2, 3, 4, 7, 8]
    matrix = p2p.replacement_matrix(
        taught, "a cat on the beach", f"a {' '.join(VECTORS)} on the beach"
    )
    torch.testing.assert_close(matrix[2, 2:5], torch.full((3,), 1 / 3))
    assert matrix[3, 5] == 1


@fast_tokenizers
def test_the_end_token_in_a_prompt_is_a_word(tokenizer):
    assert [w.text for w in p2p.words(tokenizer, "a cat<|endoftext|>dog")] == [
        "a",
        "cat",
        "<|endoftext|>",
        "dog",
    ]


@fast_tokenizers
def test_a_token_that_was_taught_is_not_unknown(toyland):
    tokenizer = copy.deepcopy(toyland.tokenizer)
    tokenizer.add_tokens(["zorgle"])
    warn_of_unknown_words(tokenizer, "a Zorgle on the beach")
    with pytest.warns(p2p.UnknownWordWarning, match="'zorgles'"):
        warn_of_unknown_words(toyland.tokenizer, "zorgles")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(["t", "shirt", "well", "known", "3d", "café", "state"]),
        min_size=2,
        max_size=4,
    ),
    st.sampled_from(HYPHENS),
)
def test_a_compound_is_one_word(taught, parts, hyphen):
    compound = hyphen.join(parts)
    source, target = f"a {compound}, in space", "a cat, in space"
    assert [w.text for w in p2p.words(taught, source)] == ["a", compound, ",", "in", "space"]
    matrix = p2p.replacement_matrix(taught, source, target)
    columns = p2p.find_words(taught, target, "cat")
    for word in ("-".join(parts), compound.upper()):
        assert (matrix[p2p.find_words(taught, source, word)][:, columns] == 1).all()
    torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)))


def test_what_is_no_compound(tokenizer):
    cases = {
        "a cat - a dog": ["a", "cat", "-", "a", "dog"],
        "cat--dog": ["cat", "--", "dog"],
        "-cat dog-": ["-", "cat", "dog", "-"],
        "1990–2000": ["1990", "–", "2000"],
        "rock'n'roll 'n' l’œuf": ["rock'n'roll", "'", "n", "'", "l’œuf"],
        "the cats' toy": ["the", "cats", "'", "toy"],
    }
    for prompt, expected in cases.items():
        assert [w.text for w in p2p.words(tokenizer, prompt)] == expected


@pytest.mark.parametrize("one", APOSTROPHES)
@pytest.mark.parametrize("other", APOSTROPHES)
def test_apostrophes_match(tokenizer, one, other):
    source, target = (f"a cat{mark}s toy, don{mark}t" for mark in (one, other))
    for word in (f"cat{other}s", f"DON{other}T"):
        assert p2p.find_words(tokenizer, source, word) == p2p.find_words(
            tokenizer, source, word.replace(other, one)
        )
    assert p2p.refinement_alignment(tokenizer, source, target)[1][
        : len(tokenizer(target).input_ids)
    ].all()


CONTROLS = [
    chr(c) for c in (*range(0x21), *range(0x7F, 0xA1), 0x180E, 0x200B, 0x2028, 0x2029, 0xFEFF)
]
blanks = st.text(
    st.sampled_from(CONTROLS) | st.characters(categories=["Zs", "Zl", "Zp"]), min_size=1, max_size=3
)


@fast_tokenizers
@pytest.mark.parametrize(
    "character",
    [chr(c) for c in range(0x3001) if chr(c).isspace() or unicodedata.category(chr(c)) == "Zs"],
)
def test_white_space_is_what_the_tokenizer_takes_for_it(tokenizer, character):
    prompt = f"cat{character}dog"
    apart = len(tokenizer(prompt).input_ids) == len(tokenizer("cat dog").input_ids)
    assert [w.text for w in p2p.words(tokenizer, prompt)] == (
        ["cat", "dog"] if apart else ["cat", character, "dog"]
    )


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(plain, blanks), min_size=1, max_size=4))
def test_every_token_has_a_word_whatever_stands_between(tokenizer, spaced):
    prompt = "".join(a + b for a, b in spaced)
    try:
        tokens = owned(tokenizer, prompt)
    except p2p.PromptError:
        return
    assert tokens == all_tokens(tokenizer, prompt)
    matrix, _ = p2p.refinement_alignment(tokenizer, prompt, prompt)
    torch.testing.assert_close(matrix, torch.eye(len(matrix)))


def test_time_grows_with_the_length(tokenizer):
    """Word by word and token by token this would take minutes."""
    wide = copy.deepcopy(tokenizer)
    wide.model_max_length = 10**6
    start = time.process_time()
    assert len(p2p.words(wide, "a cat, " * 20000)) == 60000
    assert time.process_time() - start < 20


@pytest.mark.parametrize(
    "prompt",
    ["a cat, " * 20000, "cat" * 20000, "?" * 20000, "'" * 20000, "a-" * 20000, "\u0301" * 20000],
)
def test_a_book_gets_a_short_message(tokenizer, prompt):
    start = time.process_time()
    with pytest.raises(p2p.PromptError, match="reads 32") as error:
        p2p.replacement_matrix(tokenizer, "a cat", prompt)
    assert time.process_time() - start < 20
    assert len(str(error.value)) < 1000


@settings(max_examples=50, deadline=None)
@given(prompts, st.integers(0xD800, 0xDFFF), st.integers(0, 30))
def test_half_a_character_gets_a_message(tokenizer, random_pipe, prompt, code, place):
    half = prompt[:place] + chr(code) + prompt[place:]
    for use in (
        lambda: p2p.words(tokenizer, half),
        lambda: p2p.find_words(tokenizer, prompt, half),
        lambda: p2p.find_words(tokenizer, half, "cat"),
        lambda: p2p.replacement_matrix(tokenizer, prompt, half),
        lambda: p2p.refinement_alignment(tokenizer, half, prompt),
        lambda: as_read(random_pipe, tokenizer, [prompt, half]),
    ):
        with pytest.raises(p2p.PromptError, match="lone surrogate.*encode"):
            use()


def test_half_a_character_is_refused_before_the_run(random_pipe):
    for prompts in (
        {"source": "a \ud83d cat", "target": "a dog"},
        {"source": "a cat", "target": "a \udc4d dog"},
    ):
        with pytest.raises(p2p.PromptError, match="Character 3 of the prompt is '.ud"):
            p2p.edit(random_pipe, **prompts, progress=False)
    with pytest.raises(p2p.PromptError, match="half"):
        p2p.edit(random_pipe, "a cat", "a dog", negative_prompt="\ud83d", progress=False)
    with p2p.record(random_pipe), pytest.raises(p2p.PromptError, match="half"):
        random_pipe("a cat\ud83d", num_inference_steps=1)


@pytest.mark.parametrize("name", ["fox.png", "photos/My Fox.JPEG", "fox.safetensors", "fox.heic"])
def test_a_files_name_is_no_prompt(random_pipe, tokenizer, name):
    black = Image.new("RGB", (128, 128))
    for use in (
        lambda: p2p.edit(random_pipe, "a cat", name, progress=False),
        lambda: p2p.edit(random_pipe, "a cat", "a dog", negative_prompt=name, progress=False),
        lambda: p2p.invert(random_pipe, black, name, progress=False),
        lambda: p2p.words(tokenizer, name),
        lambda: Job(source=name, target="a dog"),
        lambda: Job(source="a cat", target=name),
    ):
        with pytest.raises(p2p.PromptError, match=f"{name}' is a file's name, and no prompt"):
            use()
    with p2p.record(random_pipe), pytest.raises(p2p.PromptError, match="a file's name"):
        random_pipe(name, num_inference_steps=1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["a", "A", "cat", "Cat", "cat's", "CAT’S", ","]), min_size=1))
def test_a_phrase_means_its_own_word_in_whatever_spelling(taught, parts):
    prompt = " ".join(parts[:8])
    found = p2p.words(taught, prompt)
    for word, phrase in zip(found, phrases(found), strict=True):
        assert p2p.find_words(taught, prompt, phrase) == list(word.tokens)


def test_a_phrases_number_may_be_numpys(tokenizer):
    assert p2p.find_words(tokenizer, "a cat, a cat", ("cat", np.int64(2))) == [5]
