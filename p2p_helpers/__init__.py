"""Text-driven image editing by cross-attention control: Prompt-to-Prompt (arXiv 2208.01626) on unmodified diffusers pipelines."""

from .attention import AttentionControlError
from .editing import EditResult, edit
from .edits import Edit, Replace, active_steps
from .models import ModelError, load_pipeline
from .plots import alignment, difference, gallery, show
from .tokens import PromptError, PromptMismatch, find_words, replacement_matrix, words

__version__ = "0.1.0"
__all__ = [
    "AttentionControlError",
    "Edit",
    "EditResult",
    "ModelError",
    "PromptError",
    "PromptMismatch",
    "Replace",
    "active_steps",
    "alignment",
    "difference",
    "edit",
    "find_words",
    "gallery",
    "load_pipeline",
    "replacement_matrix",
    "show",
    "words",
]
