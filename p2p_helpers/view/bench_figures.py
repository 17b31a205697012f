"""Figures of a benchmark's results."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from ..bench.report import TITLES, published

OURS, THEIRS = "#b3005e", "#8a8a94"


def pie_figure(results: Mapping) -> Figure:
    """What stays and what changes: a point for each method, and a ring for published numbers of it.

    Args:
        results: what `run_pie` gives.

    Raises:
        InputError: it is something else.
    """
    theirs = published(results)
    shown = ("background psnr", "structure distance", "clip whole", "clip edited")
    methods = list(results["methods"])
    figure = Figure(figsize=(11, 1.4 + 0.4 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=True):
        title, scale, _ = TITLES[name]
        for place, method in enumerate(methods):
            value = results["methods"][method]["all"][name]
            if value is not None:
                axes.plot(value * scale, place, "o", color=OURS)
            if method in theirs:
                value = theirs[method][name] * scale
                axes.plot(value, place, "o", color=THEIRS, fillstyle="none", markersize=9)
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(methods)), methods)
    panels[0].set_ylim(len(methods) - 0.5, -0.5)
    said = "ring: published with Stable Diffusion 1.4" if theirs else "means"
    figure.suptitle(f"PIE-Bench, {results['pictures']} pictures; {said}", fontsize=10)
    return figure
