"""Stage 1: an autoencoder that turns 128×128 pictures into 16×16 latents (Rombach et al. 2022, section 3.1)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

from ..world import SIZE
from .data import FLOAT32, pictures, save_grid, to_tensor, truths
from .fit import fast_dtype, fit, generators

CELL = 8  # pixels to a latent pixel


def picture_loss(error: Tensor, stress: Tensor, settings: dict) -> Tensor:
    """Absolute and squared error of pixels, and of the steps between neighbours, which keeps contours sharp.

    Args:
        error: (picture, channel, height, width).
        stress: weights, (picture, 1, height, width); objects weigh more than what is behind them.
    """
    across, down = error.diff(dim=-1).abs(), error.diff(dim=-2).abs()
    edges = (across * stress[..., :, 1:]).mean() + (down * stress[..., 1:, :]).mean()
    pixels = (error.abs() * stress).mean()
    squares = (error.square() * stress).mean()
    return pixels + settings["edge_weight"] * edges + settings["square_weight"] * squares


def crop_origins(cells: Tensor, side: int, rng: np.random.Generator) -> tuple[int, int]:
    """Where to cut a square of `side` cells from one picture: three times of four around a cell of an object.

    Args:
        cells: which cells hold an object, bool (row, column).
    """
    room = len(cells) - side
    rows, columns = torch.nonzero(cells, as_tuple=True)
    if room == 0:
        return 0, 0
    if len(rows) == 0 or rng.random() < 0.25:
        return int(rng.integers(room + 1)), int(rng.integers(room + 1))
    i = int(rng.integers(len(rows)))
    y, x = int(rows[i]) - int(rng.integers(side)), int(columns[i]) - int(rng.integers(side))
    return int(np.clip(y, 0, room)), int(np.clip(x, 0, room))


def normalise(vae: AutoencoderKL, data: np.ndarray, device: str):
    """Fold each latent channel's mean and deviation into the 1×1 convolutions around the latent: mean 0, deviation 1."""
    batches = (data[i : i + 8] for i in range(0, 512, 8))
    with torch.no_grad():
        codes = torch.cat([vae.encode(to_tensor(b, device)).latent_dist.mode() for b in batches])
        mean, std = codes.mean((0, 2, 3)), codes.std((0, 2, 3))
        quant, post = vae.quant_conv, vae.post_quant_conv
        channels = len(mean)
        quant.weight[:channels] /= std[:, None, None, None]
        quant.bias[:channels] = (quant.bias[:channels] - mean) / std
        quant.bias[channels:] -= 2 * std.log()  # the posterior's log-variance
        post.bias += (post.weight[..., 0, 0] @ mean[:, None])[:, 0]
        post.weight *= std[None, :, None, None]


def copies_psnr(originals: Tensor, copies: Tensor) -> float:
    """Mean PSNR in dB of pictures in −1…1."""
    squares = (copies.clamp(-1, 1) - originals).square().mean(dim=(1, 2, 3)) / 4
    return float((-10 * squares.log10()).mean())


def autoencoder(config: dict, out: Path, device: str):
    """Train encoder and decoder; write `autoencoder/vae/`.

    The latent is made easy to model: it is noisy, and in some of the steps (`half_size`) the picture at half its size must come from the
    latent at half its size (EQ-VAE, arXiv 2502.09509). Starts from the weights in `start`, if that is given.
    """
    settings = config["autoencoder"]
    count = config["scenes"]
    data, held_out = pictures("train", count, out), pictures("validation", 512, out)
    holds = truths("train", count, out)["objects"] > 0  # (scene, row, column)
    torch.manual_seed(settings["seed"])
    start, new = settings["start"], settings["model"]
    vae = AutoencoderKL.from_pretrained(start, **FLOAT32) if start else AutoencoderKL(**new)
    vae.train().requires_grad_(True).to(device, memory_format=torch.channels_last)
    dtype = fast_dtype(device)

    def batch_at(step: int, rng) -> tuple[Tensor, Tensor]:
        whole = step >= settings["whole_from"] * settings["steps"]
        side = SIZE // CELL if whole else settings["crop"] // CELL
        number = settings["batch_size"] // settings["workers"]
        number = number * (settings["crop"] // CELL) ** 2 // side**2
        cut, stress = [], []
        for i in rng.integers(len(data), size=number):
            y, x = crop_origins(holds[i], side, rng)
            cut.append(data[i, y * CELL : (y + side) * CELL, x * CELL : (x + side) * CELL])
            stress.append(
                1 + settings["object_weight"] * holds[i, y : y + side, x : x + side].float()
            )
        weights = (
            torch.stack(stress)[:, None].repeat_interleave(CELL, -1).repeat_interleave(CELL, -2)
        )
        target = to_tensor(np.stack(cut), device)
        return target.to(memory_format=torch.channels_last), (weights / weights.mean()).to(device)

    def loss_at(step: int, worker: int) -> Tensor:
        rng, noise = generators(settings, step, worker, device)
        target, stress = batch_at(step, rng)
        with torch.autocast(
            device.split(":")[0], dtype or torch.bfloat16, enabled=dtype is not None
        ):
            posterior = vae.encode(target).latent_dist
            latent = posterior.sample(noise)
            latent = latent + settings["latent_noise"] * rng.random() * torch.randn(
                latent.shape, generator=noise, device=device
            )
            if rng.random() < settings["half_size"]:
                latent = F.avg_pool2d(latent, 2)
                target, stress = F.avg_pool2d(target, 2), F.avg_pool2d(stress, 2)
            picture = vae.decode(latent).sample
        kl = (
            0.5
            * (
                posterior.mean.float().square()
                + posterior.var.float()
                - 1
                - posterior.logvar.float()
            ).mean()
        )
        return picture_loss(picture.float() - target, stress, settings) + settings["kl_weight"] * kl

    def sample(average: nn.Module, path: Path):
        originals = to_tensor(held_out[:64], device)
        copies = torch.cat(
            [
                average.decode(average.encode(b).latent_dist.mode()).sample
                for b in originals.split(8)
            ]
        )
        print(f"validation PSNR {copies_psnr(originals, copies):.2f} dB", flush=True)
        save_grid(torch.cat([originals[:12], copies[:12]]), path, 12)

    average = fit(vae, loss_at, sample, settings, out / "autoencoder", device)
    normalise(average, data, device)
    average.register_to_config(_name_or_path="toyland")
    average.save_pretrained(out / "autoencoder" / "vae")
