"""Stage 4: the judge. It learns to name what is in pictures, and to call unknown what a person could not name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ..reader import UNKNOWN, Reader
from ..render import object_masks
from ..world import OBJECTS, scene_at
from .damage import damaged, harmless
from .data import pictures, to_tensor, truths
from .fit import fit, generators


def reader(config: dict, out: Path, device: str):
    """Train the judge; write `reader.safetensors`."""
    average = trained_reader(config["reader"], config["scenes"], out, "reader", device)
    weights = {
        key: value.contiguous()
        for key, value in average.state_dict().items()
        if "num_batches" not in key
    }
    save_file(weights, out / "reader.safetensors")


def trained_reader(settings: dict, scenes: int, out: Path, name: str, device: str) -> Reader:
    """A reader trained, or resumed, in the folder `name` on renders of which a part has a damaged object; frozen."""
    data = pictures("train", scenes, out)
    answers = truths("train", scenes, out)
    torch.manual_seed(settings["seed"])
    model = Reader().to(device, memory_format=torch.channels_last)

    def one(i: int, rng: np.random.Generator) -> tuple[np.ndarray, Tensor, Tensor]:
        """A picture, its objects and their colours, of which one may be spoilt."""
        picture, objects, colours = (
            data[i],
            answers["objects"][i].clone(),
            answers["colours"][i].clone(),
        )
        fate = rng.random()
        if fate < settings["damaged"]:
            scene = scene_at("train", i)
            masks = object_masks(scene)
            k = int(rng.integers(len(masks)))
            if masks[k].sum() > 64:
                other = data[int(rng.integers(len(data)))]
                picture = damaged(picture, masks[k], other, rng)
                cells = objects == 1 + OBJECTS.index(scene.things[k].name)
                objects[cells], colours[cells] = UNKNOWN, -1
        elif fate < settings["damaged"] + settings["harmless"]:
            picture = harmless(picture, rng)
        return picture, objects, colours

    def loss_at(step: int, worker: int) -> Tensor:
        rng, noise = generators(settings, step, worker)
        choice = rng.integers(len(data), size=settings["batch_size"] // settings["workers"])
        shown = [one(int(i), rng) for i in choice]
        batch = to_tensor(np.stack([picture for picture, _, _ in shown]), device)
        right = {key: value[choice].to(device) for key, value in answers.items()}
        right["objects"] = torch.stack([objects for _, objects, _ in shown]).to(device)
        right["colours"] = torch.stack([colours for _, _, colours in shown]).to(device)
        spread = settings["noise"] * torch.rand(len(batch), 1, 1, 1, generator=noise) ** 2
        batch = batch + (spread * torch.randn(batch.shape, generator=noise)).to(device)
        objects, colours, background, style, *switches = model(
            batch.to(memory_format=torch.channels_last)
        )
        balance = torch.ones(objects.shape[1], device=device)
        balance[0] = 0.3  # most cells hold no object
        loss = F.cross_entropy(objects, right["objects"], weight=balance)
        loss = loss + 0.3 * F.cross_entropy(colours, right["colours"], ignore_index=-1)
        loss = loss + 0.3 * F.cross_entropy(background, right["background"])
        loss = loss + 0.3 * F.cross_entropy(style, right["style"])
        for name, score in zip(("night", "snow", "autumn"), switches, strict=True):
            loss = loss + 0.3 * F.binary_cross_entropy_with_logits(score, right[name].float())
        return loss

    average = fit(model, loss_at, lambda average, path: None, settings, out / name, device)
    return average.eval().requires_grad_(False)
