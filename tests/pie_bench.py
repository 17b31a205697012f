"""A folder in PIE-Bench's layout, painted by Toyland, and small networks with random weights in the place of the measures'."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from p2p_helpers.bench.lpips import SqueezeNet
from p2p_helpers.toyland.evaluate import painted_cases

SIDE = 512
KINDS = {"swap": "1", "recolour": "6", "restyle": "9"}


def encoded(mask: np.ndarray) -> list[int]:
    """A mask as the benchmark has it: where each run of set pixels starts, and how long it is."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel().astype(int), [0]])))
    starts, ends = edges[::2], edges[1::2]
    return np.stack([starts, ends - starts], 1).ravel().tolist()


def bracketed(before: str, after: str) -> str:
    """The second prompt with brackets around the words that the first one does not have."""
    old = before.split()
    return " ".join(word if word in old else f"[{word}]" for word in after.split())


def write_folder(place: Path) -> dict:
    """Write a folder with one edit of each of three kinds; gives its listing."""
    listing = {}
    for number, (kind, code) in enumerate(KINDS.items()):
        (case,) = painted_cases(1, kind, first=40 * number)
        name = f"{code}_{kind}/{number:012}.png"
        picture = place / "annotation_images" / name
        picture.parent.mkdir(parents=True)
        case.pictures[0].resize((SIDE, SIDE), Image.Resampling.NEAREST).save(picture)
        words = f"{case.words[0]} {case.words[-1]}" if kind == "swap" else ""
        listing[f"{number:012}"] = {
            "image_path": name,
            "original_prompt": case.source,
            "editing_prompt": bracketed(case.source, case.target),
            "editing_instruction": f"{kind} it",
            "editing_type_id": code,
            "blended_word": words,
            "mask": encoded(case.changed.repeat(4, 0).repeat(4, 1)),
        }
    (place / "mapping_file.json").write_text(json.dumps(listing))
    return listing


def write_networks(place: Path, tokenizer: CLIPTokenizer) -> dict[str, str]:
    """Write the three networks; gives where they are, as `run_pie` takes them."""
    torch.manual_seed(0)
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 224,
        "patch_size": 32,
    }
    texts = {**small, "vocab_size": len(tokenizer), "max_position_embeddings": 40}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(text_config={**texts, **ends}, vision_config=small, projection_dim=8)
    CLIPModel(config).save_pretrained(place / "clip")
    tokenizer.save_pretrained(place / "clip")
    CLIPImageProcessorPil().save_pretrained(place / "clip")
    ViTModel(ViTConfig(**{**small, "num_hidden_layers": 2})).save_pretrained(place / "dino")
    torch.save(SqueezeNet().state_dict(), place / "squeezenet.pth")
    named = {"clip": "clip", "dino": "dino", "lpips": "squeezenet.pth"}
    return {option: str(place / name) for option, name in named.items()}
