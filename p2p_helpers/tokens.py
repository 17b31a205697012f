"""Words and phrases of a prompt ↔ positions of its tokens, and the matrix that lines up two prompts."""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class PromptError(ValueError):
    """Something is wrong with a prompt; the message says what and what to try."""


class PromptMismatch(PromptError):
    """Two prompts that should have the same number of words do not."""


_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]+")  # letters and digits, or a run of punctuation: as the tokenizer splits


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
    found = []
    for match in _WORD.finditer(prompt):
        start, end = match.span()
        tokens = tuple(i for i, (a, b) in enumerate(spans) if a < end and b > start)
        found.append(Word(match.group(), tokens))
    limit = tokenizer.model_max_length
    if len(spans) > limit:
        lost = [w.text for w in found if w.tokens and w.tokens[-1] >= limit - 1]
        raise PromptError(
            f"The prompt has {len(spans)} tokens with its start and end; the model reads {limit}. "
            f"It would not see: {' '.join(lost)}. Shorten the prompt."
        )
    return found


def find_words(tokenizer, prompt: str, phrase: str) -> list[int]:
    """Token positions of every occurrence of a word or phrase in a prompt, in any case.

    Raises:
        PromptError: the phrase does not occur; lists the prompt's words and the closest one.
    """
    prompt_words = words(tokenizer, prompt)
    texts = [w.text.lower() for w in prompt_words]
    wanted = [m.lower() for m in _WORD.findall(phrase)]
    starts = [i for i in range(len(texts) - len(wanted) + 1) if wanted and texts[i : i + len(wanted)] == wanted]
    if not starts:
        near = difflib.get_close_matches(phrase.lower(), texts, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise PromptError(f"{phrase!r} is not in the prompt.{hint} Its words are: {', '.join(texts)}.")
    return [t for i in starts for w in prompt_words[i : i + len(wanted)] for t in w.tokens]


def check_known_words(tokenizer, prompt: str):
    """Refuse a prompt with words its model has never seen, where the tokenizer says which words it has (the embedded model's does).

    Raises:
        PromptError: names the words, the closest known ones, and the whole vocabulary.
    """
    known = tokenizer.init_kwargs.get("known_words")
    if not known:
        return
    for word in words(tokenizer, prompt):
        if word.text[0].isalnum() and word.text.lower() not in known:
            near = difflib.get_close_matches(word.text.lower(), known, n=2)
            hint = f" Closest: {' or '.join(near)}." if near else ""
            raise PromptError(
                f"This small model was trained on {len(known)} words, and {word.text!r} is not one of them.{hint} "
                f"It knows: {', '.join(known)}. For other words load a larger model, e.g. "
                'load_pipeline("stable-diffusion-v1-5/stable-diffusion-v1-5").'
            )


def _spread(matrix: Tensor, source: list[int], target: list[int]):
    """Line up p source tokens with q target tokens: one to one if p = q, else every source token shares itself over all q."""
    if len(source) == len(target):
        matrix[source, target] = 1.0
    else:
        matrix[torch.tensor(source)[:, None], torch.tensor(target)] = 1.0 / len(target)


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
    # The end token and the padding after it.
    source_rest = list(range(len(tokenizer(source).input_ids) - 1, length))
    target_rest = list(range(len(tokenizer(target).input_ids) - 1, length))
    shared = min(len(source_rest), len(target_rest)) - 1
    _spread(matrix, source_rest[:shared], target_rest[:shared])
    _spread(matrix, source_rest[shared:], target_rest[shared:])
    return matrix
