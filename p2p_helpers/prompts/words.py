"""Words and phrases of a prompt ↔ positions of its tokens."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, SupportsIndex

from ..errors import PromptError, UnknownWordWarning
from ..values import FILES, shown
from .offsets import tokens_and_spans
from .several import parts_of, readers
from .split import Span, added_tokens, owners, spelling, split

# A word or phrase, every time it occurs; or with a number, only its n-th occurrence, from 1.
Phrase = str | tuple[str, SupportsIndex]
_SHOWN = 200  # characters of a prompt that a message shows at most; the prompt may be a book


class Word(NamedTuple):
    """One word of a prompt and the positions of its tokens, from 0; that is the start token, where there is one."""

    text: str
    tokens: tuple[int, ...]


def check_readable(prompt: str):
    """Refuse what is no text, a file's name, and half a character, which no tokenizer takes."""
    if not isinstance(prompt, str):
        raise PromptError(f"{shown(prompt)} is no prompt. Give a text, e.g. 'a cat on the beach'.")
    if Path(prompt).suffix.lower() in FILES:
        raise PromptError(
            f"{shown(prompt)} is a file's name, and no prompt. Say in words what the picture shows."
        )
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise PromptError(
            f"Character {error.start + 1} of the prompt is {prompt[error.start]!a}, one half of a "
            "character (a lone surrogate). The text was cut or decoded wrongly, often within an "
            "emoji. Write the character again, or drop the half with "
            'prompt.encode("utf-8", "ignore").decode().'
        ) from None


def _too_long(count: int, limit: int, lost: Sequence[str], tokenizer) -> PromptError:
    """What to say of a prompt that has more tokens than its text encoder, one of the model's, has positions."""
    text = " ".join(lost)
    if len(text) > _SHOWN:
        text = text[:_SHOWN].rstrip() + " …"
    return PromptError(
        f"The prompt has {count} tokens with its start and end, and the text encoder of {type(tokenizer).__name__} reads {limit}. "
        f"It would not see: {text}. Shorten the prompt."
    )


def words(tokenizer, prompt: str) -> list[Word]:
    """The words of a prompt with their token positions.

    A word with hyphens or apostrophes in it is one word, and so is a textual inversion's token. A
    run of punctuation is a word of its own.

    Args:
        tokenizer: a Hugging Face tokenizer, as CLIPTokenizer, or the `Tokenizers` of a model with
            several text encoders.
        prompt: any text.

    Raises:
        PromptError: the prompt has more tokens than the model has positions; names the words that
            would fall off. Or it is a file's name, or has half a character in it.
    """
    return words_and_spans(tokenizer, prompt)[0]


def words_and_spans(tokenizer, prompt: str) -> tuple[list[Word], list[Span]]:
    """The words of a prompt, and the characters that each is made of. Raises what `words` raises."""
    check_readable(prompt)
    found: dict[Span, Word] = {}
    for part, first, _ in parts_of(tokenizer):
        for span, word in _owned(part, prompt) if part is not None else ():
            before = found[span].tokens if span in found else ()
            found[span] = Word(word.text, (*before, *(first + token for token in word.tokens)))
    spans = sorted(found)
    return [found[span] for span in spans], spans


def phrases(found: Sequence[Word]) -> tuple[Phrase, ...]:
    """Each word of a prompt as a phrase that means no other one: a word that occurs twice, in any spelling, has its number."""
    names = [spelling(word.text) for word in found]
    return tuple(
        (word.text, names[: place + 1].count(name)) if names.count(name) > 1 else word.text
        for place, (word, name) in enumerate(zip(found, names, strict=True))
    )


def _owned(tokenizer, prompt: str) -> list[tuple[Span, Word]]:
    """The words of one tokenizer, and where they stand in the text."""
    tokens, spans = tokens_and_spans(tokenizer, prompt)
    limit = tokenizer.model_max_length
    added = added_tokens(tokenizer, prompt, tokens, spans)
    if len(spans) > limit:
        first, _ = spans[limit - 1]  # not seen: the end token takes the last position
        lost = [prompt[start:end] for start, end in split(prompt, added) if end > first]
        raise _too_long(len(spans), limit, lost, tokenizer)
    texts = list(split(prompt, added))
    owned = owners(texts, spans, prompt)
    names = [added.get((start, end), prompt[start:end]) for start, end in texts]
    named = zip(texts, names, owned, strict=True)
    return [(span, Word(name, tuple(own))) for span, name, own in named if own]


def word_tokens(tokenizer, prompts: Sequence[str]) -> list[int]:
    """Positions of all words of the prompts, and of their start and end tokens."""
    found = {
        token for prompt in prompts for word in words(tokenizer, prompt) for token in word.tokens
    }
    for part, first, _ in parts_of(tokenizer):
        for prompt in prompts if part is not None else ():
            _, spans = tokens_and_spans(part, prompt)
            found |= {first + n for n, (start, end) in enumerate(spans) if start == end}
    return sorted(found)


def word_columns(tokenizer, prompts: Sequence[str]) -> list[list[int]]:
    """Every position, in groups: those of `word_tokens` each alone, and of each text encoder the rest together, its padding."""
    own = word_tokens(tokenizer, prompts)
    parts = (range(first, first + length) for _, first, length in parts_of(tokenizer))
    rests = [[token for token in part if token not in own] for part in parts]
    return [[token] for token in own] + [rest for rest in rests if rest]


def has_start(tokenizer, prompt: str) -> bool:
    """Whether a start token stands before the words, which T5 does not have; with several encoders the first one's."""
    spans = tokens_and_spans(readers(tokenizer)[0], prompt)[1]
    start, end = spans[0]
    return start == end and len(spans) > 1


def end_of(tokenizer, prompt: str) -> int:
    """The position of a prompt's end token, with several encoders the first one's."""
    return len(tokens_and_spans(readers(tokenizer)[0], prompt)[0]) - 1


def as_read(pipe, tokenizer, prompts: Sequence[str], clean_caption: bool = True) -> list[str]:
    """Prompts as a pipeline reads them.

    A textual inversion of several vectors is several tokens. PixArt and DeepFloyd IF write all in
    small letters, and clean a caption where they are not told otherwise.

    Raises:
        PromptError: a prompt is a file's name, or has half a character in it.
    """
    for prompt in prompts:
        check_readable(prompt)
    convert = getattr(pipe, "maybe_convert_prompt", None)
    if convert:
        return convert(list(prompts), readers(tokenizer)[0])
    tidy = getattr(pipe, "_text_preprocessing", None)
    return tidy(list(prompts), clean_caption=clean_caption) if tidy else list(prompts)


def split_phrase(phrase: Phrase) -> tuple[str, int | None]:
    """The text of a phrase, and the number of the occurrence that is asked for."""
    text, number = phrase, None
    if isinstance(phrase, tuple) and len(phrase) == 2:
        text, number = phrase
    if not isinstance(text, str) or not (number is None or isinstance(number, SupportsIndex)):
        raise PromptError(
            f'{phrase!r} is no phrase. Give a text, e.g. "falling snow", or a text and its number, '
            'e.g. ("cat", 2).'
        )
    return text, None if number is None else int(number)


def _occurrences(texts: list[str], wanted: list[str]) -> list[int]:
    """Where a phrase begins, in words; a phrase without words is nowhere."""
    places = range(len(texts) - len(wanted) + 1) if wanted else ()
    return [i for i in places if texts[i : i + len(wanted)] == wanted]


def find_words(tokenizer, prompt: str, phrase: Phrase) -> list[int]:
    """Token positions of a word or phrase in a prompt, in any case and with any spaces.

    Positions count from 0, the start token where there is one (T5 has none).

    Args:
        tokenizer: a Hugging Face tokenizer, as CLIPTokenizer.
        prompt: any text.
        phrase: "cat" or "falling snow" for every occurrence; ("cat", 2) for the second only.

    Raises:
        PromptError: the phrase does not occur, or not so often; lists the prompt's words and the
            closest one. Or it is no phrase.
    """
    text, number = split_phrase(phrase)
    prompt_words = words(tokenizer, prompt)
    texts = [spelling(word.text) for word in prompt_words]
    wanted = [spelling(word.text) for word in words(tokenizer, text)]
    starts = _occurrences(texts, wanted)
    if not starts:
        near = difflib.get_close_matches(spelling(text), texts, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise PromptError(
            f"{text!r} is not in the prompt {prompt[:200]!r}.{hint} "
            f"Its words are: {', '.join(word.text for word in prompt_words)}."
        )
    if number is not None:
        if not 1 <= number <= len(starts):
            raise PromptError(
                f"{text!r} occurs {len(starts)} time(s) in {prompt!r}; "
                f"there is no number {number}. Count from 1."
            )
        starts = starts[number - 1 : number]
    found = {n for start in starts for n in range(start, start + len(wanted))}
    return [token for n in sorted(found) for token in prompt_words[n].tokens]


def contains(tokenizer, prompt: str, phrase: Phrase) -> bool:
    """Whether a prompt has a word or phrase."""
    try:
        return bool(find_words(tokenizer, prompt, phrase))
    except PromptError:
        return False


def vocabulary(tokenizer) -> Sequence[str]:
    """The words that the model knows, where its tokenizer says so, as the embedded model's does."""
    return readers(tokenizer)[0].init_kwargs.get("known_words") or ()


def unknown_words(tokenizer, prompt: str) -> dict[str, str]:
    """Words of a prompt that the model has never seen, each with the closest known one or "".

    Where the model does not say which it knows, nothing is unknown. A textual inversion's token is
    known: the user taught the model what it means.
    """
    known = vocabulary(tokenizer)
    if not known:
        return {}
    taught = {spelling(name) for name in readers(tokenizer)[0].added_tokens_encoder}
    letters = [word.text for word in words(tokenizer, prompt) if word.text[0].isalnum()]
    new = [word for word in letters if word.lower() not in known and spelling(word) not in taught]
    return {w: next(iter(difflib.get_close_matches(w.lower(), known, n=1)), "") for w in new}


def warn_of_unknown_words(tokenizer, prompt: str):
    """Warn of words the model has never seen (see `unknown_words`).

    Warns:
        UnknownWordWarning: names the words, the closest known ones, and the whole vocabulary.
    """
    unknown = unknown_words(tokenizer, prompt)
    if unknown:
        known = vocabulary(tokenizer)
        near = [word for word in unknown.values() if word]
        hint = f" Closest: {', '.join(near)}." if near else ""
        warnings.warn(
            f"This small model was trained on {len(known)} words and has never seen "
            f"{', '.join(map(repr, unknown))}; expect anything.{hint} "
            f"It knows: {', '.join(known)}. For other words load a larger model, e.g. "
            'load_pipeline("stable-diffusion-v1-5/stable-diffusion-v1-5").',
            UnknownWordWarning,
            stacklevel=4,
        )
