"""Find the objects that layout edits move, in the source's own maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from .edits.layout import Placement
from .errors import InputError
from .inversion.pivot import encode
from .layout import (
    CARRIED,
    CORE,
    Continuation,
    Layout,
    Placed,
    core_of,
    cores_of,
    sampled,
    widened,
)
from .maps.heatmap import Heatmap
from .maps.one_prompt import OnePrompt
from .maps.recorded import AttentionMaps
from .masks import as_mask, on_latent
from .prompts.nouns import DETERMINERS, JOINS, names_nothing, noun_phrases
from .prompts.words import Phrase, phrases, words

BEHIND = 0.4  # of the picture's cells: more than an object has


def placed(
    pipe,
    placements: Sequence[Placement],
    maps: OnePrompt,
    known: Float[Tensor, "step channel row column"],
    picture: Image.Image,
) -> Placed:
    """What a target's layout edits need to know.

    Args:
        placements: the target's layout edits.
        maps: the source's.
        known: the source's latents after every step, as pictures.
        picture: the source.

    Raises:
        PromptError: the source's prompt does not name the object.
        InputError: its mask has another size than the picture; it would be outside of the picture, or where it was.
    """
    size = (known.shape[-2], known.shape[-1])
    seen = [_seen(maps, maps[one.phrase], size) for one in placements]
    for number, one in enumerate(placements):
        if one.mask is not None:
            mine = on_latent(as_mask(one.mask), size, (picture.height, picture.width))
            mine = mine / mine.max()  # a thin object fills no cell
            theirs = [rival * (mine <= CORE) for rival in seen[number][1]]
            seen[number] = mine, theirs
    soft = [own for own, _ in seen]
    layout = Layout(placements, soft, [rivals for _, rivals in seen])
    for one, new in zip(placements, layout.new, strict=True):
        if new.any() or one.goes or one.shift == (0.0, 0.0):
            continue
        rows, columns = size
        least = max(abs(one.shift[0]) * columns, abs(one.shift[1]) * rows)
        if one.scale == 1 and round(least) == 0:
            raise InputError(
                f"{one!r} is less than half a latent pixel, and whole ones are moved. Here one is {1 / columns:.3f} of the width and "
                f"{1 / rows:.3f} of the height."
            )
        raise InputError(f"{one!r}: the object would be outside of the picture.")
    (whole, opaque), composite = composed(picture, layout, soft), None
    if any(one.scale != 1 for one in placements):
        if hasattr(pipe, "vae"):
            pixels = pipe.image_processor.preprocess(whole).to(pipe._execution_device)
            composite = encode(pipe, pixels)[0].cpu()
        else:  # DeepFloyd IF works on pixels
            composite = torch.from_numpy(np.asarray(whole, np.float32) / 127.5 - 1).permute(2, 0, 1)
    return Placed(layout, known, whole, opaque, composite)


def composed(
    picture: Image.Image, layout: Layout, soft: Sequence[Float[Tensor, "row column"]]
) -> tuple[Image.Image, Image.Image]:
    """The picture with its objects in their new places and sizes, and the holes filled; and where the objects are, 0…255."""
    high, wide = picture.height, picture.width
    pixels = torch.from_numpy(np.asarray(picture, np.float32).copy()).permute(2, 0, 1)
    ratio = torch.tensor([high / layout.size[0], wide / layout.size[1]])

    def enlarged(x: Tensor, mode: str) -> Tensor:
        more = {} if mode == "nearest" else {"align_corners": False}
        return F.interpolate(x[None].float(), (high, wide), mode=mode, **more)[0]

    wide_hole = widened(layout.old) & ~layout.others
    hole = enlarged(wide_hole[None], "nearest") > 0
    small = F.interpolate(pixels[None], layout.size, mode="area")[0]
    filled = Continuation.of(wide_hole, layout.others).fill(small)
    smooth = enlarged(filled, "bilinear")
    out, objects = torch.where(hole, smooth, pixels), torch.zeros(1, high, wide)
    pixel = torch.meshgrid(torch.arange(high), torch.arange(wide), indexing="ij")
    centres = (torch.stack(pixel, -1) + 0.5) / ratio - 0.5  # of pixels, in cells
    places = zip(layout.edits, soft, layout.origins, layout.new, strict=True)
    for edit, map_, origin, new in places:
        if edit.goes:
            continue
        there = enlarged(widened(new)[None], "nearest")
        at = (origin[0, 0] + centres / edit.scale + 0.5) * ratio - 0.5
        given = None if edit.mask is None else as_mask(edit.mask)
        if given is not None and given.shape == (high, wide):
            share = torch.from_numpy(given)[None].float()
        else:
            share = enlarged((map_ * ~layout.others)[None], "bicubic")
        opaque, core = (
            sampled(((share - least) / 0.1 + 0.5).clamp(0, 1), at) * there
            for least in (CARRIED, CORE)
        )
        kind = "bicubic" if edit.scale > 1 else "bilinear"
        own = sampled(pixels, at, "border", kind).clamp(0, 255)
        out = out * (1 - opaque) + own * opaque
        objects = torch.maximum(objects, core)
    whole = out.permute(1, 2, 0).round().clamp(0, 255).byte()
    return Image.fromarray(whole.numpy()), Image.fromarray((255 * objects[0]).byte().numpy())


@dataclass(frozen=True, eq=False)
class Whereabouts:
    """Where an object is in the source.

    Args:
        phrase: its word, as layout edits take it.
        core: its cells, on the latent's grid.
        soft: the word's refined map, 0…1.
        others: cells of other objects, which stay.
    """

    phrase: Phrase
    core: Bool[Tensor, "row column"]
    soft: Float[Tensor, "row column"]
    others: Bool[Tensor, "row column"]


def whereabouts(maps: AttentionMaps, size: tuple[int, int]) -> list[Whereabouts]:
    """Where the source's objects are, word by word: the cells that a layout edit of the word moves.

    A word whose map covers more of the picture than objects do, or reaches from side to side, says what is behind, and is left out.

    Args:
        maps: the source's.
        size: of the latent.
    """
    source = maps.of(0)
    found, heats = [], source.words
    own = phrases(words(maps.tokenizer, maps.prompts[0]))
    for phrase, heat in zip(own, heats, strict=True):
        if names_nothing(heat.name):
            continue
        soft, rivals = _seen(source, heat, size)
        core = core_of(soft, rivals)
        if 0 < core.float().mean() < BEHIND and not core.any(0).all():
            found.append(Whereabouts(phrase, core, soft, cores_of(rivals, soft) & ~core))
    return found


def _seen(maps: OnePrompt, own: Heatmap, size: tuple[int, int]) -> tuple[Tensor, list[Tensor]]:
    """An object's map, and the maps of others. A word whose map covers more of the picture than objects do says what is behind."""
    others = [_refined(heat, size) for heat in others_of(maps, own)]
    return _refined(own, size), [one for one in others if (one > CORE).float().mean() < BEHIND]


def others_of(maps: OnePrompt, own: Heatmap) -> list[Heatmap]:
    """The maps of words that may name other objects: outside of this object's own phrase.

    What a prompt begins with before "of" says what kind of picture it is: "a photo of".
    """
    heats = maps.words
    names = [heat.name.lower() for heat in heats]
    is_own = [bool(set(heat.tokens) & set(own.tokens)) for heat in heats]
    others = {
        n for phrase in noun_phrases(names) if not any(is_own[n] for n in phrase) for n in phrase
    }
    found: list[Heatmap] = []
    joined = False
    for number, name in enumerate(names):
        if name in JOINS:
            if name == "of" and not joined:
                found = []
            joined = True
        elif number in others and name not in DETERMINERS:
            found.append(heats[number])
    return found


def _refined(heat: Heatmap, size: tuple[int, int]) -> Tensor:
    """The map at the latent's size, 0…1, as sharp as what was recorded allows."""
    try:
        return heat.refine(size)
    except InputError:  # no self-attention was recorded: too many pixels
        fused = heat.fused(size)
        return (fused - fused.min()) / (fused.max() - fused.min()).clamp(min=1e-8)
