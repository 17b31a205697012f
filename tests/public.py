"""The public interface as a user's type checker sees it: mypy reads this file, nothing runs it."""

from pathlib import Path

import numpy as np
from PIL import Image

import p2p_helpers as p2p


def edits(pipe, photo: Image.Image) -> list[Image.Image]:
    weights = {"snow": 2.0}
    schedule = {"default": 0.8, "dog": 0.5}
    swap = p2p.Replace(cross_steps=schedule) | p2p.Reweight(weights)
    blend = p2p.LocalBlend(("cat", "dog"), mask=np.ones((16, 16)))
    result = p2p.edit(pipe, "a cat", ["a dog", "a fox"], [swap, p2p.Refine()], local_blend=blend)
    inversion = p2p.invert(pipe, photo, "a cat", method="direct")
    inversion.save(Path("cat.safetensors"))
    p2p.edit(pipe, p2p.Inversion.load("cat.safetensors"), "a dog", record=p2p.Record(before=True))
    return [result.source, result.image, *result.images]


def maps(pipe) -> np.ndarray:
    with p2p.record(pipe) as found:
        pipe("a cat")
    for word in found:
        print(word, word in found, found[word].at(step=-1, layer="mid").mask(0.5).any())
    heat: p2p.Heatmap = found["cat", 2]
    found.save("maps.safetensors")
    again: p2p.AttentionMaps = p2p.AttentionMaps.load("maps.safetensors")
    both = np.asarray(again[1:3].among_words()) + np.asarray(found.of(0)[np.int64(2)])
    p2p.explore(found, [heat.image()]).save("maps.html")
    return both


def prompts(tokenizer) -> list[int]:
    matrix = p2p.replacement_matrix(tokenizer, "a cat", "a dog")
    p2p.alignment(matrix, tokenizer, "a cat", "a dog")
    return p2p.find_words(tokenizer, "a cat", ("cat", 1)) + list(
        p2p.words(tokenizer, "a cat")[0].tokens
    )
