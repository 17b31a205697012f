"""Attention with every map written out: what an edit must equal. It knows nothing of terms."""

import contextlib
import functools

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


def latents(pipe, prompts, edited, self_steps, keys, **arguments):
    """The final latents of source and target.

    Args:
        edited: as `swap` gives it, None for the target's own columns, or "qk" for the source's pixels' queries and keys.
        self_steps: when the pixels' columns are the source's.
        keys: what stands where: "pixels, text" and "text, pixels", which look at each other, "added text, pixels", of which the
            pixels alone look, or "apart".
    """
    injected = active_steps(self_steps, STEPS, of=STEPS)
    now = {"step": 0, "calls": 0}
    fused = F.scaled_dot_product_attention

    def exchange(scores, query, key):
        """The target's pixels ask and are asked as the source's; its text is its own."""
        pixels = query.shape[2] if keys == "added text, pixels" else 64
        tokens, source, target = key.shape[2] - pixels, len(scores) - 2, len(scores) - 1
        text = slice(pixels, None) if keys == "pixels, text" else slice(0, tokens)
        image = slice(0, pixels) if keys == "pixels, text" else slice(tokens, None)
        asks = slice(None) if keys == "added text, pixels" else image
        mixed = key[source].clone()
        mixed[:, text] = key[target][:, text]
        scores[target][:, asks] = (query[source][:, asks] @ mixed.transpose(-1, -2)) * query.shape[
            -1
        ] ** -0.5

    def attention(query, key, value, attn_mask=None, *more, **options):
        if (
            now["calls"] != 1 or query.shape[2] == 1
        ):  # the second call of a step has the negative prompts; one query pools
            return fused(query, key, value, attn_mask, *more, **options)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if edited == "qk" and injected[now["step"]]:
            exchange(scores, query, key)
        if attn_mask is not None:
            scores = scores + attn_mask
        maps = scores.softmax(-1)
        source, target = len(maps) - 2, len(maps) - 1
        pixels = query.shape[2] if keys in ("apart", "added text, pixels") else 64
        tokens = key.shape[2] - pixels
        if keys == "apart" and tokens:
            tokens, image, text, asks = key.shape[2], slice(0), slice(None), slice(None)
        elif not tokens:  # the pixels' own attention
            image, text, asks = slice(None), slice(0), slice(None)
        else:
            first = slice(0, pixels if keys == "pixels, text" else tokens)
            second = slice(first.stop, None)
            text, image = (second, first) if keys == "pixels, text" else (first, second)
            asks = slice(None) if keys == "added text, pixels" else image
        if edited not in (None, "qk") and tokens:
            theirs, own = maps[source][:, asks, text], maps[target][:, asks, text].clone()
            maps[target][:, asks, text] = edited(now["step"], theirs, own)
        if injected[now["step"]] and (edited != "qk" or not tokens):
            maps[target][:, asks, image] = maps[source][:, asks, image]
        return maps @ value

    def stepped(*args, **options):
        now["step"], now["calls"] = now["step"] + 1, 0
        return step(*args, **options)

    step = pipe.scheduler.step
    model = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    hook = model.register_forward_pre_hook(lambda module, args: now.update(calls=now["calls"] + 1))
    with contextlib.ExitStack() as stack:
        stack.callback(hook.remove)
        stack.callback(setattr, F, "scaled_dot_product_attention", fused)
        F.scaled_dot_product_attention = attention
        stack.callback(vars(pipe.scheduler).pop, "step")
        pipe.scheduler.step = functools.wraps(step)(stepped)
        return pipe(
            prompts,
            generator=[torch.Generator().manual_seed(3) for _ in prompts],
            num_inference_steps=STEPS,
            output_type="latent" if hasattr(pipe, "vae") else "pt",
            **arguments,
        ).images
