"""Recorded maps: they are the model's, rows sum to 1, and what was not kept is an error that says how to keep it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import p2p_helpers as p2p

from .pipelines import build

SOURCE, TARGET = "a cat on the beach", "a snowman on the beach"
RUN = {"steps": 4, "seed": 3, "progress": False}


@pytest.fixture(scope="module")
def result(toyland):
    return p2p.edit(
        toyland,
        SOURCE,
        TARGET,
        p2p.Replace(cross_steps=1.0, self_steps=1.0, self_size=1.0),
        record=True,
        **RUN,
    )


@pytest.fixture(scope="module")
def everything(toyland):
    change = p2p.Replace(cross_steps=1.0, self_steps=1.0, self_size=1.0)
    return p2p.edit(toyland, SOURCE, TARGET, change, record=p2p.Record(everything=True), **RUN).maps


def test_recording_changes_no_pixel(toyland, result):
    plain = p2p.edit(toyland, SOURCE, TARGET, result.edits[0], **RUN)
    np.testing.assert_array_equal(np.asarray(plain.image), np.asarray(result.image))
    assert plain.recorded is None
    for ask in (lambda: plain.maps["cat"], lambda: p2p.explore(plain)):
        with pytest.raises(p2p.InputError, match="record=True"):
            ask()
    assert all("forward" not in vars(layer) for layer in toyland.unet.modules())


def test_everything_is_refused_where_memory_is_too_small(toyland, monkeypatch):
    monkeypatch.setattr("p2p_helpers.maps.record.free_bytes", lambda device: 1_000_000)
    change = p2p.Replace()
    for record in (p2p.Record(everything=True), p2p.Record(everything=True, before=True)):
        with pytest.raises(p2p.InputError, match=r"would keep [\d.]+ GB of maps.*Take record=True"):
            p2p.edit(toyland, SOURCE, TARGET, change, record=record, **RUN)
    p2p.edit(toyland, SOURCE, TARGET, change, record=True, **{**RUN, "steps": 1})


def test_rows_sum_to_one(everything):
    """Up to float16; also the target's, since word swap keeps every row's sum."""
    assert len(everything.all) == 4 * 20  # steps × layers
    for maps in everything.all.values():
        torch.testing.assert_close(
            maps.float().sum(-1), torch.ones(maps.shape[:-1]), atol=4e-3, rtol=0
        )


def test_the_means_are_the_means_of_everything(result, everything):
    for heat, full in [(result.maps[w], everything[w]) for w in ("cat", "beach", "snowman", 2)]:
        torch.testing.assert_close(heat.tensor(), full.tensor(), atol=2e-3, rtol=0)
        for where in (
            {"step": 1},
            {"step": -1},
            {"layer": 0},
            {"layer": 0, "head": 2},
            {"step": 2, "layer": "up_blocks.2.attentions.0"},
        ):
            torch.testing.assert_close(
                heat.at(**where).tensor(), full.at(**where).tensor(), atol=2e-3, rtol=0
            )
        assert torch.equal(heat.at(step=1).mean().tensor(), heat.tensor())
    own = [
        maps
        for (layer, step), maps in everything.all.items()
        if step == 0 and ".attn1." in layer and maps.shape[2] == 256
    ]
    first = torch.stack([maps[0].float().mean(0) for maps in own])
    torch.testing.assert_close(
        result.maps.self_attention.matrix, first.mean(0), atol=2e-3, rtol=0
    )  # of every fourth step


def test_after_the_edit_and_before(toyland, result):
    """With every map injected the new word looks where the old one looked; before the edit it did not."""
    maps = result.maps
    torch.testing.assert_close(maps["snowman"].tensor(), maps["cat"].tensor(), atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.of(1).self_attention.matrix, maps.self_attention.matrix)
    assert "after the edit" in repr(maps)
    own = p2p.edit(
        toyland, SOURCE, TARGET, result.edits[0], record=p2p.Record(before=True), **RUN
    ).maps
    assert "before the edit" in repr(own)
    torch.testing.assert_close(own["cat"].tensor(), maps["cat"].tensor())
    assert (own["snowman"].tensor() - own["cat"].tensor()).abs().max() > 0.01


def test_every_pixel_shares_its_attention_over_the_tokens(result):
    length = result.maps.tokenizer.model_max_length
    total = sum(result.maps[token].tensor() for token in range(length))
    torch.testing.assert_close(total, torch.ones(16, 16), atol=1e-4, rtol=0)
    assert torch.equal(result.maps.start.tensor(), result.maps[0].tensor())
    assert torch.equal(result.maps.end.tensor(), result.maps[6].tensor())
    both = result.maps["on the"].tensor()
    torch.testing.assert_close(both, result.maps["on"].tensor() + result.maps["the"].tensor())


def test_around_any_run_of_the_pipeline(toyland, result):
    """Without an edit, with guidance and without; the last run counts."""
    toyland.set_progress_bar_config(disable=True)
    run = {"num_inference_steps": 4}
    with p2p.record(toyland) as maps:
        toyland(["a dog in space"], guidance_scale=1.0, **run)
        toyland(
            [SOURCE, TARGET],
            generator=[torch.Generator().manual_seed(3) for _ in range(2)],
            guidance_scale=4.0,
            **run,
        )
    assert maps.prompts == [SOURCE, TARGET]
    torch.testing.assert_close(maps["cat"].tensor(), result.maps["cat"].tensor(), atol=1e-3, rtol=0)
    with p2p.record(toyland) as alone:
        toyland(["a dog in space"], guidance_scale=1.0, **run)
    assert alone.of(0).words[1].name == "dog" and alone.steps == 4


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_stable_diffusion_at_another_size(kind, tmp_path):
    pipe = build(kind, tmp_path)
    result = p2p.edit(
        pipe, SOURCE, TARGET, record=True, steps=2, height=320, width=256, progress=False
    )
    assert result.maps.level == (20, 16)
    assert result.maps["cat"].tensor().shape == (20, 16)
    assert result.maps["cat"].overlay(result.source).size == (256, 320)
    assert result.maps["cat"].fused((24, 16)).shape == (24, 16)
    with p2p.record(pipe) as maps:
        pipe([SOURCE], num_inference_steps=2, output_type="latent")
    assert maps.prompts == [SOURCE] and maps.steps >= 2  # PNDM calls the UNet once more


def test_names_are_the_prompts_own_words(toyland):
    """An apostrophe, punctuation, several pictures for each prompt, a run that failed before it began."""
    toyland.set_progress_bar_config(disable=True)
    run = {"num_inference_steps": 2, "output_type": "latent"}
    with p2p.record(toyland) as maps:
        with pytest.raises(ValueError, match="generators"):
            toyland(["a fox in space"], generator=[torch.Generator()] * 3, **run)
        toyland("the cat's apple! a dog", **run)
    expected = [
        tuple(p2p.find_words(toyland.tokenizer, "the cat's apple! a dog", word))
        for word in ("cat's", "dog")
    ]
    assert [maps["cat's"].tokens, maps["dog"].tokens] == expected
    starts = torch.randn(4, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    with p2p.record(toyland) as several:
        toyland([SOURCE, "a dog in space"], num_images_per_prompt=2, latents=starts, **run)
    with p2p.record(toyland) as alone:
        toyland(["a dog in space"], latents=starts[2:3], **run)
    assert several.prompts == [SOURCE, SOURCE, "a dog in space", "a dog in space"]
    torch.testing.assert_close(several["dog"].tensor(), alone["dog"].tensor(), atol=1e-3, rtol=0)
    assert "encode_prompt" not in vars(toyland)


def test_what_cannot_be_recorded_is_explained(toyland):
    with p2p.record(toyland) as maps:
        with pytest.raises(p2p.AttentionControlError, match="record=True"):
            p2p.edit(toyland, SOURCE, TARGET, steps=1, progress=False)
        with pytest.raises(p2p.InputError, match="as text"):
            toyland(
                prompt_embeds=torch.zeros(1, 32, 128),
                negative_prompt_embeds=torch.zeros(1, 32, 128),
                num_inference_steps=1,
            )
    for look in (lambda: maps["cat"], lambda: maps.start, lambda: maps.self_attention):
        with pytest.raises(p2p.InputError, match="Nothing was recorded"):
            look()


def test_fused_layers_leave_out_the_middle_block(result):
    heat = result.maps["cat"]
    names = [name for name in result.maps.layers if not name.startswith("mid")]
    assert len(names) == len(result.maps.layers) - 1
    outer = torch.stack([heat.at(layer=name).upsample((16, 16)) for name in names]).mean(0)
    torch.testing.assert_close(heat.fused((16, 16)), outer)


def test_masks_pictures_and_refinement(result):
    heat = result.maps["cat"]
    assert heat.mask(0.5).dtype == torch.bool
    assert heat.mask(0.8).sum() < heat.mask(0.2).sum()
    assert heat.mask(0.5, (128, 128)).shape == (128, 128)
    assert heat.image().size == (128, 128) and heat.overlay(result.source).size == (128, 128)
    assert np.asarray(heat.overlay(result.source, 1.0)).max() > 200  # as bright as its maximum
    grey = result.source.convert("L").convert("RGB")
    np.testing.assert_array_equal(heat.overlay(result.source, 0), grey)
    assert heat._repr_png_()[:4] == b"\x89PNG"
    fine = heat.refine((64, 64))
    assert fine.shape == (64, 64) and fine.min() >= 0 and fine.max() <= 1


def test_self_attention(result):
    own = result.maps.self_attention
    torch.testing.assert_close(own.matrix.sum(1), torch.ones(256), atol=1e-4, rtol=0)
    parts = own.components(40)
    flat = parts.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(40), atol=1e-4, rtol=0)
    assert flat.gather(1, flat.abs().argmax(1, keepdim=True)).min() > 0  # peaks, no holes
    centred = own.matrix - own.matrix.mean(1, keepdim=True)
    found = torch.linalg.svd(centred).Vh[:5]  # of later ones many are alike
    torch.testing.assert_close((flat[:5] * found).sum(1).abs(), torch.ones(5), atol=1e-4, rtol=0)
    assert torch.equal(own.of(3, 4), own.matrix[3 * 16 + 4].reshape(16, 16))


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_adds_pixels(result, a, b):
    low, high = sorted((a, b))
    assert not (result.maps["cat"].mask(high) & ~result.maps["cat"].mask(low)).any()


def test_what_was_not_kept_says_how_to_keep_it(result):
    heat = result.maps["cat"]
    for wrong, says in [
        (lambda: heat.at(step=1, head=2), "everything=True"),
        (lambda: heat.at(step=1, layer="mid"), "everything=True"),
        (lambda: heat.at(head=17), "no such head"),
        (lambda: heat.at(step=9), "4 steps"),
        (lambda: heat.at(layer="up_blocks"), "fits 6 layers"),
        (lambda: result.maps.of(2), "2 prompts"),
        (lambda: result.maps[99], "not one of 32"),
        (lambda: heat.mask(2.0), "share"),
        (lambda: result.maps.self_attention.of(16, 0), "outside"),
    ]:
        with pytest.raises(p2p.InputError, match=says):
            wrong()
    with pytest.raises(p2p.PromptError, match="dog"):
        result.maps["dog"]


def test_a_scheduler_that_is_set_in_the_block_is_followed(random_pipe):
    before = random_pipe.scheduler
    try:
        with p2p.record(random_pipe) as maps:
            random_pipe.scheduler = type(before).from_config(before.config)
            random_pipe("a cat", num_inference_steps=2)
            assert maps.steps == 2 and "cat" in maps
            random_pipe.scheduler = before  # and back: it is followed already
            random_pipe("a cat", num_inference_steps=3)
        assert maps.steps == 3
        assert "step" not in vars(random_pipe.scheduler) and "step" not in vars(before)
    finally:
        random_pipe.scheduler = before


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("key", [None, 1.5, (), ("cat", "dog")])
def test_what_is_no_phrase_is_said_with_several_prompts(result, key):
    with pytest.raises(p2p.PromptError, match="is no phrase"):
        result.maps[key]


def test_saving_leaves_a_neighbour_alone_and_a_newer_tokenizer_is_said(
    result, tmp_path, monkeypatch
):
    (tmp_path / "fox.part").write_text("another's")
    result.maps.save(tmp_path / "fox")
    assert (tmp_path / "fox.part").read_text() == "another's"
    assert len(list(tmp_path.iterdir())) == 2

    def newer(text):
        raise Exception("data did not match any variant of untagged enum")

    monkeypatch.setattr("p2p_helpers.maps.store.Tokenizer", SimpleNamespace(from_str=newer))
    with pytest.raises(p2p.InputError, match="newer tokenizers"):
        p2p.AttentionMaps.load(tmp_path / "fox")
