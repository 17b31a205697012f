"""Ask people which edit is better: a blind comparison as one page, a small server for its votes, and what the votes say."""

from .make import Comparison, study
from .results import StudyResults, study_results

__all__ = ["Comparison", "StudyResults", "study", "study_results"]
