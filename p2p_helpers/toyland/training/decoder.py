"""Stage 3: the decoder goes on learning from the frozen encoder's latents, on whole pictures; latents and the UNet stay valid."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from ..world import caption, scene_at
from .autoencoder import CELL, copies_psnr, picture_loss
from .data import latents, pictures, save_grid, to_tensor, truths
from .diffusion import trained_vae
from .fit import fast_dtype, fit, generators

LATEST = 0.4  # of the noise steps: from here on the UNet fills in no more than detail


class Guesses:
    """Clean latents as the trained UNet sees them through noise, conditioned on their captions."""

    def __init__(self, folder: Path, device: str):
        self.pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32).to(device)
        self.pipe.unet.to(memory_format=torch.channels_last)
        self.pipe.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def __call__(self, latent: Tensor, scenes: list[int], rng, noise_rng) -> Tensor:
        """Latents of training scenes, (picture, channel, row, column) → what the UNet makes of them."""
        pipe = self.pipe
        alphas = pipe.scheduler.alphas_cumprod
        t = torch.from_numpy(rng.integers(1, int(LATEST * len(alphas)), size=len(latent)))
        noise = torch.randn(latent.shape, generator=noise_rng)
        noisy = pipe.scheduler.add_noise(latent, noise, t)
        words = [caption(scene_at("train", int(i))) for i in scenes]
        ids = pipe.tokenizer(words, padding="max_length", return_tensors="pt").input_ids
        embedding = pipe.text_encoder(ids.to(pipe.device))[0]
        guess = pipe.unet(noisy.to(pipe.device), t.to(pipe.device), embedding).sample.cpu()
        a = alphas[t, None, None, None]
        return (noisy - (1 - a).sqrt() * guess) / a.sqrt()


def decoder(config: dict, out: Path, device: str):
    """Go on training the decoder; write `decoder/vae/`.

    It learns from latents with the errors that it will meet: half a batch is what the UNet of `pipeline/` makes of noisy
    latents, where it is trained already, and all have a little noise (RAE, arXiv 2510.11690).
    """
    settings = config["decoder"]
    count = config["scenes"]
    data, held_out = pictures("train", count, out), pictures("validation", 512, out)
    holds = truths("train", count, out)["objects"] > 0
    vae = trained_vae(config, out, device)
    codes = latents(vae, "train", count, out, device)
    trained = out / "pipeline"
    guesses = Guesses(trained, device) if (trained / "model_index.json").exists() else None
    model = (
        nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})
        .train()
        .requires_grad_(True)
    )
    model.to(device, memory_format=torch.channels_last)
    dtype = fast_dtype(device)

    def decode(module, latent: Tensor) -> Tensor:
        return module["decoder"](module["post_quant_conv"](latent))

    def loss_at(step: int, worker: int) -> Tensor:
        rng, noise_rng = generators(settings, step, worker)
        choice = rng.integers(len(data), size=settings["batch_size"] // settings["workers"])
        target = to_tensor(data[choice], device).to(memory_format=torch.channels_last)
        held = (
            holds[choice].float()[:, None].repeat_interleave(CELL, -1).repeat_interleave(CELL, -2)
        )
        stress = 1 + settings["object_weight"] * held.to(device)
        latent = codes[choice].float()
        if guesses is not None:
            half = len(choice) // 2
            latent[:half] = guesses(latent[:half], choice[:half], rng, noise_rng)
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
