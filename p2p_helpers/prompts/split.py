"""Where the words of a text stand, and which tokens are theirs."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

Span = tuple[int, int]  # of characters: the first one, and the one after the last

# Unicode's white space, as CLIP's tokenizer has it. Python counts \x1c to \x1f as well.
_SPACES = set("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000")
_SPACES |= {chr(code) for code in range(0x2000, 0x200B)}
_APOSTROPHES = "'’‘ʼ＇"
_HYPHENS = "-‐‑"
_PLAIN = str.maketrans(dict.fromkeys(_APOSTROPHES, "'") | dict.fromkeys(_HYPHENS, "-"))
# In a prompt's shape: letters and digits with their accents, joined by single hyphens and
# apostrophes; or a run of anything else but spaces. CLIP's tokenizer splits finer: "cat's",
# "t-shirt" and "7up" are one word here.
_WORD = re.compile("a[am]*(?:-a[am]*)*|[^a ]+")


def spelling(word: str) -> str:
    """What all spellings of one word share.

    Case, the encoding of accents and the kind of apostrophe do not count.
    """
    return unicodedata.normalize("NFC", word).translate(_PLAIN).casefold()


@functools.lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    """What a character is to `_WORD`.

    "a" is a letter or digit, "m" an accent or another mark, "-" a joint, " " white space, and "."
    anything else.
    """
    if character in _SPACES:
        return " "
    if character in _APOSTROPHES or character in _HYPHENS:
        return "-"
    if character.isalnum():
        return "a"
    return "m" if unicodedata.category(character).startswith("M") else "."


def added_tokens(
    tokenizer, prompt: str, ids: Sequence[int], spans: Sequence[Span]
) -> dict[Span, str]:
    """Where tokens stand that were added to the tokenizer, and what they are called.

    A textual inversion adds such tokens. One of several vectors is read as
    `<toy> <toy>_1 <toy>_2`. That is one span, called `<toy>`.
    """
    known = tokenizer.added_tokens_decoder
    found: list[tuple[Span, str]] = []
    first, vectors = "", 0
    for token, (start, end) in zip(ids, spans, strict=True):
        if token not in known or start == end:
            continue
        content = known[token].content
        (begin, done), name = found[-1] if found else ((0, 0), "")
        only_spaces = set(prompt[done:start]) <= _SPACES
        if vectors and only_spaces and content == f"{first}_{vectors}":
            found[-1] = ((begin, end), name)
            vectors += 1
        else:
            found.append(((start, end), prompt[start:end]))
            first, vectors = content, 1
    return dict(found)


def split(prompt: str, added: Iterable[Span]) -> Iterator[Span]:
    """Where the words of a prompt stand. An added token is one word, whatever it is made of."""
    shape = "".join(map(_kind, prompt))
    done = 0
    for start, end in added:
        yield from (match.span() for match in _WORD.finditer(shape, done, start))
        yield start, end
        done = end
    yield from (match.span() for match in _WORD.finditer(shape, done))


def owners(texts: Sequence[Span], spans: Sequence[Span], prompt: str) -> list[list[int]]:
    """The tokens of each word, in one pass over both.

    A token over two words, as CLIP's `'s` in "'stop'", belongs to the one that begins with a
    letter.
    """
    tokens: list[list[int]] = [[] for _ in texts]
    first = 0
    for token, (start, end) in enumerate(spans):
        if start == end:  # the start and end tokens
            continue
        while first < len(texts) and texts[first][1] <= start:
            first += 1
        last = first
        while last < len(texts) and texts[last][0] < end:
            last += 1
        touched = range(first, last)
        if touched:
            tokens[max(touched, key=lambda n: prompt[texts[n][0]].isalnum())].append(token)
    return tokens
