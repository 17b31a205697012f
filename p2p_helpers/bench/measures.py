"""PIE-Bench's measures of an edited picture, as its authors' code takes them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, UInt8
from torch import Tensor, nn

from ..inversion.weights import digests
from ..metrics import psnr
from .lpips import Lpips
from .networks import CLIP, DINO, installed, load_clip, load_dino

MEASURES = (
    "structure distance",
    "background psnr",
    "background lpips",
    "background mse",
    "background ssim",
    "clip whole",
    "clip edited",
)
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's colours
DEVIATION = (0.229, 0.224, 0.225)
DINO_SIDE = 224

Picture = UInt8[np.ndarray, "height width 3"]
Mask = Bool[np.ndarray, "height width"]


class Measures:
    """The benchmark's seven measures, with the three networks that they need.

    Args:
        clip: a Hub id or a folder; the benchmark's ViT-L/14 when not given.
        dino: a Hub id or a folder; the benchmark's ViT-B/8 when not given.
        lpips: a file with SqueezeNet's weights, see `Lpips`.
        device: where the networks are.

    Raises:
        InputError: torchmetrics is not installed.
        ModelError: a network's weights are not there; the message says where they can lie.
    Reference: Ju et al. 2023 (arXiv 2310.01506), section 5, and its code.
    """

    def __init__(
        self,
        clip: str | None = None,
        dino: str | None = None,
        lpips: str | None = None,
        device: str = "cpu",
    ):
        installed()
        self.device = device
        self.lpips = Lpips(lpips).eval().to(device)
        self.dino = load_dino(dino or DINO).to(device)
        self.clip, self.tokenizer, self.processor = load_clip(clip or CLIP)
        self.clip.to(device)
        self.keys = _last_keys(self.dino)

    def facts(self) -> dict:
        """The networks' weights by their hashes."""
        networks = {"lpips": self.lpips, "dino": self.dino, "clip": self.clip}
        return {name: digests(part.state_dict().items()) for name, part in networks.items()}

    @torch.no_grad()
    def __call__(
        self, before: Picture, after: Picture, target: str, mask: Mask
    ) -> dict[str, float | None]:
        """All measures of one edit.

        Args:
            before, after: the picture and the edited one.
            target: what the edited one should show.
            mask: where it may change.

        Returns:
            name → value. Those of the background are None where the mask leaves none.
            "structure distance": mean squared difference of the cosine similarities between the
            keys of all patches in DINO's last layer (Tumanyan et al. 2022, arXiv 2201.00424).
            "background psnr" (dB, see `psnr`), "background mse" (of values from 0 to 1), "background
            ssim" (Wang et al. 2004), "background lpips" (see `Lpips`): of both pictures, black where
            they may change, over all pixels.
            "clip whole", "clip edited": 100 times the cosine of CLIP's picture and text, at least 0
            (Hessel et al. 2021, arXiv 2104.08718); of the edited picture, and of it black where it
            may not change.
        """
        found: dict[str, float | None] = dict.fromkeys(MEASURES)
        found["structure distance"] = self._structure(before, after)
        if not mask.all():
            found |= self._background(_black(before, mask), _black(after, mask))
        found["clip whole"] = self._clip(after, target)
        found["clip edited"] = self._clip(_black(after, ~mask), target)
        return found

    def _background(self, before: Picture, after: Picture) -> dict[str, float]:
        from torchmetrics.functional.image import structural_similarity_index_measure as ssim

        a, b = (self._tensor(picture) / 255 for picture in (before, after))
        return {
            "background psnr": psnr(before, after),
            "background lpips": self.lpips(a, b).item(),
            "background mse": F.mse_loss(a, b).item(),
            "background ssim": ssim(b, a, data_range=1.0).item(),  # type: ignore[union-attr]
        }

    def _structure(self, before: Picture, after: Picture) -> float:
        a, b = (self._similarities(picture) for picture in (before, after))
        return F.mse_loss(a, b).item()

    def _similarities(self, picture: Picture) -> Tensor:
        """The cosines between the keys of all tokens of DINO's last layer, (token, token).

        The benchmark's code gives DINO colours from 0 to 255, where it was trained with 0 to 1, and
        makes pictures smaller without smoothing. Ours does the same, or numbers could not be compared.
        """
        mean, deviation = (self._colours(values) for values in (MEAN, DEVIATION))
        size = (DINO_SIDE, DINO_SIDE)
        small = F.interpolate(self._tensor(picture), size, mode="bilinear", align_corners=False)
        kept: list[Tensor] = []
        handle = self.keys.register_forward_hook(lambda layer, given, made: kept.append(made))
        try:
            self.dino(pixel_values=(small - mean) / deviation)
        finally:
            handle.remove()
        keys = F.normalize(kept[0][0].float(), dim=-1)  # (token, all heads)
        return keys @ keys.T

    def _clip(self, picture: Picture, text: str) -> float:
        limit = self.clip.config.text_config.max_position_embeddings
        tokens = self.tokenizer([text], truncation=True, max_length=limit, return_tensors="pt")
        pixels = self.processor(images=[picture], return_tensors="pt")["pixel_values"]
        # torchmetrics' CLIPScore (1.9) does not take what transformers 5 gives for a picture.
        found = self.clip(
            input_ids=tokens["input_ids"].to(self.device),
            attention_mask=tokens["attention_mask"].to(self.device),
            pixel_values=pixels.to(self.device),
        )
        cosine = (found.image_embeds * found.text_embeds).sum(-1)
        return max(100 * cosine.item(), 0.0)

    def _tensor(self, picture: Picture) -> Tensor:
        """A picture as (1, channel, height, width), from 0 to 255."""
        return torch.tensor(picture, device=self.device).permute(2, 0, 1)[None].float()

    def _colours(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, device=self.device)[:, None, None]


def _black(picture: Picture, where: Mask) -> Picture:
    """A picture that is black where the mask is set."""
    return np.where(where[..., None], np.uint8(0), picture)


def _last_keys(dino: nn.Module) -> nn.Module:
    """The layer that makes the last block's keys; versions of transformers call it differently."""
    named = [
        layer
        for name, layer in dino.named_modules()
        if name.rpartition(".")[2] in ("key", "k_proj")
    ]
    return named[-1]
