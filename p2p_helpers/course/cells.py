"""For the course's notebooks, `%load_ext p2p_helpers.course`.

What only makes sense on an embedded model skips itself on another.
"""

from __future__ import annotations

from ..pipelines import EMBEDDED

ONLY = "# Toyland only"


def skip_elsewhere(lines: list[str], namespace: dict) -> list[str]:
    """A cell as it shall run.

    As it is, or if it begins with "# Toyland only" and MODEL is not embedded, a line that says so.

    Args:
        lines: of the cell.
        namespace: of the notebook, with its MODEL.
    """
    if not lines or not lines[0].startswith(ONLY) or namespace.get("MODEL", "toyland") in EMBEDDED:
        return lines
    why = lines[0].removeprefix(ONLY).strip(" :\n") or "it needs Toyland"
    said = f"Skipped on {namespace['MODEL']}: {why}"
    return [f"print({said!r})\n"]


def load_ipython_extension(ipython):
    """What `%load_ext` calls."""
    ipython.input_transformers_cleanup.append(lambda lines: skip_elsewhere(lines, ipython.user_ns))
