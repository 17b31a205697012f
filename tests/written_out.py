"""Joint attention with every map written out: what a transformer's edit must equal. It knows nothing of terms."""

import contextlib

import torch
import torch.nn.functional as F

from p2p_helpers.edits.schedule import active_steps, word_schedule
from p2p_helpers.prompts.align import refinement_alignment, replacement_matrix
from p2p_helpers.prompts.words import find_words

STEPS = 4


def swap(tokenizer, source, target, cross_steps):
    """Step, source's columns, target's columns → the edited ones."""
    lines, alpha = (
        replacement_matrix(tokenizer, source, target),
        word_schedule(tokenizer, target, cross_steps, STEPS),
    )

    def edited(step, theirs, own):
        borrowed = torch.einsum("hps,st->hpt", theirs, lines.to(theirs))
        a = alpha[step].to(own)
        return a * borrowed + (1 - a) * own

    return edited


def refine(tokenizer, source, target, cross_steps):
    lines, old = refinement_alignment(tokenizer, source, target)
    alpha = word_schedule(tokenizer, target, cross_steps, STEPS)

    def edited(step, theirs, own):
        found = own.clone()
        for token in range(len(old)):
            if old[token] and alpha[step, token]:
                found[..., token] = theirs @ lines[:, token].to(theirs)
        return found

    return edited


def reweigh(before, tokenizer, target, weights, cross_steps):
    """Columns that another edit gives, times the words' weights."""
    alpha = word_schedule(tokenizer, target, cross_steps, STEPS)

    def edited(step, theirs, own):
        found = before(step, theirs, own).clone()
        for word, weight in weights.items():
            for token in find_words(tokenizer, target, word):
                if alpha[step, token]:
                    found[..., token] *= weight
        return found

    return edited


def latents(pipe, prompts, edited, self_steps, text_first, **arguments):
    """The final latents of source and target.

    Args:
        edited: as `swap` gives it, or None for the target's own columns.
        self_steps: when the pixels' columns are the source's.
        text_first: whether text stands before pixels.
    """
    injected = active_steps(self_steps, STEPS, of=STEPS)
    now = {"step": 0, "calls": 0}
    fused = F.scaled_dot_product_attention

    def attention(query, key, value, attn_mask=None, **options):
        if now["calls"] != 1:  # the second call of a step has the negative prompts
            return fused(query, key, value, attn_mask=attn_mask, **options)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if attn_mask is not None:
            scores = scores + attn_mask
        maps = scores.softmax(-1)
        source, target = len(maps) - 2, len(maps) - 1
        pixels = 64
        tokens = key.shape[2] - pixels
        if not tokens:  # the pixels' own attention
            if injected[now["step"]]:
                maps[target] = maps[source]
            return maps @ value
        first = slice(0, tokens if text_first else pixels)
        second = slice(first.stop, None)
        text, image = (first, second) if text_first else (second, first)
        if edited is not None:
            theirs, own = maps[source][:, image, text], maps[target][:, image, text].clone()
            maps[target][:, image, text] = edited(now["step"], theirs, own)
        if injected[now["step"]]:
            maps[target][:, image, image] = maps[source][:, image, image]
        return maps @ value

    def after(pipe, turn, timestep, tensors):
        now["step"], now["calls"] = turn + 1, 0
        return tensors

    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args: now.update(calls=now["calls"] + 1)
    )
    with contextlib.ExitStack() as stack:
        stack.callback(hook.remove)
        stack.callback(setattr, F, "scaled_dot_product_attention", fused)
        F.scaled_dot_product_attention = attention
        return pipe(
            prompts,
            generator=[torch.Generator().manual_seed(3) for _ in prompts],
            num_inference_steps=STEPS,
            output_type="latent",
            callback_on_step_end=after,
            **arguments,
        ).images
