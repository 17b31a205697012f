"""Null-text inversion against the procedure as first published: `python -m benchmarks.null_text`. Prints a table; nothing is asserted.

`original` follows the authors' description and code (Mokady et al. 2022, arXiv 2211.09794): attention with every map written out, a
UNet whose weights take gradients too, DDIM by hand. Both get one pivot and the same stopping rule. On the embedded model, and on the UNet
of Stable Diffusion 1.5 with its published configuration and random weights, there for one denoising step. Each way runs in a process of
its own; memory is the peak above what one forward pass of the loaded model takes.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMInverseScheduler, DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor

import p2p_helpers as p2p
from p2p_helpers.inversion.null_text import _frozen, _optimise_null
from p2p_helpers.inversion.pivot import _pivot
from p2p_helpers.provenance import machine
from p2p_helpers.toyland import photos
from tests.pipelines import DDIM, build

from .editing import GPU, peak_mib, reset_peak

OUT = Path("runs/benchmarks")
GUIDANCE = 7.5
FIRST = 10  # denoising steps in which loss curves are compared: later, rounding has grown
CASES = {"toyland": (50, 10), "sd1": (1, 4)}  # denoising steps, optimiser steps for each
NAMES = {"toyland": "Toyland, 128 px", "sd1": "Stable Diffusion 1.5, 512 px"}


def original(pipe, pivot, prompt: str, steps: int, inner: int):
    """The published procedure: unconditional embeddings (step, token, embedding), losses (step, inner)."""
    unet, scheduler = pipe.unet, pipe.scheduler
    unet.set_attn_processor(AttnProcessor())
    embed = lambda text: pipe.encode_prompt([text], unet.device, 1, False)[0].detach()  # noqa: E731
    null, words, pivot = embed(""), embed(prompt), pivot.to(unet.device)
    scheduler.set_timesteps(steps)
    variance, found, losses, latent = (
        pivot[-1].var().item(),
        [],
        torch.full((steps, inner), torch.nan),
        pivot[:1],
    )

    def alpha(t):
        return scheduler.alphas_cumprod[t] if t >= 0 else scheduler.final_alpha_cumprod

    def ddim(noise, t, z):
        before, after = alpha(t), alpha(t - scheduler.config.num_train_timesteps // steps)
        return (
            after**0.5 * (z - (1 - before) ** 0.5 * noise) / before**0.5
            + (1 - after) ** 0.5 * noise
        )

    for i, t in enumerate(scheduler.timesteps):
        null = null.clone().detach().requires_grad_()
        adam = torch.optim.Adam([null], lr=1e-2 * (1 - i / 100))
        with torch.no_grad():
            conditional = unet(latent, t, encoder_hidden_states=words).sample
        for j in range(inner):
            guess = unet(latent, t, encoder_hidden_states=null).sample
            loss = F.mse_loss(
                ddim(guess + GUIDANCE * (conditional - guess), t, latent), pivot[i + 1][None]
            )
            adam.zero_grad()
            loss.backward()
            adam.step()
            losses[i, j] = loss.item()
            if loss.item() < (1e-5 + 2e-5 * i) * variance:
                break
        found.append(null.detach())
        with torch.no_grad():
            guess, conditional = unet(
                torch.cat([latent] * 2), t, encoder_hidden_states=torch.cat([null, words])
            ).sample.chunk(2)
            latent = ddim(guess + GUIDANCE * (conditional - guess), t, latent)
    return torch.cat(found), losses


def ours(
    pipe,
    pivot,
    prompt: str,
    steps: int,
    inner: int,
    init: str,
    gradient_checkpointing: bool = False,
):
    """The package's optimisation on the same pivot."""
    run = {"prompt": prompt, "steps": steps, "guidance": GUIDANCE, "inner": inner, "init": init}
    with _frozen(pipe, gradient_checkpointing):
        return _optimise_null(pipe, pivot, run, None, lambda step: None, False)


WAYS = {
    "original": original,
    "ours, same settings": lambda *a: ours(*a, "null"),
    "ours, gradient checkpointing": lambda *a: ours(*a, "null", True),
    "ours, one step each from the prompt": lambda *a: ours(*a[:-1], 1, "prompt"),
}


def measure(model: str, way: str) -> dict:
    """One way: its losses, seconds, and MiB above one forward pass."""
    steps, inner = CASES[model]
    if model == "toyland":
        pipe = p2p.load_pipeline("toyland")
    else:
        pipe = build("sd1", OUT / "tokenizer", small=False).to("cuda" if GPU else "cpu")
        pipe.scheduler = DDIMScheduler(**DDIM)
    pipe.set_progress_bar_config(disable=True)
    photo = photos()["rabbit-beach"]
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    picture = p2p.load_image(photo.path).resize((side, side))
    pivot = _pivot(pipe, picture, photo.prompt, steps, DDIMInverseScheduler.from_config)
    words = pipe.encode_prompt([photo.prompt], pipe.device, 1, False)[0]
    reset_peak()
    with torch.no_grad():
        pipe.unet(pivot[:1].to(pipe.device), 1, encoder_hidden_states=words)
    forward = peak_mib()
    reset_peak()
    start = time.perf_counter()
    _, losses = WAYS[way](pipe, pivot, photo.prompt, steps, inner)
    return {
        "seconds": time.perf_counter() - start,
        "MiB": peak_mib() - forward,
        "losses": losses.tolist(),
    }


def last(losses: list) -> torch.Tensor:
    """The last loss of every denoising step."""
    return torch.stack([row[~row.isnan()][-1] for row in torch.tensor(losses)])


def table(results: dict) -> str:
    """Markdown: every way and its ratios to the original."""
    lines = [
        "| | | seconds | ratio | memory | ratio | last losses, mean | largest difference of a loss, first ten steps |",
        "|---" * 8 + "|",
    ]
    for model, ways in results.items():
        first = ways["original"]
        for way, got in ways.items():
            a, b = torch.tensor(first["losses"]), torch.tensor(got["losses"])
            same = (
                f"{((a - b).abs() / a)[:FIRST].nan_to_num(0).max():.1e}"
                if "from the prompt" not in way
                else "–"
            )
            lines.append(
                f"| {NAMES[model]} | {way} | {got['seconds']:.1f} | {got['seconds'] / first['seconds']:.2f} | {got['MiB']:.0f} MiB "
                f"| {got['MiB'] / first['MiB']:.2f} | {last(got['losses']).mean():.2e} | {same} |"
            )
    return "\n".join(lines)


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.null_text", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--models", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    if chosen.measure:
        print(json.dumps(measure(*chosen.measure)))
        return
    results = {}
    for model in chosen.models:
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.null_text", "--measure", model, way]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            results.setdefault(model, {})[way] = json.loads(run.stdout.splitlines()[-1])
            print(model, way, f"{results[model][way]['seconds']:.1f} s", flush=True)
            said = {"machine": machine(), "models": results}
            (OUT / "null_text.json").write_text(json.dumps(said))
    print(table(results))


if __name__ == "__main__":
    main()
