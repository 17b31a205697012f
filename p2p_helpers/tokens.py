"""Words and phrases of a prompt ↔ positions of its tokens, and the matrix that lines up two prompts."""

from __future__ import annotations

import difflib
import re
import unicodedata
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .errors import PromptError, PromptMismatch, UnknownWordWarning

Phrase = str | tuple[str, int]  # a word or phrase, every time it occurs; or with a number, only its n-th occurrence, from 1

_LETTER, _ACCENTED = r"[^\W_]", r"(?:[^\W_]|[\u0300-\u036f])"
# Letters and digits with their accents, or a run of anything else but spaces: as CLIP's tokenizer splits, but "cat's" and "7up" stay whole.
_WORD = re.compile(rf"{_LETTER}{_ACCENTED}*(?:['’]{_LETTER}{_ACCENTED}*)*|(?:[^\w\s]|_)+")


class Word(NamedTuple):
    """One word of a prompt and the positions of its tokens in the encoded prompt (the start token is position 0)."""

    text: str
    tokens: tuple[int, ...]


def words(tokenizer, prompt: str) -> list[Word]:
    """The words of a prompt with their token positions; a run of punctuation is a word of its own.

    Args:
        tokenizer: a Hugging Face tokenizer that can give character offsets (CLIPTokenizer does).
        prompt: any text.

    Raises:
        PromptError: the prompt has more tokens than the model has positions; names the words that would fall off.
    """
    encoded = tokenizer(prompt, return_offsets_mapping=True, add_special_tokens=True)
    spans = encoded["offset_mapping"]
    texts = list(_WORD.finditer(prompt))
    tokens = [[] for _ in texts]
    for i, (start, end) in enumerate(spans):
        touched = [n for n, match in enumerate(texts) if match.start() < end and match.end() > start]
        if touched:  # a token over two words, as CLIP's `'s` in "'stop'", is the one's with letters
            tokens[max(touched, key=lambda n: texts[n].group()[0].isalnum())].append(i)
    found = [Word(match.group(), tuple(own)) for match, own in zip(texts, tokens, strict=True) if own]
    limit = tokenizer.model_max_length
    if len(spans) > limit:
        lost = [w.text for w in found if w.tokens[-1] >= limit - 1]
        raise PromptError(
            f"The prompt has {len(spans)} tokens with its start and end; the model reads {limit}. "
            f"It would not see: {' '.join(lost)}. Shorten the prompt."
        )
    return found


def _same(word: str) -> str:
    """What two spellings of one word have in common: case and the way accents are encoded do not count."""
    return unicodedata.normalize("NFC", word).casefold()


def as_read(pipe, prompts: Sequence[str]) -> tuple[object, list[str]]:
    """A pipeline's tokenizer (SDXL's refiner has only its second), and prompts as it reads them: a textual inversion of several vectors is
    several tokens.
    """
    tokenizer = getattr(pipe, "tokenizer", None) or getattr(pipe, "tokenizer_2", None)
    convert = getattr(pipe, "maybe_convert_prompt", None)
    return tokenizer, convert(list(prompts), tokenizer) if convert else list(prompts)


def find_words(tokenizer, prompt: str, phrase: Phrase) -> list[int]:
    """Token positions of a word or phrase in a prompt, in any case and with any spaces; the start token is position 0.

    Args:
        tokenizer: a Hugging Face tokenizer that can give character offsets (CLIPTokenizer does).
        prompt: any text.
        phrase: "cat" or "falling snow" for every occurrence; ("cat", 2) for the second only.

    Raises:
        PromptError: the phrase does not occur, or not so often; lists the prompt's words and the closest one. Or it is no phrase.
    """
    text, number = (phrase, None) if isinstance(phrase, str) else phrase if isinstance(phrase, tuple) and len(phrase) == 2 else (None, None)
    if not isinstance(text, str) or not (number is None or isinstance(number, int)):
        raise PromptError(f'{phrase!r} is no phrase. Give a text, e.g. "falling snow", or a text and its number, e.g. ("cat", 2).')
    prompt_words = words(tokenizer, prompt)
    texts = [_same(w.text) for w in prompt_words]
    wanted = [_same(w.text) for w in words(tokenizer, text)]
    starts = [i for i in range(len(texts) - len(wanted) + 1) if wanted and texts[i : i + len(wanted)] == wanted]
    if not starts:
        near = difflib.get_close_matches(_same(text), texts, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise PromptError(f"{text!r} is not in the prompt.{hint} Its words are: {', '.join(w.text for w in prompt_words)}.")
    if number is not None:
        if not 1 <= number <= len(starts):
            raise PromptError(f"{text!r} occurs {len(starts)} time(s) in {prompt!r}; there is no number {number}. Count from 1.")
        starts = starts[number - 1 : number]
    return sorted({t for i in starts for w in prompt_words[i : i + len(wanted)] for t in w.tokens})


def warn_of_unknown_words(tokenizer, prompt: str):
    """Warn of words the model has never seen, where the tokenizer says which words it has (the embedded model's does).

    Warns:
        UnknownWordWarning: names the words, the closest known ones, and the whole vocabulary.
    """
    known = tokenizer.init_kwargs.get("known_words")
    unknown = [w.text for w in words(tokenizer, prompt) if known and w.text[0].isalnum() and w.text.lower() not in known]
    if unknown:
        near = [n for word in unknown for n in difflib.get_close_matches(word.lower(), known, n=1)]
        hint = f" Closest: {', '.join(near)}." if near else ""
        warnings.warn(
            f"This small model was trained on {len(known)} words and has never seen {', '.join(map(repr, unknown))}; "
            f"expect anything.{hint} It knows: {', '.join(known)}. For other words load a larger model, e.g. "
            'load_pipeline("stable-diffusion-v1-5/stable-diffusion-v1-5").',
            UnknownWordWarning,
            stacklevel=3,
        )


def _spread(matrix: Tensor, source: list[int], target: list[int]):
    """Line up p source tokens with q target tokens: one to one if p = q, else every source token shares itself over all q."""
    if len(source) == len(target):
        matrix[source, target] = 1.0
    else:
        matrix[torch.tensor(source)[:, None], torch.tensor(target)] = 1.0 / len(target)


def _align_rest(matrix: Tensor, tokenizer, source: str, target: str):
    """Line up the end tokens and the padding after them; what one side has more is shared at the end."""
    ends = [len(tokenizer(prompt).input_ids) - 1 for prompt in (source, target)]
    source_rest, target_rest = (list(range(end, len(matrix))) for end in ends)
    shared = min(len(source_rest), len(target_rest)) - 1
    _spread(matrix, source_rest[:shared], target_rest[:shared])
    _spread(matrix, source_rest[shared:], target_rest[shared:])


def replacement_matrix(tokenizer, source: str, target: str) -> Float[Tensor, "source_token target_token"]:
    """Which source token lends its attention map to each target token (word swap).

    Unchanged words map one to one, however far a swap shifts them; a swapped word's p tokens share their maps over its q new tokens.
    Padding maps one to one as far as both prompts have it; what one side has more is shared at the end, so every row sums to 1
    (attention stays a probability) and no target token is left without a map.

    Raises:
        PromptMismatch: the prompts do not have the same number of words; the message shows both lists.
        PromptError: a prompt is too long for the model.
    Reference: Hertz et al. 2022 (arXiv 2208.01626), section 3.2 "Word Swap".
    """
    source_words, target_words = words(tokenizer, source), words(tokenizer, target)
    if len(source_words) != len(target_words):
        raise PromptMismatch(
            "A word swap needs prompts with the same number of words.\n"
            f"  source, {len(source_words)} words: {' | '.join(w.text for w in source_words)}\n"
            f"  target, {len(target_words)} words: {' | '.join(w.text for w in target_words)}\n"
            "Swap words one for one; adding or removing words is a refinement."
        )
    length = tokenizer.model_max_length
    matrix = torch.zeros(length, length)
    matrix[0, 0] = 1.0  # the start token
    for a, b in zip(source_words, target_words, strict=True):
        _spread(matrix, list(a.tokens), list(b.tokens))
    _align_rest(matrix, tokenizer, source, target)
    return matrix


def _matches(source: Sequence, target: Sequence) -> list[tuple[int, int]]:
    """Needleman–Wunsch (1970) with gap 0, match 1, mismatch −1: the pairs (i, j) of equal items in the best alignment.

    Of several best ones it takes the last: in "a house" → "a photo of a house" the article stays with its noun.
    """
    rows, columns = len(source), len(target)
    score = torch.zeros(rows + 1, columns + 1, dtype=torch.long)
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            same = 1 if source[i - 1] == target[j - 1] else -1
            score[i, j] = max(score[i - 1, j - 1] + same, score[i - 1, j], score[i, j - 1])
    pairs, i, j = [], rows, columns
    while i and j:
        if source[i - 1] == target[j - 1] and score[i, j] == score[i - 1, j - 1] + 1:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        elif score[i, j] == score[i, j - 1]:
            j -= 1
        else:
            i -= 1
    return pairs[::-1]


def refinement_alignment(
    tokenizer, source: str, target: str
) -> tuple[Float[Tensor, "source_token target_token"], Bool[Tensor, " target_token"]]:
    """Which tokens of a refined prompt were in the source prompt (P), and where (m): P is 0 for a new word, whose m is False.

    Words are aligned by Needleman–Wunsch, and the tokens of an unchanged word map one to one. (The authors align tokens; by words, a
    piece that two different words share, as `ter` in butterfly and watercolor, is not taken for a match.) Padding maps one to one,
    and what one side has more of it is shared at the end.

    Returns:
        P, 0…1, and m.

    Raises:
        PromptError: a prompt is too long for the model.
    Reference: Hertz et al. 2022 (arXiv 2208.01626), section 3.2 "Adding a New Phrase".
    """
    source_words, target_words = words(tokenizer, source), words(tokenizer, target)
    matrix = torch.zeros(tokenizer.model_max_length, tokenizer.model_max_length)
    matrix[0, 0] = 1.0  # the start token
    for i, j in _matches([_same(w.text) for w in source_words], [_same(w.text) for w in target_words]):
        _spread(matrix, list(source_words[i].tokens), list(target_words[j].tokens))
    _align_rest(matrix, tokenizer, source, target)
    return matrix, matrix.any(0)
