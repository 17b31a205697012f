"""What made a picture: kept beside it, and inside its PNG file."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .attention.families import family_of
from .inversion.fingerprint import fingerprint
from .result import EditResult

PACKAGES = ("torch", "diffusers", "transformers")
SIZES = ("height", "width")  # of the picture, where they were asked for
SAID = "p2p_helpers"  # the entry of a PNG's metadata that holds everything, as JSON


def model_facts(pipe) -> dict:
    """The model by the hash of its weights, the packages, the device and the weights' type."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    model = family_of(pipe).model(pipe)
    device = str(pipe._execution_device)
    if torch.device(device).type == "cuda":
        device = f"{device} ({torch.cuda.get_device_name(device)})"
    facts = fingerprint(pipe, "")
    facts["packages"] = versions
    facts["device"] = device
    facts["dtype"] = str(model.dtype).removeprefix("torch.")
    return facts


def machine() -> str:
    """This machine in one line: its processor, its cores, its GPU if it has one, and torch."""
    said = [_processor(), f"{os.cpu_count()} cores"]
    if torch.cuda.is_available():
        said.append(torch.cuda.get_device_name())
    return ", ".join([*said, f"torch {torch.__version__}"])


def _processor() -> str:
    """The processor's name where the system tells it, else its kind."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def settings_of(result: EditResult, number: int | None = None) -> dict:
    """The settings of a result, for one of its edited pictures or, without a number, its source."""
    said: dict[str, object] = {
        "source": result.source_prompt,
        "seed": result.seed,
        "steps": result.steps,
        "guidance_scale": result.guidance_scale,
        "negative_prompt": result.negative_prompt,
    }
    if result.origin is not None:
        inversion, asked = result.origin.inversion, result.origin.arguments
        if number is None:  # edits of an earlier result may have others
            said["guidance_scale"] = result.origin.guidance_scale
            said["negative_prompt"] = result.origin.negative_prompt
        said |= {name: asked[name] for name in SIZES if name in asked}
        start = asked.get("latents")
        if start is not None:  # in the seed's place
            said["latents sha256"] = hashlib.sha256(
                start.cpu().float().numpy().tobytes()
            ).hexdigest()
        if inversion is not None:
            picture = inversion.facts.get("image sha256")  # the first files lack it
            said["inversion"] = {"method": inversion.method, "image sha256": picture}
    if number is not None:
        said["target"] = result.target_prompts[number]
        said["edit"] = repr(result.edits[number])
        blend = result.local_blend
        said["local_blend"] = None if blend is None else repr(blend)
    return said


def save_png(image: Image.Image, path: str | Path, said: Mapping):
    """Write a picture as PNG, with what made it in its metadata.

    The prompt stands under "Description", the package under "Software", and all of `said` as JSON
    under "p2p_helpers".

    Raises:
        OSError: the file cannot be written.
    """
    from . import __version__

    info = PngInfo()
    info.add_itxt("Software", f"p2p_helpers {__version__}")
    info.add_itxt("Description", str(said.get("target") or said.get("source") or ""))
    info.add_itxt(SAID, json.dumps(said, ensure_ascii=False, default=str))
    image.save(path, "PNG", pnginfo=info)


def read_png(path: str | Path) -> dict:
    """What `save_png` wrote beside the pixels; empty for another's picture."""
    with Image.open(path) as image:
        return json.loads(image.info.get(SAID, "{}"))
