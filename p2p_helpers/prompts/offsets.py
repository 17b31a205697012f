"""A tokenizer that tells where each of its tokens stands in the text."""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import convert_slow_tokenizer

from ..errors import PromptError
from .several import check_tokenizer
from .split import Span

# Twins of slow tokenizers. Making one takes a moment, and a tokenizer never changes but by growth.
_twins: WeakKeyDictionary[object, PreTrainedTokenizerFast] = WeakKeyDictionary()


def with_offsets(tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer itself, or its fast twin if it is a slow one.

    Stable Diffusion's tokenizer is slow in transformers before version 5.

    Raises:
        InputError: it is no tokenizer.
    """
    check_tokenizer(tokenizer)
    if tokenizer.is_fast:
        return tokenizer
    twin = _twins.get(tokenizer)
    if twin is None or len(twin) != len(tokenizer):
        backend = convert_slow_tokenizer(tokenizer)
        length = tokenizer.model_max_length
        twin = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=length)
        known = tokenizer.added_tokens_decoder
        twin.add_tokens([known[n] for n in sorted(known) if n >= len(twin)])
        _twins[tokenizer] = twin
    return twin


def tokens_and_spans(tokenizer, prompt: str) -> tuple[Sequence[int], Sequence[Span]]:
    """The prompt's tokens, with start and end, and the characters that each is made of.

    Raises:
        PromptError: a slow tokenizer reads the prompt otherwise than its fast twin does.
    """
    fast = with_offsets(tokenizer)
    read = fast(prompt, return_offsets_mapping=True, add_special_tokens=True, verbose=False)
    tokens = read["input_ids"]
    if fast is not tokenizer and tokenizer(prompt, verbose=False)["input_ids"] != tokens:
        raise PromptError(
            f"{type(tokenizer).__name__} reads {prompt[:200]!r} in a way of its own, so that its "
            "words cannot be found. Write plain characters only, or install transformers 5."
        )
    return tokens, read["offset_mapping"]
