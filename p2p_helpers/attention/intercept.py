"""Around a marked layer's call, torch's scaled_dot_product_attention is ours; the model's own processor does the rest.

So norms, residuals, rescaling, LoRA and fused projections are the model's, and so is a processor of a user's own. What
runs inside a compiled model is written so that torch.compile takes it into the model's one graph: it reads attributes,
and works on tensors.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack, _pop_mode

from ..errors import AttentionControlError
from .columns import attention_maps, columns, edited_map
from .layers import Layer
from .observe import Observer
from .terms import Places, Term, attend, rows_of

CURE = (
    "Go back to diffusers' own attention: for a UNet with "
    "pipe.unet.set_attn_processor(diffusers.models.attention_processor.AttnProcessor2_0()), for a transformer with "
    'pipe.transformer.set_attention_backend("native"); unload adapters that bring theirs; and switch caches off, which '
    "leave attention out in some steps (pipe.transformer.disable_cache())."
)


class Mark:
    """What one attention layer does at the moment; a session puts it in the place of the layer's `forward`.

    Without terms and without observers it is the layer's own forward.
    """

    def __init__(self):
        self.layer: Layer | None = None
        self.forward = None  # the layer's own
        self.processor = ""  # the name of the layer's own, for messages
        self.places = Places({})
        self.clear()

    def clear(self):
        """Forget the run."""
        self.terms: Mapping[int, Sequence[Term]] | None = None  # row → terms
        self.watching: tuple[Observer, ...] = ()
        self.rows = 0  # of the batch
        self.prompts: tuple[int, ...] = ()  # the rows with prompts, source first
        self.keys = 0  # how many keys the attention to be edited has
        self.step: Tensor | None = None

    def __call__(self, *args, **kwargs):
        if not self.terms and not self.watching:
            return self.forward(*args, **kwargs)
        intercept = _Intercept(self)
        with intercept:
            out = self.forward(*args, **kwargs)
        if not intercept.calls:
            raise AttentionControlError(
                f"The layer {self.layer.name} runs {self.processor}, which makes no call of torch's "
                f"scaled_dot_product_attention with {self.keys} keys, so it cannot be controlled. {CURE}"
            )
        return out

    def attend(
        self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **options
    ) -> Tensor:
        """In the place of torch's function, with its arguments."""
        options = {"dropout_p": dropout_p, "is_causal": is_causal, **options}
        if query.dim() != 4 or len(query) != self.rows or len(key) != self.rows:
            raise AttentionControlError(
                f"The layer {self.layer.name} got queries {tuple(query.shape)} for a batch of {self.rows} rows: this "
                "pipeline does not run its prompts row by row (AnimateDiff, for one, has frames). It cannot be controlled."
            )
        if self.watching:
            self._show(query, key, attn_mask, options.get("scale"))
        if not self.terms:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask, **options)
        return attend(query, key, value, self.terms, self.places, attn_mask, **options)

    def _show(self, query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None):
        """Let observers see the maps of the rows with prompts. Only maps that someone needs are made."""
        if self.layer.shows_columns:
            self._show_columns(query, key, mask, scale)
            return
        terms = self.terms or {}
        after = any(not observer.before for observer in self.watching)
        needed = set(self.prompts if any(observer.before for observer in self.watching) else ())
        if after:
            for row in self.prompts:
                needed |= {term.row for term in terms[row]} if row in terms else {row}
        rows = sorted(needed)
        if mask is not None and mask.dim() == 4 and mask.shape[0] == self.rows:
            mask = rows_of(mask, rows)
        made = attention_maps(rows_of(query, rows), rows_of(key, rows), mask, scale)
        own = {row: made[place] for place, row in enumerate(rows)}
        for before in (False, True):
            watching = [observer for observer in self.watching if observer.before == before]
            if not watching:
                continue
            maps = torch.stack(
                [
                    edited_map(own, terms[row], self.places)
                    if row in terms and not before
                    else own[row]
                    for row in self.prompts
                ]
            )
            for observer in watching:
                some = observer.columns if self.layer.reads_text else None
                observer.see(self.layer, maps if some is None else maps @ some, self.step)

    def _show_columns(self, query: Tensor, key: Tensor, mask: Tensor | None, scale: float | None):
        """Let observers see the columns of the words, where a whole map would be too large to write out."""
        rows = list(self.prompts)
        where = {row: place for place, row in enumerate(rows)}
        terms = {
            where[row]: [
                replace(
                    term,
                    row=where[term.row],
                    text=None if term.text is None else where[term.text],
                )
                for term in own
            ]
            for row, own in (self.terms or {}).items()
        }
        if mask is not None and mask.dim() == 4 and mask.shape[0] == self.rows:
            mask = rows_of(mask, rows)
        query, key = rows_of(query, rows), rows_of(key, rows)
        for observer in self.watching:
            own = {} if observer.before else terms
            text = self.places.keys["text"]
            some = observer.columns
            if some is None:
                some = torch.eye(text.stop - text.start, device=key.device)
            found = columns(query, key, own, self.places, some, mask, scale=scale)
            observer.see(self.layer, found.float(), self.step)


class _Intercept(TorchFunctionMode):
    """Calls a mark's attention in the place of torch's, in this thread and for the length of a `with` block."""

    def __init__(self, mark: Mark):
        super().__init__()
        self.mark, self.calls = mark, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is Tensor.unflatten:  # torch.compile does not follow this method within a mode
            func = torch.unflatten
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        key = args[1] if len(args) > 1 else kwargs["key"]
        if (
            key.shape[-2] != self.mark.keys
        ):  # an adapter's attention to a picture, beside the text's
            return func(*args, **kwargs)
        self.calls += 1
        return self.mark.attend(*args, **kwargs)


_marks: weakref.WeakKeyDictionary[nn.Module, Mark] = weakref.WeakKeyDictionary()


def mark_of(module: nn.Module) -> Mark:
    """The mark of a layer: always the same one, or torch.compile would compile the model anew for every run.

    Between runs it holds nothing of the model.
    """
    return _marks.setdefault(module, Mark())


def modes() -> int:
    """How many torch function modes this thread is in."""
    return len(_get_current_function_mode_stack())


def leave_modes(depth: int):
    """Leave the modes that an interrupt has left behind."""
    while modes() > depth:
        _pop_mode()
