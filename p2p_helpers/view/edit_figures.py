"""Figures of an edit: what it changed, and its matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..arguments import one_each
from ..edits.edit import Edit, matrices_of
from ..errors import InputError
from ..prompts.offsets import tokens_and_spans
from ..prompts.several import parts_of
from ..stages import stages_of
from ..values import shown, whole_number
from .figures import CHANGE_COLOURS, blank, difference, draw, word_colour, wrapped

if TYPE_CHECKING:
    from ..result import EditResult


def show(result: EditResult) -> Figure:
    """Source | target | what changed, one row for each target of an edit.

    The source of a real picture's edit is the picture itself, and not what the inversion gives back. With local blend its last
    mask too, over the target.

    Raises:
        InputError: it is no result.
    """
    from ..result import EditResult

    if not isinstance(result, EditResult):
        raise InputError(
            f"show() takes what edit() gives, not {shown(result)}. Several pictures are drawn by gallery([...])."
        )
    columns, width = (3, 9.0) if result.masks is None else (4, 11.0)
    figure, axes = blank(len(result.images), columns, width)
    for number, (row, image, prompt) in enumerate(
        zip(axes, result.images, result.target_prompts, strict=True)
    ):
        draw(row[0], result.before)
        row[0].set_title(wrapped(f"source: {result.source_prompt}", 38), fontsize=9)
        draw(row[1], image)
        row[1].set_title(wrapped(f"target: {prompt}", 38), fontsize=9)
        changed = difference(result.before, image)
        picture = row[2].imshow(
            changed,
            cmap=CHANGE_COLOURS,
            vmin=0,
            vmax=max(0.5, changed.max()),
            interpolation="nearest",
        )
        row[2].set_title(f"what changed: {changed.mean():.1%} on average", fontsize=9)
        figure.colorbar(picture, ax=row[2], fraction=0.046, label="mean change of a pixel, 0…1")
        if result.masks is not None:
            mask = result.masks[-1, number]
            draw(row[3], image, mask)
            free = mask.float().mean().item()
            row[3].set_title(f"blend mask: {free:.0%} may change", fontsize=9)
    return figure


def _named(tokenizer, prompt: str) -> dict[int, str]:
    """The positions of a prompt's tokens, without padding, and what each is called; of all text encoders."""
    readable = {"<|startoftext|>": "start", "<|endoftext|>": "end", "</s>": "end"}
    found: dict[int, str] = {}
    for part, first, _ in parts_of(tokenizer):
        if part is None:
            continue
        tokens, spans = tokens_and_spans(part, prompt)
        names = part.convert_ids_to_tokens(tokens)
        for n, (name, (start, end)) in enumerate(zip(names, spans, strict=True), start=first):
            own = name.replace("</w>", "").replace("▁", "")
            text = own and (prompt[start:end].strip() or own)  # its letters, where it is bytes
            found[n] = readable.get(name, text.replace("$", r"\$"))
    return found


def _matrix(
    ax, matrix: Tensor, rows: dict[int, str], columns: dict[int, str], aspect: str = "equal"
):
    """Draw the part of a matrix that has names.

    Darker is larger, and every entry but zeros is written.
    """
    part = matrix[list(rows)][:, list(columns)].detach().float().cpu().numpy()
    ax.imshow(np.abs(part), cmap="Greys", vmin=0, vmax=max(1.0, np.abs(part).max()), aspect=aspect)
    for (i, j), share in np.ndenumerate(part):
        if share:
            dark = abs(share) > 0.6 * max(1.0, np.abs(part).max())
            ax.text(
                j,
                i,
                f"{share:.2g}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if dark else "black",
            )
    ax.set_xticks(range(len(columns)), columns.values(), rotation=90)
    ax.set_yticks(range(len(rows)), rows.values())
    _colour_words(ax)


def _colour_words(ax):
    """Every word along the sides in its own colour."""
    for label in [*ax.get_xticklabels(), *ax.get_yticklabels()]:
        label.set_color(word_colour(label.get_text()))


def alignment(tokenizer, source: str, target: str, matrix: Tensor) -> Figure:
    """A source-token × target-token matrix with the tokens written along its sides.

    Start, words and end, without the padding.

    Args:
        tokenizer: the pipeline's.
        source, target: the two prompts.
        matrix: M, S or T of one step, (source token, target token).

    Raises:
        InputError: it is no such matrix.
    """
    rows, columns = _named(tokenizer, source), _named(tokenizer, target)
    shape = tuple(matrix.shape) if isinstance(matrix, Tensor) else ()
    if len(shape) != 2 or shape[0] <= max(rows) or shape[1] <= max(columns):
        raise InputError(
            f"matrix is {shape or type(matrix).__name__}: give one tensor, (source token, target token), for these prompts. "
            "refinement_alignment gives a pair; its first is one. Of an edit's S and T take one step, as S[0]."
        )
    figure, ax = plt.subplots(
        figsize=(1.6 + 0.42 * len(columns), 1.2 + 0.34 * len(rows)), layout="constrained"
    )
    plt.close(figure)
    _matrix(ax, matrix, rows, columns)
    ax.set_xlabel("target token takes its map …")
    ax.set_ylabel("… from source token")
    return figure


def show_edit(
    edit: Edit, tokenizer, source: str, target: str, *, step: int = 0, steps: int = 30
) -> Figure:
    """An edit as it is.

    S and T of one step, and for every target token the steps in which it uses the source's map or
    its own. An edit of words and places takes several runs: the one that changes the prompt is
    drawn, and the title says so.

    Args:
        edit: any edit or composition.
        tokenizer: the pipeline's.
        source, target: the two prompts.
        step: whose S and T are drawn, from 0.
        steps: of the run.

    Raises:
        InputError: no edit, or no such step. What the edit raises for these prompts.
    """
    edit = one_each(edit, [target])[0]
    steps = whole_number("steps", steps, 1, 100_000, "30 are usual.")
    step = whole_number("step", step, 0, steps - 1, "Steps count from 0.")
    stages = stages_of(tokenizer, source, target, edit)
    drawn = max(stages, key=lambda stage: (not stage.places, stage.before != stage.after))
    s, t = matrices_of(drawn.edit, tokenizer, drawn.before, drawn.after, steps)
    rows, columns = _named(tokenizer, drawn.before), _named(tokenizer, drawn.after)
    height = 1.8 + 0.22 * max(len(rows), len(columns) + 1)
    figure, axes = plt.subplots(
        1, 3, figsize=(11, height), layout="constrained", width_ratios=[1.1, 1.1, 1]
    )
    plt.close(figure)
    _matrix(axes[0], s[step], rows, columns, "auto")
    axes[0].set_title(f"S, step {step}: taken from the source's maps", fontsize=9)
    axes[0].set_ylabel("source token")
    _matrix(axes[1], t[step], columns, columns, "auto")
    axes[1].set_title(f"T, step {step}: kept of its own maps", fontsize=9)
    for ax in axes[:2]:
        ax.set_xlabel("target token")
    for ax, matrix in zip(axes, (s[step], t[step]), strict=False):
        if not matrix.any():
            ax.text(
                0.5,
                0.5,
                "all zero",
                transform=ax.transAxes,
                ha="center",
                va="center",
                fontsize=9,
                color="grey",
            )
    from_source, own = (m.abs().sum(1)[:, list(columns)].T for m in (s, t))  # (target token, step)
    share = torch.cat(
        [
            from_source / (from_source + own).clamp(min=1e-6),
            drawn.edit.self_schedule(steps)[None].float(),
        ]
    )
    off = torch.nonzero(from_source + own == 0)  # turned down to nothing
    axes[2].imshow(
        share.numpy(),
        cmap="Greys",
        vmin=0,
        vmax=1.25,
        aspect="auto",
        interpolation="nearest",
        extent=(0, steps, len(share), 0),
    )
    names = list(columns.values())
    axes[2].set_yticks(np.arange(len(share)) + 0.5, [*names, "self-attention"])
    for label, name in zip(axes[2].get_yticklabels(), names, strict=False):
        label.set_color(word_colour(name))
    axes[2].hlines(range(1, len(share)), 0, steps, colors="white", linewidth=2)
    axes[2].axvline(step + 0.5, color="black", linestyle=":", linewidth=1)
    axes[2].set_xlabel("step")
    axes[2].scatter(
        off[:, 1] + 0.5, off[:, 0] + 0.5, marker="x", s=12, color="black", linewidth=0.8
    )
    none = "; ×: none" if len(off) else ""
    axes[2].set_title(f"dark: the source's map; white: its own{none}", fontsize=9)
    title = repr(edit) if len(stages) == 1 else f"{edit!r}; drawn: {drawn.edit!r}"
    figure.suptitle(wrapped(title, 110), fontsize=10)
    return figure
