"""The matrix that lines up the tokens of two prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import PromptMismatch
from .words import _same, words


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
