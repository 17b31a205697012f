"""Attention control inside an unmodified diffusers pipeline: processors that are put in for the length of a `with` block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from jaxtyping import Bool, Float
from torch import Tensor


class AttentionControlError(RuntimeError):
    """Attention cannot be controlled in this model or this run; the message says why."""


@dataclass
class Control:
    """What attention is to do at each step. One per run; `step` is the only thing that changes.

    `cross_source` (S) and `cross_target` (T) hold one pair of matrices for each target prompt and step.
    """

    cross_source: Float[Tensor, "target step source_token target_token"]
    cross_target: Float[Tensor, "target step target_token target_token"]
    self_steps: Bool[Tensor, "target step"]
    self_pixels: list[int]  # for each target, the most queries a self-attention layer may have to be injected
    step: int = 0

    def __post_init__(self):
        # Read once, since a GPU would have to be waited for in every layer.
        self.has_source, self.has_target = (m.flatten(2).any(-1).tolist() for m in (self.cross_source, self.cross_target))
        self.has_self = self.self_steps.tolist()

    @property
    def prompts(self) -> int:
        """How many prompts run side by side: the source, then the targets."""
        return 1 + len(self.cross_source)

    def next_step(self, pipe, step, timestep, tensors: dict) -> dict:
        """A diffusers `callback_on_step_end`: moves on to the next step."""
        self.step = step + 1
        return tensors


class ControlledAttention:
    """diffusers' scaled-dot-product attention, with the target prompts' rows edited by a `Control`.

    Since Ô_t = (A_s S + A_t T) V_t = A_s (S V_t) + A_t (T V_t), no map is ever stored: the source's queries and keys are put in
    the target's place and the values are multiplied by S or T. Rows of the source and of the unconditional half stay as they are.
    """

    def __init__(self, control: Control):
        self.control = control

    def __call__(self, attn: Attention, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **kwargs):
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

        control = self.control
        if batch not in (control.prompts, 2 * control.prompts):
            raise AttentionControlError(
                f"Attention got {batch} rows for {control.prompts} prompts. The controlled pipeline must be run on exactly those prompts."
            )
        source = batch - control.prompts  # with guidance the first half is unconditional and stays untouched
        extra = []  # rows that need a second attention: where both S and T act
        for i in range(control.prompts - 1):
            row = source + 1 + i
            if is_cross:
                s, t = (m[i, control.step].to(value) for m in (control.cross_source, control.cross_target))
                if not control.has_source[i][control.step]:
                    value[row] = t @ value[row]
                    continue
                if control.has_target[i][control.step]:
                    mask = None if attention_mask is None else attention_mask[row]
                    extra.append((row, F.scaled_dot_product_attention(query[row], key[row], t @ value[row], attn_mask=mask)))
                value[row] = s @ value[row]
            elif not (control.has_self[i][control.step] and query.shape[2] <= control.self_pixels[i]):
                continue
            query[row], key[row] = query[source], key[source]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        for row, more in extra:
            out[row] += more
        out = out.transpose(1, 2).flatten(2)  # (prompt, pixel, channel)
        return attn.to_out[1](attn.to_out[0](out))


@contextlib.contextmanager
def controlled(unet, control: Control) -> Iterator[Control]:
    """Put a `Control` into every attention layer of a UNet for the length of a `with` block; always put back what was there.

    Raises:
        AttentionControlError: the model has no attention layer, or one with processors other than diffusers' usual ones.
    """
    before = dict(unet.attn_processors)
    if not before:
        raise AttentionControlError("This model has no attention layers to control. Prompt-to-Prompt needs a UNet with cross-attention.")
    others = {type(p).__name__ for p in before.values() if not isinstance(p, (AttnProcessor, AttnProcessor2_0))}
    if others:
        raise AttentionControlError(
            f"Some attention layers run {', '.join(sorted(others))}, which cannot be controlled together with an edit. "
            "Go back to diffusers' own with pipe.unet.set_default_attn_processor(), and unload adapters that bring their own."
        )
    try:
        unet.set_attn_processor({name: ControlledAttention(control) for name in before})
        yield control
    finally:
        unet.set_attn_processor(before)
