"""A prompt for a picture: the embedded model's reader, and a small image-to-text model of BLIP's own classes."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
)

import p2p_helpers as p2p
from p2p_helpers.describing import _cut
from p2p_helpers.toyland import caption, photos, render, scene_at

from .pipelines import build

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", "on", "the", "beach"]


def test_most_painted_scenes_are_described_as_they_are(toyland):
    """But for old photos, whose colours cannot be seen."""
    scenes = [
        scene for scene in (scene_at("test", i) for i in range(60)) if scene.style != "old photo"
    ]
    plain = [caption(scene).removeprefix("a photo of ") for scene in scenes]
    said = [p2p.describe(render(scene)[0], toyland) for scene in scenes]
    assert np.mean([a == b for a, b in zip(plain, said, strict=True)]) >= 0.95
    photo = photos()["cat-snow"]
    assert p2p.describe(p2p.load_image(photo.path, toyland), toyland) == photo.prompt


def test_what_cannot_be_described(toyland):
    with pytest.raises(p2p.InputError, match="Write the prompt yourself"):
        p2p.describe(Image.new("RGB", (128, 128), "white"), toyland)
    with pytest.raises(p2p.InputError, match="128"):
        p2p.describe(Image.new("RGB", (64, 64)), toyland)


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    """A folder with a small random BLIP."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    size = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    text = {
        **size,
        "vocab_size": len(WORDS),
        "encoder_hidden_size": 16,
        "bos_token_id": 2,
        "sep_token_id": 3,
    }
    config = BlipConfig(
        text_config={**text, "pad_token_id": 0, "eos_token_id": 3},
        vision_config={**size, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_another_models_prompt_comes_from_an_image_to_text_model(blip, tmp_path):
    pipe = build("sd1", tmp_path)
    text = p2p.describe(Image.new("RGB", (64, 64), "red"), pipe, model=blip)
    assert text and set(text.split()) <= set(WORDS)
    assert p2p.words(pipe.tokenizer, text)


def test_a_model_that_wants_a_question_is_said(blip, tmp_path, monkeypatch):
    def ask(self, images, text, **more):
        raise AssertionError

    monkeypatch.setattr(BlipProcessor, "__call__", ask)
    with pytest.raises(p2p.ModelError, match="writes no caption of a picture alone.*a question"):
        p2p.describe(Image.new("RGB", (64, 64)), build("sd1", tmp_path), model=blip)


def test_a_text_is_cut_to_what_the_model_reads(tmp_path):
    tokenizer = build("sd1", tmp_path).tokenizer
    long = "a cat on the beach " * 40
    kept = _cut(tokenizer, long.strip())
    assert long.startswith(kept) and len(p2p.words(tokenizer, kept)) > 10
    with pytest.raises(p2p.PromptError):
        p2p.words(tokenizer, f"{kept} a")
    assert _cut(tokenizer, "a cat") == "a cat"


@pytest.mark.parametrize("named", ["folder", "name"])
def test_a_model_that_is_not_there_is_said(tmp_path, monkeypatch, named):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = tmp_path / "nothing" if named == "folder" else "nobody/nothing"
    with pytest.raises(p2p.ModelError, match="give a folder"):
        p2p.describe(Image.new("RGB", (64, 64)), build("sd1", tmp_path), model=model)
