"""Find the objects that layout edits move, in the source's own maps."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from .edits.edit import Edit
from .edits.layout import ARTICLES, JOINS, Placement
from .errors import InputError, PromptError
from .inversion.pivot import encode
from .layout import CORE, Layout, Placed, composed
from .maps.heatmap import Heatmap
from .maps.recorded import AttentionMaps
from .prompts.words import find_words

SMALL = {*ARTICLES, *JOINS}  # words that name nothing
BEHIND = 0.4  # of the picture's cells: more than an object has


def placed(
    pipe,
    edit: Edit,
    placements: Sequence[Placement],
    target: str,
    maps: AttentionMaps,
    known: Float[Tensor, "step channel row column"],
    picture: Image.Image,
) -> Placed:
    """What a target's layout edits need to know.

    Args:
        edit: of the target, with all its parts.
        placements: the layout edits in it.
        target: its prompt, as it is read.
        maps: the source's.
        known: the source's latents after every step, as pictures.
        picture: the source.

    Raises:
        PromptError: the object's word has no counterpart in the source.
        InputError: its map shows it nowhere.
    """
    size = (known.shape[-2], known.shape[-1])
    heats = [_heatmap(maps, edit, target, one) for one in placements]
    soft = [_refined(heat, size) for heat in heats]
    layout = Layout(placements, soft, [_rivals(maps, heat, size) for heat in heats])
    for one, new in zip(placements, layout.new, strict=True):
        if not new.any() and not one.goes and one.shift != (0.0, 0.0):
            raise InputError(f"{one!r}: the object would be outside of the picture.")
    composite = None
    if any(one.scale != 1 for one in placements):
        whole = composed(picture, layout, soft)
        pixels = pipe.image_processor.preprocess(whole).to(pipe._execution_device)
        composite = encode(pipe, pixels)[0].cpu()
    return Placed(layout, known, composite)


def _heatmap(maps: AttentionMaps, edit: Edit, target: str, placement: Placement) -> Heatmap:
    """The object's map in the source; of a word that is new in the target, its counterpart's."""
    own = maps.of(0)
    if placement.phrase in own:
        return own[placement.phrase]
    tokens = find_words(maps.tokenizer, target, placement.phrase)
    lines, _ = edit.matrices(maps.tokenizer, maps.prompts[0], target, 1)
    lent = tuple(lines[0][:, tokens].any(1).nonzero()[:, 0].tolist())
    if not lent:
        raise PromptError(
            f"{placement!r}: {placement.phrase!r} takes no word's map from the source, so nobody knows where it is. Name an "
            "object that the source has, or swap one for it first: Replace() | Move(...)."
        )
    return Heatmap(maps, 0, str(placement.phrase), lent)


def _rivals(maps: AttentionMaps, own: Heatmap, size: tuple[int, int]) -> list[Tensor]:
    """The maps of other objects: of words that name something, outside of this object's own phrase.

    A word whose map covers more of the picture than objects do says what is behind.
    """
    found, phrase = [], False
    for heat in maps.of(0).words:
        name = heat.name.lower()
        if name in ARTICLES:
            phrase = _phrase_of(maps, heat, own)
        elif name in JOINS:
            phrase = False
        elif not phrase and not set(heat.tokens) & set(own.tokens):
            soft = _refined(heat, size)
            if (soft > CORE).float().mean() < BEHIND:
                found.append(soft)
    return found


def _phrase_of(maps: AttentionMaps, article: Heatmap, own: Heatmap) -> bool:
    """Whether an article begins the phrase that an object's word ends: "a" in "a red car"."""
    for heat in maps.of(0).words:
        if heat.tokens > article.tokens:
            if heat.name.lower() in SMALL:
                return False
            if set(heat.tokens) & set(own.tokens):
                return True
    return False


def _refined(heat: Heatmap, size: tuple[int, int]) -> Tensor:
    """The map at the latent's size, 0…1, as sharp as what was recorded allows."""
    try:
        return heat.refine(size)
    except InputError:  # no self-attention was recorded: too many pixels
        fused = heat.fused(size)
        return (fused - fused.min()) / (fused.max() - fused.min()).clamp(min=1e-8)
