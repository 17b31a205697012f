"""Stage 3: the decoder goes on learning from the frozen encoder's latents, on whole pictures; latents and the UNet stay valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .autoencoder import CELL, copies_psnr, picture_loss
from .data import latents, pictures, save_grid, to_tensor, truths
from .diffusion import trained_vae
from .fit import fast_dtype, fit


def decoder(config: dict, out: Path, device: str):
    """Train on latents with a little noise, as the UNet's own have a little error (RAE, arXiv 2510.11690); write `decoder/vae/`."""
    settings = config["decoder"]
    count = config["scenes"]
    data, held_out = pictures("train", count, out), pictures("validation", 512, out)
    holds = truths("train", count, out)["objects"] > 0
    vae = trained_vae(config, out, device)
    codes = latents(vae, "train", count, out, device)
    model = (
        nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})
        .train()
        .requires_grad_(True)
    )
    model.to(device, memory_format=torch.channels_last)
    dtype = fast_dtype(device)

    def decode(module, latent: Tensor) -> Tensor:
        return module["decoder"](module["post_quant_conv"](latent))

    def loss_at(step: int) -> Tensor:
        rng, noise_rng = (
            np.random.default_rng([settings["seed"], step]),
            torch.Generator().manual_seed(step),
        )
        choice = rng.integers(len(data), size=settings["batch_size"])
        target = to_tensor(data[choice], device).to(memory_format=torch.channels_last)
        held = (
            holds[choice].float()[:, None].repeat_interleave(CELL, -1).repeat_interleave(CELL, -2)
        )
        stress = 1 + settings["object_weight"] * held.to(device)
        latent = codes[choice].float()
        latent = latent + settings["latent_noise"] * rng.random() * torch.randn(
            latent.shape, generator=noise_rng
        )
        latent = latent.to(device, memory_format=torch.channels_last)
        with torch.autocast(
            device.split(":")[0], dtype or torch.bfloat16, enabled=dtype is not None
        ):
            picture = decode(model, latent)
        return picture_loss(picture.float() - target, stress / stress.mean(), settings)

    def sample(average: nn.ModuleDict, path: Path):
        originals = to_tensor(held_out[:64], device)
        held_codes = torch.cat([vae.encode(b).latent_dist.mode() for b in originals.split(8)])
        copies = torch.cat([decode(average, c) for c in held_codes.split(8)])
        print(f"validation PSNR {copies_psnr(originals, copies):.2f} dB", flush=True)
        save_grid(torch.cat([originals[:12], copies[:12]]), path, 12)

    average = fit(model, loss_at, sample, settings, out / "decoder", device)
    vae.post_quant_conv, vae.decoder = average["post_quant_conv"], average["decoder"]
    vae.save_pretrained(out / "decoder" / "vae")
