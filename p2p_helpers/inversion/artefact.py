"""An inverted picture: what `invert` gives and `edit` takes, and the file it is kept in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from diffusers import SchedulerMixin
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from ..attention.families import family_of
from ..attention.interrupts import block
from ..attention.session import joined
from ..errors import InversionError
from ..metrics import psnr
from ..values import file_path
from . import files, validate
from .fingerprint import differences, fingerprint
from .samplers import BDIAScheduler, _arguments, _scheduler, sampler

METHODS = ("ddim", "null-text", "negative-prompt", "direct", "exact")


@dataclass(frozen=True, eq=False)
class Inversion:
    """A picture turned into noise: what `invert` gives and `edit` takes.

    `save` writes it to one file and `Inversion.load` reads it.

    `pivot` is the trajectory from the noise to the picture's latent without guidance, one moment
    more than steps: DDIM's, or for the exact method BDIA's. `null` are the optimised unconditional
    embeddings of null-text inversion, and `loss_curve` their losses: NaN where a step stopped
    early, empty without optimisation. `facts` say which model it was made with, the noise schedule
    that its sampler is made over, the picture's hash and the package.
    """

    method: str
    prompt: str
    steps: int
    guidance_scale: float
    pivot: Float[Tensor, "moment channel row column"] = field(repr=False)
    null: Float[Tensor, "step token embedding"] | None = field(repr=False)
    loss_curve: Float[Tensor, "optimised inner"] = field(repr=False)
    pixels: UInt8[np.ndarray, "height width 3"] = field(repr=False)
    decoded: UInt8[np.ndarray, "height width 3"] = field(repr=False)
    facts: dict[str, object] = field(repr=False)

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
        """Of the reconstruction against the picture, in dB.

        Its ceiling is what the autoencoder alone loses.
        """
        return psnr(self.pixels, self.decoded)

    def save(self, path: str | Path):
        """Write everything to one safetensors file, all of it or nothing.

        Raises:
            InversionError: the file cannot be written. One that stood there before is as it was.
        """
        tensors = {"pivot": self.pivot, "loss_curve": self.loss_curve}
        tensors["pixels"] = torch.from_numpy(self.pixels.copy())
        tensors["decoded"] = torch.from_numpy(self.decoded.copy())
        if self.null is not None:
            tensors["null"] = self.null
        said = {key: getattr(self, key) for key in (*FIELDS, "facts")}
        files.write(file_path("path", path), "inversion", tensors, said)

    @classmethod
    def load(cls, path: str | Path) -> Inversion:
        """Read what `save` wrote, also with an older version.

        Raises:
            InversionError: no such file, one that holds no inversion, or a damaged one. The message
                names the field that is wrong.
        """
        stored = files.read(file_path("path", path), "inversion")
        _check(stored)
        tensors = stored.tensors
        pictures = {name: tensors.pop(name).numpy() for name in ("pixels", "decoded")}
        return cls(**stored.said, **{"null": None, **tensors}, **pictures)

    def check(self, pipe):
        """Whether this pipeline has the model that the inversion was made with.

        Its scheduler may be any: the inversion's own sampler is made from what the inversion knows.

        Raises:
            InversionError: another model; the message names the difference.
        """
        other = differences(self.facts, fingerprint(pipe, self.prompt))
        if other:
            raise InversionError(
                "This inversion was made with another model and would not give its picture back. "
                f"It was made with {self.facts.get('model') or 'a model without a name'}:\n  "
                + "\n  ".join(other)
                + "\nLoad that model with the same adapters, or invert it again with this one."
            )
        height, width, _ = self.pixels.shape
        factor = pipe.vae_scale_factor
        latent = (pipe.vae.config.latent_channels, height // factor, width // factor)
        if tuple(self.pivot.shape[1:]) != latent:
            raise InversionError(
                f"The inversion's pivot has latents of {tuple(self.pivot.shape[1:])}, the model "
                f"has {latent}. Its file is damaged; invert the picture again."
            )

    @block
    def sampling(self, pipe) -> Iterator[None]:
        """Denoise as the inversion needs it for the length of a `with` block.

        The sampler is the inversion's own, and so are the unconditional embeddings. For "exact" the
        source's is the prompt's own, so that guidance does not move it.

        Raises:
            InversionError: in the block, null-text embeddings of another width than the model's.
            AttentionControlError: another call has the pipeline.
        """
        null = None if self.null is None else self.null.to(pipe._execution_device)

        def use_null(args, kwargs):
            words = kwargs["encoder_hidden_states"]
            half = len(words) // 2
            if session.calls:  # skip-layer guidance calls again, with prompts alone
                return args, kwargs
            if null.shape[1] != words.shape[1] and null.shape[2:] == words.shape[2:]:
                raise InversionError(
                    f"The inversion's null text has {null.shape[1]} tokens, this call's has {words.shape[1]}. Leave "
                    "max_sequence_length out."
                )
            if null.shape[1:] != words.shape[1:]:
                raise InversionError(
                    f"The inversion's null has embeddings of {tuple(null.shape[1:])}, the model "
                    f"has {tuple(words.shape[1:])}. Its file is damaged; invert it again."
                )
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

        def make(schedule: dict) -> SchedulerMixin:
            if self.method == "exact":
                return BDIAScheduler.over(schedule, self.pivot[1])
            return sampler(schedule)

        change = {"null-text": use_null, "exact": use_prompt}.get(self.method)
        schedule = self.facts["noise schedule"]
        with joined(pipe, "sampled") as session, _scheduler(pipe, make, schedule):
            if change is not None:
                session.change(change)
            yield

    def arguments(self, pipe, prompts: int) -> dict:
        """What the pipeline must be called with for so many prompts, beside the prompts.

        It is the same noise for each, and the size.
        """
        return _arguments(pipe, self.pivot[:1].repeat(prompts, 1, 1, 1))

    def negative_prompts(self, prompts: int) -> list[str] | None:
        """In place of the null text, for so many prompts: the source's for "negative-prompt"."""
        return [self.prompt] * prompts if self.method == "negative-prompt" else None

    def known(self, pipe) -> Tensor | None:
        """The source's latents after every step as the pipeline has them, where they are known.

        "direct" puts the source back on the pivot (Ju et al. 2023, arXiv 2310.01506), and "exact"
        lands on it.
        """
        known = self.method in ("direct", "exact")
        return family_of(pipe).packed(self.pivot[1:]) if known else None


FIELDS = {  # what the file says in words and numbers
    "method": lambda value: value in METHODS,
    "prompt": validate.is_text,
    "steps": validate.is_count,
    "guidance_scale": validate.is_number,
}


def _unguided(rows: Tensor) -> Tensor:
    """Rows without and with prompts, where the first without becomes the first with.

    Guidance does not move that picture.
    """
    half = len(rows) // 2
    return torch.cat([rows[half : half + 1], rows[1:]])


def _check(stored: files.Stored):
    """Check everything that a file of an inversion holds. Raises InversionError."""
    validate.check_fields(stored, FIELDS)
    steps = stored.said["steps"]
    optimised = stored.said["method"] == "null-text"
    axes = {
        "pivot": "moment channel row column",
        "loss_curve": "step inner" if optimised else "0 0",
        "pixels": "height width 3",
        "decoded": "height width 3",
    }
    if optimised:
        axes["null"] = "step token embedding"
    validate.check_shapes(stored, axes, {"moment": steps + 1, "step": steps})
    validate.check_finite(stored, "pivot")
    if optimised:
        validate.check_finite(stored, "null")
        validate.check_losses(stored, "loss_curve", steps)
    pivot, pixels = stored.tensors["pivot"], stored.tensors["pixels"]
    high, wide = (divmod(a, b) for a, b in zip(pixels.shape, pivot.shape[-2:], strict=False))
    if high != wide or high[1]:
        shape = tuple(pixels.shape[:2])
        raise files.damaged(stored.path, "pixels", f"are {shape}, no multiple of the pivot's size")
    found = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
    if stored.said["facts"].get("image sha256", found) != found:
        raise files.damaged(stored.path, "image sha256", "is another picture's")
