"""Record attention maps while a pipeline runs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention.interrupts import block
from ..attention.layers import Layer, halved, map_level, text_levels
from ..attention.observe import Geometry
from ..attention.session import Session
from ..attention.turns import follow
from ..errors import InputError
from ..memory import free_bytes
from ..prompts.words import as_read, word_columns
from ..values import shown
from .heatmap import POOLED
from .recorded import AttentionMaps, Record, as_record

SELF_EVERY = 4  # self-attention maps are large, and change little from step to step
SELF_PIXELS = 1024  # and are not kept of more pixels than this: 4096 would be 134 MB a layer


class Recorder:
    """The attention observer that fills an `AttentionMaps`. One per run.

    Everything is added up on the device and copied once, at the end; only `Record(everything=True)`, which no device has
    the memory for, goes to the CPU at once.
    """

    def __init__(self, record: Record, maps: AttentionMaps, prompts: Sequence[str] | None = None):
        self.record, self.before, self.maps = record, record.before, maps
        self._prompts = maps.prompts if prompts is None else prompts  # whose words are wanted
        self._sums: dict[str, Tensor] = {}  # (prompt, pixel, key), mean over heads
        self._by_head: dict[str, Tensor] = {}  # (prompt, head, pixel, token)
        self._by_step: dict[str, Tensor] = {}  # (step, prompt, pixel, token)
        self._all: dict[str, Tensor] = {}  # (step, prompt, head, pixel, key)
        self._layers: dict[str, Layer] = {}
        self.columns: Float[Tensor, "token column"] | None = None
        self._geometry: Geometry | None = None
        self._level: tuple[int, int] = (0, 0)  # rows and columns at the map level

    def begin(self, geometry: Geometry):
        """Make room for the maps."""
        self._geometry = geometry
        levels = text_levels(geometry.layers) or [0]
        self._level = halved(*geometry.size, map_level(*geometry.size, levels))
        if any(layer.shows_columns for layer in geometry.layers):
            self.maps.columns = word_columns(self.maps.tokenizer, self._prompts)
            columns = torch.zeros(geometry.tokens, len(self.maps.columns))
            for column, tokens in zip(columns.T, self.maps.columns, strict=True):
                column[tokens] = 1.0
            self.columns = columns.to(geometry.device)
        self._layers = {x.name: x for x in geometry.layers if self.watches(x, 0)}
        if self.record.everything:
            self._check_room()
        for layer in self._layers.values():
            self._make_room(layer)

    def _keys(self, layer: Layer, pixels: int) -> int:
        """How many columns of a layer's maps are kept."""
        if not layer.reads_text:
            return pixels
        return self._geometry.tokens if self.columns is None else self.columns.shape[1]

    def _check_room(self):
        """Refuse to keep everything where it does not fit."""
        run, wanted = self._geometry, 0
        for layer in self._layers.values():
            rows, columns = layer.grid(*run.size)
            pixels = rows * columns
            wanted += 2 * run.steps * run.prompts * layer.heads * pixels * self._keys(layer, pixels)
        free = free_bytes("cpu")
        if free is not None and wanted > free:
            raise InputError(
                f"Record(everything=True) would keep {wanted / 1e9:.1f} GB of maps, and {free / 1e9:.1f} GB of memory are free. Take "
                "record=True, fewer steps or a smaller picture."
            )

    def _make_room(self, layer: Layer):
        run, grid = self._geometry, layer.grid(*self._geometry.size)
        pixels = grid[0] * grid[1]
        keys = self._keys(layer, pixels)
        if self.record.everything:
            shape = (run.steps, run.prompts, layer.heads, pixels, keys)
            self._all[layer.name] = torch.zeros(shape, dtype=torch.float16)
        if self._pools(layer):
            self._make_pool(layer, pixels, keys)
        elif self._is_detailed(layer, grid):
            shape = (run.prompts, layer.heads, pixels, keys)
            self._by_head[layer.name] = torch.zeros(shape, device=run.device)
            shape = (run.steps, run.prompts, pixels, keys)
            self._by_step[layer.name] = torch.zeros(shape, dtype=torch.float16, device=run.device)
            return
        self._sums[layer.name] = torch.zeros(run.prompts, pixels, keys, device=run.device)

    def _pools(self, layer: Layer) -> bool:
        """Whether a layer's heads and steps are kept together with those of all others."""
        return layer.is_averaged and layer.is_one_of_many and not self.record.everything

    def _is_detailed(self, layer: Layer, grid: tuple[int, int]) -> bool:
        """Whether a layer's heads and steps are kept."""
        alone = layer.reads_text and not layer.is_one_of_many
        return alone and grid == self._level and not self.record.everything

    def _make_pool(self, layer: Layer, pixels: int, keys: int):
        """Room for heads and steps of all layers together: a transformer has dozens of layers of one size."""
        run = self._geometry
        if POOLED not in self._by_head:
            shape = (run.prompts, layer.heads, pixels, keys)
            self._by_head[POOLED] = torch.zeros(shape, device=run.device)
            shape = (run.steps, run.prompts, pixels, keys)
            self._by_step[POOLED] = torch.zeros(shape, device=run.device)

    def watches(self, layer: Layer, step: int) -> bool:
        """All layers that look at text, and in every fourth step the self-attention layers at the map level.

        Those only as long as their maps are small.
        """
        if layer.reads_text or self.record.everything:
            return True
        rows, columns = layer.grid(*self._geometry.size)
        wanted = (rows, columns) == self._level and rows * columns <= SELF_PIXELS
        return wanted and step % SELF_EVERY == 0

    def see(self, layer: Layer, maps: Float[Tensor, "prompt head pixel key"], step: Tensor):
        """Adds one layer's maps of one step."""
        if self.record.everything:
            self._all[layer.name].index_copy_(0, step.cpu(), maps.to("cpu", torch.float16)[None])
        mean = maps.mean(1)  # over the heads
        if layer.name in self._by_step:
            self._by_step[layer.name].index_copy_(0, step, mean.to(torch.float16)[None])
            self._by_head[layer.name].add_(maps)
            return
        self._sums[layer.name].add_(mean)
        if self._pools(layer):
            self._by_step[POOLED].index_add_(0, step, mean[None])
            self._by_head[POOLED].add_(maps)

    def end(self, steps: int):
        """Copy everything to the CPU and fill the maps."""
        kept = self.maps
        kept.steps, kept.level = steps, self._level
        at_level = [x for x in self._layers.values() if x.grid(*self._geometry.size) == self._level]
        kept.level_layers = [layer.name for layer in at_level if layer.is_averaged]
        for name, layer in self._layers.items():
            kept.shapes[name] = layer.grid(*self._geometry.size)
            kept.kinds[name] = "cross" if layer.reads_text else "self"
            kept.counts[name] = sum(self.watches(layer, step) for step in range(steps))
        kept.sums = {name: tensor.cpu() for name, tensor in self._sums.items()}
        pooled = [self._by_head[POOLED], self._by_step[POOLED]] if POOLED in self._by_head else []
        for tensor in pooled:
            tensor.div_(sum(map(self._pools, self._layers.values())))
        kept.by_head = {name: tensor.cpu() for name, tensor in self._by_head.items()}
        by_step = {name: tensor.cpu() for name, tensor in self._by_step.items()}
        kept.by_step = {
            (name, step): by_step[name][step] for name in by_step for step in range(steps)
        }
        kept.all = {
            (name, step): self._all[name][step] for name in self._all for step in range(steps)
        }


def _check_one_text(pipe, given: Mapping[str, Any]):
    """Refuse another text for another encoder of a transformer: words are found by one."""
    if hasattr(pipe, "unet"):
        return
    for name in ("prompt_2", "prompt_3"):
        other = given.get(name)
        if other and _listed(other) != _listed(given["prompt"]):
            raise InputError(
                f"{name}={shown(other)}: record() finds the words of one prompt in all text encoders. Leave it out."
            )


def _listed(prompt: str | Sequence[str]) -> list[str]:
    return [prompt] if isinstance(prompt, str) else list(prompt)


@block
def record(pipe, record: Record | None = None) -> Iterator[AttentionMaps]:
    """Record the attention of whatever a pipeline runs in a `with` block; the last run counts.

    Args:
        pipe: a diffusers pipeline; it is left as it was found.
        record: what to keep; see `Record`.

    Raises:
        AttentionControlError: as `edit`.
        InputError: in the block, by a run with prompt_embeds in place of the prompt's text, or with another prompt_2 or prompt_3 in a
            transformer; everything is wanted, and memory is too small for it.
        PromptError: in the block, by a transformer's run with a prompt that is too long for one of its text encoders, which the
            pipeline alone would cut off.
    """
    maps = AttentionMaps(None, [], as_record(True if record is None else record) or Record())

    def begin(given: dict):
        prompt, each = given.get("prompt"), given.get("num_images_per_prompt", 1)
        if prompt is None:
            raise InputError(
                "record() finds maps by the prompt's words: give the pipeline the prompt as text, not as prompt_embeds."
            )
        _check_one_text(pipe, given)
        tokenizer = session.family.tokenizer(pipe, given)
        texts = [text for text in _listed(prompt) for _ in range(each)]
        texts = as_read(pipe, tokenizer, texts, given.get("clean_caption", False))
        maps.__init__(tokenizer, texts, maps.record)
        session.begin(len(texts), observers=[Recorder(maps.record, maps)])

    with Session(pipe, "recorded", calls_back=False) as session:
        encode = pipe.encode_prompt
        signature = inspect.signature(functools.partial(type(pipe).encode_prompt, pipe))

        @functools.wraps(encode)
        def encode_prompt(*args, **kwargs):
            if fresh:  # not once more for the negative prompt, or for another encoder
                fresh.clear()
                # By the class's signature: a user's own may have any.
                begin(signature.bind(*args, **kwargs).arguments)
            return encode(*args, **kwargs)

        @functools.wraps(pipe.check_inputs)
        def check_inputs(*args, **kwargs):  # a pipeline calls it once, first, in every run
            if session.run is not None and session.run.under_way:
                session.check_thread()
            follow(session)  # the scheduler may be another by now
            fresh.append(True)
            return check(*args, **kwargs)

        check, fresh = pipe.check_inputs, []
        session.set(pipe, "check_inputs", check_inputs)
        session.set(pipe, "encode_prompt", encode_prompt)
        try:
            yield maps
        finally:
            session.finish()
