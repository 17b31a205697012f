"""Attention control inside an unmodified diffusers pipeline: processors that are put in for the length of a `with` block."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from diffusers.models import attention_processor as processors
from jaxtyping import Float
from torch import Tensor

from ..edits.edit import SELF_SIZE, Edit
from ..errors import AttentionControlError, InputError

# These all compute softmax(QKᵀ/√d)V and differ only in how they save memory, so ours may stand in for them.
PLAIN = tuple(
    getattr(processors, name)
    for name in ("AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor")
    if hasattr(processors, name)
)


Pair = tuple[Tensor | None, Tensor | None]  # (S, T) of one step, each (token, token); None is zero


def _pair(s: Tensor, t: Tensor) -> Pair | None:
    """S and T of one step, or None where the target keeps its own maps. Found out once: a GPU would have to be waited for."""
    if not s.any():
        return None if torch.equal(t, torch.eye(len(t))) else (None, t)
    return (s, t if t.any() else None)


@runtime_checkable
class Observer(Protocol):
    """Something that wants to see the attention maps of some layers; those of cross-attention have `.attn2.` in their names."""

    before: bool  # whether it wants the targets' own maps, before the edit

    def watches(self, layer: str, pixels: int, height: int, width: int, step: int) -> bool:
        """Whether it wants this layer's maps of a step, given how many pixels the layer has and the size of the latent."""

    def see(self, layer: str, maps: Float[Tensor, "prompt head pixel key"], step: int):
        """Takes one layer's maps of one step, from 0, in float32, source first; a key is a token, or in self-attention a pixel."""


class Control:
    """What attention does to each target prompt in the current step. One per run.

    For every target `cross` holds the pair (S, T), with None for a matrix that is zero, or just None where the step leaves the target its
    own maps; `self_pixels` holds the largest self-attention layer to be injected, or 0.

    Args:
        tokenizer: the pipeline's.
        source, targets: the prompts.
        edits: one for each target.
        observers: see the maps of the layers that they watch.

    Raises:
        PromptError, PromptMismatch: an edit cannot line up its prompts.
    """

    def __init__(self, tokenizer, source: str, targets: Sequence[str], edits: Sequence[Edit], observers: Sequence[Observer] = ()):
        self.tokenizer, self.source, self.targets, self.edits, self.observers = tokenizer, source, targets, edits, observers
        self.step, self.size, self.plan = 0, (0, 0), []
        self.cross: list[Pair | None] = []
        self.self_pixels: list[int] = []
        self._prepare(1)  # a word that cannot be found is an error now, not in the middle of a run

    @property
    def prompts(self) -> int:
        """How many prompts run side by side: the source, then the targets."""
        return 1 + len(self.targets)

    def _prepare(self, steps: int):
        """Work out every step of every target: its pair, and whether self-attention is injected."""
        self.plan = []
        for target, edit in zip(self.targets, self.edits, strict=True):
            s, t = (m.detach().float().cpu() for m in edit.matrices(self.tokenizer, self.source, target, steps))
            side = self.tokenizer.model_max_length
            if not (s.shape == t.shape == (steps, side, side) and s.isfinite().all() and t.isfinite().all()):
                raise InputError(
                    f"{edit!r} gave S {tuple(s.shape)} and T {tuple(t.shape)} for {steps} steps of {side} tokens; both must be "
                    f"{(steps, side, side)} and finite."
                )
            pairs = [_pair(*matrices) for matrices in zip(s, t, strict=True)]
            self.plan.append(list(zip(pairs, edit.self_schedule(steps).tolist(), strict=True)))

    def begin_step(self, sample: Float[Tensor, "row channel height width"], steps: int):
        """Set up the step that is about to run on this latent batch, in a run of so many calls of the UNet.

        Raises:
            AttentionControlError: the batch is not the prompts, once or twice.
        """
        if len(sample) not in (self.prompts, 2 * self.prompts):
            raise AttentionControlError(
                f"The UNet got {len(sample)} rows for {self.prompts} prompts. Run the controlled pipeline on exactly "
                "those prompts, with one picture for each, and with classifier-free guidance or none."
            )
        if self.step >= steps:
            raise AttentionControlError(f"The pipeline said it would take {steps} steps, and this is one more. It cannot be controlled.")
        if len(self.plan[0]) != steps:
            self._prepare(steps)
        height, width = self.size = tuple(sample.shape[-2:])
        self.cross, self.self_pixels = [], []
        for edit, plan in zip(self.edits, self.plan, strict=True):
            pair, injects = plan[self.step]
            self.cross.append(pair and tuple(m if m is None else m.to(sample) for m in pair))
            side = SELF_SIZE if edit.self_size is None else edit.self_size
            self.self_pixels.append(math.ceil(height * side) * math.ceil(width * side) if injects else 0)
        self.step += 1


def attention_maps(query: Tensor, key: Tensor) -> Float[Tensor, "prompt head pixel key"]:
    """softmax(QKᵀ/√d) in float32, for those who want to look."""
    return ((query.float() / query.shape[-1] ** 0.5) @ key.float().transpose(-1, -2)).softmax(-1)


class ControlledAttention:
    """diffusers' scaled-dot-product attention, with the target prompts' rows edited by a `Control`.

    Since Ô_t = (A_s S + A_t T) V_t = A_s (S V_t) + A_t (T V_t), no map is ever stored: the source's queries and keys are put in
    the target's place and the values are multiplied by S or T. Rows of the source and of the unconditional half stay as they are.
    """

    def __init__(self, control: Control, layer: str):
        self.control, self.layer = control, layer

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, *args, **kwargs):
        """Same arguments and result as diffusers' AttnProcessor2_0: (prompt, pixel, channel) → (prompt, pixel, channel)."""
        is_cross = encoder_hidden_states is not None
        context = encoder_hidden_states if is_cross else hidden_states
        batch = len(hidden_states)

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (prompt, head, pixel or token, width)

        query, key, value = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
        if attention_mask is not None:
            mask = attn.prepare_attention_mask(attention_mask, key.shape[2], batch)
            attention_mask = mask.view(batch, attn.heads, -1, mask.shape[-1])

        control, pixels = self.control, query.shape[2]
        source = batch - control.prompts  # with guidance the first half is unconditional and stays untouched
        watching = [o for o in control.observers if o.watches(self.layer, pixels, *control.size, control.step - 1)]
        if watching:
            self._show(watching, query[source:], key[source:], is_cross)
        extra = []  # rows that need a second attention, since S and T both act
        for row, pair, self_pixels in zip(range(source + 1, batch), control.cross, control.self_pixels, strict=True):
            if is_cross:
                if pair is None:
                    continue
                s, t = pair
                if s is None:
                    value[row] = t @ value[row]
                    continue
                if t is not None:
                    mask = None if attention_mask is None else attention_mask[row]
                    extra.append((row, F.scaled_dot_product_attention(query[row], key[row], t @ value[row], attn_mask=mask)))
                value[row] = s @ value[row]
            elif pixels > self_pixels:
                continue
            query[row], key[row] = query[source], key[source]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        for row, more in extra:
            out[row] += more
        out = out.transpose(1, 2).flatten(2)  # (prompt, pixel, channel)
        return attn.to_out[1](attn.to_out[0](out))

    def _show(self, watching: Sequence[Observer], query: Tensor, key: Tensor, is_cross: bool):
        """Let observers see the maps of the rows with prompts. A target's own map is made only where it is seen or used."""
        control = self.control
        own = functools.cache(lambda row: attention_maps(query[row : row + 1], key[row : row + 1])[0])
        rows = range(control.prompts)

        def edited(row: int) -> Tensor:
            """Â_t = A_s S + A_t T (cross-attention), or the source's map where it is injected (self-attention)."""
            if row == 0:
                return own(0)
            if not is_cross:
                return own(0 if query.shape[2] <= control.self_pixels[row - 1] else row)
            s, t = control.cross[row - 1] or (None, None)
            if s is None:
                return own(row) if t is None else own(row) @ t.float()
            return own(0) @ s.float() if t is None else own(0) @ s.float() + own(row) @ t.float()

        for which in {o.before for o in watching}:
            maps = torch.stack([own(row) if which else edited(row) for row in rows])
            for o in watching:
                if o.before == which:
                    o.see(self.layer, maps, control.step - 1)


@contextlib.contextmanager
def controlled(pipe, control: Control) -> Iterator[Control]:
    """Put a `Control` into every attention layer of a pipeline's UNet for the length of a `with` block; always put back what was there.

    Raises:
        AttentionControlError: the pipeline has no UNet with attention layers, or layers that do not compute plain attention.
    """
    unet = getattr(pipe, "unet", None)
    before = dict(getattr(unet, "attn_processors", {}))
    if not before or not hasattr(type(pipe), "num_timesteps"):
        raise AttentionControlError(
            f"{type(pipe).__name__} has no UNet whose attention can be controlled. Prompt-to-Prompt needs a diffusers pipeline with a "
            "UNet and cross-attention: Stable Diffusion 1.x, 2.x, XL and their relatives, or the embedded model."
        )
    others = {type(p).__name__ for p in before.values() if not isinstance(p, PLAIN)}
    if ControlledAttention.__name__ in others:
        raise AttentionControlError(
            "This pipeline is being recorded or edited already. To record an edit, take edit(..., record=True) outside of record()."
        )
    if others:
        raise AttentionControlError(
            f"Some attention layers run {', '.join(sorted(others))}, which cannot be controlled together with an edit. "
            "Go back to diffusers' own with pipe.unet.set_attn_processor(diffusers.models.attention_processor.AttnProcessor2_0()), "
            "and unload adapters that bring theirs."
        )

    @torch.compiler.disable
    def begin_step(module, args, kwargs):
        control.begin_step(args[0] if args else kwargs["sample"], pipe.num_timesteps)

    hook = unet.register_forward_pre_hook(begin_step, with_kwargs=True)
    try:
        unet.set_attn_processor({name: ControlledAttention(control, name) for name in before})
        yield control
    finally:
        hook.remove()
        unet.set_attn_processor(before)
