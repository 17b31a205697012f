"""Where a null-text inversion stands after a step, and the file that it goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import InversionError
from . import files, validate
from .fingerprint import differences

FIELDS = {  # what the file says in words and numbers
    "prompt": validate.is_text,
    "steps": validate.is_count,
    "guidance": validate.is_number,
    "inner": validate.is_count,
    "init": validate.is_text,
}


@dataclass
class Checkpoint:
    """All that the next step of an optimisation needs, in float32 on the CPU.

    `null` has the embeddings of the steps that are done, `losses` NaN where there are none.
    """

    pivot: Float[Tensor, "moment channel row column"]
    latent: Float[Tensor, "1 channel row column"]
    first: Float[Tensor, "1 token embedding"]
    null: list[Float[Tensor, "1 token embedding"]]
    losses: Float[Tensor, "step inner"]

    @classmethod
    def start(cls, pivot: Tensor, first: Tensor, steps: int, inner: int) -> Checkpoint:
        """Nothing is done yet."""
        return cls(pivot, pivot[:1], first, [], torch.full((steps, inner), torch.nan))

    @property
    def done(self) -> int:
        """How many steps are done."""
        return len(self.null)

    @property
    def embedding(self) -> Float[Tensor, "1 token embedding"]:
        """What the next step starts from."""
        return self.null[-1] if self.null else self.first

    def add(self, null: Tensor, losses: list[float], latent: Tensor):
        """One more step is done."""
        self.losses[self.done, : len(losses)] = torch.tensor(losses)
        self.null.append(null.cpu())
        self.latent = latent.cpu()

    def save(self, path: Path, run: dict):
        """Write where this run stands. Raises InversionError."""
        tensors = {"pivot": self.pivot, "latent": self.latent, "losses": self.losses}
        files.write(path, "checkpoint", {**tensors, "null": torch.cat(self.null)}, run)

    @classmethod
    def load(cls, path: Path, run: dict, like: Checkpoint) -> Checkpoint:
        """Go on with a run. `like` is one that has just begun.

        Raises:
            InversionError: the file belongs to another run, or is damaged.
        """
        stored = files.read(path, "checkpoint")
        validate.check_fields(stored, FIELDS)
        _check_run(path, stored.said, run)
        _, channel, row, column = like.pivot.shape
        _, token, embedding = like.first.shape
        sizes = {"moment": run["steps"] + 1, "step": run["steps"], "inner": run["inner"]}
        sizes |= {"channel": channel, "row": row, "column": column}
        sizes |= {"token": token, "embedding": embedding}
        axes = {
            "pivot": "moment channel row column",
            "latent": "1 channel row column",
            "null": "done token embedding",
            "losses": "step inner",
        }
        validate.check_shapes(stored, axes, sizes)
        validate.check_finite(stored, "pivot", "latent", "null")
        tensors = stored.tensors
        null = list(tensors["null"].split(1))
        if len(null) > run["steps"]:
            raise files.damaged(path, "null", f"has {len(null)} steps of {run['steps']}")
        validate.check_losses(stored, "losses", len(null))
        return cls(tensors["pivot"], tensors["latent"], like.first, null, tensors["losses"])


def _check_run(path: Path, then: dict, now: dict):
    """Refuse a checkpoint of another picture, prompt, model or setting. Raises InversionError."""
    pairs = [(key, then[key], now[key]) for key in FIELDS]
    facts = then["facts"], now["facts"]
    pairs += [(key, *(f.get(key) for f in facts)) for key in ("image sha256", "noise schedule")]
    other = [
        f"{key}: {before} then, {after} now" for key, before, after in pairs if before != after
    ]
    other += differences(*facts)
    if other:
        listed = "\n  ".join(other)
        raise InversionError(f"{path} belongs to another run:\n  {listed}\nGive another file.")
