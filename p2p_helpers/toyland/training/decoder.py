"""Stage 3: the decoder goes on learning from the frozen encoder's latents, on whole pictures; latents and the UNet stay valid."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn

from ..world import caption, scene_at
from .autoencoder import CELL, copies_psnr, picture_loss
from .data import FLOAT32, latents, pictures, save_grid, to_tensor, truths
from .diffusion import trained_vae
from .fit import fast_dtype, fit, generators
from .perception import apart, picture_features
from .reader import trained_reader

LATEST = 0.4  # of the noise steps: from here on the UNet fills in no more than detail


class Guesses:
    """Clean latents as the trained UNet sees them through noise, conditioned on their captions."""

    def __init__(self, folder: Path, device: str):
        self.pipe = StableDiffusionPipeline.from_pretrained(folder, **FLOAT32).to(device)
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


class Critic(nn.Module):
    """Says of every patch of pictures in −1…1, (picture, 3, height, width), whether it is of a render; above 0 means yes.

    Patches of some twenty pixels, as in Isola et al. 2017 (arXiv 1611.07004).
    """

    def __init__(self, width: int = 32):
        super().__init__()

        def down(a: int, b: int) -> list[nn.Module]:
            return [nn.Conv2d(a, b, 4, 2, 1), nn.GroupNorm(8, b), nn.LeakyReLU(0.2)]

        self.conv_in = nn.Conv2d(3, width, 4, 2, 1)
        self.body = nn.Sequential(
            nn.LeakyReLU(0.2), *down(width, 2 * width), *down(2 * width, 3 * width)
        )
        self.conv_out = nn.Conv2d(3 * width, 1, 3, padding=1)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.conv_out(self.body(self.conv_in(pictures)))

    def judged(self, made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """The makers' loss and the critic's own (hinge; Lim & Ye 2017, arXiv 1705.02894); each moves its own weights only."""
        # A copy, since the other worker is at these weights, too
        frozen = copy.deepcopy(self).requires_grad_(False)
        makers = -frozen(made).mean()
        own = (1 - self(real)).relu().mean() + (1 + self(made.detach())).relu().mean()
        return makers, own


def _balance(one: Tensor, other: Tensor, picture: Tensor) -> Tensor:
    """What makes the second loss pull on the picture as hard as the first."""
    pulls = [torch.autograd.grad(loss, picture, retain_graph=True)[0] for loss in (one, other)]
    return pulls[0].norm() / pulls[1].norm().clamp(min=1e-8)


def decoder(config: dict, out: Path, device: str):
    """Go on training the decoder; write `decoder/vae/`.

    It learns from latents with the errors that it will meet: half a batch is what the UNet of `pipeline/` makes of noisy
    latents, where it is trained already, and all have a little noise (RAE, arXiv 2510.11690). Squared error blurs what a
    latent leaves open; the features of a second reader and a critic of patches want it sharp (Esser et al. 2021, arXiv
    2012.09841).
    """
    settings = config["decoder"]
    count = config["scenes"]
    data, held_out = pictures("train", count, out), pictures("validation", 512, out)
    holds = truths("train", count, out)["objects"] > 0
    vae = trained_vae(config, out, device)
    codes = latents(vae, "train", count, out, device)
    trained = out / "pipeline"
    guesses = Guesses(trained, device) if (trained / "model_index.json").exists() else None
    eye = trained_reader(config["eye"], count, out, "eye", device)  # not the one that judges
    parts = {"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder, "critic": Critic()}
    model = nn.ModuleDict(parts).train().requires_grad_(True)
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
        picture, stress = picture.float(), stress / stress.mean()
        far = apart(picture_features(eye, picture), picture_features(eye, target))
        copied = picture_loss(picture - target, stress, settings)
        copied = copied + settings["feature_weight"] * far
        makers, critics = model["critic"].judged(picture, target)
        trust = settings["critic_weight"] * min(step / settings["critic_learns"], 1)
        return copied + trust * _balance(copied, makers, picture) * makers + critics

    def sample(average: nn.ModuleDict, path: Path):
        originals = to_tensor(held_out[:64], device)
        held_codes = torch.cat([vae.encode(b).latent_dist.mode() for b in originals.split(8)])
        copies = torch.cat([decode(average, c) for c in held_codes.split(8)])
        print(f"validation PSNR {copies_psnr(originals, copies):.2f} dB", flush=True)
        save_grid(torch.cat([originals[:12], copies[:12]]), path, 12)

    average = fit(model, loss_at, sample, settings, out / "decoder", device)
    vae.post_quant_conv, vae.decoder = average["post_quant_conv"], average["decoder"]
    vae.save_pretrained(out / "decoder" / "vae")
