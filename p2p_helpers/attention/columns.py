"""The maps that terms draw with, for those who want to look: written out, or the columns of some tokens only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from .terms import Places, Term, attend, multiplied, of_queries


def attention_maps(
    query: Float[Tensor, "row head query width"],
    key: Float[Tensor, "row head key width"],
    mask: Tensor | None = None,
    scale: float | None = None,
) -> Float[Tensor, "row head query key"]:
    """softmax(QKᵀ/√d) in float32 with the attention mask, written out for those who want to look."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query.float() * scale) @ key.float().transpose(-1, -2)
    if mask is not None:
        scores = (
            scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        )
    return scores.softmax(-1)


def columns(
    query: Float[Tensor, "row head query width"],
    key: Float[Tensor, "row head key width"],
    terms: Mapping[int, Sequence[Term]],
    places: Places,
    wanted: Float[Tensor, "token column"],
    mask: Tensor | None = None,
    **options,
) -> Float[Tensor, "row head pixel column"]:
    """Columns of the maps that pixels draw with, without writing a map out.

    With a token's indicator for values, attention is that token's column: A·1_j, and with that of several tokens the sum of
    theirs. So the fused kernel gives as many columns at once as a head is wide, edits included, in memory of pixels × columns.

    Args:
        terms: row → its terms; none for the maps before the edit.
        wanted: 1 for the tokens that are in a column, on the device.
    """
    text, width = places.keys["text"], query.shape[-1]
    query, mask = query[:, :, places.pixels], of_queries(mask, places.pixels)
    ask = Places(places.keys)  # the pixels alone
    found = []
    for some in wanted.to(key.dtype).split(width, dim=1):
        values = torch.zeros_like(key)
        values[:, :, text, : some.shape[1]] = some
        out = attend(query, key, values, terms, ask, mask, **options)
        found.append(out[..., : some.shape[1]])
    return torch.cat(found, dim=-1)


def edited_map(
    own: Mapping[int, Float[Tensor, "head pixel key"]], terms: Sequence[Term], places: Places
) -> Float[Tensor, "head pixel key"]:
    """Σ W_k A_{r_k} S_k: the map that the terms draw with.

    Args:
        own: row → its own map, for every row that a term names.
    """
    total = None
    for term in terms:
        parts = []
        for name, where in places.keys.items():
            columns, matrix = own[term.row][..., where], term.values.get(name)
            if isinstance(matrix, Tensor):
                parts.append(columns @ matrix.to(columns.dtype))
            else:
                parts.append(multiplied(matrix, columns))
        one = multiplied(term.queries, parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1))
        total = one if total is None else total + one
    return torch.zeros_like(next(iter(own.values()))) if total is None else total
