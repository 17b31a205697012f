"""The embedded model and its judge, as shipped."""

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusion3Pipeline, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

import p2p_helpers as p2p
from p2p_helpers.errors import ModelError
from p2p_helpers.metrics import psnr
from p2p_helpers.paths import data_folder
from p2p_helpers.pipelines import EMBEDDED
from p2p_helpers.prompts.offsets import with_offsets
from p2p_helpers.toyland import Scene, Thing, load_reader, render, scene_at
from p2p_helpers.toyland.evaluate import (
    NO_CONTROL,
    RECOMMENDED,
    agreement,
    autoencoder_psnr,
    judge_swaps,
    swap_cases,
)
from p2p_helpers.toyland.tokenizer import write_tokenizer


@pytest.fixture(scope="module")
def reader():
    return load_reader()


def test_the_reader_reads_painted_scenes(reader):
    scenes = [scene_at("test", i) for i in range(5000, 5100)]
    right = agreement(scenes, reader.read([render(s)[0] for s in scenes]))
    assert min(v for k, v in right.items() if k != "scenes") >= 0.95


def test_the_reader_says_where(reader):
    image, _ = render(Scene((Thing("apple", x=32, size=56), Thing("panda", x=96, size=56)), seed=1))
    left, right = reader.read([image])[0].objects
    assert (left.name, right.name) == ("apple", "panda")
    assert left.box[2] <= 72 <= right.box[0] + 16


def test_the_reader_refuses_other_sizes(reader):
    with pytest.raises(ValueError, match="128×128"):
        reader.read([Image.new("RGB", (64, 64))])


def test_it_is_a_stable_diffusion_pipeline(toyland, tmp_path):
    assert type(toyland) is StableDiffusionPipeline
    write_tokenizer(tmp_path)
    shipped = json.loads(with_offsets(toyland.tokenizer).backend_tokenizer.to_str())[
        "model"
    ]  # the shipped tokenizer is the one the code writes
    assert shipped["vocab"] == json.loads((tmp_path / "vocab.json").read_text())
    merges = (tmp_path / "merges.txt").read_text().splitlines()[1:]
    assert [
        " ".join(pair) if isinstance(pair, list) else pair for pair in shipped["merges"]
    ] == merges


def test_the_transformer_has_the_shape_of_stable_diffusion_3():
    pipe = p2p.load_pipeline("toyland-transformer", device="cpu")
    assert type(pipe) is StableDiffusion3Pipeline and pipe.text_encoder_3 is None
    assert pipe.transformer.dtype == torch.float32


def test_the_autoencoder_keeps_a_picture(toyland):
    assert autoencoder_psnr(toyland, [render(scene_at("test", i))[0] for i in range(8)]) > 27


def test_latents_have_unit_scale(toyland):
    pictures = np.stack([np.asarray(render(scene_at("test", i))[0]) for i in range(32)])
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latents = toyland.vae.encode(pixels).latent_dist.mode()
    assert latents.std() == pytest.approx(1, abs=0.1)
    assert abs(latents.mean()) < 0.1


@pytest.mark.parametrize("name", EMBEDDED)
def test_no_control_moves_things_and_word_swap_keeps_them(name, reader):
    """On the first far swaps of the validation split; the model card has it on more of the test split."""
    cases, pipe = swap_cases(6, far=True, split="validation"), p2p.load_pipeline(name, device="cpu")
    alone, swapped, blended = (
        judge_swaps(pipe, reader, cases, change, local_blend, steps=12)
        for change, local_blend in (
            (NO_CONTROL, False),
            (RECOMMENDED, False),
            (RECOMMENDED, True),
        )
    )
    assert alone["overlap"] < swapped["overlap"]
    assert swapped["background"] > alone["background"] + 1
    assert blended["background"] > swapped["background"]
    assert min(made["seen"] for made in (alone, swapped, blended)) > 0.6


def test_a_result_shows_itself(toyland):
    result = p2p.edit(toyland, "a cat on the beach", "a dog on the beach", steps=2, progress=False)
    assert result._repr_png_().startswith(b"\x89PNG")
    assert len(p2p.show(result).axes) == 4  # three panels and a colour bar


def test_psnr_of_known_errors():
    a = np.zeros((8, 8, 3), np.uint8)
    assert psnr(a, a) == 60
    assert psnr(a, a + 255) == pytest.approx(0)
    assert psnr(a, a + 51) == pytest.approx(13.979, abs=1e-3)
    with pytest.raises(ValueError, match="no pixel"):
        psnr(a, a, np.zeros((8, 8), bool))


def test_psnr_takes_pictures_and_masks_as_they_come():
    a = np.zeros((8, 8, 3), np.uint8)
    b = a.copy()
    b[:, :4] = 51
    right = np.arange(8)[None] >= 4 + np.zeros((8, 1), int)
    assert psnr(Image.fromarray(a), b) == psnr(a, Image.fromarray(b)) == psnr(a, b)
    assert psnr(a, b, right) == psnr(a, b, right.astype(int)) == 60
    assert psnr(a, b, Image.fromarray(~right)) == pytest.approx(13.979, abs=1e-3)


BLACK = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize(
    ("others", "says"),
    [
        ((np.ones((8, 8, 3)),), "not float64 arrays.*255"),
        ((BLACK.astype(int),), "not int64"),
        ((BLACK[:4],), r"\(8, 8, 3\) and \(4, 8, 3\)"),
        ((BLACK[:1, :1],), "one size"),
        ((BLACK[..., 0],), "one size"),
        (("fox.png",), "load_image"),
        ((torch.zeros(8, 8, 3),), "load_image"),
        ((BLACK, np.ones((4, 8), bool)), r"mask is \(4, 8\)"),
        ((BLACK, "mask.png"), "Image.open"),
    ],
)
def test_psnr_refuses_what_has_no_such_number(others, says):
    with pytest.raises(p2p.InputError, match=says):
        psnr(BLACK, *others)


@pytest.mark.parametrize(
    "part, rename",
    [
        ("text_encoder/model", lambda key: f"other.{key}"),
        ("text_encoder/model", lambda key: key.replace("layers.0", "layers.9")),
        ("unet/diffusion_pytorch_model", lambda key: key.replace("mid_block", "middle")),
        ("vae/diffusion_pytorch_model", lambda key: key.replace("conv_out.bias", "conv_out.shift")),
    ],
)
def test_weights_under_strange_names_are_an_error(tmp_path, monkeypatch, part, rename):
    """Without this, a part would start from random weights, and every picture would be noise."""
    shutil.copytree(data_folder("toyland") / "pipeline", tmp_path / "pipeline")
    file = tmp_path / "pipeline" / f"{part}.safetensors"
    save_file(
        {rename(key): value for key, value in load_file(file).items()},
        file,
        metadata={"format": "pt"},
    )
    monkeypatch.setattr("p2p_helpers.pipelines.data_folder", lambda name: tmp_path)
    monkeypatch.setattr("p2p_helpers.pipelines.verify_files", lambda folder: None)
    with pytest.raises(
        ModelError, match=f"does not know the weights of the embedded model's {part.split('/')[0]}"
    ):
        p2p.load_pipeline()


@pytest.mark.parametrize("folder", EMBEDDED.values())
def test_weights_have_the_names_that_all_versions_of_transformers_know(folder):
    for file in (data_folder("toyland") / folder).glob("text_encoder*/model.safetensors"):
        known = ("text_model.", "text_projection.")
        assert all(key.startswith(known) for key in load_file(file)), file
