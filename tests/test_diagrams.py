"""The course's diagrams are well-formed pictures that say what they show, and nothing of them is cut off."""

import inspect
from xml.etree import ElementTree

import pytest

from p2p_helpers.course import diagrams

DRAWN = [
    f
    for _, f in inspect.getmembers(diagrams, inspect.isfunction)
    if f.__module__ == diagrams.__name__
]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("draw", DRAWN, ids=lambda draw: draw.__name__)
def test_a_diagram_is_a_picture_with_a_text_alternative(draw):
    drawing = draw()
    root = ElementTree.fromstring(drawing._repr_svg_())
    assert root.get("role") == "img" and len(root.find(f"{SVG}title").text) > 40
    assert "prefers-color-scheme: dark" in root.find(f"{SVG}style").text
    for box in root.iter(f"{SVG}rect"):
        x, y, wide, high = (float(box.get(k, 0)) for k in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= drawing.width and 0 <= y <= y + high <= drawing.height
    for text in root.iter(f"{SVG}text"):
        size = float(text.get("font-size"))
        long = 0.62 * size * len(text.text)  # a wide letter
        left = float(text.get("x")) - (long / 2 if text.get("text-anchor") == "middle" else 0)
        assert 0 <= left <= left + long <= drawing.width, text.text
        assert size <= float(text.get("y")) <= drawing.height


def test_the_map_marks_where_one_is():
    plain, marked = (diagrams.chapters(here).svg() for here in (None, "02"))
    assert plain.count('class="marked"') == 0 and marked.count('class="marked"') == 1
