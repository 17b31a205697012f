"""Words and phrases of a prompt ↔ positions of its tokens."""

from __future__ import annotations

import difflib
import re
import unicodedata
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import PromptError, UnknownWordWarning

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
