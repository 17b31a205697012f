"""Which model a pipeline has: all that changes a picture, and nothing else.

Compiling, offloading, other devices, memory formats and kernels, fused projections, adapters that
are loaded but not active, and words added to the vocabulary change no picture. Half precision does
only in rounding; of every digest there are two, and one that is equal is enough.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..attention.families import family_of
from ..attention.family import bare
from .weights import COMPILED, adapters, digests, own_weights

ENCODERS = [(f"tokenizer{n}", f"text_encoder{n}") for n in ("", "_2", "_3")]
NORMALISED = ("latents_mean", "latents_std")
FREEU = ("s1", "s2", "b1", "b2")
NESTED = "text_model."  # transformers before 5 have CLIPTextModel's layers one level lower
COMPARED = ("weights", "text encoders", "prompt tokens", "adapters", "FreeU", "settings")


def fingerprint(pipe, prompt: str) -> dict:
    """The facts of a pipeline that have to be the same for an inversion to give its picture back.

    `prompt` is the inversion's own, since words may be taught anew (textual inversion). The values
    are JSON's.
    """
    from .. import __version__

    encoders, model = _encoders(pipe), bare(family_of(pipe).model(pipe))
    vae = getattr(pipe, "vae", None)  # DeepFloyd IF works on pixels
    parts = [model] if vae is None else [model, vae]
    images = [w for part in parts for w in own_weights(part).items()]
    texts = [w for tokenizer, encoder in encoders for w in _encoder(tokenizer, encoder).items()]
    return {
        "model": _name(pipe),
        "package": f"p2p_helpers {__version__}",
        "weights": digests(images),
        "text encoders": digests(texts),
        "prompt tokens": digests(_tokens(pipe, *pair, prompt) for pair in encoders),
        "adapters": adapters([model, *(encoder for _, encoder in encoders)]),
        "FreeU": _freeu(model),
        "settings": _settings(pipe),
    }


def differences(then: Mapping, now: Mapping) -> list[str]:
    """Say which facts are not the same. A file of an older version does not know all of them."""
    return [
        f"{name}: {_shown(then[name])} then, {_shown(now[name])} now"
        for name in COMPARED
        if name in then and not _same(then[name], now[name])
    ]


def _same(then, now) -> bool:
    """Whether two values are equal; of two digests, one is enough."""
    if isinstance(then, dict) and "float16" in then:
        return any(then.get(dtype) == now[dtype] for dtype in ("float16", "bfloat16"))
    return then == now


def _shown(value) -> str:
    """A value in a message: the names of adapters, one of two digests, anything else as it is."""
    if isinstance(value, dict) and "shown" in value:
        return ", ".join(value["shown"]) or "none"
    if isinstance(value, dict) and "float16" in value:
        return value["float16"]
    return "off" if value is None else json.dumps(value)


def _name(pipe) -> str:
    """What the model is called; of a folder, its last two parts."""
    name = str(getattr(pipe.config, "_name_or_path", ""))
    if Path(name).is_dir():
        name = "/".join(Path(name).parts[-2:])
    return name.encode(errors="replace").decode()


def _encoders(pipe) -> list[tuple]:
    """Every tokenizer with its text encoder."""
    pairs = [tuple(getattr(pipe, name, None) for name in names) for names in ENCODERS]
    return [pair for pair in pairs if None not in pair]


def _table(encoder) -> str:
    """The name of a text encoder's table of tokens among its weights."""
    table = encoder.get_input_embeddings()
    name = next(name for name, module in encoder.named_modules() if module is table)
    return f"{name.replace(COMPILED, '')}.weight"


def _encoder(tokenizer, encoder) -> dict[str, Tensor]:
    """A text encoder's weights, without the words that were added to its vocabulary."""
    weights = own_weights(encoder)
    table = _table(encoder)
    weights |= {table: weights[table][: tokenizer.vocab_size]}
    if all(name.startswith(NESTED) for name in weights):
        weights = {name.removeprefix(NESTED): weight for name, weight in weights.items()}
    return dict(sorted(weights.items()))


def tuning(pipe) -> dict:
    """Of these facts, those that change while a pipeline is at hand: what acts on its weights."""
    model = bare(family_of(pipe).model(pipe))
    encoders = [encoder for _, encoder in _encoders(pipe)]
    return {"adapters": adapters([model, *encoders]), "FreeU": _freeu(model)}


def _tokens(pipe, tokenizer, encoder, prompt: str) -> tuple[str, Tensor]:
    """What a prompt's tokens are before the text encoder reads them."""
    if hasattr(pipe, "maybe_convert_prompt"):
        prompt = pipe.maybe_convert_prompt(prompt, tokenizer)
    limit = min(tokenizer.model_max_length, 10**6)  # T5's own may say 10³⁰
    tokens = tokenizer(prompt, truncation=True, max_length=limit)["input_ids"]
    table = own_weights(encoder)[_table(encoder)]
    return "tokens", table[torch.tensor(tokens).to(table.device)]


def _freeu(model) -> list[float] | None:
    """The four numbers of FreeU where it is on, in a UNet."""
    up_blocks = getattr(model, "up_blocks", None)
    numbers = [getattr(up_blocks[0], key, None) for key in FREEU] if up_blocks else [None]
    return [float(number) for number in numbers] if all(numbers) else None


def _settings(pipe) -> dict:
    """The entries of configurations that change a picture and leave no trace in the weights."""
    keys = [("vae", key) for key in ("scaling_factor", "shift_factor", *NORMALISED)]
    keys = keys if getattr(pipe, "vae", None) is not None else []
    model = "unet" if hasattr(pipe, "unet") else "transformer"
    keys += [(model, key) for key in ("attention_head_dim", "num_attention_heads")]
    found = {f"{part} {key}": getattr(pipe, part).config.get(key) for part, key in keys}
    found["zeros for no prompt"] = pipe.config.get("force_zeros_for_empty_prompt")
    return json.loads(json.dumps(found))  # tuples as they come back from a file
