"""Recorded maps as Python's own containers and arrays, shares among words, and maps in a file."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import p2p_helpers as p2p

SOURCE, TARGET = "a cat and a snowman on the beach", "a dog and a snowman on the beach"
RUN = {"steps": 3, "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def maps(toyland):
    return p2p.edit(toyland, SOURCE, TARGET, record=True, **RUN).maps


@pytest.fixture(scope="module")
def everything(toyland):
    return p2p.edit(toyland, SOURCE, TARGET, record=p2p.Record(everything=True), **RUN).maps


def same(one, other):
    torch.testing.assert_close(one.tensor(), other.tensor(), atol=0, rtol=0)


def test_maps_are_a_container_of_words(maps):
    assert list(maps.of(0)) == ["a", "cat", "and", "snowman", "on", "the", "beach"]
    assert list(maps) == [*maps.of(0), "dog"]
    assert (len(maps), len(maps.of(1))) == (8, 7)
    for word in maps:
        assert word in maps
        assert maps[word].name == word
    for there in ("CAT", "a snowman", ("a", 2), 3, -1, np.int64(3)):
        assert there in maps
    for absent in ("panda", "", ("cat", 2), 32, -33, None, [1], 1.5, ("cat", "dog")):
        assert absent not in maps
    assert "cat" not in maps.of(1)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8, lambda n: torch.tensor(n)])
def test_whole_numbers_of_any_kind(maps, kind):
    same(maps[kind(2)], maps[2])
    same(maps.of(kind(1))["dog"], maps["dog"])
    same(maps["a", kind(2)], maps["a", 2])
    heat = maps["cat"]
    same(heat.at(step=kind(1)), heat.at(step=1))
    same(heat.at(layer=kind(2)), heat.at(layer=2))
    same(
        heat.at(layer=maps.level_layers[0], head=kind(1)),
        heat.at(layer=maps.level_layers[0], head=1),
    )


@settings(max_examples=50, deadline=None)
@given(st.slices(32))
def test_a_slice_is_its_tokens_together(maps, where):
    tokens = range(32)[where]
    if not tokens:
        with pytest.raises(p2p.InputError, match="not one of 32"):
            maps[where]
        return
    together = sum(maps[token].tensor() for token in tokens)
    torch.testing.assert_close(maps[where].tensor(), together, atol=1e-5, rtol=0)
    assert maps[where].tokens == tuple(tokens)


def test_tokens_are_counted_from_both_ends(maps):
    same(maps[-1], maps[31])
    for wrong in (32, -33):
        with pytest.raises(p2p.InputError, match=f"Token {wrong} is not one of 32"):
            maps[wrong]


def test_layers_are_counted_from_both_ends(maps):
    heat, count = maps["cat"], len(maps.layers)
    for number in range(count):
        same(heat.at(layer=number - count), heat.at(layer=number))
    assert heat.at(layer=-1).layer == maps.layers[-1]
    for wrong in (count, -count - 1):
        with pytest.raises(p2p.InputError, match="fits 0 layers"):
            heat.at(layer=wrong)


where = st.fixed_dictionaries(
    {},
    optional={"step": st.integers(-3, 2), "layer": st.integers(-4, 3), "head": st.integers(0, 3)},
)


@settings(max_examples=50, deadline=None)
@given(where)
def test_narrowing_bit_by_bit_is_narrowing_at_once(everything, where):
    at_once = everything["cat"].at(**where)
    for order in (list(where), list(where)[::-1]):
        narrowed = everything["cat"]
        for name in order:
            narrowed = narrowed.at(**{name: where[name]})
        same(narrowed, at_once)
    assert everything["cat"].at(**where).mean().step is None


def test_narrowing_says_what_was_not_kept(maps):
    heat = maps["cat"].at(step=1)
    with pytest.raises(p2p.InputError, match="everything=True"):
        heat.at(layer="mid")
    same(heat.at(layer=maps.level_layers[0]), maps["cat"].at(layer=maps.level_layers[0], step=1))


@pytest.mark.parametrize("where", [{"step": 1}, {"layer": "mid"}, {"head": 0}], ids=str)
def test_a_sharper_map_is_of_all_steps_layers_and_heads(maps, where):
    for sharper in ("fused", "refine"):
        with pytest.raises(p2p.InputError, match="takes all of them"):
            getattr(maps["cat"].at(**where), sharper)((128, 128))


def test_a_map_of_the_target_is_spread_along_the_targets_own_pixels(toyland):
    own_maps, run = p2p.Replace(self_steps=0.0), {**RUN, "steps": 1}
    maps = p2p.edit(toyland, SOURCE, TARGET, own_maps, record=True, **run).maps
    heat, own = maps.of(1)["snowman"], maps.of(1).self_attention
    fused = heat.fused(own.shape).flatten()
    spread = own.matrix @ ((fused - fused.min()) / (fused.max() - fused.min()))
    spread = (spread - spread.min()) / (spread.max() - spread.min())
    torch.testing.assert_close(heat.refine(own.shape).flatten(), spread, atol=1e-5, rtol=0)


def test_numpy_and_matplotlib_take_a_map(maps):
    heat = maps["dog"]
    np.testing.assert_array_equal(np.asarray(heat), heat.numpy())
    assert np.asarray(heat, dtype=np.float64).dtype == np.float64
    assert np.stack([heat, maps["cat"]]).shape == (2, 16, 16)
    assert np.asarray(maps.self_attention).shape == (256, 256)
    copy = np.array(maps.self_attention)
    copy[:] = 0
    assert maps.self_attention.matrix.any()
    from matplotlib.figure import Figure

    shown = Figure().subplots().imshow(heat)
    np.testing.assert_allclose(shown.get_array(), heat.numpy())


def test_the_layers_of_all_sizes_fused_leave_out_the_smallest(maps):
    """The mid block is 4×4 here; the paper of DAAM takes down and up blocks only."""
    fused, changed = maps["cat"].fused((16, 16)), copy.copy(maps)
    for start, counts in (("mid", False), ("down", True), ("up", True)):
        changed.sums = {
            name: torch.rand(sums.shape) if name.startswith(start) else sums
            for name, sums in maps.sums.items()
        }
        assert any(name.startswith(start) for name in maps.sums)
        same = torch.equal(changed["cat"].fused((16, 16)), fused)
        assert same != counts


def test_a_share_among_words(maps):
    """Without start, end and padding: the words' maps sum to 1, and keep their proportions."""
    for narrowed in ({}, {"step": 1}, {"layer": -1}):
        shares = [heat.at(**narrowed).among_words() for heat in maps.of(0).words]
        torch.testing.assert_close(
            sum(share.tensor() for share in shares), torch.ones(shares[0].tensor().shape)
        )
    cat, beach = maps["cat"], maps["beach"]
    ratio = cat.among_words().tensor() / beach.among_words().tensor()
    torch.testing.assert_close(ratio, cat.tensor() / beach.tensor(), atol=1e-3, rtol=1e-3)
    same(cat.among_words().at(step=1), cat.at(step=1).among_words())
    assert "among words" in repr(cat.among_words())
    assert cat.among_words().mask(0.5).any() and cat.among_words().image().size == (128, 128)
    for none in (maps.start, maps.end, maps.of(0).padding, maps[2:12]):
        with pytest.raises(p2p.InputError, match="no word of the prompt"):
            none.among_words()


def test_a_silenced_word_has_no_share(toyland):
    fader = p2p.Reweight({"cat": -2}, cross_steps=1.0)
    maps = p2p.edit(toyland, SOURCE, SOURCE, fader, record=True, **RUN).maps.of(1)
    assert maps["cat"].tensor().max() < 0
    assert not maps["cat"].among_words().tensor().any()


@pytest.mark.parametrize("kind", ["maps", "everything"])
def test_saved_and_loaded_they_are_the_same(request, kind, tmp_path):
    maps = request.getfixturevalue(kind)
    maps.save(tmp_path / "maps.safetensors")
    again = p2p.AttentionMaps.load(str(tmp_path / "maps.safetensors"))
    assert [file.name for file in tmp_path.iterdir()] == ["maps.safetensors"]
    assert repr(again) == repr(maps)
    assert (again.layers, again.level_layers, again.heads) == (
        maps.layers,
        maps.level_layers,
        maps.heads,
    )
    assert list(again) == list(maps)
    for what in ("cat", "snowman", ("a", 2), 4, slice(2, 5)):
        same(again[what], maps[what])
        same(again[what].at(step=1), maps[what].at(step=1))
        same(
            again[what].at(layer=again.level_layers[0], head=2),
            maps[what].at(layer=maps.level_layers[0], head=2),
        )
    same(again.of(1)["dog"].at(layer=-1), maps.of(1)["dog"].at(layer=-1))
    same(again.end, maps.end)
    same(again.of(1).padding, maps.of(1).padding)
    torch.testing.assert_close(again.self_attention.matrix, maps.self_attention.matrix)
    assert p2p.explore(again, [maps["cat"].image()] * 2).page
    again.save(tmp_path / "maps.safetensors")  # over itself
    same(p2p.AttentionMaps.load(tmp_path / "maps.safetensors")["cat"], maps["cat"])


def test_words_that_were_added_are_found_in_a_file(maps, tmp_path):
    taught = copy.copy(maps)
    taught.tokenizer = copy.deepcopy(maps.tokenizer)
    taught.tokenizer.add_tokens("<cat-toy>")
    taught.prompts = ["a <cat-toy> and a cat"] * 2
    taught.save(tmp_path / "maps.safetensors")
    again = p2p.AttentionMaps.load(tmp_path / "maps.safetensors")
    assert (again["<cat-toy>"].tokens, again["cat"].tokens) == ((2,), (5,))


def test_loading_needs_no_model(maps, tmp_path):
    """In another process, which makes no pipeline."""
    path = tmp_path / "maps.safetensors"
    maps.save(path)
    code = (
        f"import p2p_helpers as p2p; print(p2p.AttentionMaps.load({str(path)!r})['snowman'].tokens)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == str(maps["snowman"].tokens)
    assert path.stat().st_size < 8e6


def test_files_that_hold_no_maps(maps, tmp_path, monkeypatch):
    path = tmp_path / "maps.safetensors"
    with pytest.raises(p2p.InputError, match="cannot be read"):
        p2p.AttentionMaps.load(path)
    path.write_bytes(b"no such format")
    with pytest.raises(p2p.InputError, match="cannot be read"):
        p2p.AttentionMaps.load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(p2p.InputError, match="holds no attention maps"):
        p2p.AttentionMaps.load(path)
    for about in ("{", '{"format": 4}', "[1]"):
        save_file({"x": torch.zeros(1)}, path, {"attention maps": about})
        with pytest.raises(p2p.InputError, match="read|damaged"):
            p2p.AttentionMaps.load(path)
    with pytest.raises(p2p.InputError, match="cannot be written"):
        maps.save(tmp_path / "nowhere" / "maps.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            maps.save(path)
    assert not list(tmp_path.glob("**/.*.part"))
    save_file({"x": torch.zeros(1)}, path, {"attention maps": '{"format": 3, "columns": [1]}'})
    with pytest.raises(p2p.InputError, match="never released"):
        p2p.AttentionMaps.load(path)
    save_file({"x": torch.zeros(1)}, path, {"attention maps": '{"format": 99}'})
    with pytest.raises(p2p.InputError, match="newer"):
        p2p.AttentionMaps.load(path)
    with pytest.raises(p2p.InputError, match="Nothing was recorded"):
        p2p.AttentionMaps(None, [], p2p.Record()).save(path)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda maps: maps.of("panda"), r"prompt='panda'.*maps\[word\]"),
        (lambda maps: maps.of(1.0), "prompt=1.0"),
        (lambda maps: maps["cat"].at(step=1.0), "step=1.0.*whole number"),
        (lambda maps: maps["cat"].at(layer=1.5), "layer=1.5.*maps.layers"),
        (lambda maps: maps["cat"].at(head="a"), "head='a'"),
        (lambda maps: maps["cat"].at(encoder="T5"), "encoder='T5'"),
        (lambda maps: maps["cat"].image(64), "size=64.*height"),
        (lambda maps: maps["cat"].image((64, 0)), "height"),
        (lambda maps: maps["cat"].upsample((64, 64, 3)), "height"),
        (lambda maps: maps["cat"].refine("64"), "size='64'"),
        (lambda maps: maps["cat"].refine((64, 64), power=0.5), "power=0.5"),
        (lambda maps: maps["cat"].overlay(np.zeros((8, 8, 3), np.uint8)), "picture is needed"),
        (lambda maps: maps["cat"].overlay(maps["cat"].image(), "a"), "strength='a'"),
        (lambda maps: maps["cat"].overlay(maps["cat"].image(), -0.5), "from 0 to 1"),
        (lambda maps: maps["cat"].mask("a"), "threshold='a'.*share"),
        (lambda maps: maps["cat"].mask([0.1, 0.2]), "share"),
        (lambda maps: maps["cat"].mask(2), "threshold=2.*share"),
        (lambda maps: maps["cat"].mask(0.5, 64), "size=64"),
        (lambda maps: maps.self_attention.of(1.0, 2), "row=1.0"),
    ],
)
def test_what_asks_for_no_map_is_said(maps, wrong, says):
    with pytest.raises(p2p.InputError, match=says):
        wrong(maps)
