"""Text-driven image editing by cross-attention control: Prompt-to-Prompt (arXiv 2208.01626) on unmodified diffusers pipelines."""

import importlib
from typing import TYPE_CHECKING

from .errors import (
    AttentionControlError,
    BatchError,
    ImageError,
    InputError,
    InputWarning,
    InversionError,
    ModelError,
    P2PError,
    PromptError,
    PromptMismatch,
    SceneError,
    UnknownWordWarning,
)

if TYPE_CHECKING:
    from .blend import LocalBlend
    from .describing import describe
    from .edits.edit import Edit
    from .edits.layout import Duplicate, Move, Remove, Resize
    from .edits.printed import read_edit
    from .edits.schedule import active_steps
    from .edits.words import InjectQK, Refine, Replace, Reweight
    from .exporting.model import export
    from .images import load_image
    from .inversion.artefact import Inversion
    from .inversion.methods import invert
    from .maps.heatmap import Heatmap
    from .maps.record import record
    from .maps.recorded import AttentionMaps, Record
    from .maps.self_attention import SelfAttention
    from .pipelines import load_pipeline
    from .prompts.align import refinement_alignment, replacement_matrix
    from .prompts.words import find_words, words
    from .result import EditResult
    from .run import edit
    from .view.edit_figures import alignment, show, show_edit
    from .view.explorer import explore
    from .view.figures import difference, gallery
    from .view.page import Page, slider
    from .voting import Comparison, StudyResults, study, study_results

__version__ = "0.1.0"
__all__ = [
    "AttentionControlError",
    "AttentionMaps",
    "BatchError",
    "Comparison",
    "Duplicate",
    "Edit",
    "EditResult",
    "Heatmap",
    "ImageError",
    "InjectQK",
    "InputError",
    "InputWarning",
    "Inversion",
    "InversionError",
    "LocalBlend",
    "ModelError",
    "Move",
    "P2PError",
    "Page",
    "PromptError",
    "PromptMismatch",
    "Record",
    "Refine",
    "Remove",
    "Replace",
    "Resize",
    "Reweight",
    "SceneError",
    "SelfAttention",
    "StudyResults",
    "UnknownWordWarning",
    "active_steps",
    "alignment",
    "describe",
    "difference",
    "edit",
    "explore",
    "export",
    "find_words",
    "gallery",
    "invert",
    "load_image",
    "load_pipeline",
    "read_edit",
    "record",
    "refinement_alignment",
    "replacement_matrix",
    "show",
    "show_edit",
    "slider",
    "study",
    "study_results",
    "words",
]

# Module → the public names that it is imported for, when one of them is asked for.
_LATER = {
    "blend": ("LocalBlend",),
    "describing": ("describe",),
    "edits.edit": ("Edit",),
    "edits.layout": ("Duplicate", "Move", "Remove", "Resize"),
    "edits.printed": ("read_edit",),
    "edits.schedule": ("active_steps",),
    "edits.words": ("InjectQK", "Refine", "Replace", "Reweight"),
    "exporting.model": ("export",),
    "images": ("load_image",),
    "inversion.artefact": ("Inversion",),
    "inversion.methods": ("invert",),
    "maps.heatmap": ("Heatmap",),
    "maps.record": ("record",),
    "maps.recorded": ("AttentionMaps", "Record"),
    "maps.self_attention": ("SelfAttention",),
    "pipelines": ("load_pipeline",),
    "prompts.align": ("refinement_alignment", "replacement_matrix"),
    "prompts.words": ("find_words", "words"),
    "result": ("EditResult",),
    "run": ("edit",),
    "view.edit_figures": ("alignment", "show", "show_edit"),
    "view.explorer": ("explore",),
    "view.figures": ("difference", "gallery"),
    "view.page": ("Page", "slider"),
    "voting": ("Comparison", "StudyResults", "study", "study_results"),
}
_HOME = {name: module for module, names in _LATER.items() for name in names}


if not TYPE_CHECKING:  # or a checker would take any name for one of the package

    def __getattr__(name: str):
        """Everything is imported when it is asked for, so that the command line answers at once."""
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
