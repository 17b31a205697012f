"""The paper's equations with the maps written out, one edit after another, as slow and plain as possible: what ours must equal.

Written for the tests and the benchmark only. It shares with the package the alignment of tokens, which has tests of its own, and
nothing else: no S, no T, no terms.
"""

import torch
import torch.nn.functional as F

import p2p_helpers as p2p


def schedule(tokenizer, target, steps, spec):
    """α (step, token), counted as in the authors' code."""
    alpha = torch.zeros(steps, tokenizer.model_max_length)
    spec = dict(spec) if isinstance(spec, dict) else {"default": spec}
    for word, interval in sorted(spec.items(), key=lambda item: item[0] != "default"):
        start, end = interval if isinstance(interval, tuple) else (0.0, interval)
        columns = slice(None) if word == "default" else p2p.find_words(tokenizer, target, word)
        alpha[:, columns] = 0.0
        for step in range(int(start * (steps + 1)), min(int(end * (steps + 1)), steps)):
            alpha[step, columns] = 1.0
    return alpha


def swap(tokenizer, source, target):
    mapping = p2p.replacement_matrix(tokenizer, source, target)
    return lambda a_s, a_t: torch.einsum("hni,ij->hnj", a_s, mapping.to(a_s))


def refine(tokenizer, source, target):
    mapping, old = p2p.refinement_alignment(tokenizer, source, target)

    def new_maps(a_s, a_t):
        out = a_t.clone()
        for j in range(len(old)):
            if old[j]:
                out[..., j] = sum(
                    mapping[i, j].item() * a_s[..., i] for i in mapping[:, j].nonzero().flatten()
                )
        return out

    return new_maps


def reweight(tokenizer, target, weights, before):
    def new_maps(a_s, a_t):
        out = before(a_s, a_t).clone()
        for word, c in weights.items():
            for j in p2p.find_words(tokenizer, target, word):
                out[..., j] = out[..., j] * c
        return out

    return new_maps


class Materialised:
    """An attention processor that computes every map, overwrites the targets', and multiplies by V.

    Args:
        edits: for each target (function from source and target maps to the new target map, α (step, token)).
        self_steps: for how many steps source self-attention maps are used.
        blend: None, or for the local blend (per prompt token positions, threshold, first step to blend in).
    """

    def __init__(self, edits, self_steps, self_pixels=10**9, blend=None, map_pixels=None):
        self.edits, self.self_steps, self.self_pixels, self.blend, self.map_pixels = (
            edits,
            self_steps,
            self_pixels,
            blend,
            map_pixels,
        )
        self.step, self.kept, self.masks = 0, [], []

    def __call__(
        self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, *args, **kwargs
    ):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            f(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for f, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        scores = torch.einsum("bhnd,bhld->bhnl", q, k) * attn.scale
        if attention_mask is not None:
            mask = attn.prepare_attention_mask(attention_mask, k.shape[2], len(k))
            scores = scores + mask.view(len(k), attn.heads, -1, k.shape[2])
        maps = torch.softmax(scores, dim=-1)
        count = 1 + len(self.edits)
        words = maps[len(maps) - count :]  # the half with prompts
        for i, (new_maps, alpha) in enumerate(self.edits, start=1):
            if encoder_hidden_states is not None:
                a = alpha[self.step].to(words)
                words[i] = a * new_maps(words[0], words[i]) + (1 - a) * words[i]
            elif self.step < self.self_steps and words.shape[2] <= self.self_pixels:
                words[i] = words[0]
        if encoder_hidden_states is not None and maps.shape[2] == self.map_pixels:
            self.kept.append(words.float().mean(1))
        return attn.to_out[1](
            attn.to_out[0](torch.einsum("bhnl,bhld->bhnd", maps, v).transpose(1, 2).flatten(2))
        )

    def after_step(self, pipe, step, timestep, tensors):
        self.step = step + 1
        if self.blend:
            latents, (tokens, threshold, start) = tensors["latents"], self.blend
            summed = torch.stack(self.kept).mean(0)  # over steps and layers: (prompt, pixel, token)
            side = int(summed.shape[1] ** 0.5)
            masks = []
            for row, positions in zip(summed, tokens, strict=True):
                heat = F.max_pool2d(row[:, positions].sum(-1).reshape(1, 1, side, side), 3, 1, 1)
                heat = F.interpolate(heat, size=latents.shape[-2:])[0, 0]
                masks.append(heat / heat.max() > threshold)
            self.masks.append(torch.stack([masks[0] | mask for mask in masks[1:]]))
            if step >= start:
                for i, mask in enumerate(self.masks[-1], start=1):
                    latents[i] = latents[0] + mask * (latents[i] - latents[0])
        return tensors


def run(
    pipe,
    prompts,
    edits,
    steps,
    self_steps,
    *,
    seed=0,
    guidance_scale=4.0,
    self_pixels=10**9,
    blend=None,
    map_pixels=None,
    **size,
):
    """Final latents (prompt, channel, height, width) of an edit with materialised maps, and the processor."""
    processor = Materialised(edits, self_steps, self_pixels, blend, map_pixels)
    before = dict(pipe.unet.attn_processors)
    if map_pixels:  # local blend looks at down and up layers only
        aside = Materialised(edits, self_steps, self_pixels)
        pipe.unet.set_attn_processor(
            {n: aside if n.startswith("mid") else processor for n in before}
        )
    else:
        aside = None
        pipe.unet.set_attn_processor(processor)

    def after_step(*args):
        tensors = processor.after_step(*args)
        if aside:
            aside.step = processor.step
        return tensors

    try:
        latents = pipe(
            prompts,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for _ in prompts],
            callback_on_step_end=after_step,
            output_type="latent",
            **size,
        ).images
    finally:
        pipe.unet.set_attn_processor(before)
    return latents, processor
