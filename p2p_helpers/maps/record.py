"""Record attention maps while a pipeline runs."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention.control import Control, controlled
from ..blend import cross_levels, halved, map_level
from ..errors import InputError
from ..prompts.words import as_read
from .heatmap import AttentionMaps, Record, _is_cross

SELF_EVERY = 4  # self-attention maps are large, and change little from step to step


class Recorder:
    """The attention observer that fills an `AttentionMaps`. One per run."""

    def __init__(self, record: Record, tokenizer, prompts: Sequence[str], layers: Sequence[str]):
        self.record, self.before = record, record.before
        self.maps = AttentionMaps(tokenizer, list(prompts), record)
        self.levels = cross_levels(layers)
        self._size: tuple[int, int] | None = None  # of the latent
        self._level: tuple[int, int] = (0, 0)  # rows and columns at the map level

    def watches(self, layer: str, pixels: int, height: int, width: int, step: int) -> bool:
        """All cross-attention layers, and in every fourth step the self-attention layers at the map level."""
        if (height, width) != self._size:
            self._size, self._level = (height, width), halved(height, width, map_level(height, width, self.levels or [0]))
        at_level = pixels == self._level[0] * self._level[1]
        return _is_cross(layer) or self.record.everything or (at_level and step % SELF_EVERY == 0)

    def see(self, layer: str, maps: Float[Tensor, "prompt head pixel key"], step: int):
        """Adds one layer's maps of one step; the running means stay on the device, single steps go to the CPU in float16."""
        kept = self.maps
        if layer not in kept.shapes:
            kept.shapes[layer] = _grid(maps.shape[2], *self._size)
        at_level = kept.shapes[layer] == self._level
        kept.level = self._level
        kept.steps = max(kept.steps, step + 1)
        if self.record.everything:
            kept.all[layer, step] = maps.to("cpu", torch.float16)
        mean = maps.mean(1)  # over the heads
        kept.counts[layer] = kept.counts.get(layer, 0) + 1
        if _is_cross(layer) and at_level and not self.record.everything:
            kept.by_step[layer, step] = mean.to("cpu", torch.float16)
            _add(kept.by_head, layer, maps)
        else:
            _add(kept.sums, layer, mean)


def _add(sums: dict, key: str, maps: Tensor):
    if key in sums:
        sums[key] += maps
    else:
        sums[key] = maps.clone()


def _grid(pixels: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a layer with so many pixels."""
    while height * width > pixels:
        height, width = halved(height, width, 1)
    return height, width


class _Watch(Control):
    """A control that changes nothing, for `record`: every row of a batch is a prompt, known only when the run begins."""

    def __init__(self, pipe):
        self.pipe, self.step, self.size, self.rows, self.observers = pipe, 0, (0, 0), 0, ()
        self.cross, self.self_pixels = [], []

    @property
    def prompts(self) -> int:
        return self.rows

    def begin_step(self, sample, steps: int):
        self.size = tuple(sample.shape[-2:])
        self.rows = len(sample) // (2 if self.pipe.do_classifier_free_guidance else 1)
        self.cross, self.self_pixels = [None] * (self.rows - 1), [0] * (self.rows - 1)
        self.step = 0 if self.step >= steps else self.step
        self.step += 1


@contextlib.contextmanager
def record(pipe, record: Record | None = None) -> Iterator[AttentionMaps]:
    """Record the attention of whatever a pipeline runs in a `with` block; the last run counts.

    Args:
        pipe: a Stable Diffusion pipeline; it is left as it was found.
        record: what to keep; see `Record`.

    Raises:
        AttentionControlError: as `edit`.
        InputError: in the block, by a run with prompt_embeds in place of the prompt's text.
    """
    watch, maps = _Watch(pipe), AttentionMaps(None, [], record or Record())

    def seen(prompt: str | Sequence[str] | None, each: int):
        if prompt is None:
            raise InputError("record() finds maps by the prompt's words: give the pipeline the prompt as text, not as prompt_embeds.")
        texts = [prompt] if isinstance(prompt, str) else prompt
        tokenizer, texts = as_read(pipe, [text for text in texts for _ in range(each)])
        recorder = Recorder(maps.record, tokenizer, texts, list(pipe.unet.attn_processors))
        recorder.maps = maps
        maps.__init__(tokenizer, texts, maps.record)
        watch.step, watch.observers = 0, (recorder,)

    with controlled(pipe, watch):
        encode = pipe.encode_prompt

        @functools.wraps(encode)
        def encode_prompt(*args, **kwargs):  # a pipeline calls it once, first, in every run
            given = inspect.signature(encode).bind(*args, **kwargs).arguments
            seen(given.get("prompt"), given.get("num_images_per_prompt", 1))
            return encode(*args, **kwargs)

        pipe.encode_prompt = encode_prompt
        try:
            yield maps
        finally:
            del pipe.encode_prompt
