"""Weights written into a prompt, which other programs know and Stable Diffusion itself does not."""

from __future__ import annotations

import re
import warnings

from ..errors import InputWarning

# (cat:1.3), [cat:0.5], ((cat)), [[cat]], cat++, (falling snow)--
_WEIGHTED = re.compile(
    r"[(\[](?P<a>[^()\[\]:]+):\s*[-+]?\d*\.?\d+\s*[)\]]"
    r"|\({2,}(?P<b>[^()]+)\){2,}|\[{2,}(?P<c>[^\[\]]+)\]{2,}"
    r"|(?:\((?P<d>[^()]+)\)|(?P<e>\w+))(?:\+{2,}|-{2,})(?!\w)"
)


def warn_of_weights(prompt: str):
    """Warn of weights in a prompt: the model reads their brackets and numbers as letters.

    Warns:
        InputWarning: names the first, and the edit that does what it means.
    """
    found = _WEIGHTED.search(prompt)
    if found is None:
        return
    words = next(text for text in found.groups() if text).strip()
    warnings.warn(
        f"{found[0]!r} is read letter by letter; it does not turn {words!r} up or down. Write the "
        f"words alone, and use Reweight({{{words!r}: 2.0}}), e.g. Replace() | Reweight(...).",
        InputWarning,
        stacklevel=4,
    )
