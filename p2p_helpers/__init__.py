"""Text-driven image editing by cross-attention control: Prompt-to-Prompt (arXiv 2208.01626) on unmodified diffusers pipelines."""

import importlib
from typing import TYPE_CHECKING

from .blend import LocalBlend
from .describe import describe
from .edits.edit import Edit
from .edits.layout import Duplicate, Move, Remove, Resize
from .edits.printed import read_edit
from .edits.schedule import active_steps
from .edits.words import InjectQK, Refine, Replace, Reweight
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

if TYPE_CHECKING:
    from .view.edit_figures import alignment, show, show_edit
    from .view.explorer import Explorer, explore
    from .view.figures import difference, gallery

__version__ = "0.1.0"
__all__ = [
    "AttentionControlError",
    "AttentionMaps",
    "BatchError",
    "Comparison",
    "Duplicate",
    "Edit",
    "EditResult",
    "Explorer",
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
    "study",
    "study_results",
    "words",
]

_LATER = {name: "view.explorer" for name in ("Explorer", "explore")}
_LATER |= {name: "view.figures" for name in ("difference", "gallery")}
_LATER |= {name: "view.edit_figures" for name in ("alignment", "show", "show_edit")}
_LATER |= {name: "voting" for name in ("Comparison", "StudyResults", "study", "study_results")}


def __getattr__(name: str):
    """What draws or asks people is imported when it is asked for, and matplotlib with it."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
