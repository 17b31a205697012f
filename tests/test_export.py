"""ONNX files in which an edit is data: a small sampler over them gives the pictures of `p2p.edit`."""

import builtins
import functools
import json

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import p2p_helpers as p2p
from p2p_helpers.exporting import files
from p2p_helpers.exporting.parts import Denoiser, TextEncoder

from .pipelines import DDIM, build

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
CAT, DOG, BOTH = "a cat on the beach", "a dog on the beach", "a red cat on the beach at night"
STEPS = 4
EDITS = [
    (DOG, p2p.Replace()),
    ("a snowman on the beach", p2p.Replace(cross_steps=0.5, self_steps=(0.25, 1.0))),
    (DOG, p2p.Replace() | p2p.Reweight({"dog": 3.0}, cross_steps=1.0)),
    (BOTH, p2p.Refine(cross_steps={"default": 0.8, "night": 0.2})),
    (CAT, p2p.Reweight({"beach": -2.0})),
    (DOG, p2p.Replace(self_size=0.5)),
]


@pytest.fixture(scope="module")
def exported(toyland, tmp_path_factory):
    """The embedded model's folder, and what its model.json says."""
    folder = tmp_path_factory.mktemp("export")
    return folder, p2p.export(toyland, folder)


@pytest.fixture(scope="module")
def sd1(tmp_path_factory):
    """A small Stable Diffusion 1 with random weights, and DDIM, which an exported model has."""
    pipe = build("sd1", tmp_path_factory.mktemp("sd1"))
    pipe.scheduler = DDIMScheduler(**DDIM)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@functools.cache
def opened(folder):
    return {file.stem: onnxruntime.InferenceSession(str(file)) for file in folder.glob("*.onnx")}


def sampled(pipe, folder, targets, edits, seed=3, guidance=4.0):
    """Pictures and mean maps of the files alone; edits are matrices and limits, nothing else."""
    said, parts = json.loads((folder / "model.json").read_text()), opened(folder)
    prompts, steps = [CAT, *targets], STEPS
    length, rows = said["text"][0], 2 * (1 + len(targets))
    tokens = pipe.tokenizer(
        [""] * len(prompts) + prompts, padding="max_length", max_length=length, return_tensors="np"
    )
    (text,) = parts["text"].run(None, {"tokens": tokens.input_ids.astype(np.int64)})
    eye, first = np.eye(length, dtype=np.float32), len(prompts)
    s = np.zeros((steps, rows, length, length), np.float32)
    t = np.broadcast_to(eye, s.shape).copy()
    limit = np.zeros((steps, rows), np.float32)
    for row, (prompt, edit) in enumerate(zip(targets, edits, strict=True), start=first + 1):
        s[:, row], t[:, row] = (
            m.numpy() for m in edit.matrices(pipe.tokenizer, CAT, prompt, steps)
        )
        size = said["self_pixels"]
        if edit.self_size is not None:
            size = np.prod([np.ceil(side * edit.self_size) for side in said["latent"][1:]])
        limit[:, row] = edit.self_schedule(steps).numpy() * size
    lender = np.array([*range(first), *[first] * first], dtype=np.int64)
    noise = torch.randn(1, *said["latent"], generator=torch.Generator().manual_seed(seed)).numpy()
    x, maps, times = np.repeat(noise, first, 0), 0, len(said["noise"]["alphas"])
    for step in range(steps):
        time = (steps - 1 - step) * (times // steps) + said["noise"]["offset"]
        given = {"latents": np.concatenate([x, x]), "timestep": np.float32([time]), "text": text}
        given |= {"lender": lender, "s": s[step], "t": t[step], "limit": limit[step]}
        found, seen = parts["unet"].run(None, given)
        found = found[:first] + guidance * (found[first:] - found[:first])
        a = said["noise"]["alphas"][time]
        after = time - times // steps
        b = said["noise"]["alphas"][after] if after >= 0 else said["noise"]["final_alpha"]
        clean = (x - (1 - a) ** 0.5 * found) / a**0.5
        x = (b**0.5 * clean + (1 - b) ** 0.5 * found).astype(np.float32)
        maps = maps + seen[first:] / steps
    (pictures,) = parts["decoder"].run(None, {"latents": x})
    return np.round(255 * pictures).transpose(0, 2, 3, 1), maps


def compared(pipe, folder, targets, edits):
    """Pictures and maps of the files and of `p2p.edit`."""
    given = {"seed": 3, "steps": STEPS, "guidance_scale": 4.0, "record": True, "progress": False}
    result = p2p.edit(pipe, CAT, list(targets), list(edits), **given)
    pictures, maps = sampled(pipe, folder, targets, edits)
    wanted = np.stack([np.asarray(image) for image in (result.source, *result.images)])
    assert np.abs(pictures - wanted).max() <= 1
    for row in range(1 + len(targets)):
        for heat in result.maps.of(row).words:
            mine = maps[row, list(heat.tokens)].sum(0)
            np.testing.assert_allclose(mine, heat.numpy(), atol=2e-3 * max(1, mine.max()))


def test_every_edit_gives_the_picture_and_the_maps_of_python(toyland, exported):
    for target, edit in EDITS:
        compared(toyland, exported[0], [target], [edit])


def test_several_targets_and_a_stable_diffusion(sd1, tmp_path):
    said = p2p.export(sd1, tmp_path)
    assert said["self_pixels"] == 256 and said["text"][0] == 77 and not said["known_words"]
    compared(sd1, tmp_path, [DOG, BOTH], [p2p.Replace(self_size=0.5), p2p.Refine()])


def test_the_encoder_gives_the_latent_of_an_inversion(toyland, exported):
    picture = p2p.edit(toyland, CAT, DOG, seed=3, steps=2, progress=False).source
    inversion = p2p.invert(toyland, picture, CAT, method="direct", steps=2, progress=False)
    pixels = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255
    (latent,) = opened(exported[0])["encoder"].run(None, {"pictures": pixels})
    np.testing.assert_allclose(latent, inversion.pivot[-1:].numpy(), atol=1e-4)


def test_half_precision_weights_are_stored_so_and_lose_nothing(toyland, exported):
    weights = sum(w.numel() for w in toyland.unet.parameters())
    assert exported[1]["files"]["unet.onnx"]["bytes"] < 2.1 * weights
    assert exported[1]["files"]["unet.onnx"]["difference"] < 1e-4
    graph = onnx.load(exported[0] / "text.onnx").graph
    table = toyland.text_encoder.get_input_embeddings().weight.detach().half().numpy()
    stored = [onnx.numpy_helper.to_array(weight) for weight in graph.initializer]
    assert any(one.shape == table.shape and (one == table).all() for one in stored)


def test_the_pipeline_is_as_it_was(toyland, exported):
    assert {type(p).__name__ for p in toyland.unet.attn_processors.values()} == {"AttnProcessor2_0"}
    assert not any("forward" in vars(module) for module in toyland.unet.modules())


def test_a_file_that_computes_something_else_is_refused(toyland, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_halve", lambda graph: graph.node[-1].CopyFrom(graph.node[0]))
    with pytest.raises((p2p.ModelError, onnxruntime.capi.onnxruntime_pybind11_state.Fail)):
        files.write(TextEncoder(toyland, 32), tmp_path / "text.onnx", rows=2)

    def louder(graph):
        for weight in graph.initializer:
            values = onnx.numpy_helper.to_array(weight)
            if values.dtype == np.float32:
                changed = onnx.numpy_helper.from_array(values * np.float32(1.01), weight.name)
                weight.CopyFrom(changed)

    monkeypatch.setattr(files, "_halve", louder)
    with pytest.raises(p2p.ModelError, match=r"text differ from torch's by .* deviation"):
        files.write(TextEncoder(toyland, 32), tmp_path / "text.onnx", rows=2)


def test_models_that_read_something_else_are_refused(tmp_path):
    refiner = build("sdxl", tmp_path / "tokenizer")
    refiner.text_encoder = None
    with pytest.raises(
        p2p.ModelError, match="XLPipeline cannot be exported.*latents, time and text"
    ):
        p2p.export(refiner, tmp_path)
    sd1 = build("sd1", tmp_path / "tokenizer1")
    sd1.unet.register_to_config(in_channels=9)  # an inpainting model's
    with pytest.raises(p2p.ModelError, match="latents, time and text"):
        p2p.export(sd1, tmp_path / "out")
    sd1.unet.register_to_config(in_channels=4)
    sd1.scheduler = type(sd1.scheduler).from_config(
        sd1.scheduler.config, timestep_spacing="trailing"
    )
    with pytest.raises(p2p.ModelError, match="trailing"):
        p2p.export(sd1, tmp_path / "out")
    assert not (tmp_path / "out").exists()  # at once, before anything is written


def test_an_xl_in_two_files_a_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 100_000)
    pipe, folder = build("sdxl", tmp_path / "tokenizer"), tmp_path / "xl"
    said = p2p.export(pipe, folder)
    assert {"unet.onnx", "unet.onnx.data", "text.onnx.data"} <= said["files"].keys()
    assert said["pooled"] == pipe.text_encoder_2.config.projection_dim
    parts, prompts = opened(folder), [CAT, DOG]
    ids = [
        tokenizer(prompts, padding="max_length", max_length=77, return_tensors="np").input_ids
        for tokenizer in (pipe.tokenizer, pipe.tokenizer_2)
    ]
    given = {
        name: one.astype(np.int64) for name, one in zip(("tokens", "tokens_2"), ids, strict=True)
    }
    text, pooled = parts["text"].run(None, given)
    wanted = pipe.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=False)
    np.testing.assert_allclose(text, wanted[0].detach().numpy(), atol=1e-4)
    np.testing.assert_allclose(pooled, wanted[2].detach().numpy(), atol=1e-4)
    assert (folder / "tokenizer_2" / "tokenizer_config.json").exists()
    again = p2p.export(pipe, folder)  # over what is there
    assert again["files"]["unet.onnx.data"] == said["files"]["unet.onnx.data"]


def test_a_missing_library_is_named(toyland, tmp_path, monkeypatch):
    found = builtins.__import__

    def without(name, *args, **more):
        if name == "onnxruntime":
            raise ImportError("no such module", name=name)
        return found(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(p2p.ModelError, match=r"onnxruntime is not .*p2p-helpers\[export\]"):
        p2p.export(toyland, tmp_path)


def test_a_folder_that_is_a_file_is_refused(toyland, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(p2p.InputError, match="cannot be written"):
        p2p.export(toyland, tmp_path / "file")


def test_a_row_that_asks_for_nothing_is_the_models_own(toyland):
    denoiser = Denoiser(toyland, (16, 16), 32)
    latents, time, text, _, _, _, _ = denoiser.example(3)
    idle = (torch.arange(3), torch.zeros(3, 32, 32), torch.eye(32).repeat(3, 1, 1), torch.zeros(3))
    with torch.no_grad():
        found, _ = denoiser(latents, time, text, *idle)
        wanted = toyland.unet(latents, time, text).sample
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=0)


def test_maps_are_of_the_layers_that_figures_average(toyland):
    denoiser = Denoiser(toyland, (16, 16), 32)
    with torch.no_grad():
        noise, maps = denoiser(*denoiser.example(2))
    assert noise.shape == (2, 8, 16, 16) and maps.shape == (2, 32, 16, 16)
    assert len(denoiser.asked.maps) == 3
