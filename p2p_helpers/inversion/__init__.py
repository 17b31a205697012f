"""Inversion: from a real picture to the noise and the conditioning that reproduce it."""

from .artefact import Inversion
from .methods import METHODS, invert, usual_guidance

__all__ = ["METHODS", "Inversion", "invert", "usual_guidance"]
