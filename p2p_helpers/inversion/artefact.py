"""An inverted picture: what `invert` gives and `edit` takes, and the file it is kept in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, SchedulerMixin
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..attention.interrupts import block
from ..attention.session import joined
from ..errors import InversionError
from ..metrics import psnr
from .samplers import BDIAScheduler, _arguments, _scheduler

COMPARED = {  # facts that must be the same for an inversion to give its picture back, one of each: bfloat16 rounds more than float16
    "weights": ("weights", "weights in bfloat16"),
    "noise schedule": ("noise schedule",),
}


@dataclass(frozen=True, eq=False)
class Inversion:
    """A picture turned into noise: what `invert` gives and `edit` takes. `save` writes it to one file and `Inversion.load` reads it.

    `pivot` is the trajectory from the noise to the picture's latent without guidance, one moment more than steps: DDIM's, or for the
    exact method BDIA's. `facts` names the model, its weights' hash and noise schedule, the picture's hash and the package.
    """

    method: str
    prompt: str
    steps: int
    guidance_scale: float
    pivot: Float[Tensor, "moment channel row column"] = field(repr=False)
    null: Float[Tensor, "step token embedding"] | None = field(repr=False)  # the optimised unconditional embeddings of null-text inversion
    loss_curve: Float[Tensor, "optimised inner"] = field(repr=False)  # NaN where a step stopped early; empty without optimisation
    pixels: UInt8[np.ndarray, "height width 3"] = field(repr=False)
    decoded: UInt8[np.ndarray, "height width 3"] = field(repr=False)
    facts: dict[str, str] = field(repr=False)

    @property
    def image(self) -> Image.Image:
        """The picture that was inverted."""
        return Image.fromarray(self.pixels)

    @property
    def reconstruction(self) -> Image.Image:
        """The picture that comes back when the noise is denoised with the source prompt."""
        return Image.fromarray(self.decoded)

    @property
    def psnr(self) -> float:
        """Of the reconstruction against the picture, in dB; its ceiling is what the autoencoder alone loses."""
        return psnr(self.pixels, self.decoded)

    def save(self, path: str | Path):
        """Write everything to one safetensors file, all of it or nothing."""
        tensors = {"pivot": self.pivot, "loss_curve": self.loss_curve}
        tensors |= {"pixels": torch.from_numpy(self.pixels.copy()), "decoded": torch.from_numpy(self.decoded.copy())}
        if self.null is not None:
            tensors["null"] = self.null
        said = {"method": self.method, "prompt": self.prompt, "steps": self.steps, "guidance_scale": self.guidance_scale}
        _write(tensors, {**self.facts, "inversion": json.dumps(said)}, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> Inversion:
        """Read what `save` wrote.

        Raises:
            InversionError: no such file, or one that holds no inversion.
        """
        tensors, facts = _read(Path(path))
        if "inversion" not in facts or "decoded" not in tensors:
            raise InversionError(f"{path} holds no finished inversion. Make one with invert(...).save(path).")
        said = json.loads(facts.pop("inversion"))
        pictures = {name: tensors[name].numpy() for name in ("pixels", "decoded")}
        return cls(**said, pivot=tensors["pivot"], null=tensors.get("null"), loss_curve=tensors["loss_curve"], **pictures, facts=facts)

    def check(self, pipe):
        """Whether this pipeline is the one the inversion was made with.

        Raises:
            InversionError: another model or noise schedule; names the difference.
        """
        other = _differences(self.facts, _facts(pipe))
        if other:
            raise InversionError(
                "This inversion was made with another model or scheduler and would not give its picture back. "
                f"It was made with {self.facts.get('model') or 'a model without a name'}:\n  "
                + "\n  ".join(other)
                + "\nLoad that model, or invert the picture again with this one."
            )

    @block
    def sampling(self, pipe) -> Iterator[None]:
        """Denoise as the inversion needs it for the length of a `with` block: its sampler, and its unconditional embeddings (the source's
        is for "exact" the prompt's own, so that guidance does not move it).
        """
        null = None if self.null is None else self.null.to(pipe._execution_device)

        def use_null(args, kwargs):
            words = kwargs["encoder_hidden_states"]
            half = len(words) // 2
            own = null[session.step].to(words).expand(half, -1, -1)
            return args, {**kwargs, "encoder_hidden_states": torch.cat([own, words[half:]])}

        def use_prompt(args, kwargs):
            if not pipe.do_classifier_free_guidance:
                return args, kwargs
            changed = {"encoder_hidden_states": _unguided(kwargs["encoder_hidden_states"])}
            added = kwargs.get("added_cond_kwargs")
            if added:
                changed["added_cond_kwargs"] = {key: _unguided(rows) for key, rows in added.items()}
            return args, {**kwargs, **changed}

        def sampler(config: dict) -> SchedulerMixin:
            return BDIAScheduler.over(config, self.pivot[1]) if self.method == "exact" else DDIMScheduler.from_config(config)

        change = {"null-text": use_null, "exact": use_prompt}.get(self.method)
        with joined(pipe, "sampled") as session, _scheduler(pipe, sampler):
            if change is not None:
                session.change(change)
            yield

    def arguments(self, pipe, prompts: int) -> dict:
        """What the pipeline must be called with for so many prompts, beside the prompts: the same noise for each, and the size."""
        return _arguments(pipe, self.pivot[:1].repeat(prompts, 1, 1, 1))

    def negative_prompts(self, prompts: int) -> list[str] | None:
        """In place of the null text, for so many prompts: the source prompt for "negative-prompt"."""
        return [self.prompt] * prompts if self.method == "negative-prompt" else None

    def after_step(self, step: int, latents: Tensor) -> Tensor:
        """Latents after a step, source first; "direct" puts the source back on the pivot (Ju et al. 2023, arXiv 2310.01506)."""
        if self.method == "direct":
            latents = torch.cat([self.pivot[step + 1][None].to(latents), latents[1:]])
        return latents


def _unguided(rows: Tensor) -> Tensor:
    """Rows without and with prompts, where the first without becomes the first with: guidance does not move that picture."""
    half = len(rows) // 2
    return torch.cat([rows[half : half + 1], rows[1:]])


def _facts(pipe) -> dict[str, str]:
    """Which model and noise schedule a pipeline has, and which package this is."""
    from .. import __version__

    digests = {torch.float16: hashlib.sha256(), torch.bfloat16: hashlib.sha256()}  # the same in half precision
    for part in (pipe.unet, pipe.vae):
        for name, weight in sorted(_weights(part).items()):
            few = weight.flatten()[:: max(1, weight.numel() // 64)].detach().cpu()
            for dtype, digest in digests.items():
                digest.update(f"{name} {tuple(weight.shape)}".encode())
                digest.update(few.to(dtype).view(torch.int16).numpy().tobytes())
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
    keys += ("prediction_type", "timestep_spacing", "steps_offset", "set_alpha_to_one")
    config = {key: pipe.scheduler.config.get(key) for key in keys}
    model = str(getattr(pipe.config, "_name_or_path", ""))
    if Path(model).is_dir():  # where it lies is nobody's business
        model = "/".join(Path(model).parts[-2:])
    return {
        "model": model,
        "weights": digests[torch.float16].hexdigest()[:16],
        "weights in bfloat16": digests[torch.bfloat16].hexdigest()[:16],
        "noise schedule": json.dumps(config),
        "package": f"p2p_helpers {__version__}",
    }


def _weights(part) -> dict[str, Tensor]:
    """A network's weights by name, also where accelerate offloads them or torch.compile wraps it."""
    state = part.state_dict()
    for name, module in part.named_modules():
        hook = getattr(module, "_hf_hook", None)  # accelerate's, or several in one
        for kept in (getattr(h, "weights_map", None) for h in getattr(hook, "hooks", [hook])):
            own = [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)]
            state |= {} if kept is None else {key: kept[key.rpartition(".")[2]] for key in own if state[key].is_meta}
    return {name.removeprefix("_orig_mod."): weight for name, weight in state.items()}


def _differences(then: dict[str, str], now: dict[str, str]) -> list[str]:
    """Which of the facts that have to be the same are not."""
    return [
        f"{name}: {then.get(name)} then, {now[name]} now"
        for name, keys in COMPARED.items()
        if all(then.get(key) != now[key] for key in keys)
    ]


def _check_folder(path: Path):
    """Refuse a file in a folder that is not there. Raises InversionError."""
    if not path.parent.is_dir():
        raise InversionError(f"There is no folder {path.parent} for {path.name}. Make it first.")


def _write(tensors: dict[str, Tensor], facts: dict[str, str], path: Path):
    """A safetensors file, whole or not at all: what stood there before stays until the new one is complete."""
    _check_folder(path)
    part = path.with_name(path.name + ".part")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part, metadata=facts)
    os.replace(part, path)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and facts of a file that `_write` wrote. Raises InversionError."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except FileNotFoundError:
        raise InversionError(f"There is no file {path}.") from None
    except (SafetensorError, OSError) as error:
        raise InversionError(f"{path} is no safetensors file, or a damaged one: {error}") from error
