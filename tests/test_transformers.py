"""Transformers: edits equal maps written out, the source is the plain pipeline's, and the model is left as it was."""

import copy
import inspect
import warnings
from pathlib import Path
from types import MappingProxyType

import accelerate
import numpy as np
import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDPMScheduler,
    FlowMatchLCMScheduler,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxKontextPipeline,
    FluxPipeline,
    IFSuperResolutionPipeline,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusionControlNetPipeline,
    UNet2DConditionModel,
)

import p2p_helpers as p2p
from p2p_helpers.attention.families import FAMILIES, family_of, layers_of
from p2p_helpers.attention.layers import Layer
from p2p_helpers.attention.terms import Term, attend
from p2p_helpers.attention.transformers import Flux, HunyuanDiT, PixArt, StableDiffusion3
from p2p_helpers.attention.unet import DeepFloydIF
from p2p_helpers.prompts.several import parts_of, readers
from p2p_helpers.prompts.words import word_tokens
from p2p_helpers.view import explorer, map_figures

from . import pipelines, written_out
from .conftest import float64_texts
from .test_session import state
from .transformers import KINDS, build, photo

CAT, GIRAFFE = "a cat on the beach", "a giraffe on the beach"
LONG = "a photo of a red cat on the beach at night"
STEPS = written_out.STEPS
KEYS = {
    StableDiffusion3: "pixels, text",
    Flux: "text, pixels",
    PixArt: "apart",
    HunyuanDiT: "apart",
    DeepFloydIF: "added text, pixels",
}


@pytest.fixture(scope="module", params=KINDS)
def pipe(request, tmp_path_factory):
    return build(request.param, tmp_path_factory.mktemp("tokenizer"))


def side(pipe):
    """Of the latents; DeepFloyd IF's are the picture."""
    return 16 if hasattr(pipe, "vae") else 32


def size(pipe):
    """Arguments of small pictures and short texts, as far as a pipeline takes them."""
    wide = 128 if hasattr(pipe, "vae") else 32
    wanted = {"height": wide, "width": wide, "guidance_scale": 4.0, "max_sequence_length": 48}
    wanted["use_resolution_binning"] = False
    return {k: v for k, v in wanted.items() if k in inspect.signature(pipe.__call__).parameters}


def extra(pipe, count=None):
    """True guidance where a Flux pipeline has it."""
    if type(pipe).__name__ != "FluxPipeline" or pipe.transformer.config.guidance_embeds:
        return {}
    return {"true_cfg_scale": 3.0, "negative_prompt": ["blurry"] * count if count else "blurry"}


def uncontrolled(pipe, **more):
    """Both prompts' pictures as the plain pipeline makes them."""
    return pipe(
        [CAT, GIRAFFE],
        generator=[torch.Generator().manual_seed(3) for _ in range(2)],
        num_inference_steps=STEPS,
        **size(pipe),
        **extra(pipe, 2),
        **more,
    ).images


def pixels(image):
    return np.asarray(image, int)


def final(pipe, target, change, **more):
    """The final latents of an edit."""
    seen = {}

    def keep(pipe, step, timestep, tensors):
        seen["latents"] = tensors["latents"].clone()
        return tensors

    common = {**size(pipe), **extra(pipe), "seed": 3, "steps": STEPS, "progress": False}
    p2p.edit(pipe, CAT, target, change, callback=keep, **common, **more)
    return seen["latents"]


CASES = (
    "swap",
    "swap, own pixels",
    "pixels alone",
    "refine",
    "reweight",
    "swap, then reweight",
)
SCHEDULE = {"default": 0.8, "giraffe": (0.2, 0.6)}


def cases(tokenizer):
    """Name → target, our edit, the same written out, when the pixels' columns are the source's."""
    swapped = written_out.swap(tokenizer, CAT, GIRAFFE, SCHEDULE)
    weights = {"giraffe": 2.0, "beach": -1.0}
    same = written_out.swap(tokenizer, CAT, CAT, 0.8)
    plain = p2p.Replace(cross_steps=SCHEDULE, self_steps=0.5, self_size=1.0)
    return {
        "swap": (GIRAFFE, plain, swapped, 0.5),
        "swap, own pixels": (
            GIRAFFE,
            p2p.Replace(cross_steps=SCHEDULE, self_steps=0.0),
            swapped,
            0,
        ),
        "pixels alone": (
            GIRAFFE,
            p2p.Replace(cross_steps=0.0, self_steps=1.0, self_size=1.0),
            None,
            1.0,
        ),
        "refine": (
            LONG,
            p2p.Refine(cross_steps=0.8, self_steps=0.5, self_size=1.0),
            written_out.refine(tokenizer, CAT, LONG, 0.8),
            0.5,
        ),
        "reweight": (
            CAT,
            p2p.Reweight({"cat": 3.0}, self_steps=0.5, self_size=1.0),
            written_out.reweigh(same, tokenizer, CAT, {"cat": 3.0}, 0.8),
            0.5,
        ),
        "swap, then reweight": (
            GIRAFFE,
            plain | p2p.Reweight(weights, cross_steps=1.0),
            written_out.reweigh(swapped, tokenizer, GIRAFFE, weights, 1.0),
            0.5,
        ),
    }


def differences(pipe, name):
    """The largest difference of an edit to maps written out, and to no edit, in deviations of the latents."""
    target, change, edited, self_steps = cases(family_of(pipe).tokenizer(pipe, size(pipe)))[name]
    keys = KEYS[type(family_of(pipe))]
    wanted = written_out.latents(
        pipe, [CAT, target], edited, self_steps, keys, **size(pipe), **extra(pipe, 2)
    )
    got = final(pipe, target, change)
    kind = p2p.Refine if target == LONG else p2p.Replace
    plain = final(pipe, target, kind(cross_steps=0.0, self_steps=0.0))
    spread = wanted.std()
    return (got - wanted).abs().max() / spread, (got[1] - plain[1]).abs().max() / spread


@float64_texts
def test_the_sources_queries_and_keys_meet_the_targets_text(pipe):
    keys, asked = KEYS[type(family_of(pipe))], "a dog and a red castle in a forest"
    change = p2p.InjectQK(self_steps=0.5, self_size=1.0)
    if keys == "apart":
        with pytest.raises(p2p.InputError, match="in one softmax"):
            final(pipe, asked, change)
        return
    pipe.to(torch.float64)
    try:
        prompts, more = [CAT, asked], {**size(pipe), **extra(pipe, 2)}
        wanted = written_out.latents(pipe, prompts, "qk", 0.5, keys, **more)
        assert (final(pipe, asked, change) - wanted).abs().max() <= 1e-10 * wanted.std()
        free = final(pipe, asked, p2p.InjectQK(self_steps=0.0))
        assert (wanted - free)[1].abs().max() > 1e-4 * wanted.std()
        louder = final(pipe, asked, change | p2p.Reweight({"dog": 3.0}))
        assert (louder - wanted)[1].abs().max() > 1e-4 * wanted.std()
    finally:
        pipe.to(torch.float32)
    with pytest.raises(p2p.InputError, match="Take one of the two"):
        final(pipe, GIRAFFE, p2p.Replace() | change)


@float64_texts
@pytest.mark.parametrize("name", CASES)
def test_an_edit_equals_maps_written_out(pipe, name):
    pipe.to(torch.float64)
    try:
        wrong, changed = differences(pipe, name)
        assert wrong <= 1e-10 and changed > 1e-4
    finally:
        pipe.to(torch.float32)


def test_an_edit_equals_maps_written_out_in_single_precision(pipe):
    wrong, changed = differences(pipe, "swap, then reweight")
    assert wrong <= 1e-5 and changed > 1e-3


def test_the_source_is_the_plain_pipelines_to_the_bit(pipe):
    plain = uncontrolled(pipe)
    common = {**size(pipe), **extra(pipe), "seed": 3, "steps": STEPS, "progress": False}
    result = p2p.edit(pipe, CAT, GIRAFFE, p2p.Replace(), **common)
    np.testing.assert_array_equal(pixels(result.source), pixels(plain[0]))
    if not isinstance(family_of(pipe), DeepFloydIF):  # its pictures are its latents
        latents = uncontrolled(pipe, output_type="latent")
        assert torch.equal(result.origin.trajectory[-1], latents[0])
    again = p2p.edit(pipe, result, GIRAFFE, p2p.Replace(), progress=False)  # its source is known
    assert np.abs(pixels(again.image) - pixels(result.image)).max() <= 1
    np.testing.assert_array_equal(pixels(again.source), pixels(result.source))


def test_the_source_of_the_embedded_transformer_is_the_plain_pipelines_to_the_bit():
    """Of 352 queries, where a CPU's kernel takes other tiles than of the small pictures here."""
    pipe = p2p.load_pipeline("toyland-transformer", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    twins = [torch.Generator().manual_seed(3) for _ in range(2)]
    run = {"num_inference_steps": 2, "guidance_scale": 4.0, "generator": twins}
    plain = pipe([CAT, GIRAFFE], **run, output_type="latent").images
    result = p2p.edit(
        pipe, CAT, GIRAFFE, p2p.Replace(), seed=3, steps=2, guidance_scale=4.0, progress=False
    )
    assert torch.equal(result.origin.trajectory[-1], plain[0])


@pytest.mark.parametrize("pixels", [112, 1024])
@pytest.mark.parametrize("first", ["text", "pixels"])
def test_rows_without_terms_are_as_ever_to_the_bit(pixels, first):
    """Beside one that is edited; also with so many queries that a CPU's kernel takes other tiles."""
    order = ("text", "pixels") if first == "text" else ("pixels", "text")
    side = (2 * pixels // 16, 32)  # sixteen cells wide
    places = Layer("0", "joint", "block", 1, 2, order).places(side, 77)
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 4, 2, pixels + 77, 64)
    terms = {3: [Term(2, {"text": "same", "pixels": "same"})]}
    plain = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    edited = attend(query, key, value, terms, places)
    assert torch.equal(edited[:3], plain[:3]) and not torch.equal(edited[3], plain[3])


WITHOUT_ROWS = {
    "self",
    "return_dict",
    "img_ids",
    "txt_ids",
    "image_rotary_emb",
    "skip_layers",
    "controlnet_blocks_repeat",
    "cross_attention_kwargs",
}
MODELS = [(family, model) for family in FAMILIES for model in getattr(family, "MODELS", ())]


@pytest.mark.parametrize(("family", "model"), MODELS, ids=lambda one: getattr(one, "__name__", ""))
def test_all_that_has_rows_is_narrowed(family, model):
    names = set(inspect.signature(model.forward).parameters) - WITHOUT_ROWS
    given = {name: torch.arange(3) for name in names}
    given |= {name: [torch.arange(3)] for name in names if "controlnet" in name}
    given |= {name: {"scale": 0.5, "ip": [torch.arange(3)]} for name in names if "kwargs" in name}
    _, narrowed = family.narrowed((), given, torch.tensor([2]), 3)
    flat = torch.utils._pytree.tree_leaves(narrowed)
    tensors = [leaf for leaf in flat if isinstance(leaf, torch.Tensor)]
    assert len(tensors) == len(names) and all(leaf.tolist() == [2] for leaf in tensors)


def test_an_attention_that_a_family_does_not_know_is_named(tmp_path):
    class Less(StableDiffusion3):
        KINDS = MappingProxyType({"attn": "joint"})

    with pytest.raises(p2p.AttentionControlError, match=r"Less .*blocks\.0\.attn2 of SD3.*KINDS"):
        Less().layers(build("sd3.5", tmp_path).transformer)


def test_guidance_that_flux_ignores_is_named(tmp_path):
    pipe = build("flux with true guidance", tmp_path)
    common = {**size(pipe), "steps": 1, "progress": False}
    asked = [
        ({"negative_prompt": "blurry"}, r"ignores negative_prompt at true_cfg_scale=1\.0.*Add"),
        ({"negative_prompt": "", "true_cfg_scale": 1}, "ignores negative_prompt"),
        ({"true_cfg_scale": 3.0}, "ignores true_cfg_scale=3.0 without a negative prompt"),
    ]
    for arguments, says in asked:
        with pytest.warns(p2p.InputWarning, match=says):
            p2p.edit(pipe, CAT, GIRAFFE, **common, **arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error", p2p.InputWarning)
        for arguments in ({}, {"negative_prompt": "", "true_cfg_scale": 3.0}):
            p2p.edit(pipe, CAT, GIRAFFE, **common, **arguments)


def test_a_prompt_that_is_too_long_names_the_encoder(tmp_path):
    pipe = build("sd3", tmp_path)
    long = "snow on the beach and " * 20
    says = "text encoder of CLIPTokenizer.* reads 77.*would not see: .*beach"
    run = {"steps": 1, "progress": False}
    for source, target, more in [
        (long, CAT, {}),
        (CAT, long, {}),
        (CAT, GIRAFFE, {"negative_prompt": long}),
    ]:
        begin = "^negative_prompt: " if more else "^The prompt has "
        with pytest.raises(p2p.PromptError, match=begin + f".*{says}"):
            p2p.edit(pipe, source, target, p2p.Refine(), **run, **more)
    with p2p.record(pipe), pytest.raises(p2p.PromptError, match=says):
        pipe(long, num_inference_steps=1)


FOUND = {
    StableDiffusion3: ("joint", ("pixels", "text"), 4),
    Flux: ("joint", ("text", "pixels"), 5),
    PixArt: ("cross", (), 3),
    HunyuanDiT: ("cross", (), 4),
    DeepFloydIF: ("added", ("text", "pixels"), 7),
}


def test_every_layer_is_found_in_its_order(pipe):
    found = layers_of(pipe)
    kind, order, count = FOUND[type(family_of(pipe))]
    reading = [layer for layer in found if layer.kind == kind]
    assert len(reading) == count and {layer.kind for layer in found} <= {kind, "self"}
    assert all(layer.order == order for layer in reading)
    assert {layer.name for layer in found} == set(family_of(pipe).model(pipe).attn_processors)


def test_the_places_of_text_and_pixels():
    layer = Layer("0", "joint", "block", 1, 4, ("pixels", "text"))
    places = layer.places((6, 10), 7)
    assert places.keys == {"pixels": slice(0, 15), "text": slice(15, 22)}
    assert (places.pixels, places.text) == (slice(0, 15), slice(15, 22))
    assert layer.keys((6, 10), 7) == 22
    added = Layer("0", "added", "up", 1, 4, ("text", "pixels")).places((6, 10), 7)
    assert added.keys == {"text": slice(0, 7), "pixels": slice(7, 22)}
    assert (added.pixels, added.text) == (slice(None), None)  # all who ask are pixels


def test_packing_is_the_pipelines_own():
    latents = torch.randn(2, 4, 6, 10)
    packed = FluxPipeline._pack_latents(latents, 2, 4, 6, 10)
    assert torch.equal(Flux().packed(latents), packed)
    assert torch.equal(Flux().unpacked(packed, (6, 10)), latents)


def test_an_error_in_any_layer_leaves_the_model_as_it_was(pipe, monkeypatch):
    def run():
        common = {**size(pipe), **extra(pipe), "seed": 3, "steps": 1, "progress": False}
        return p2p.edit(pipe, CAT, GIRAFFE, p2p.Replace(), **common)

    model = family_of(pipe).model(pipe)
    wanted, before = run(), state(pipe)
    modules = [m for m in model.modules() if hasattr(m, "set_processor")]
    for module in modules:
        own = type(module).forward

        def fail(self, *args, broken=module, own=own, **kwargs):
            if self is broken:
                raise RuntimeError("broken")
            return own(self, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(type(module), "forward", fail)
            with pytest.raises(RuntimeError, match="broken"):
                run()
        assert state(pipe) == before
    np.testing.assert_array_equal(pixels(run().image), pixels(wanted.image))


def test_local_blend_keeps_the_source_outside_the_mask(pipe):
    common = {**size(pipe), **extra(pipe), "seed": 3, "steps": STEPS, "progress": False}
    mask = np.zeros((side(pipe), side(pipe)), bool)
    mask[4:12, 2:8] = True
    seen = {}

    def keep(pipe, step, timestep, tensors):
        seen.update(tensors)
        return tensors

    blend = p2p.LocalBlend(mask=mask, start=0.0)
    p2p.edit(pipe, CAT, GIRAFFE, p2p.Replace(), local_blend=blend, callback=keep, **common)
    unpacked = family_of(pipe).unpacked(seen["latents"], mask.shape)
    differ = (unpacked[0] != unpacked[1]).any(0)
    assert differ.any() and not differ[~torch.from_numpy(mask)].any()


def test_an_object_moves_and_all_else_stays(pipe):
    high, wide = side(pipe), side(pipe) * 3 // 2
    common = {**size(pipe), **extra(pipe), "seed": 3, "steps": STEPS, "progress": False}
    common["width"] = size(pipe)["height"] * 3 // 2
    mask = np.zeros((high, wide), bool)
    mask[high // 4 : high // 2, : wide // 4] = True
    after = {}

    def keep(pipe, step, timestep, tensors):
        after[step, len(tensors["latents"])] = tensors["latents"].clone()
        return tensors

    move = p2p.Move("cat", dx=0.5, mask=mask)
    p2p.edit(pipe, CAT, CAT, move, callback=keep, **common)
    last, before = (
        family_of(pipe).unpacked(after[step, 2], (high, wide)) for step in (STEPS - 1, STEPS - 2)
    )
    differ = (last[0] != last[1]).any(0)
    assert differ.any() and not differ[: high // 4 - 2].any() and not differ[high // 2 + 2 :].any()
    there = np.roll(mask, wide // 2, 1)
    torch.testing.assert_close(before[1][:, there], before[0][:, mask])
    smaller = p2p.edit(pipe, CAT, CAT, p2p.Resize("cat", 0.5, mask=mask), **common)
    assert (pixels(smaller.image) != pixels(smaller.source)).any()


def recorded(pipe, change):
    common = {**size(pipe), **extra(pipe), "seed": 3, "steps": STEPS, "progress": False}
    return p2p.edit(pipe, CAT, GIRAFFE, change, record=True, **common)


def test_a_swapped_word_looks_where_the_old_one_looked(pipe):
    maps = recorded(pipe, p2p.Replace(cross_steps=1.0, self_steps=0.0)).maps
    rows = side(pipe) // 2
    assert maps["giraffe"].numpy().shape == (rows, rows) and maps["cat"].numpy().sum() > 0
    np.testing.assert_allclose(maps["cat"], maps["giraffe"], atol=1e-6)
    assert "beach" in maps and "zebra" not in maps


def test_the_maps_of_encoders_add_up(pipe):
    cat = recorded(pipe, p2p.Replace()).maps["cat"]
    encoders = len(readers(family_of(pipe).tokenizer(pipe, size(pipe))))
    apart = [cat.at(encoder=number) for number in range(encoders)]
    np.testing.assert_allclose(sum(heat.numpy() for heat in apart), cat, atol=1e-6)
    assert all(heat.tokens and heat.numpy().max() > 0 for heat in apart)
    with pytest.raises(p2p.InputError, match=f"has {encoders} whose tokens"):
        cat.at(encoder=encoders)
    source = cat.maps.of(0)
    parts = parts_of(cat.maps.tokenizer)
    empty = [
        source[first : first + length].numpy() for part, first, length in parts if part is None
    ]
    for whole in (source.text, source.padding):
        shares = [whole.at(encoder=number).numpy() for number in range(encoders)]
        np.testing.assert_allclose(sum(shares) + sum(empty), whole, atol=1e-6)
        assert whole.name == "padding" or all(share.min() > 0 for share in shares)
    if encoders > 1:
        with pytest.raises(p2p.InputError, match="encoder=1: 'end' has no token there"):
            cat.maps.end.at(encoder=1)


def test_a_plain_run_is_recorded(pipe):
    with p2p.record(pipe) as maps:
        # These two write all in small letters; the others' pieces here know no large ones.
        read = "A Cat on the beach" if hasattr(pipe, "_text_preprocessing") else CAT
        pipe(read, num_inference_steps=2, **size(pipe), **extra(pipe))
    assert list(maps)[1] == "cat" and maps["cat"].numpy().sum() > 0
    rows = side(pipe) // 2
    assert maps.steps == 2 and maps["beach"].numpy().shape == (rows, rows)


def test_words_start_end_and_padding_are_the_texts_share(pipe, tmp_path):
    maps = recorded(pipe, p2p.Replace()).maps
    source = maps.of(0)
    special = [source.padding.numpy()]
    parts = family_of(pipe).tokenizer(pipe, size(pipe))
    tokens = word_tokens(parts, [CAT])
    words = {token for heat in source.words for token in heat.tokens}
    rest = [maps[token].numpy() for token in tokens if token not in words]
    total = sum(heat.numpy() for heat in source.words) + sum(rest) + sum(special)
    np.testing.assert_allclose(total, maps.text, atol=1e-5)
    if KEYS[type(family_of(pipe))] == "apart":
        np.testing.assert_allclose(maps.text, 1.0, atol=1e-5)
    else:  # the rest of the attention is the pixels'
        assert 0 < maps.text.numpy().min() and maps.text.numpy().max() < 1
    maps.save(tmp_path / "maps.safetensors")
    loaded = p2p.AttentionMaps.load(tmp_path / "maps.safetensors")
    for name in ("cat", "giraffe"):
        np.testing.assert_array_equal(loaded[name], maps[name])
    np.testing.assert_array_equal(loaded.of(1).padding, maps.of(1).padding)
    with pytest.raises(p2p.InputError, match="others of a text encoder together"):
        maps[max(source.padding.tokens)].numpy()


def test_the_start_is_shown_where_there_is_one(pipe):
    """T5 has no start token: its first token is the first word's."""
    has = isinstance(family_of(pipe), (StableDiffusion3, HunyuanDiT))
    result = recorded(pipe, p2p.Replace())
    maps = result.maps
    titles = [axes.get_title() for axes in map_figures.word_maps(maps).axes]
    page = explorer._prompt(maps, 1, result.image, maps.level_layers, 0, [0])
    for shown, noun in ((titles, "cat"), (page["words"], "giraffe")):
        names = [name.split("\n")[0] for name in shown]
        assert names[: 2 + has] == [*(["start"] if has else []), "a", noun]
    assert page["words"][page["first"]] in GIRAFFE.split()
    if has:
        np.testing.assert_array_equal(maps.start, maps[0])
    else:
        with pytest.raises(p2p.InputError, match=r"no start token.*\.end"):
            _ = maps.start


def test_the_explorer_and_the_figures_take_them(pipe):
    result = recorded(pipe, p2p.Replace())
    assert "giraffe" in p2p.explore(result)._repr_html_() and result._repr_png_()
    names = map_figures.short_layer_names(result.maps.layers)
    first = ["block 0", "block 1"] if hasattr(pipe, "vae") else ["down 1.0", "down 2.0"]
    assert names[:2] == first
    assert len(set(names)) == len(names)
    for figure in (map_figures.map_forming, map_figures.layers_and_steps, map_figures.heads):
        assert figure(result.maps["giraffe"]).axes


def test_a_picture_is_inverted_and_edited(pipe, tmp_path):
    if not hasattr(pipe, "vae"):
        with pytest.raises(p2p.InversionError, match="take latents"):
            p2p.invert(pipe, photo(), CAT)
        return
    inversion = p2p.invert(pipe, photo(), CAT, steps=STEPS, progress=False)
    assert inversion.method == "direct" and inversion.pivot.shape == (STEPS + 1, 4, 16, 16)
    ceiling = pipe.vae.decode(
        pipe.vae.encode(pipe.image_processor.preprocess(photo())).latent_dist.mode(),
        return_dict=False,
    )[0]
    copy = pipe.image_processor.postprocess(ceiling.detach(), output_type="pil")[0]
    assert np.abs(pixels(inversion.reconstruction) - pixels(copy)).max() <= 1
    inversion.save(tmp_path / "picture.safetensors")
    loaded = p2p.Inversion.load(tmp_path / "picture.safetensors")
    first, second = (
        p2p.edit(pipe, source, GIRAFFE, p2p.Replace(), progress=False)
        for source in (inversion, loaded)
    )
    np.testing.assert_array_equal(pixels(first.image), pixels(second.image))
    assert np.abs(pixels(first.source) - pixels(copy)).max() <= 1
    assert (pixels(first.image) != pixels(first.source)).any()


def test_a_text_for_another_encoder_is_refused(pipe):
    if "prompt_2" in inspect.signature(pipe.__call__).parameters:
        with pytest.raises(p2p.InputError, match="one prompt for all"):
            p2p.edit(pipe, CAT, GIRAFFE, prompt_2="a cat", steps=1, progress=False)


@pytest.mark.parametrize("name", ["prompt_2", "prompt_3"])
def test_a_run_with_a_text_for_another_encoder_is_not_recorded(pipe, name):
    if name not in inspect.signature(pipe.__call__).parameters:
        pytest.skip("it takes none")
    run = {"num_inference_steps": 1, "output_type": "latent", **size(pipe)}
    with p2p.record(pipe) as maps:
        with pytest.raises(p2p.InputError, match=f"{name}='a cat': .*one prompt in all text enc"):
            pipe(CAT, **{name: "a cat"}, **run)
        pipe(CAT, **{name: [CAT]}, **run)
    assert maps["cat"].numpy().sum() > 0


def test_pictures_need_not_be_square(pipe):
    high, wide = size(pipe)["height"], size(pipe)["height"] * 3 // 2
    common = {**extra(pipe), "seed": 3, "steps": 2, "progress": False, "record": True}
    blend = p2p.LocalBlend(("cat", "giraffe"))
    result = p2p.edit(
        pipe,
        CAT,
        GIRAFFE,
        p2p.Replace(),
        local_blend=blend,
        **size(pipe) | {"width": wide},
        **common,
    )
    assert result.image.size == (wide, high)
    assert result.maps["cat"].numpy().shape == (side(pipe) // 2, side(pipe) * 3 // 4)
    assert result.masks.shape[-2:] == (side(pipe), side(pipe) * 3 // 2)


def test_half_precision(pipe):
    pipe.to(torch.bfloat16)
    try:
        common = {**size(pipe), **extra(pipe), "seed": 3, "steps": 2, "progress": False}
        result = p2p.edit(pipe, CAT, GIRAFFE, p2p.Replace(), record=True, **common)
        assert (pixels(result.image) != pixels(result.source)).any()
        assert np.isfinite(result.maps["giraffe"].numpy()).all()
    finally:
        pipe.to(torch.float32)


class LoRA(torch.nn.Module):
    """A low-rank addition to a linear layer, as adapters make it."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = torch.nn.Linear(base.in_features, 2, bias=False)
        self.up = torch.nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def test_an_adapter_acts_in_source_and_target(pipe):
    model = family_of(pipe).model(pipe)
    layer = list(family_of(pipe).layers(model).values())[2]
    base = layer.to_q
    torch.manual_seed(1)
    layer.to_q = LoRA(base)
    try:
        plain = uncontrolled(pipe)
        common = {**size(pipe), **extra(pipe), "seed": 3, "steps": STEPS, "progress": False}
        result = p2p.edit(pipe, CAT, GIRAFFE, p2p.Replace(), **common)
        np.testing.assert_array_equal(pixels(result.source), pixels(plain[0]))
        with_adapter = final(pipe, GIRAFFE, p2p.Replace())
    finally:
        layer.to_q = base
    assert (with_adapter[1] != final(pipe, GIRAFFE, p2p.Replace())[1]).any()


@pytest.mark.parametrize("kind", ["sd3", "flux"])
@pytest.mark.parametrize("way", ["LoRA", "fused projections"])
def test_what_diffusers_does_to_projections_is_kept(kind, way, tmp_path):
    own = build(kind, tmp_path)
    before = final(own, GIRAFFE, p2p.Replace())
    torch.manual_seed(1)
    if way == "LoRA":
        peft = pytest.importorskip("peft")
        where = ["to_q", "to_v", "add_k_proj"]
        own.transformer.add_adapter(
            peft.LoraConfig(r=2, target_modules=where, init_lora_weights=False)
        )
    else:
        own.transformer.fuse_qkv_projections()
    plain = uncontrolled(own)
    common = {**size(own), "seed": 3, "steps": STEPS, "progress": False}
    result = p2p.edit(own, CAT, GIRAFFE, p2p.Replace(), **common)
    np.testing.assert_array_equal(pixels(result.source), pixels(plain[0]))
    after = final(own, GIRAFFE, p2p.Replace())
    wrong = ((after - before).abs().max() / before.std()).item()
    assert (wrong > 1e-2) if way == "LoRA" else (wrong < 1e-4)


def test_skip_layer_guidance_is_the_pipelines_own(tmp_path):
    pipe = build("sd3", tmp_path)
    skip = {"skip_guidance_layers": [1, 2], "skip_layer_guidance_start": 0.0}
    skip |= {"skip_layer_guidance_stop": 1.0}
    plain, without = uncontrolled(pipe, **skip), uncontrolled(pipe)
    common = {**size(pipe), "seed": 3, "steps": STEPS, "progress": False}
    result = p2p.edit(pipe, CAT, GIRAFFE, p2p.Replace(), **common, **skip)
    np.testing.assert_array_equal(pixels(result.source), pixels(plain[0]))
    assert (pixels(plain[0]) != pixels(without[0])).any()
    again = p2p.edit(pipe, result, GIRAFFE, p2p.Replace(), progress=False)
    assert np.abs(pixels(again.image) - pixels(result.image)).max() <= 1


def test_skip_layer_guidance_keeps_the_prompts_beside_a_null_text(tmp_path):
    """Its second call has prompts alone: the null text is in none of its rows."""
    pipe = build("sd3", tmp_path)
    skip = {"skip_guidance_layers": [1, 2], "skip_layer_guidance_start": 0.0}
    skip |= {"skip_layer_guidance_stop": 1.0}
    how = {"method": "null-text", "steps": 2, "inner_steps": 1, "guidance_scale": 4.0}
    inversion = p2p.invert(pipe, photo(), CAT, progress=False, **how)
    null = inversion.null.float()
    seen, forward = [], pipe.transformer.forward

    def watch(*args, encoder_hidden_states=None, **kwargs):
        seen.append(encoder_hidden_states.float().clone())
        return forward(*args, encoder_hidden_states=encoder_hidden_states, **kwargs)

    pipe.transformer.forward = watch
    p2p.edit(pipe, inversion, GIRAFFE, p2p.Replace(), progress=False, **skip)
    assert [len(words) for words in seen] == [4, 4, 2]  # from its second step on
    guided, alone = seen[1:]
    torch.testing.assert_close(guided[:2], null[1].expand(2, -1, -1), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(alone, guided[2:])


def _controlled(kind: str, folder: Path):
    """A pipeline with a ControlNet of its own network, whose outputs are not zeros as at first, and its argument's name."""
    if kind == "sd1":
        pipe = pipelines.build(kind, folder)
        net, made = ControlNetModel.from_unet(pipe.unet), StableDiffusionControlNetPipeline
    else:
        pipe = build(kind, folder)
        model, sizes = pipe.transformer, {"num_layers": 2, "num_extra_conditioning_channels": 0}
        kinds = SD3ControlNetModel, StableDiffusion3ControlNetPipeline
        if kind == "flux":
            heads = ("attention_head_dim", "num_attention_heads")
            sizes = {"num_layers": 1, "num_single_layers": 1}
            sizes |= {name: model.config[name] for name in heads}
            kinds = FluxControlNetModel, FluxControlNetPipeline
        net, made = kinds[0].from_transformer(model, **sizes), kinds[1]
    torch.manual_seed(1)
    for weight in net.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.3)
    more = {"requires_safety_checker": False} if kind == "sd1" else {}
    pipe = made(**pipe.components, controlnet=net.eval(), **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe, "image" if kind == "sd1" else "control_image"


@pytest.mark.parametrize("kind", ["sd1", "sd3", "flux"])
def test_an_edit_runs_beside_a_controlnet(kind, tmp_path):
    pipe, name = _controlled(kind, tmp_path)
    common = {**size(pipe), "guidance_scale": 4.0}

    def plain(**more):
        torch.manual_seed(0)  # Stable Diffusion 3's encodes its picture at random
        twins = [torch.Generator().manual_seed(3) for _ in range(2)]
        how = {"generator": twins, "num_inference_steps": STEPS, name: [photo()] * 2}
        return pipe([CAT, GIRAFFE], **how, **common, **more).images

    def edited(source, **more):
        torch.manual_seed(0)
        how = {"record": True, "local_blend": ("cat", "giraffe"), "progress": False}
        return p2p.edit(pipe, source, GIRAFFE, p2p.Replace(), **how, **more)

    sources = plain()
    result = edited(CAT, seed=3, steps=STEPS, **{name: photo()}, **common)
    np.testing.assert_array_equal(pixels(result.source), pixels(sources[0]))
    assert (pixels(sources[0]) != pixels(plain(controlnet_conditioning_scale=0.0)[0])).any()
    assert np.abs(pixels(edited(result).image) - pixels(result.image)).max() <= 1
    assert "giraffe" in result.maps and result.masks.any()


def test_deepfloyds_up_scaler_takes_an_edits_pictures(tmp_path):
    """It is another pipeline, which runs on after the edit as diffusers does it."""
    pipe = build("deepfloyd", tmp_path)
    common = {**size(pipe), "seed": 3, "steps": STEPS, "progress": False}
    result = p2p.edit(pipe, CAT, GIRAFFE, p2p.Replace(), **common)
    torch.manual_seed(0)
    sizes = {"in_channels": 6, "class_embed_type": "timestep", "sample_size": 64}
    larger = UNet2DConditionModel.from_config(pipe.unet.config, **sizes).eval()
    parts = pipe.components | {"unet": larger, "image_noising_scheduler": DDPMScheduler()}
    upper = IFSuperResolutionPipeline(**parts, requires_safety_checker=False)
    upper.set_progress_bar_config(disable=True)
    twins = [torch.Generator().manual_seed(3) for _ in range(2)]
    both = [result.source, result.image]
    large = upper([CAT, GIRAFFE], image=both, generator=twins, num_inference_steps=STEPS).images
    assert [image.size for image in large] == [(64, 64)] * 2
    assert (pixels(large[0]) != pixels(large[1])).any()


def test_pixart_alphas_sizes_have_rows(tmp_path):
    """They are told to the model beside the text, in added_cond_kwargs."""
    parts = build("pixart", tmp_path).components
    torch.manual_seed(0)
    own = {"attention_head_dim": 24, "cross_attention_dim": 96, "sample_size": 128}
    own["use_additional_conditions"] = True
    model = PixArtTransformer2DModel.from_config(parts["transformer"].config, **own)
    pipe = PixArtAlphaPipeline(**{**parts, "transformer": model.eval()})
    pipe.set_progress_bar_config(disable=True)
    plain = uncontrolled(pipe)
    common = {**size(pipe), "seed": 3, "steps": STEPS, "progress": False}
    result = p2p.edit(pipe, CAT, GIRAFFE, p2p.Replace(), **common)
    np.testing.assert_array_equal(pixels(result.source), pixels(plain[0]))
    again = p2p.edit(pipe, result, GIRAFFE, p2p.Replace(), progress=False)
    assert np.abs(pixels(again.image) - pixels(result.image)).max() <= 1


def test_flux_kontext_is_refused_where_it_shows_a_picture(tmp_path):
    parts = build("flux", tmp_path).components
    pipe = FluxKontextPipeline(**parts)
    run = {"height": 128, "width": 128, "max_area": 128**2, "_auto_resize": False}
    with pytest.raises(p2p.AttentionControlError, match="Flux Kontext"):
        p2p.edit(pipe, CAT, GIRAFFE, image=photo(), steps=1, progress=False, **run)


@pytest.mark.parametrize("method", ["ddim", "negative-prompt"])
def test_diffusion_transformers_are_inverted_by_ddim_too(pipe, method):
    if family_of(pipe).flow or not hasattr(pipe, "vae"):
        pytest.skip("the model of a flow, or none that can be inverted")
    run = {"steps": STEPS, "progress": False}
    found = p2p.invert(pipe, photo(), CAT, method=method, guidance_scale=3.0, **run)
    alone = p2p.invert(pipe, photo(), CAT, method="ddim", guidance_scale=1.0, **run)
    assert torch.equal(found.pivot, alone.pivot)
    apart = np.abs(pixels(found.reconstruction) - pixels(alone.reconstruction)).max()
    assert (apart <= 1) == (method == "negative-prompt")  # between equal prompts is no guidance
    result = p2p.edit(pipe, found, GIRAFFE, p2p.Replace(), progress=False)
    assert np.abs(pixels(result.source) - pixels(found.reconstruction)).max() <= 1
    assert (pixels(result.image) != pixels(result.source)).any()
    for other in ("null-text", "exact"):
        with pytest.raises(p2p.InversionError, match="Take method='direct'"):
            p2p.invert(pipe, photo(), CAT, method=other, **run)


def test_an_inverted_picture_need_not_be_square(pipe):
    if not hasattr(pipe, "vae"):
        pytest.skip("it cannot be inverted")
    wide = photo().resize((192, 128))
    found = p2p.invert(pipe, wide, CAT, steps=2, progress=False)
    assert found.pivot.shape == (3, 4, 16, 24) and found.reconstruction.size == (192, 128)
    result = p2p.edit(pipe, found, GIRAFFE, p2p.Replace(), record=True, progress=False)
    assert np.abs(pixels(result.source) - pixels(found.reconstruction)).max() <= 1
    assert result.maps["giraffe"].numpy().shape == (8, 12)


def test_joint_attention_has_no_map_between_pixels(pipe):
    maps = recorded(pipe, p2p.Replace()).maps
    if KEYS[type(family_of(pipe))] == "apart" or any(x.kind == "self" for x in layers_of(pipe)):
        assert maps["cat"].refine((32, 32)).shape == (32, 32)
        return
    for look in (lambda: maps.self_attention, lambda: maps["cat"].refine((32, 32))):
        with pytest.raises(p2p.InputError, match=r"joint attention .*upsample\(size\)"):
            look()


def in_groups(model):
    cpu = torch.device("cpu")
    model.enable_group_offload(onload_device=cpu, offload_device=cpu, offload_type="leaf_level")


@pytest.mark.parametrize(
    "leave",
    [lambda model: accelerate.cpu_offload(model, execution_device=torch.device("cpu")), in_groups],
    ids=["layer by layer", "in groups"],
)
def test_a_model_that_is_elsewhere_between_its_calls(pipe, leave):
    name = "unet" if hasattr(pipe, "unet") else "transformer"
    here = getattr(pipe, name)
    if not here._supports_group_offloading:  # a parameter of the whole model (HunyuanDiT)
        pytest.skip("diffusers cannot offload it")
    wanted = final(pipe, GIRAFFE, p2p.Replace())
    away = copy.deepcopy(here)
    try:
        leave(away)
    except AttributeError:
        pytest.skip("older diffusers groups layers with a GPU only")
    try:
        setattr(pipe, name, away)
        got = final(pipe, GIRAFFE, p2p.Replace())
        maps = recorded(pipe, p2p.Replace()).maps
    finally:
        setattr(pipe, name, here)
    assert torch.equal(got, wanted) and maps["giraffe"].numpy().sum() > 0


def test_an_edit_in_some_layers_only(pipe):
    names = [layer.name for layer in layers_of(pipe)]
    second = [name for name in names if layers_of(pipe)[0].name.split(".")[0] in name][1]
    free = final(pipe, GIRAFFE, p2p.Replace(cross_steps=0.0, self_steps=0.0))
    whole = final(pipe, GIRAFFE, p2p.Replace())
    some = final(pipe, GIRAFFE, p2p.Replace(layers=second))
    assert not torch.equal(some, free) and not torch.equal(some, whole)
    assert torch.equal(final(pipe, GIRAFFE, p2p.Replace(layers=names)), whole)
    assert torch.equal(final(pipe, GIRAFFE, p2p.Replace(layers=())), free)
    with pytest.raises(p2p.InputError, match=f"There are: {names[0]}"):
        final(pipe, GIRAFFE, p2p.Replace(layers="nowhere"))


def test_parts_of_names_are_whole_from_dot_to_dot():
    layers = [
        Layer(f"{blocks}.{number}.attn.processor", "joint", "block", 1, 2, ("text", "pixels"))
        for blocks in ("transformer_blocks", "single_transformer_blocks")
        for number in (0, 1, 10, 11)
    ]

    def chosen(*parts):
        return [layer.name.split(".attn")[0] for layer in layers if layer.within(parts)]

    assert chosen("transformer_blocks.1") == ["transformer_blocks.1"]
    assert chosen("transformer_blocks.1.") == ["transformer_blocks.1"]
    assert len(chosen("transformer_blocks")) == 4 and len(chosen("attn")) == 8
    assert chosen("blocks.1", "transformer", "tt", "") == []


@pytest.mark.parametrize(
    ("kind", "deeper", "blocks"),
    [
        ("sd3", {"num_layers": 24}, [4, 5, 7, 8, 9]),
        ("sd3.5", {"num_layers": 24}, [5, 7, 8, 9, 10]),
        ("sd3", {"num_layers": 38}, [16, 18, 20, 21, 24]),
        ("flux", {"num_layers": 19, "num_single_layers": 38}, [11, 12, 14, 17, 18]),
        ("chroma", {"num_layers": 19, "num_single_layers": 38}, None),
    ],
)
def test_figures_and_masks_use_the_blocks_with_the_clearest_maps(kind, deeper, blocks, tmp_path):
    deep = build(kind, tmp_path, **deeper)
    blend = p2p.LocalBlend(("cat", "giraffe"), start=0.0, threshold=0.9)
    common = {**size(deep), **extra(deep), "steps": 1, "progress": False, "record": True}
    result = p2p.edit(deep, CAT, GIRAFFE, local_blend=blend, **common)
    names = result.maps.level_layers
    clear = [layer.name for layer in layers_of(deep) if layer.clear and layer.reads_text]
    assert names == clear
    if blocks is None:
        assert len(names) == 19 + 38
    else:
        assert names == [f"transformer_blocks.{number}.attn.processor" for number in blocks]
    cat = result.maps["cat"]
    several = np.mean([cat.at(layer=name).numpy() for name in names], axis=0)
    np.testing.assert_allclose(cat, several, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(cat.at(step=0), several, rtol=1e-4, atol=1e-7)
    mask = np.zeros((1, 1, side(deep), side(deep)), bool)
    for heat in (cat, result.maps["giraffe"]):
        wide = torch.nn.functional.max_pool2d(heat.tensor()[None], 3, stride=1, padding=1)
        mask |= np.kron(wide > 0.9 * wide.max(), np.ones((2, 2))).astype(bool)
    assert np.array_equal(result.masks, mask)
    others = [name for name in result.maps.layers if name not in names]
    assert all(np.abs(cat.at(layer=name).numpy() - several).max() > 0 for name in others)
    assert cat.at(layer="transformer_blocks.1").layer == "transformer_blocks.1.attn.processor"
    wide = [cat.at(layer=name).upsample((32, 32)) for name in names]
    torch.testing.assert_close(cat.fused((32, 32)), torch.stack(wide).mean(0))


@pytest.mark.parametrize("kind", ["sd3", "flux", "chroma", "pixart", "hunyuan", "deepfloyd"])
def test_a_saved_model_of_each_family_is_loaded_and_edits(kind, tmp_path):
    made = build(kind, tmp_path)
    made.save_pretrained(tmp_path / "saved")
    pipe = p2p.load_pipeline(str(tmp_path / "saved"), device="cpu")
    assert type(pipe) is type(made)
    run = {**size(pipe), **extra(pipe), "steps": 1, "progress": False}
    assert p2p.edit(pipe, CAT, GIRAFFE, **run).image.size


@pytest.mark.parametrize("kind", ["pixart", "hunyuan"])
def test_a_size_that_the_pipeline_would_round_is_refused(kind, tmp_path):
    pipe = build(kind, tmp_path)
    given = {"height": 128, "width": 128, "steps": 1, "progress": False}
    with pytest.raises(p2p.InputError, match="give use_resolution_binning=False"):
        p2p.edit(pipe, CAT, GIRAFFE, **given)
    result = p2p.edit(pipe, CAT, GIRAFFE, use_resolution_binning=False, **given)
    assert result.image.size == (128, 128)


@pytest.mark.parametrize("kind", ["sd3", "flux", "chroma"])
def test_latents_have_the_size_that_is_made(kind, tmp_path):
    pipe = build(kind, tmp_path)
    given = {**size(pipe), **extra(pipe), "steps": 1, "progress": False}
    latents = family_of(pipe).packed(torch.randn(1, pipe.vae.config.latent_channels, 16, 24))
    fits = given | {"height": 128, "width": 192}
    assert p2p.edit(pipe, CAT, GIRAFFE, latents=latents, **fits).image.size == (192, 128)
    with pytest.raises(p2p.InputError, match="do not fit height=128, width=128"):
        p2p.edit(pipe, CAT, GIRAFFE, latents=latents, **given)
    del given["height"], given["width"]
    if latents.dim() == 3:  # packed ones do not say their sides
        with pytest.raises(p2p.InputError, match="Give the height and width that they are of"):
            p2p.edit(pipe, CAT, GIRAFFE, latents=latents, **given)
    else:
        assert p2p.edit(pipe, CAT, GIRAFFE, latents=latents, **given).image.size == (192, 128)
        with pytest.raises(p2p.InputError, match="latent pixels, both even"):
            p2p.edit(pipe, CAT, GIRAFFE, latents=latents[:, :, 1:], **given)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_a_flow_whose_noise_the_seed_does_not_decide_is_warned_of(kind, tmp_path):
    pipe = build(kind, tmp_path)
    own = pipe.scheduler
    others = [
        type(own).from_config(own.config, stochastic_sampling=True),
        FlowMatchLCMScheduler.from_config(own.config),
    ]
    for pipe.scheduler in others:
        with pytest.warns(p2p.InputWarning, match="noise that the seed does not decide"):
            p2p.edit(pipe, CAT, GIRAFFE, **size(pipe), **extra(pipe), steps=1, progress=False)


def test_steps_heads_and_layers_average_to_the_mean(pipe):
    maps = recorded(pipe, p2p.Replace()).maps
    cat = maps["cat"]
    steps = sum(cat.at(step=step).numpy() for step in range(STEPS)) / STEPS
    heads = sum(cat.at(head=head).numpy() for head in range(maps.heads)) / maps.heads
    layers = sum(cat.at(layer=layer).numpy() for layer in maps.level_layers)
    layers /= len(maps.level_layers)
    for mean in (steps, heads, layers):
        np.testing.assert_allclose(mean, cat, rtol=1e-4, atol=1e-6)
    assert not np.allclose(cat.at(step=0), cat.at(step=-1), rtol=1e-3)
    if hasattr(pipe, "vae"):  # dozens of layers of one size: their steps are kept together
        with pytest.raises(p2p.InputError, match="was not kept"):
            cat.at(step=1, layer=0)
