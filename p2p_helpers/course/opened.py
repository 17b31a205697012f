"""An edit with its attention maps written out, as notebook 02 does it: one rule for the target's maps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor

from ..edits.schedule import active_steps

Rule = Callable[[Tensor, Tensor], Tensor]


class OpenProcessor:
    """An attention processor of diffusers whose target takes the maps that a rule makes.

    Args:
        rule: from the source's maps and the target's own, each (head, pixel, token), to the target's.
    """

    def __init__(self, rule: Rule):
        self.rule, self.acts = rule, True

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs) -> Tensor:
        words = encoder_hidden_states
        context = hidden_states if words is None else words

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (row, head, …, width)

        q, k, v = (
            split(attn.to_q(hidden_states)),
            split(attn.to_k(context)),
            split(attn.to_v(context)),
        )
        maps = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)  # (row, head, pixel, token)
        if words is not None and self.acts:
            # rows: source, target without words; source, target with them
            maps[3] = self.rule(maps[2], maps[3])
        return attn.to_out[0]((maps @ v).transpose(1, 2).flatten(2))


def opened(
    pipe, source: str, target: str, rule: Rule, *, seed: int, steps: int, until: float = 1.0
) -> list[Image.Image]:
    """The pictures of source and target from one noise, made with `OpenProcessor` in every layer.

    For the embedded model, in float32, with its usual guidance. The pipeline is put back as it was.

    Args:
        until: the share of the steps after which the target uses its own maps, counted as for `Edit.cross_steps`.
    """
    before, processor = dict(pipe.unet.attn_processors), OpenProcessor(rule)
    on = [*active_steps(until, steps).tolist(), False]
    processor.acts = on[0]

    def after_step(pipe, step, timestep, tensors):
        processor.acts = on[step + 1]
        return tensors

    twins = [torch.Generator().manual_seed(seed) for _ in range(2)]
    scale = pipe.tokenizer.init_kwargs["guidance_scale"]
    how = {"num_inference_steps": steps, "guidance_scale": scale, "generator": twins}
    pipe.unet.set_attn_processor(processor)
    try:
        return pipe([source, target], callback_on_step_end=after_step, **how).images
    finally:
        pipe.unet.set_attn_processor(before)
