"""Train the embedded model: `python -m p2p_helpers.toyland.train {autoencoder,decoder,diffusion,reader,ship}`.

Every number comes from data/toyland/training.json. A run writes into `runs/<stage>/`: `checkpoint.pt` every few minutes (atomically,
so a run killed at any moment goes on where it was, on the same loss curve), `log.csv`, and a sample grid. What a step sees follows
from its number alone, never from a hidden random state.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import copy
import csv
import hashlib
import json
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from ..paths import data_folder
from .reader import Reader, truth
from .render import object_masks, render
from .tokenizer import MAX_TOKENS, write_tokenizer
from .world import SIZE, caption, scene_at, vocabulary

CHECKPOINT_SECONDS = 180
SAMPLE_SECONDS = 900


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised (Jordan et al. 2024, "Muon"), in float32 and for any weight of two or more dimensions.

    torch.optim.Muon takes matrices only and works in bfloat16, which CPUs without AMX run slowly.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(momentum, group["momentum"]).flatten(
                    1
                )  # Nesterov; (out, in·height·width)
                tall = update.shape[0] > update.shape[1]
                x = update.T if tall else update
                x = x / (x.norm() + 1e-7)
                # Quintic Newton–Schulz iteration towards U Vᵀ. Its polynomials act from the left, so they are multiplied up as
                # small square matrices, and the wide weight is touched twice instead of ten times.
                gram, eye = x @ x.T, torch.eye(len(x), device=x.device)
                total = None
                for i in range(5):
                    factor = 3.4445 * eye - 4.7750 * gram + 2.0315 * gram @ gram
                    total = factor if total is None else factor @ total
                    gram = factor @ gram @ factor if i < 4 else None
                x = total @ x
                scale = max(1, update.shape[0] / update.shape[1]) ** 0.5
                p.add_((x.T if tall else x).reshape(p.shape), alpha=-group["lr"] * scale)


def optimizers(model: nn.Module, muon_lr: float, adam_lr: float) -> list[torch.optim.Optimizer]:
    """Muon for inner weight matrices, AdamW for embeddings, norms, biases and small or outermost layers."""
    outermost = ("conv_in", "conv_out", "embedding", "quant_conv")
    matrices, rest = [], []
    for name, p in model.named_parameters():
        (matrices if p.ndim >= 2 and not any(o in name for o in outermost) else rest).append(p)
    return [
        Muon(matrices, muon_lr),
        torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.99), weight_decay=0.0),
    ]


def _render_number(job: tuple[str, int]) -> np.ndarray:
    return np.asarray(render(scene_at(*job))[0])


def pictures(split: str, count: int, out: Path) -> np.ndarray:
    """The first `count` renders of a split, uint8 (picture, height, width, channel); painted once and kept in `out`."""
    path = out / f"pictures-{split}-{count}.npy"
    if not path.exists():
        print(f"rendering {count} {split} scenes …", flush=True)
        part = path.with_suffix(".part.npy")
        store = np.lib.format.open_memmap(part, "w+", np.uint8, (count, SIZE, SIZE, 3))
        with concurrent.futures.ProcessPoolExecutor() as pool:
            for i, picture in enumerate(
                pool.map(_render_number, ((split, i) for i in range(count)), chunksize=256)
            ):
                store[i] = picture
        store.flush()
        part.rename(path)
    return np.load(path, mmap_mode="r")


def to_tensor(batch: np.ndarray, device) -> Tensor:
    """uint8 (picture, height, width, channel) → float (picture, channel, height, width) in −1…1."""
    return (
        torch.from_numpy(np.ascontiguousarray(batch)).to(device).permute(0, 3, 1, 2).float() / 127.5
        - 1
    )


def save_grid(images: Tensor, path: Path, columns: int):
    """Write pictures in −1…1, (picture, channel, height, width), as one PNG."""
    pixels = (
        ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5)
        .round()
        .byte()
        .permute(0, 2, 3, 1)
        .numpy()
    )
    rows = [
        np.concatenate(list(pixels[i : i + columns]), axis=1)
        for i in range(0, len(pixels), columns)
    ]
    Image.fromarray(np.concatenate(rows)).save(path)


def fast_dtype(device: str) -> torch.dtype | None:
    """bfloat16 where the hardware multiplies it natively, else None (float32)."""
    if device.startswith("cuda"):
        return torch.bfloat16
    return (
        torch.bfloat16
        if torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        else None
    )


def learning_rate(step: int, steps: int, warmup: int, decay_from: float) -> float:
    """Factor on every learning rate: linear warm-up, constant up to `decay_from` of the steps, then a cosine to 2 %."""
    start = max(warmup, decay_from * steps)
    progress = max(step - start, 0) / max(steps - start, 1)
    return min((step + 1) / warmup, 1) * (
        0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))
    )


def fit(model: nn.Module, loss_at, sample, settings: dict, out: Path, device: str) -> nn.Module:
    """Run or resume a training; return the exponential moving average of the weights.

    Args:
        model: what is trained.
        loss_at: step number → scalar loss. Its randomness must follow from the step number alone.
        sample: (averaged model, path without suffix) → None; writes a picture of the progress.
        settings: steps, muon_lr, adam_lr, warmup, decay_from, ema.
        out: folder for checkpoint.pt, log.csv and the sample.
        device: "cpu" or "cuda".
    """
    out.mkdir(parents=True, exist_ok=True)
    average = copy.deepcopy(model).requires_grad_(False)
    opts = optimizers(model, settings["muon_lr"], settings["adam_lr"])
    rates = [o.param_groups[0]["lr"] for o in opts]
    file, log, start, spent = out / "checkpoint.pt", out / "log.csv", 0, 0.0
    if file.exists():
        state = torch.load(file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for o, s in zip(opts, state["optimizers"], strict=True):
            o.load_state_dict(s)
        start, spent = state["step"], state["seconds"]
        if log.exists():  # steps after the checkpoint are taken again
            rows = [
                row
                for row in log.read_text().splitlines(keepends=True)
                if int(row.split(",")[0]) <= start
            ]
            log.write_text("".join(rows))
        print(f"resumed at step {start}", flush=True)
    recent, clock, saved, sampled = [], time.time(), time.time(), time.time()
    for step in range(start, settings["steps"]):
        for o, rate in zip(opts, rates, strict=True):
            o.param_groups[0]["lr"] = rate * learning_rate(
                step, settings["steps"], settings["warmup"], settings["decay_from"]
            )
        loss = loss_at(step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in opts:
            o.step()
            o.zero_grad(set_to_none=True)
        decay = min(settings["ema"], (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
            for ours, theirs in zip(average.buffers(), model.buffers(), strict=True):
                ours.copy_(theirs)
        recent.append(loss.detach())
        last = step + 1 == settings["steps"]
        if (step + 1) % 50 == 0 or last:
            mean = torch.stack(recent).mean().item()
            recent = []
            with log.open("a", newline="") as f:
                csv.writer(f).writerow(
                    [step + 1, f"{mean:.6f}", f"{spent + time.time() - clock:.0f}"]
                )
            if (step + 1) % 200 == 0 or last:
                print(
                    f"step {step + 1}/{settings['steps']}  loss {mean:.5f}  {spent + time.time() - clock:.0f} s",
                    flush=True,
                )
        if time.time() - saved > CHECKPOINT_SECONDS or last:
            state = {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizers": [o.state_dict() for o in opts],
                "step": step + 1,
                "seconds": spent + time.time() - clock,
            }
            torch.save(state, file.with_suffix(".part"))
            os.replace(file.with_suffix(".part"), file)
            saved = time.time()
        if time.time() - sampled > SAMPLE_SECONDS or last:
            with torch.no_grad():
                sample(average, out / "sample.png")
            sampled = time.time()
    return average


def picture_loss(error: Tensor, settings: dict) -> Tensor:
    """Mean absolute error of pixels and, weighted, of the steps between neighbours, which keeps contours sharp."""
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + settings["edge_weight"] * edges


def save_copies(originals: Tensor, copies: Tensor, path: Path):
    """Print the mean PSNR of an autoencoder's copies, and write twelve of them under their originals."""
    mse = (copies.clamp(-1, 1) - originals).square().mean(dim=(1, 2, 3)) / 4
    print(f"validation PSNR {(-10 * mse.log10()).mean():.2f} dB", flush=True)
    save_grid(torch.cat([originals[:12], copies[:12]]), path, 12)


def autoencoder(config: dict, out: Path, device: str):
    """Stage 1: an AutoencoderKL that turns 128×128 pictures into 16×16 latents (Rombach et al. 2022, section 3.1).

    Ends by folding each channel's mean and deviation into the 1×1 convolutions around the latent, so that latents have mean 0 and
    deviation 1 and the pipeline's scaling factor is 1. Writes `runs/autoencoder/vae/`.
    """
    settings = config["autoencoder"]
    data, held_out = pictures("train", config["scenes"], out), pictures("validation", 512, out)
    torch.manual_seed(settings["seed"])
    vae = AutoencoderKL(**settings["model"]).to(device, memory_format=torch.channels_last)
    dtype = fast_dtype(device)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng([settings["seed"], step])
        whole = step >= settings["whole_from"] * settings["steps"]
        crop = SIZE if whole else settings["crop"]
        count = settings["batch_size"] * settings["crop"] ** 2 // crop**2
        batch = []
        for i in rng.integers(len(data), size=count):
            y, x = rng.integers((SIZE - crop) // 8 + 1, size=2) * 8
            batch.append(data[i, y : y + crop, x : x + crop])
        target = to_tensor(np.stack(batch), device).to(memory_format=torch.channels_last)
        noise = torch.Generator(device).manual_seed(step)
        with torch.autocast(
            device.split(":")[0], dtype or torch.bfloat16, enabled=dtype is not None
        ):
            posterior = vae.encode(target).latent_dist
            picture = vae.decode(posterior.sample(noise)).sample
        kl = (
            0.5
            * (
                posterior.mean.float().square()
                + posterior.var.float()
                - 1
                - posterior.logvar.float()
            ).mean()
        )
        return picture_loss(picture.float() - target, settings) + settings["kl_weight"] * kl

    def sample(average: nn.Module, path: Path):
        originals = to_tensor(held_out[:64], device)
        copies = torch.cat(
            [
                average.decode(average.encode(b).latent_dist.mode()).sample
                for b in originals.split(8)
            ]
        )
        save_copies(originals, copies, path)

    average = fit(vae, loss_at, sample, settings, out / "autoencoder", device)
    with torch.no_grad():
        latents = torch.cat(
            [
                average.encode(to_tensor(data[i : i + 8], device)).latent_dist.mode()
                for i in range(0, 512, 8)
            ]
        )
        mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        quant, post = average.quant_conv, average.post_quant_conv
        channels = len(mean)
        quant.weight[:channels] /= std[:, None, None, None]
        quant.bias[:channels] = (quant.bias[:channels] - mean) / std
        quant.bias[channels:] -= 2 * std.log()  # the posterior's log-variance
        post.bias += (post.weight[..., 0, 0] @ mean[:, None])[:, 0]
        post.weight *= std[None, :, None, None]
    average.save_pretrained(out / "autoencoder" / "vae")


def encode_pictures(vae: AutoencoderKL, data: np.ndarray, path: Path, device: str) -> Tensor:
    """Latents of pictures, float16 (picture, channel, height, width); worked out once and kept in `path`."""
    if not path.exists():
        print(f"encoding {len(data)} pictures …", flush=True)
        with torch.no_grad():
            batches = (
                vae.encode(to_tensor(data[i : i + 32], device)).latent_dist.mode()
                for i in range(0, len(data), 32)
            )
            part = path.with_suffix(".part.npy")
            np.save(part, torch.cat([b.half().cpu() for b in batches]).numpy())
            part.rename(path)
    return torch.from_numpy(np.load(path))


def trained_vae(out: Path, device: str) -> tuple[AutoencoderKL, str]:
    """The autoencoder as far as it is trained, frozen, and a fingerprint of its encoder, by which stored latents are known."""
    folder = (
        out / "decoder" / "vae"
        if (out / "decoder" / "vae").exists()
        else out / "autoencoder" / "vae"
    )
    vae = AutoencoderKL.from_pretrained(folder).to(device).eval().requires_grad_(False)
    vae.register_to_config(_name_or_path="toyland")  # not where it happened to lie
    encoder = [*vae.encoder.parameters(), *vae.quant_conv.parameters()]
    return vae, hashlib.sha256(b"".join(p.cpu().numpy().tobytes() for p in encoder)).hexdigest()[:8]


def decoder(config: dict, out: Path, device: str):
    """Stage 2: the decoder goes on learning from the frozen encoder's latents, on whole pictures; latents and the UNet stay valid.

    The squared error joins the loss, since PSNR is what it is judged by. Writes `runs/decoder/vae/`.
    """
    settings = config["decoder"]
    data, held_out = pictures("train", config["scenes"], out), pictures("validation", 512, out)
    vae, encoder = trained_vae(out, device)
    latents = encode_pictures(vae, data, out / f"latents-{encoder}-{config['scenes']}.npy", device)
    model = (
        nn.ModuleDict({"post_quant_conv": vae.post_quant_conv, "decoder": vae.decoder})
        .train()
        .requires_grad_(True)
    )
    model.to(device, memory_format=torch.channels_last)
    dtype = fast_dtype(device)

    def loss_at(step: int) -> Tensor:
        choice = np.random.default_rng([settings["seed"], step]).integers(
            len(data), size=settings["batch_size"]
        )
        target = to_tensor(data[np.sort(choice)], device).to(memory_format=torch.channels_last)
        latent = latents[np.sort(choice)].float().to(device, memory_format=torch.channels_last)
        with torch.autocast(
            device.split(":")[0], dtype or torch.bfloat16, enabled=dtype is not None
        ):
            picture = model["decoder"](model["post_quant_conv"](latent))
        error = picture.float() - target
        return picture_loss(error, settings) + settings["square_weight"] * error.square().mean()

    def sample(average: nn.ModuleDict, path: Path):
        originals = to_tensor(held_out[:64], device)
        codes = torch.cat([vae.encode(b).latent_dist.mode() for b in originals.split(8)])
        copies = torch.cat(
            [average["decoder"](average["post_quant_conv"](c)) for c in codes.split(8)]
        )
        save_copies(originals, copies, path)

    average = fit(model, loss_at, sample, settings, out / "decoder", device)
    vae.post_quant_conv, vae.decoder = average["post_quant_conv"], average["decoder"]
    vae.save_pretrained(out / "decoder" / "vae")


def new_pipeline(
    config: dict, tokenizer: CLIPTokenizer, vae: AutoencoderKL | None = None
) -> StableDiffusionPipeline:
    """The pipeline that training.json describes, with random weights (from torch's global generator) where no trained part is given."""
    settings = config["diffusion"]
    text_config = CLIPTextConfig(
        **settings["text_encoder"],
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return StableDiffusionPipeline(
        vae=vae or AutoencoderKL(**config["autoencoder"]["model"]),
        text_encoder=CLIPTextModel(text_config),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**settings["unet"]),
        scheduler=DDIMScheduler(**settings["scheduler"]),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def diffusion(config: dict, out: Path, device: str):
    """Stage 3: text encoder and UNet, trained together to predict the noise (Ho et al. 2020) on the autoencoder's latents.

    Loss weights are min-SNR with γ = 5 (Hang et al. 2023, arXiv 2303.09556); some captions are dropped for classifier-free guidance
    (Ho & Salimans 2022). Writes the whole pipeline, in float16, to `runs/pipeline/`.
    """
    settings = config["diffusion"]
    vae, encoder = trained_vae(out, device)
    latents_file = out / f"latents-{encoder}-{config['scenes']}.npy"
    latents = encode_pictures(vae, pictures("train", config["scenes"], out), latents_file, device)
    write_tokenizer(out / "tokenizer")
    facts = {
        "known_words": vocabulary(),
        "guidance_scale": settings["guidance_scale"],
    }  # kept in tokenizer_config.json
    tokenizer = CLIPTokenizer.from_pretrained(
        out / "tokenizer", model_max_length=MAX_TOKENS, **facts
    )

    def tokenize(text):
        return tokenizer(
            text, padding="max_length", max_length=MAX_TOKENS, return_tensors="pt"
        ).input_ids

    scenes = [scene_at("train", i) for i in range(config["scenes"])]
    # What is hard is shown more often: a second object, a colour.
    hard = np.array(
        [(len(s.things) == 2) + any(t.colour is not None for t in s.things) for s in scenes]
    )
    chance = 1 + settings["oversample"] * hard
    chance = chance / chance.sum()
    covered = truths(config["scenes"], out)["objects"] > 0  # (scene, row, column) of the latent
    tokens, nothing = tokenize([caption(s) for s in scenes]), tokenize([""])
    single = np.flatnonzero([len(s.things) == 1 for s in scenes])
    torch.manual_seed(settings["seed"])
    pipe = new_pipeline(config, tokenizer, vae)
    model = nn.ModuleDict({"text_encoder": pipe.text_encoder, "unet": pipe.unet})
    model.to(device, memory_format=torch.channels_last)
    scheduler = pipe.scheduler
    alphas = scheduler.alphas_cumprod.to(device)
    snr = alphas / (1 - alphas)
    weight = snr.clamp(max=settings["min_snr_gamma"]) / snr  # for noise prediction
    dtype = fast_dtype(device)

    def loss_at(step: int) -> Tensor:
        rng, noise_rng = (
            np.random.default_rng([settings["seed"], step]),
            torch.Generator().manual_seed(step),
        )
        alone = step < settings["single_until"] * settings["steps"]  # one object at a time first
        choice = (
            rng.choice(single, settings["batch_size"])
            if alone
            else rng.choice(len(latents), settings["batch_size"], p=chance)
        )
        words = tokens[choice]
        words[rng.random(len(choice)) < settings["caption_dropout"]] = nothing
        clean = latents[choice].float()
        noise = torch.randn(clean.shape, generator=noise_rng)
        # one draw in each of as many equal intervals as the batch has samples: less variance than independent draws
        times = (
            (np.arange(len(choice)) + rng.random(len(choice))) / len(choice) * len(alphas)
        ).astype(np.int64)
        t = torch.from_numpy(times).to(device)
        noisy = scheduler.add_noise(clean.to(device), noise.to(device), t).to(
            memory_format=torch.channels_last
        )
        with torch.autocast(
            device.split(":")[0], dtype or torch.bfloat16, enabled=dtype is not None
        ):
            embedding = model["text_encoder"](words.to(device))[0]  # (prompt, token, width)
            guess = model["unet"](noisy, t, embedding).sample
        error = (guess.float() - noise.to(device)).square().mean(1)  # (picture, row, column)
        # Objects are a small part of a picture and most of what a caption says. They weigh more where little noise leaves no doubt
        # about where they are; with much noise the weight would teach the model to expect objects everywhere.
        stress = (
            1
            + settings["object_weight"] * covered[choice].to(device) * alphas[t, None, None].sqrt()
        )
        return (weight[t] * (stress * error).mean((1, 2))).mean()

    def assemble(average: nn.ModuleDict) -> StableDiffusionPipeline:
        return StableDiffusionPipeline(
            **{**pipe.components, **average}, requires_safety_checker=False
        )

    def sample(average: nn.ModuleDict, path: Path):
        averaged = assemble(average)
        averaged.set_progress_bar_config(disable=True)
        prompts = [caption(scene_at("validation", i)) for i in range(16)]
        generators = [torch.Generator().manual_seed(i) for i in range(16)]
        images = averaged(
            prompts,
            num_inference_steps=20,
            guidance_scale=settings["guidance_scale"],
            generator=generators,
            output_type="pt",
        ).images
        save_grid(images * 2 - 1, path, 8)
        path.with_suffix(".txt").write_text("\n".join(prompts))

    average = fit(model, loss_at, sample, settings, out / "diffusion", device)
    assemble(average).to(torch.float16).save_pretrained(out / "pipeline")


def _truth_number(job: tuple[str, int]) -> dict:
    scene = scene_at(*job)
    return truth(scene, object_masks(scene))


def truths(count: int, out: Path) -> dict[str, Tensor]:
    """The reader's right answers for the first `count` training scenes (see `reader.truth`); worked out once and kept in `out`."""
    path = out / f"truths-{count}.npz"
    if not path.exists():
        with concurrent.futures.ProcessPoolExecutor() as pool:
            rows = list(
                pool.map(_truth_number, (("train", i) for i in range(count)), chunksize=256)
            )
        part = path.with_suffix(".part.npz")
        np.savez(part, **{key: np.stack([row[key] for row in rows]) for key in rows[0]})
        part.rename(path)
    return {key: torch.from_numpy(value) for key, value in np.load(path).items()}


def reader(config: dict, out: Path, device: str):
    """The judge: learns to name what is in renders, blurred and noisy ones too, so that a soft picture is still read.

    Writes `runs/reader.safetensors`.
    """
    settings = config["reader"]
    data = pictures("train", config["scenes"], out)
    answers = truths(config["scenes"], out)
    torch.manual_seed(settings["seed"])
    model = Reader().to(device, memory_format=torch.channels_last)

    def loss_at(step: int) -> Tensor:
        rng, noise = (
            np.random.default_rng([settings["seed"], step]),
            torch.Generator().manual_seed(step),
        )
        choice = rng.integers(len(data), size=settings["batch_size"])
        batch = to_tensor(data[np.sort(choice)], device)
        right = {key: value[np.sort(choice)].to(device) for key, value in answers.items()}
        softness = int(rng.integers(4))  # half of the steps: no blur; else a 3×3 or 5×5 mean
        if softness > 1:
            batch = F.avg_pool2d(batch, 2 * softness - 1, 1, softness - 1, count_include_pad=False)
        spread = settings["noise"] * torch.rand(len(batch), 1, 1, 1, generator=noise)
        batch = batch + (spread * torch.randn(batch.shape, generator=noise)).to(device)
        objects, colours, background, style, night, snow = model(
            batch.to(memory_format=torch.channels_last)
        )
        balance = torch.full((objects.shape[1],), 1.0, device=device)
        balance[0] = 0.3  # most cells hold no object
        return (
            F.cross_entropy(objects, right["objects"], weight=balance)
            + 0.3 * F.cross_entropy(colours, right["colours"], ignore_index=-1)
            + 0.3 * F.cross_entropy(background, right["background"])
            + 0.3 * F.cross_entropy(style, right["style"])
            + 0.3 * F.binary_cross_entropy_with_logits(night, right["night"].float())
            + 0.3 * F.binary_cross_entropy_with_logits(snow, right["snow"].float())
        )

    average = fit(model, loss_at, lambda average, path: None, settings, out / "reader", device)
    weights = {
        key: value.contiguous()
        for key, value in average.state_dict().items()
        if "num_batches" not in key
    }
    save_file(weights, out / "reader.safetensors")


def ship(config: dict, out: Path, device: str):
    """Put the averaged weights of the last checkpoint, finished or not, and the reader into data/toyland, with their checksums."""
    if not (out / "diffusion" / "checkpoint.pt").exists():
        raise SystemExit(
            f"{out}/diffusion has no checkpoint. Train first: python -m p2p_helpers.toyland.train diffusion"
        )
    diffusion(
        {**config, "diffusion": {**config["diffusion"], "steps": 0}}, out, device
    )  # no step is taken: only loads and saves
    folder = data_folder("toyland")
    shutil.rmtree(folder / "pipeline", ignore_errors=True)
    shutil.copytree(out / "pipeline", folder / "pipeline")
    shutil.copy(out / "reader.safetensors", folder)
    files = sorted(
        f for f in [*folder.glob("pipeline/**/*"), folder / "reader.safetensors"] if f.is_file()
    )
    sums = {
        f.relative_to(folder).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files
    }
    (folder / "checksums.json").write_text(json.dumps(sums, indent=2) + "\n")
    print(f"shipped {sum(f.stat().st_size for f in files) / 1e6:.1f} MB")


def main(arguments: list[str] | None = None):
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m p2p_helpers.toyland.train", description=__doc__.split("\n")[0]
    )
    parser.add_argument("stage", choices=["autoencoder", "decoder", "diffusion", "reader", "ship"])
    parser.add_argument("--config", type=Path, default=data_folder("toyland") / "training.json")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs"),
        help="checkpoints, logs and results; resumed from where it exists",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    config = json.loads(chosen.config.read_text())
    globals()[chosen.stage](config, chosen.out, chosen.device)


if __name__ == "__main__":
    main()
