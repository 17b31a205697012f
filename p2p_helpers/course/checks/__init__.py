"""Checks for the course's exercises.

Each says what is wrong with an answer, without giving the right one.
"""

from .base import NotYet
from .blend import check_blend, check_only_first, check_own_mask, check_word_mask
from .capstone import check_handin, check_own_edit, check_plan
from .inversions import (
    check_bdia_inverse,
    check_ceiling,
    check_counterfactual,
    check_frugal,
    check_put_back,
)
from .joint import check_joint_rule, check_reverse_euler, check_text_share
from .models import check_fit, check_last_steps, check_map_bytes, check_size
from .places import check_fill, check_places, check_shift_matrix
from .refinements import check_line_up, check_local_edit, check_refine_matrices, check_scores
from .start import check_boxes, check_guidance, check_head, check_map, check_mask, check_seed
from .swaps import check_edit_rule, check_exchange, check_open_swap
from .weights import check_compose, check_fader, check_fader_matrices, check_row_sums

__all__ = [
    "NotYet",
    "check_bdia_inverse",
    "check_blend",
    "check_boxes",
    "check_ceiling",
    "check_compose",
    "check_counterfactual",
    "check_edit_rule",
    "check_exchange",
    "check_fader",
    "check_fader_matrices",
    "check_fill",
    "check_fit",
    "check_frugal",
    "check_guidance",
    "check_handin",
    "check_head",
    "check_joint_rule",
    "check_last_steps",
    "check_line_up",
    "check_local_edit",
    "check_map",
    "check_map_bytes",
    "check_mask",
    "check_only_first",
    "check_open_swap",
    "check_own_edit",
    "check_own_mask",
    "check_places",
    "check_plan",
    "check_put_back",
    "check_refine_matrices",
    "check_reverse_euler",
    "check_row_sums",
    "check_scores",
    "check_seed",
    "check_shift_matrix",
    "check_size",
    "check_text_share",
    "check_word_mask",
]
