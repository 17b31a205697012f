"""Toyland: a small world of captioned pictures in which the truth is known: what is where, and what an edit should have given."""

from .counterfactual import KINDS, Counterfactual, Photo, counterfactual, photos
from .reader import Reader, Reading, load_reader
from .render import render
from .world import (
    BACKGROUNDS,
    COLOURABLE,
    COLOURS,
    OBJECTS,
    STYLES,
    Scene,
    SceneError,
    Thing,
    caption,
    sample_scene,
    scene_at,
    vocabulary,
)

__all__ = [
    "BACKGROUNDS",
    "COLOURABLE",
    "COLOURS",
    "KINDS",
    "OBJECTS",
    "STYLES",
    "Counterfactual",
    "Photo",
    "Reader",
    "Reading",
    "Scene",
    "SceneError",
    "Thing",
    "caption",
    "counterfactual",
    "load_reader",
    "photos",
    "render",
    "sample_scene",
    "scene_at",
    "vocabulary",
]
