"""What training reads: renders, their latents and the reader's right answers. Each is worked out once and kept."""

from __future__ import annotations

import concurrent.futures
import hashlib
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from ...pipelines import _DTYPE
from ..reader import Reader, truth
from ..render import object_masks, render
from ..world import SIZE, scene_at

FLOAT32 = {_DTYPE: torch.float32}  # of weights that are loaded


def _render_number(job: tuple[str, int]) -> np.ndarray:
    return np.asarray(render(scene_at(*job))[0])


def pictures(split: str, count: int, out: Path) -> np.ndarray:
    """The first `count` renders of a split, uint8 (picture, height, width, channel), kept in `out`."""
    path = out / f"pictures-{split}-{count}.npy"
    if not path.exists():
        print(f"rendering {count} {split} scenes …", flush=True)
        part = path.with_suffix(".part.npy")
        store = np.lib.format.open_memmap(part, "w+", np.uint8, (count, SIZE, SIZE, 3))
        with concurrent.futures.ProcessPoolExecutor() as pool:
            jobs = ((split, i) for i in range(count))
            for i, picture in enumerate(pool.map(_render_number, jobs, chunksize=256)):
                store[i] = picture
        store.flush()
        part.rename(path)
    return np.load(path, mmap_mode="r")


def _truth_number(job: tuple[str, int]) -> dict:
    scene = scene_at(*job)
    return truth(scene, object_masks(scene))


def truths(split: str, count: int, out: Path) -> dict[str, Tensor]:
    """The reader's right answers for the first `count` scenes of a split (see `reader.truth`), kept in `out`."""
    path = out / f"truths-{split}-{count}.npz"
    if not path.exists():
        with concurrent.futures.ProcessPoolExecutor() as pool:
            rows = list(pool.map(_truth_number, ((split, i) for i in range(count)), chunksize=256))
        part = path.with_suffix(".part.npz")
        np.savez(part, **{key: np.stack([row[key] for row in rows]) for key in rows[0]})
        part.rename(path)
    return {key: torch.from_numpy(value) for key, value in np.load(path).items()}


def to_tensor(batch: np.ndarray, device: str = "cpu") -> Tensor:
    """uint8 (picture, height, width, channel) → float (picture, channel, height, width) in −1…1."""
    return (
        torch.from_numpy(np.ascontiguousarray(batch)).to(device).permute(0, 3, 1, 2).float() / 127.5
        - 1
    )


def fingerprint(vae: AutoencoderKL) -> str:
    """Eight hex digits of the encoder's weights, by which stored latents are known."""
    weights = [*vae.encoder.parameters(), *vae.quant_conv.parameters()]
    return hashlib.sha256(
        b"".join(p.detach().cpu().numpy().tobytes() for p in weights)
    ).hexdigest()[:8]


def latents(vae: AutoencoderKL, split: str, count: int, out: Path, device: str = "cpu") -> Tensor:
    """Latents of a split's first renders, float16 (picture, channel, height, width), kept in `out`."""
    path = out / f"latents-{split}-{fingerprint(vae)}-{count}.npy"
    if not path.exists():
        data = pictures(split, count, out)
        print(f"encoding {count} pictures …", flush=True)
        vae.to(memory_format=torch.channels_last)
        with torch.no_grad():
            batches = (to_tensor(data[i : i + 4], device) for i in range(0, count, 4))
            batches = (b.to(memory_format=torch.channels_last) for b in batches)
            codes = [vae.encode(b).latent_dist.mode().half().cpu() for b in batches]
        part = path.with_suffix(".part.npy")
        np.save(part, torch.cat(codes).numpy())
        part.rename(path)
    return torch.from_numpy(np.load(path))


def features(reader: Reader, split: str, count: int, out: Path, side: int) -> Tensor:
    """What a reader thinks of a split's first renders, float16 (picture, width, side, side), kept in `out`."""
    path = out / f"features-{split}-{side}-{count}.npy"
    if not path.exists():
        data, found = pictures(split, count, out), []
        device = str(next(reader.parameters()).device)
        with torch.no_grad():
            for i in range(0, count, 32):
                seen = reader.local(reader.stem(to_tensor(data[i : i + 32], device)))
                found.append(F.adaptive_avg_pool2d(seen, side).half().cpu())
        part = path.with_suffix(".part.npy")
        np.save(part, torch.cat(found).numpy())
        part.rename(path)
    return torch.from_numpy(np.load(path))


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
