"""PIE-Bench's results as a table, beside published ones."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InputError
from ..values import shown
from .measures import MEASURES

ALL = 700  # pictures of the benchmark
# The measure: its title, with an arrow to where it is better, what it is multiplied by, and its digits.
TITLES = {
    "structure distance": ("structure distance ×10³ ↓", 1e3, 2),
    "background psnr": ("background PSNR, dB ↑", 1.0, 2),
    "background lpips": ("LPIPS ×10³ ↓", 1e3, 2),
    "background mse": ("MSE ×10⁴ ↓", 1e4, 2),
    "background ssim": ("SSIM ×10² ↑", 1e2, 2),
    "clip whole": ("CLIP, whole ↑", 1.0, 2),
    "clip edited": ("CLIP, edited part ↑", 1.0, 2),
}
THEIRS = {"steps": 50, "guidance_scale": 7.5, "refine": True}  # and Stable Diffusion 1.4
# Prompt-to-Prompt: Ju et al. 2023 (arXiv 2310.01506), table 1, as several later papers quote it; in the
# units of the titles.
PUBLISHED = {
    "ddim": (69.43, 17.87, 208.80, 219.88, 71.14, 25.01, 22.44),
    "null-text": (13.44, 27.03, 60.67, 35.86, 84.11, 24.75, 21.86),
    "direct": (11.65, 27.22, 54.55, 32.86, 84.76, 25.02, 22.10),
}


def pie_table(results: Mapping) -> str:
    """A row for each method, in Markdown.

    Published rows, of Stable Diffusion 1.4, stand below if the results are of all 700 pictures, with 50 steps, guidance 7.5 and
    `refine`.

    Args:
        results: what `run_pie` gives.

    Raises:
        InputError: it is something else.
    """
    theirs = published(results)
    heads = ["", "edits", "failed", *(title for title, _, _ in TITLES.values())]
    lines = [_line(heads), "|---" * len(heads) + "|"]
    for method, found in results["methods"].items():
        counts = [str(found["measured"]), str(found["failed"])]
        lines.append(_line([method, *counts, *_cells(found["all"])]))
    for method, values in theirs.items():
        cells = [f"{values[name] * scale:.{n}f}" for name, (_, scale, n) in TITLES.items()]
        lines.append(_line([f"{method}, published", str(ALL), "–", *cells]))
    return "\n".join(lines)


def published(results: Mapping) -> dict[str, dict[str, float]]:
    """Published means by method, where the results are of the same pictures, with the same edits and settings.

    Raises InputError for what are no results.
    """
    if not isinstance(results, Mapping) or not {"methods", "arguments", "pictures"} <= set(results):
        raise InputError(
            f"results={shown(results)}: give what run_pie() returned, or of its file json.loads(Path(file).read_text())."
        )
    asked = results["arguments"]
    if results["pictures"] != ALL or any(asked[name] != value for name, value in THEIRS.items()):
        return {}
    scales = [scale for _, scale, _ in TITLES.values()]
    return {
        method: {
            name: value / scale for name, value, scale in zip(MEASURES, values, scales, strict=True)
        }
        for method, values in PUBLISHED.items()
    }


def _cells(means: Mapping[str, float | None]) -> list[str]:
    cells = []
    for name, (_, scale, digits) in TITLES.items():
        value = means[name]
        cells.append("–" if value is None else f"{value * scale:.{digits}f}")
    return cells


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
