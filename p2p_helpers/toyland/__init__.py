"""Toyland: a small world of captioned pictures in which the truth is known: what is where, and what an edit should have given."""

from .reader import Reader, Reading, load_reader
from .render import render
from .world import BACKGROUNDS, COLOURABLE, COLOURS, OBJECTS, STYLES, Scene, SceneError, Thing, caption, sample_scene, scene_at, vocabulary

__all__ = [
    "BACKGROUNDS",
    "COLOURABLE",
    "COLOURS",
    "OBJECTS",
    "STYLES",
    "Reader",
    "Reading",
    "Scene",
    "SceneError",
    "Thing",
    "caption",
    "load_reader",
    "render",
    "sample_scene",
    "scene_at",
    "vocabulary",
]
