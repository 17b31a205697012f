"""A step of an edit is a sum of terms: out_t = Σ W_k · sdpa(Q_{r_k}, K_{r_k}, S_k V_t). Pure tensors, no model.

Every edit of attention maps is linear in them, and a linear change of the maps can be made on the values instead:
(A S) V = A (S V). So the fused kernel runs once for each term, and no map is ever stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

SAME = "same"  # stands for an identity matrix


@dataclass(frozen=True, eq=False)
class Term:
    """One attention of a target.

    Args:
        row: of the batch, whose queries, keys and attention mask are used: the source's or the target's own.
        values: for each segment of the keys what multiplies the target's values there: a matrix over the keys of that
            segment, "same", or None for zero.
        queries: what multiplies the result: a matrix over the pixels (a warp), or "same".
        text: of the batch, whose keys of the text are used, and whose mask there; None for the row's own.
    """

    row: int
    values: Mapping[str, Tensor | str | None]
    queries: Tensor | str = SAME
    text: int | None = None


@dataclass(frozen=True)
class Places:
    """Where pixels and text stand among the queries of a layer, and among its keys."""

    keys: Mapping[str, slice]  # "text", "pixels": in this order along the keys
    pixels: slice = field(default_factory=lambda: slice(None))
    text: slice | None = None  # among the queries, where text asks too


def multiplied(matrix: Tensor | str | None, x: Tensor) -> Tensor:
    """matrix · x, where "same" is the identity and None is zero."""
    if matrix is None:
        return torch.zeros_like(x)
    if isinstance(matrix, str):
        return x
    return matrix.to(x.dtype) @ x


def rows_of(x: Shaped[Tensor, "row head key width"], rows: Sequence[int]) -> Tensor:
    """Some rows of a batch, laid out as processors do it: the heads of a token side by side.

    A list of numbers as an index would make a GPU wait for it.
    """
    side_by_side = x.transpose(1, 2)
    return torch.stack([side_by_side[row] for row in rows]).transpose(1, 2)


def _values(
    value: Tensor, rows: Sequence[int], terms: Sequence[Term | None], keys: Mapping[str, slice]
) -> Tensor:
    """S V_t of some rows with a term each, segment by segment; of a row without one its values."""
    found = rows_of(value, rows)
    for one, row, term in zip(found, rows, terms, strict=True):
        for name, where in keys.items():
            matrix = SAME if term is None else term.values.get(name)
            if not isinstance(matrix, str):
                one[:, where] = multiplied(matrix, value[row][:, where])
    return found


def _mask_of(mask: Tensor | None, rows: Sequence[int], batch: int) -> Tensor | None:
    """The attention mask of some rows. One that is the same for every row stays as it is."""
    if mask is None or mask.dim() < 4 or mask.shape[0] != batch:
        return mask
    return rows_of(mask, rows)


def _keys(key: Tensor, rows: Sequence[int], texts: Sequence[int | None], places: Places) -> Tensor:
    """The keys of some rows, with the text's of others where they are named."""
    found = rows_of(key, rows)
    for one, row in zip(found, texts, strict=True):
        if row is not None:
            one[:, places.keys["text"]] = key[row][:, places.keys["text"]]
    return found


def _masks(
    mask: Tensor | None,
    rows: Sequence[int],
    texts: Sequence[int | None],
    places: Places,
    batch: int,
) -> Tensor | None:
    """The attention mask of some rows, with the text's of others where they are named."""
    found = _mask_of(mask, rows, batch)
    if found is None or found is mask:
        return found
    for one, row in zip(found, texts, strict=True):
        if row is not None:
            one[..., places.keys["text"]] = mask[row][..., places.keys["text"]]
    return found


def of_queries(mask: Tensor | None, queries: slice) -> Tensor | None:
    """The attention mask of some queries. One that is the same for every query stays as it is."""
    return mask if mask is None or mask.shape[-2] == 1 else mask[..., queries, :]


def attend(
    query: Float[Tensor, "row head query width"],
    key: Float[Tensor, "row head key width"],
    value: Float[Tensor, "row head key value"],
    terms: Mapping[int, Sequence[Term]],
    places: Places,
    mask: Tensor | None = None,
    **options,
) -> Float[Tensor, "row head query value"]:
    """Scaled dot-product attention in which some rows are sums of terms; the others are as ever.

    Every call of the kernel is 4-D. The first one has the whole batch, so that rows without terms come out to the bit as
    they would without us. Only pixel queries are edited: the text's queries of joint attention are asked for all rows in a
    call of their own, as ever, since a kernel answers each query by itself. So one term for a row costs what the row costs
    without us, and each further one as much again for the pixels. (A CPU's kernel chooses its tiles by the number of queries.
    Where the text takes it over a limit of 768, with 77 tokens at 692 to 767 pixels, the last bit of such rows may differ.)

    Args:
        terms: row → its terms. A row with an empty sequence comes out as zeros, where pixels ask.
        mask: what is added to the scores, or True where a query may look.
        options: of torch's scaled_dot_product_attention.
    """
    asks, pixels = places.text, places.pixels
    if asks is None or not terms:
        return _summed(query, key, value, terms, places, mask, options)
    own = F.scaled_dot_product_attention(
        query[:, :, asks], key, value, attn_mask=of_queries(mask, asks), **options
    )
    edited = _summed(
        query[:, :, pixels], key, value, terms, places, of_queries(mask, pixels), options
    )
    return torch.cat([own, edited] if asks.start < pixels.start else [edited, own], dim=2)


def _summed(query, key, value, terms, places: Places, mask, options) -> Tensor:
    """The sums of terms, for the pixels' queries alone."""
    batch = len(query)
    out = _first(query, key, value, terms, places, mask, options)
    rounds = max([0, *[len(own) for own in terms.values()]])
    for number in range(1, rounds):
        rows = [row for row, own in terms.items() if len(own) > number]
        chosen = [terms[row][number] for row in rows]
        lent, texts = [term.row for term in chosen], [term.text for term in chosen]
        more = F.scaled_dot_product_attention(
            rows_of(query, lent),
            _keys(key, lent, texts, places),
            _values(value, rows, chosen, places.keys),
            attn_mask=_masks(mask, lent, texts, places, batch),
            **options,
        )
        for row, term, one in zip(rows, chosen, more, strict=True):
            out[row] += multiplied(term.queries, one)
    return out


def _first(query, key, value, terms, places: Places, mask, options) -> Tensor:
    """The whole batch with the first term of each row that has any."""
    batch = len(query)
    first = [terms[row][0] if terms.get(row) else None for row in range(batch)]
    lent = [row if term is None else term.row for row, term in enumerate(first)]
    if lent != list(range(batch)):
        texts = [None if term is None else term.text for term in first]
        query, key = rows_of(query, lent), _keys(key, lent, texts, places)
        mask = _masks(mask, lent, texts, places, batch)
    if any(own and not _keeps_values(own[0], places.keys) for own in terms.values()):
        value = _values(value, range(batch), first, places.keys)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, **options)
    for row, own in terms.items():
        if not own:
            out[row].zero_()
        elif not isinstance(own[0].queries, str):
            out[row].copy_(multiplied(own[0].queries, out[row]))
    return out


def _keeps_values(term: Term, keys: Iterable[str]) -> bool:
    return all(isinstance(term.values.get(name), str) for name in keys)
