"""Figures say what they show, and wrong input is explained."""

import io
import math
import re

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion import StableDiffusionPipelineOutput
from matplotlib import pyplot as plt
from PIL import Image

import p2p_helpers as p2p
from p2p_helpers import toyland
from p2p_helpers.attention.families import family_of
from p2p_helpers.prompts.align import replacement_matrix
from p2p_helpers.view import figures, map_figures
from p2p_helpers.view.figures import figure_png

from .transformers import build

GREY = Image.fromarray(np.full((8, 8, 3), 100, np.uint8))
LIGHT = Image.fromarray(np.full((8, 8, 3), 151, np.uint8))


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


def test_difference_is_a_share_of_the_full_range():
    np.testing.assert_allclose(p2p.difference(GREY, LIGHT), 0.2)
    assert p2p.difference(GREY, GREY).max() == 0
    with pytest.raises(ValueError, match="different sizes"):
        p2p.difference(GREY, GREY.resize((4, 4)))


def test_a_difference_is_brighter_the_larger_it_is():
    once, more, most = (
        np.asarray(figures.difference_image(GREY, LIGHT, times), int).sum() for times in (1, 4, 40)
    )
    assert once < more < most == np.asarray(figures.difference_image(GREY, LIGHT, 5), int).sum()
    assert np.asarray(figures.difference_image(GREY, GREY)).max() < 10  # black
    with pytest.raises(ValueError, match="different sizes"):
        figures.difference_image(GREY, GREY.resize((4, 4)))


def test_a_gallery_draws_masks_of_any_size():
    left = torch.tensor([[True, False], [True, False]])
    plain, masked = p2p.gallery([GREY, GREY], masks=[None, left]).axes[:2]
    whole, pale = (ax.images[0].get_array() for ax in (plain, masked))
    half = GREY.width // 2
    assert (pale[:, :half] == whole[:, :half]).all() and (pale[:, half:] > whole[:, half:]).all()
    with pytest.raises(p2p.InputError, match="1 masks"):
        p2p.gallery([GREY, GREY], masks=[left])


def test_a_gallery_titles_every_picture_and_leaves_no_figure_open():
    figure = p2p.gallery([GREY, LIGHT, GREY], ["one", "two", "three"], columns=2)
    assert titles(figure)[:3] == ["one", "two", "three"]
    assert not plt.get_fignums()  # or a notebook would show the figure twice
    assert Image.open(io.BytesIO(figure_png(figure))).width == 900


@pytest.mark.parametrize(
    ("images", "more"),
    [
        ([], {}),
        ([GREY], {"titles": ["a", "b"]}),
        ([GREY, GREY], {"colours": ["red"]}),
        ([GREY, GREY], {"masks": [None]}),
    ],
)
def test_a_gallery_needs_a_title_for_each_picture(images, more):
    with pytest.raises(p2p.InputError, match="titles"):
        p2p.gallery(images, **more)


def test_show_has_a_row_for_each_target(random_pipe):
    result = p2p.edit(
        random_pipe, "a cat in space", ["a dog in space", "a fox in space"], steps=1, progress=False
    )
    names = [t.replace("\n", " ") for t in titles(p2p.show(result))]
    assert names.count("source: a cat in space") == 2
    assert {"target: a dog in space", "target: a fox in space"} <= set(names)
    assert result._repr_png_().startswith(b"\x89PNG")


def test_a_real_picture_changes_only_where_its_mask_lets_it(random_pipe):
    """What an inversion does not give back is no change: outside the mask stands the picture itself."""
    run = {"steps": 1, "progress": False}
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8))
    inversion = p2p.invert(random_pipe, picture, "a cat", method="ddim", **run)
    left = np.zeros((128, 128), bool)
    left[:, :32] = True
    blend = p2p.LocalBlend(mask=left)
    result = p2p.edit(random_pipe, inversion, "a red cat", p2p.Refine(), local_blend=blend, **run)
    source, _, change = (ax.images[0].get_array() for ax in p2p.show(result).axes[:3])
    np.testing.assert_array_equal(source, picture)
    assert p2p.difference(result.source, result.image)[:, 64:].mean() > 0.1
    assert change[:, :32].mean() > 0.1 and change[:, 64:].max() == 0


def test_alignment_writes_the_tokens_and_shares(tokenizer):
    pair = ("a cat in space", "a snowman in space")
    ax = p2p.alignment(tokenizer, *pair, p2p.replacement_matrix(tokenizer, *pair)).axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "start",
        "a",
        "cat",
        "in",
        "space",
        "end",
    ]
    assert [t.get_text() for t in ax.get_xticklabels()] == [
        "start",
        "a",
        "snow",
        "man",
        "in",
        "space",
        "end",
    ]
    assert [t.get_text() for t in ax.texts].count("0.5") == 2  # cat is shared by snow and man


def test_a_dollar_in_a_prompt_is_no_mathematics(random_pipe):
    result = p2p.edit(random_pipe, r"a cat $\foo$", r"a dog $\foo$", steps=1, progress=False)
    assert result._repr_png_().startswith(b"\x89PNG")


def luminance(colour):
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ (
        0.2126,
        0.7152,
        0.0722,
    )


def test_every_word_has_one_colour_that_can_be_read_on_white(recorded, tokenizer):
    names = toyland.vocabulary()
    assert all(1.05 / (luminance(figures.word_colour(name)) + 0.05) > 4.5 for name in names)
    assert figures.word_colour("Cat") == figures.word_colour("cat") != figures.word_colour("dog")
    pair = ("a cat on the beach", "a dog on the beach")
    in_maps = {
        ax.get_title().split("\n")[0]: ax.title.get_color()
        for ax in map_figures.word_maps(recorded.maps).axes
    }
    matrix = p2p.alignment(tokenizer, *pair, p2p.replacement_matrix(tokenizer, *pair)).axes[0]
    edit = p2p.show_edit(p2p.Replace(), tokenizer, *pair).axes
    for ax in (matrix, *edit):
        for label in [*ax.get_xticklabels(), *ax.get_yticklabels()]:
            if label.get_text() in in_maps:
                assert (
                    label.get_color()
                    == in_maps[label.get_text()]
                    == figures.word_colour(label.get_text())
                )


def test_show_draws_the_blend_mask(random_pipe):
    mask = np.zeros((16, 16), bool)
    mask[4:8] = True
    result = p2p.edit(
        random_pipe,
        "a cat",
        "a dog",
        local_blend=p2p.LocalBlend(mask=mask),
        steps=1,
        progress=False,
    )
    names = titles(p2p.show(result))
    assert names[3] == "blend mask: 25% may change"


def test_an_edit_is_shown_with_its_words_and_schedules(tokenizer):
    change = p2p.Refine(cross_steps={"default": 0.5, "cat": (0.2, 0.4)}) | p2p.Reweight(
        {"red": -1.5}, cross_steps=1.0
    )
    figure = p2p.show_edit(
        change, tokenizer, "a cat in space", "a red cat in space", step=3, steps=10
    )
    _, own, timeline = figure.axes
    assert [t.get_text() for t in own.get_xticklabels()] == [
        "start",
        "a",
        "red",
        "cat",
        "in",
        "space",
        "end",
    ]
    assert "-1.5" in [t.get_text() for t in own.texts]  # red keeps its own map, turned about
    assert [t.get_text() for t in timeline.get_yticklabels()][-1] == "self-attention"
    shares = timeline.images[0].get_array()
    assert shares[3].tolist() == [0] * 2 + [1] * 2 + [0] * 6  # cat, steps 2 and 3 of 10
    assert shares[-1].tolist() == [1] * 4 + [0] * 6
    assert not plt.get_fignums()
    with pytest.raises(p2p.InputError, match="step=10"):
        p2p.show_edit(change, tokenizer, "a cat in space", "a red cat in space", step=10, steps=10)


@pytest.mark.parametrize(
    ("change", "drawn"),
    [
        (p2p.Move("fox", 0.2) | p2p.Replace(), p2p.Replace()),
        (p2p.Replace() | p2p.Move("panda", 0.2), p2p.Replace()),
        (p2p.Reweight({"snow": 2}) | p2p.Move("fox", 0.2) | p2p.Replace(), p2p.Replace()),
    ],
)
def test_of_words_and_places_the_run_that_changes_the_prompt_is_shown(tokenizer, change, drawn):
    pair = ("a fox in the snow", "a panda in the snow")
    several, alone = (p2p.show_edit(one, tokenizer, *pair) for one in (change, drawn))
    for panel, same in zip(several.axes, alone.axes, strict=True):
        np.testing.assert_array_equal(panel.images[0].get_array(), same.images[0].get_array())
    assert several.get_suptitle().replace("\n", " ") == f"{change!r}; drawn: {drawn!r}"


def test_a_removal_is_shown_with_the_prompt_that_it_leaves(tokenizer):
    both = "a fox and a panda in the snow"
    figure = p2p.show_edit(p2p.Remove("fox"), tokenizer, both, both)
    assert "fox" not in [label.get_text() for label in figure.axes[1].get_xticklabels()]


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("name", "value"),
    [("columns", value) for value in (0, 1.5, "all")]
    + [("width", value) for value in (0, -3.0, math.nan, 900, "9 in")],
)
def test_a_gallery_has_columns_and_a_width(name, value):
    with pytest.raises(p2p.InputError, match=re.escape(f"{name}={value!r}")):
        p2p.gallery([GREY], **{name: value})


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("draw", "says"),
    [
        (lambda *a: p2p.alignment(*a, p2p.refinement_alignment(*a)), "matrix is tuple.*pair"),
        (lambda *a: p2p.alignment(*a, p2p.Replace().matrices(*a, 1)[0]), r"\(1, 32, 32\).*S\[0\]"),
        (lambda *a: p2p.alignment(*a, torch.eye(3)), r"\(3, 3\).*these prompts"),
        (lambda *a: p2p.show_edit(p2p.Replace, *a), r"write Replace\(...\)"),
        (lambda *a: p2p.show_edit("Replace", *a), "is no edit"),
        (lambda *a: p2p.show_edit(p2p.Replace(), *a, step=1.5), "step=1.5.*from 0 to 29"),
        (lambda *a: p2p.show_edit(p2p.Replace(), *a, step=30), "step=30.*from 0 to 29"),
        (lambda *a: p2p.show_edit(p2p.Replace(), *a, steps=0), "steps=0"),
    ],
)
def test_what_is_no_matrix_no_edit_and_no_step_is_said(tokenizer, draw, says):
    with pytest.raises(p2p.InputError, match=says):
        draw(tokenizer, "a cat in space", "a dog in space")


def test_an_edit_of_several_encoders_is_shown_with_the_tokens_of_all(tmp_path):
    pipe = build("sd3", tmp_path)
    tokenizer = family_of(pipe).tokenizer(pipe, {"max_sequence_length": 48})
    figure = p2p.show_edit(p2p.Replace(), tokenizer, "a cat", "a dog")
    for ax in figure.axes[:2]:
        names = [label.get_text() for label in ax.get_xticklabels()]
        assert names[0] == "start" and names.count("a") == names.count("end") == 2
    matrix = replacement_matrix(tokenizer, "a cat", "a dog")
    names = [
        one.get_text()
        for one in p2p.alignment(tokenizer, "a cat", "a dog", matrix).axes[0].get_yticklabels()
    ]
    assert names.count("a") == 2 and "".join(names).count("cat") >= 1


@pytest.fixture(scope="module")
def recorded(toyland):
    return p2p.edit(
        toyland, "a cat on the beach", "a dog on the beach", steps=3, record=True, progress=False
    )


def test_figures_of_maps(recorded):
    maps, image = recorded.maps, recorded.source
    panels = {
        map_figures.word_maps: ((maps,), 7),
        lambda m, i: map_figures.word_maps(m, i, prompt=1): ((maps, image), 8),
        map_figures.map_forming: ((maps["cat"],), 3),
        map_figures.layers_and_steps: ((maps["cat"],), 3 * 3),
        map_figures.heads: ((maps["cat"],), 3 * 4),
        map_figures.self_components: ((maps, image), 7),
    }
    for draw, (arguments, count) in panels.items():
        figure = draw(*arguments)
        assert len(figure.axes) == count
        assert figures.figure_png(figure)[:4] == b"\x89PNG"
    titles = [ax.get_title().split("\n")[0] for ax in map_figures.word_maps(maps).axes]
    assert titles == ["start", "a", "cat", "on", "the", "beach", "end"]


def test_a_grid_names_its_rows_and_columns(recorded):
    rows = [[recorded.source] * 3] * 2
    figure = figures.grid(
        rows, ["self 0", "self 1"], ["cross 0", "cross 0.5", "cross 1"], title="sweep"
    )
    assert [ax.get_title() for ax in figure.axes[:3]] == ["cross 0", "cross 0.5", "cross 1"]
    assert [figure.axes[i].texts[0].get_text() for i in (0, 3)] == ["self 0", "self 1"]
    with pytest.raises(p2p.InputError, match=r"\[3, 3\] pictures.*2 columns"):
        figures.grid(rows, ["a", "b"], ["c", "d"])


def test_one_picture_is_a_gallery_and_numbers_are_names(recorded):
    assert len(p2p.gallery(GREY).axes) == 1
    assert titles(p2p.gallery([GREY, LIGHT], [0.2, 0.8])) == ["0.2", "0.8"]
    assert titles(p2p.gallery([GREY, LIGHT], map(str, (1, 2)))) == ["1", "2"]
    figure = figures.grid([[GREY, LIGHT]], np.array([0.5]), np.array([1, 2]))
    assert titles(figure) == ["1", "2"] and figure.axes[0].texts[0].get_text() == "0.5"
    assert len(map_figures.word_maps(recorded).axes) == 7


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda r: p2p.show(StableDiffusionPipelineOutput([GREY], None)), "what edit.. gives"),
        (lambda r: p2p.gallery(r), "of a result take .image"),
        (lambda r: figures.grid([[r]], ["a"], ["b"]), "of a result take .image"),
        (lambda r: map_figures.self_components(r, r.source, count=0), "count=0.*6 are usual"),
        (lambda r: map_figures.self_components(r, r.source, count=900), "count=900.*1 to 256"),
        (lambda r: p2p.slider([r, r], [1, 2], "steps"), "of a result take .image"),
        (lambda r: p2p.difference(r, r.image), "of a result take .image"),
        (lambda r: map_figures.word_maps(r.image), "Recorded maps are needed"),
        (lambda r: p2p.explore(r.maps, r.image), "There are 2 prompts.*got 1"),
        (lambda r: p2p.explore(r, r.image), "There are 2 prompts.*got 1"),
        (lambda r: p2p.explore(r, [r.image, 5]), "A picture is needed, not 5"),
        (lambda r: map_figures.map_forming("cat"), "word's map is needed.*'cat'"),
        (lambda r: map_figures.map_forming(r.maps), "word's map is needed"),
        (lambda r: map_figures.layers_and_steps(r), "word's map is needed"),
        (lambda r: map_figures.heads(r.image), "word's map is needed"),
        (lambda r: map_figures.map_forming(r.maps["cat"], count=0), "count=0"),
        (lambda r: map_figures.layers_and_steps(r.maps["cat"], count=2.5), "count=2.5"),
        (lambda r: map_figures.self_components(r, None), "A picture is needed, not None"),
        (lambda r: p2p.slider(r.image, [0, 1], "x"), "1 pictures and 2 labels"),
        (lambda r: p2p.slider([r.image] * 2, 5, "x"), "labels=5: give a list"),
        (lambda r: p2p.slider([r.image] * 2, [0, 1], "x", 0), "A picture is needed, not 0"),
        (lambda r: figures.grid([r.image] * 2, ["a"], ["x", "y"]), r"\[1, 1\] pictures"),
        (lambda r: figures.grid(r, ["a"], ["x"]), "images=an EditResult: give a list"),
        (lambda r: figures.grid([[r.image]], "a", 5), "rows='a': give a list"),
        (lambda r: figures.grid([[r.image]], ["a"], ["x"], notes=[5]), "notes=5: give a list"),
        (lambda r: p2p.gallery("fox.png"), "not 'fox.png'"),
        (lambda r: p2p.gallery(r.image, 5), "titles=5: give a list"),
        (lambda r: p2p.gallery(r.image, "cat"), "titles='cat': give a list"),
        (lambda r: p2p.gallery(r.image, colours=["nocolour"]), "'nocolour' is no colour"),
        (lambda r: p2p.gallery(r.image, masks=[np.ones((3, 5, 3))]), r"shape \(3, 5, 3\)"),
        (lambda r: p2p.gallery(r.image, masks=["mask.png"]), "Image.open\\('mask.png'\\)"),
        (lambda r: figures.difference_image(r.image, r.image, "4"), "times='4'"),
    ],
)
def test_what_is_no_picture_is_said(recorded, wrong, says):
    with pytest.raises(p2p.InputError, match=f"(?i){says}"):
        wrong(recorded)


@pytest.mark.parametrize("count", [3, 9, 16, 30])
def test_a_long_prompts_maps_are_large_enough_to_see(recorded, count, monkeypatch):
    own = recorded.maps.of(0)
    monkeypatch.setattr(type(own), "words", property(lambda self: [own[2]] * count))
    figure = map_figures.word_maps(recorded.maps)
    assert figure.axes[0].get_subplotspec().get_gridspec().ncols <= 8


def test_a_map_of_another_shape_has_square_cells(random_pipe):
    run = {"steps": 1, "record": True, "progress": False, "height": 64, "width": 96}
    result = p2p.edit(random_pipe, "a cat", "a dog", p2p.Replace(), **run)
    rows, columns = result.maps["cat"].numpy().shape
    shown = result.maps["cat"].image()
    assert rows != columns and shown.width / columns == shown.height / rows > 1
    assert result.maps["cat"].image((30, 20)).size == (20, 30)


def test_layers_of_one_attention_have_names_of_their_own():
    """As Stable Diffusion XL has them."""
    deep = [f"down_blocks.2.attentions.0.transformer_blocks.{n}.attn2.processor" for n in range(10)]
    alone = "up_blocks.1.attentions.2.transformer_blocks.0.attn2.processor"
    names = map_figures.short_layer_names([*deep, alone])
    assert names[7] == "down 2.0.7" and names[-1] == "up 1.2" and len(set(names)) == 11


def test_alignment_writes_letters_and_no_bytes(tokenizer):
    figure = p2p.alignment(tokenizer, "a café", "a ’dog", torch.eye(32))
    said = {label.get_text() for ax in figure.axes for label in ax.get_xticklabels()}
    said |= {label.get_text() for ax in figure.axes for label in ax.get_yticklabels()}
    assert not any("Ã" in text or "â" in text for text in said)
