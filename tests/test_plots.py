"""Figures say what they show, and wrong input is explained."""

import io

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers.plots import figure_png

GREY = Image.fromarray(np.full((8, 8, 3), 100, np.uint8))
LIGHT = Image.fromarray(np.full((8, 8, 3), 151, np.uint8))


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


def test_difference_is_a_share_of_the_full_range():
    np.testing.assert_allclose(p2p.difference(GREY, LIGHT), 0.2)
    assert p2p.difference(GREY, GREY).max() == 0
    with pytest.raises(ValueError, match="different sizes"):
        p2p.difference(GREY, GREY.resize((4, 4)))


def test_a_gallery_titles_every_picture_and_leaves_no_figure_open():
    figure = p2p.gallery([GREY, LIGHT, GREY], ["one", "two", "three"], columns=2)
    assert titles(figure)[:3] == ["one", "two", "three"]
    assert not plt.get_fignums()  # or a notebook would show the figure twice
    assert Image.open(io.BytesIO(figure_png(figure))).width == 900


@pytest.mark.parametrize(("images", "names"), [([], None), ([GREY], ["a", "b"])])
def test_a_gallery_needs_a_title_for_each_picture(images, names):
    with pytest.raises(ValueError, match="titles"):
        p2p.gallery(images, names)


def test_show_has_a_row_for_each_target(random_pipe):
    result = p2p.edit(random_pipe, "a cat in space", ["a dog in space", "a fox in space"], steps=1, progress=False)
    names = [t.replace("\n", " ") for t in titles(p2p.show(result))]
    assert names.count("source: a cat in space") == 2
    assert {"target: a dog in space", "target: a fox in space"} <= set(names)
    assert result._repr_png_().startswith(b"\x89PNG")


def test_alignment_writes_the_tokens_and_shares(tokenizer):
    pair = ("a cat in space", "a snowman in space")
    ax = p2p.alignment(tokenizer, *pair, p2p.replacement_matrix(tokenizer, *pair)).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["start", "a", "cat", "in", "space", "end"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["start", "a", "snow", "man", "in", "space", "end"]
    assert [t.get_text() for t in ax.texts].count("0.5") == 2  # cat is shared by snow and man
