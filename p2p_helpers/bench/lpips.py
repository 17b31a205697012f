"""LPIPS on SqueezeNet, without torchvision: a torchvision that does not fit torch keeps transformers from loading."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import ModelError
from .networks import installed

NAME = "squeezenet1_1-b8a52dc0.pth"
ADDRESS = f"https://download.pytorch.org/models/{NAME}"
SHIFT = (-0.030, -0.088, -0.188)  # of ImageNet's colours, from −1 to 1
SCALE = (0.458, 0.448, 0.450)
AFTER = (1, 4, 7, 9, 10, 11, 12)  # the layers whose features are compared


class Fire(nn.Module):
    """SqueezeNet's block: a narrow layer, then two wide ones side by side."""

    def __init__(self, channels: int, narrow: int, wide: int):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], 1).relu()


class SqueezeNet(nn.Module):
    """The layers before the classifier of SqueezeNet 1.1 (Iandola et al. 2016, arXiv 1602.07360), named as torchvision's."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(64, 16, 64),
            Fire(128, 16, 64),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(128, 32, 128),
            Fire(256, 32, 128),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            Fire(512, 64, 256),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in AFTER:
                found.append(x)
        return found


class Lpips(nn.Module):
    """The distance of two pictures as SqueezeNet sees them.

    At every pixel of a layer both features are brought to length one; their squared differences are
    weighted by channel, averaged over the pixels and summed over the layers. The weights of the
    channels, fitted to human judgement, come with torchmetrics.

    Args:
        file: SqueezeNet's weights as torchvision publishes them; downloaded once when not given.

    Raises:
        ModelError: there are no such weights, or they are not SqueezeNet's.
    Reference: Zhang et al. 2018 (arXiv 1801.03924).
    """

    def __init__(self, file: str | Path | None = None):
        super().__init__()
        self.network = SqueezeNet()
        self.network.load_state_dict(_features(file))
        state = torch.load(
            files(installed()) / "functional" / "image" / "lpips_models" / "squeeze.pth",
            map_location="cpu",
            weights_only=True,
        )
        for layer in range(len(AFTER)):
            self.register_buffer(f"weight{layer}", state[f"lin{layer}.model.1.weight"])
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])

    def forward(
        self, a: Float[Tensor, "row 3 height width"], b: Float[Tensor, "row 3 height width"]
    ) -> Float[Tensor, " row"]:
        """Of pictures from 0 to 1."""
        pairs = zip(self._features(a), self._features(b), strict=True)
        total = torch.zeros(len(a), device=a.device)
        for layer, (one, other) in enumerate(pairs):
            weighted = (one - other) ** 2 * getattr(self, f"weight{layer}")
            total = total + weighted.sum(1).mean((1, 2))
        return total

    def _features(self, pictures: Tensor) -> list[Tensor]:
        scaled = (2 * pictures - 1 - self.shift) / self.scale
        return [nn.functional.normalize(found, eps=1e-10) for found in self.network(scaled)]


def _features(file: str | Path | None) -> dict[str, Tensor]:
    """The weights of the layers before the classifier, by name."""
    where = ADDRESS if file is None else str(file)
    try:
        if file is None:
            state = torch.hub.load_state_dict_from_url(ADDRESS, map_location="cpu", progress=False)
        else:
            state = torch.load(Path(file).expanduser(), map_location="cpu", weights_only=True)
        return {name: state[name] for name in SqueezeNet().state_dict()}
    except Exception as error:  # the download, the pickle or the names; all mean the same to a user
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise ModelError(
            f"LPIPS needs SqueezeNet's weights, and {where} could not be loaded "
            f"({type(error).__name__}: {error}). Put {NAME}, from {ADDRESS}, into {folder}, "
            f"or give the file: --lpips {NAME}."
        ) from error
