"""The field's benchmark of text-driven editing, PIE-Bench, on the batch engine."""

from .measures import Measures
from .pie import PieEdit, decode_mask, read_pie
from .report import pie_table
from .run import run_pie

__all__ = ["Measures", "PieEdit", "decode_mask", "pie_table", "read_pie", "run_pie"]
