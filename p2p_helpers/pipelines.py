"""Load a pipeline: an embedded model, a folder, a file or a model of the Hub."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from transformers.utils import logging

from .errors import InputError, ModelError
from .memory import is_of_memory
from .paths import data_folder
from .values import first_line, shown

_verbosity = logging.get_verbosity()
logging.set_verbosity_error()  # or this import prints advice about torchvision, which nothing here needs
import diffusers  # noqa: E402
from diffusers import (  # noqa: E402
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.utils import logging as diffusers_logging  # noqa: E402

logging.set_verbosity(_verbosity)
EMBEDDED = {"toyland": "pipeline", "toyland-transformer": "transformer"}  # name → its folder
# What diffusers calls the argument for the weights' type.
_older = tuple(map(int, diffusers.__version__.split(".")[:2])) < (0, 40)
_DTYPE = "torch_dtype" if _older else "dtype"


def verify_files(folder: Path):
    """Compare a folder's files with the SHA-256 sums in its `checksums.json`.

    Raises:
        ModelError: a file is missing or is not the one that was shipped.
    """
    listing = folder / "checksums.json"
    if not listing.is_file():
        raise ModelError(
            f"{listing} is missing: the embedded model did not come with this copy. {_REINSTALL}"
        )
    for name, expected in json.loads(listing.read_text(encoding="utf-8")).items():
        file = folder / name
        if not file.is_file():
            raise ModelError(f"The embedded model's file {file} is missing. {_REINSTALL}")
        if hashlib.sha256(file.read_bytes()).hexdigest() != expected:
            raise ModelError(
                f"The embedded model's file {file} is damaged: its SHA-256 is not the one in checksums.json. {_REINSTALL}"
            )


_REINSTALL = "Reinstall the package, or restore the file with: git checkout -- data/toyland"


def best_device() -> str:
    """ "cuda", "mps" or "cpu": the fastest this machine has."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """No loading bars for a load that takes less than a second; afterwards they are as they were."""
    shown = [
        library for library in (logging, diffusers_logging) if library.is_progress_bar_enabled()
    ]
    for library in shown:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in shown:
            library.enable_progress_bar()


def _embedded(folder: Path, dtype: torch.dtype) -> DiffusionPipeline:
    """An embedded model, with every weight taken from its files.

    Raises:
        ModelError: this version of transformers or diffusers calls a weight by another name than a file does.
    """
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    parts = {}
    for part in sorted(file.parent for file in folder.glob("*/*.safetensors")):
        library, kind = index[part.name]
        ours = library == "transformers"
        how = {"dtype": dtype} if ours else {_DTYPE: dtype, "low_cpu_mem_usage": False}
        model = getattr(transformers if ours else diffusers, kind)
        parts[part.name], report = model.from_pretrained(part, output_loading_info=True, **how)
        # Buffers of positions are worked out, and versions differ in whether they stand in the file.
        strange = [
            k
            for found in ("missing_keys", "unexpected_keys")
            for k in report[found]
            if not k.endswith("position_ids")
        ]
        if strange:
            raise ModelError(
                f"This version of {library} does not know the weights of the embedded model's {part.name}: "
                f"{', '.join(sorted(strange)[:3])} … Its pictures would be noise. Install a version that pyproject.toml allows."
            )
    return DiffusionPipeline.from_pretrained(
        folder, local_files_only=True, **parts, **_absent(folder), **{_DTYPE: dtype}
    )


def load_pipeline(
    name: str | Path = "toyland",
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
) -> DiffusionPipeline:
    """Load a text-to-image pipeline, ready to use and to edit.

    Args:
        name: "toyland" (the embedded model, nothing is downloaded), "toyland-transformer" (another network that paints the same
            world, in the shape of Stable Diffusion 3), a local folder, a single file as "./model.safetensors" (Stable Diffusion
            1, 2 or XL), or a Hugging Face Hub id such as "stable-diffusion-v1-5/stable-diffusion-v1-5". Only safetensors weights
            are read, never pickles.
        device: "cpu", "cuda", "mps"; the fastest there is when not given.
        dtype: when not given, float32 on the CPU and for the embedded models. On a GPU it is bfloat16 for models of flow matching
            (Stable Diffusion 3, Flux.1, Chroma), whose activations are large, where the GPU computes in it; else float16. For
            float16 the model's fp16 variant is loaded if it has one, half the download.
        revision: a branch, tag or commit of a Hub model; give a commit and the model never changes under you.

    Raises:
        ModelError: no such model, its files are missing or damaged, or it does not fit into the device's memory.
        InputError: a device or dtype that is none.
    """
    device, name = _device(device), str(name)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise InputError(f"dtype={shown(dtype)}: give a torch dtype, as torch.float16.")
    if name in EMBEDDED:
        folder = data_folder("toyland")
        verify_files(folder)
        with _no_bars():
            return _moved(_embedded(folder / EMBEDDED[name], dtype or torch.float32), device)
    name = str(Path(name).expanduser()) if name.startswith("~") else name
    if name.endswith((".safetensors", ".ckpt")):
        return _moved(_single_file(Path(name), dtype or _usual_dtype(None, device)), device)
    if not Path(name).is_dir() and name.count("/") != 1:
        raise ModelError(
            f'There is no model {name!r}. Use "toyland" or "toyland-transformer" (embedded), the path of a folder with a saved pipeline, '
            'or a Hub id of the form "owner/name".'
        )
    dtype = dtype or _usual_dtype(name, device, revision)
    for variant in _variants(name, dtype):
        try:
            pipe = DiffusionPipeline.from_pretrained(
                name,
                use_safetensors=True,
                revision=revision,
                variant=variant,
                **_absent(name),
                **{_DTYPE: dtype},
            )
            break
        except Exception as error:  # the Hub client raises many kinds; all mean the same to a user
            failure = error
    else:
        raise _not_loaded(name, failure) from failure
    return _moved(pipe, device)


def _device(name: str | torch.device | None) -> str:
    """A device that this machine has."""
    if name is None:
        return best_device()
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, TypeError) as error:
        said = first_line(error)
        raise InputError(
            f"device={shown(name)} cannot be used here: {said} This machine has {best_device()!r}."
        ) from None
    return str(name)


def _moved(pipe: DiffusionPipeline, device: str) -> DiffusionPipeline:
    """The pipeline on its device. Raises ModelError if it does not fit there."""
    try:
        return pipe.to(device)
    except (RuntimeError, MemoryError) as error:
        if not is_of_memory(error):
            raise
        parts = [p for p in pipe.components.values() if isinstance(p, torch.nn.Module)]
        weights = [w for part in parts for w in part.parameters()]
        size = sum(w.numel() * w.element_size() for w in weights)
        flows = "FlowMatch" in type(getattr(pipe, "scheduler", None)).__name__
        half = f"take dtype=torch.{'bfloat16' if flows else 'float16'}, "
        smaller = half if any(w.dtype == torch.float32 for w in weights) else ""
        raise ModelError(
            f"The model was loaded, but its {size / 2**30:.1f} GiB do not fit into the memory of {device}. Free some of it (other "
            f"notebooks hold theirs), {smaller}or load it with device='cpu' and call "
            "pipe.enable_model_cpu_offload()."
        ) from error


TRANSFORMERS = {"StableDiffusion3Pipeline": "joint_blocks.", "FluxPipeline": "double_blocks."}


def _single_file(file: Path, dtype: torch.dtype) -> DiffusionPipeline:
    """A checkpoint in one file, as model sites offer it. Raises ModelError."""
    if file.suffix == ".ckpt":
        raise ModelError(
            f"{file} is a pickle, which can run any program when it is read. Take the same model as .safetensors."
        )
    if not file.is_file():
        raise ModelError(f"There is no file {file}. Give the path of a .safetensors checkpoint.")
    try:
        with safe_open(file, "pt") as content:
            names = set(content.keys())
        found = {kind for kind, part in TRANSFORMERS.items() if any(part in name for name in names)}
    except Exception as error:  # loaders raise many kinds
        raise _not_loaded(str(file), error) from error
    if found:
        kind = found.pop()
        raise ModelError(
            f"{file} holds a transformer as {kind} has it, and load_pipeline() reads single files of Stable Diffusion 1, 2 and XL "
            f"only. Take the model's folder or Hub id; or make the pipeline by diffusers, {kind}.from_single_file(...), and hand it to "
            "edit()."
        )
    try:
        larger = any(name.startswith("conditioner.") for name in names)
        kind = StableDiffusionXLPipeline if larger else StableDiffusionPipeline
        return kind.from_single_file(str(file), **{_DTYPE: dtype})
    except Exception as error:  # loaders raise many kinds
        raise _not_loaded(str(file), error) from error


def _not_loaded(name: str, failure: Exception) -> ModelError:
    """What to say of a model that could not be loaded."""
    said = first_line(failure)
    if is_of_memory(failure):
        return ModelError(
            f"{name!r} does not fit into this machine's memory: {said} Close other programs, or take dtype=torch.float16 "
            "(torch.bfloat16 for Stable Diffusion 3, Flux.1 and Chroma)."
        )
    taken = (
        ""
        if Path(name).exists()
        else f" {Path.cwd()} has no such folder, so it was taken as a Hub id."
    )
    return ModelError(
        f"{name!r} could not be loaded: {said}{taken} "
        'Without a connection to the Hub use "toyland", or give the path of a folder that holds a pipeline saved as safetensors.'
    )


def _absent(name: str | Path) -> dict[str, None]:
    """The parts that a saved pipeline does without, such as T5: diffusers wants to be told again that there are none."""
    index = Path(name) / "model_index.json"
    if not index.is_file():
        return {}
    parts = json.loads(index.read_text(encoding="utf-8"))
    return {part: None for part, kind in parts.items() if kind == [None, None]}


def _usual_dtype(name: str | None, device: str, revision: str | None = None) -> torch.dtype:
    """The weights' type on a device; by the model's scheduler, where a model of several files is named."""
    if torch.device(device).type == "cpu":
        return torch.float32
    if name is None:
        return torch.float16
    try:
        parts = DiffusionPipeline.load_config(name, revision=revision)
    except (OSError, ValueError):  # loading says what is wrong
        return torch.float16
    flows = "FlowMatch" in str(parts.get("scheduler"))
    return torch.bfloat16 if flows and _takes_bfloat16(device) else torch.float16


def _takes_bfloat16(device: str) -> bool:
    """Whether a GPU computes in bfloat16 itself."""
    if torch.device(device).type != "cuda":
        return False
    return torch.cuda.is_bf16_supported(including_emulation=False)


def _variants(name: str, dtype: torch.dtype) -> list[str | None]:
    """Which variants of a model's weights to try, in turn."""
    if dtype != torch.float16:
        return [None]
    if Path(name).is_dir():
        return ["fp16"] if any(Path(name).rglob("*.fp16.safetensors")) else [None]
    return ["fp16", None]
