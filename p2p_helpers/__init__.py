"""Text-driven image editing by cross-attention control: Prompt-to-Prompt (arXiv 2208.01626) on unmodified diffusers pipelines."""

from .blend import LocalBlend
from .editing import EditResult, edit
from .edits import Edit, Refine, Replace, Reweight, active_steps
from .errors import (
    AttentionControlError,
    ImageError,
    InputError,
    InversionError,
    ModelError,
    P2PError,
    PromptError,
    PromptMismatch,
    SceneError,
    UnknownWordWarning,
)
from .images import load_image
from .inversion import Inversion, invert
from .models import load_pipeline
from .plots import alignment, difference, gallery, show, show_edit
from .recording import AttentionMaps, Heatmap, Record, SelfAttention, record
from .tokens import find_words, refinement_alignment, replacement_matrix, words
from .widgets import Explorer, explore

__version__ = "0.1.0"
__all__ = [
    "AttentionControlError",
    "AttentionMaps",
    "Edit",
    "EditResult",
    "Explorer",
    "Heatmap",
    "ImageError",
    "InputError",
    "Inversion",
    "InversionError",
    "LocalBlend",
    "ModelError",
    "P2PError",
    "PromptError",
    "PromptMismatch",
    "Record",
    "Refine",
    "Replace",
    "Reweight",
    "SceneError",
    "SelfAttention",
    "UnknownWordWarning",
    "active_steps",
    "alignment",
    "difference",
    "edit",
    "explore",
    "find_words",
    "gallery",
    "invert",
    "load_image",
    "load_pipeline",
    "record",
    "refinement_alignment",
    "replacement_matrix",
    "show",
    "show_edit",
    "words",
]
