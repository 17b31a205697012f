"""Toyland: a small world of captioned pictures in which the truth is known: what is where, and what an edit should have given."""

from .counterfactual import EDITS, Counterfactual, Photo, counterfactual, photos
from .reader import Reader, Reading, load_reader
from .render import render
from .world import (
    BACKGROUNDS,
    COLOURABLE,
    COLOURS,
    FLAVOURS,
    KINDS,
    OBJECTS,
    STYLES,
    Scene,
    SceneError,
    Thing,
    caption,
    compose,
    scene_at,
    vocabulary,
)

__all__ = [
    "BACKGROUNDS",
    "COLOURABLE",
    "COLOURS",
    "EDITS",
    "FLAVOURS",
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
    "compose",
    "counterfactual",
    "load_reader",
    "photos",
    "render",
    "scene_at",
    "vocabulary",
]
