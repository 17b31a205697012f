"""The parts of a pipeline as modules to be traced. What an edit asks for is an input of the denoiser.

For every row r of a batch, with a lender l(r) in the same batch and two small matrices S_r and T_r:

    cross-attention:  out_r = sdpa(Q_l, K_l, S_r V_r) + sdpa(Q_r, K_r, T_r V_r)
    self-attention:   out_r = sdpa(Q_l, K_l, V_r) where the layer has at most limit_r pixels,
                              sdpa(Q_r, K_r, V_r) where it has more

These are the sums of terms of `p2p_helpers.attention.terms`, for all rows at once. S = 0, T = 1 and
limit = 0 leave a row as it is, so sources, rows without a prompt and several targets stand in one
batch of any length.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..attention.columns import attention_maps
from ..attention.families import family_of
from ..attention.intercept import Mark
from ..attention.layers import Layer, halved, map_level, text_levels
from ..attention.unet import stand_in
from ..errors import ModelError
from ..inversion.pivot import normalised, undone


class Lender(Mark):
    """A mark that reads the edit from the denoiser's inputs, in every row."""

    def __init__(self, layer: Layer, forward, asked: Asked, size: tuple[int, int], tokens: int):
        super().__init__()
        self.layer, self.forward, self.asked = layer, forward, asked
        self.keys = layer.keys(size, tokens)
        self.pixels = layer.grid(*size)[0] * layer.grid(*size)[1]
        self.terms = {0: ()}  # not empty, so that every call is intercepted
        self.watched = layer.is_averaged and layer.level == asked.level

    def attend(
        self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **options
    ) -> Tensor:
        """In the place of torch's function, with its arguments."""
        if attn_mask is not None or is_causal:
            raise ModelError(
                f"The layer {self.layer.name} attends with a mask, which cannot be exported. Take "
                "Stable Diffusion 1.x or 2.x, or the embedded model."
            )
        asked, sdpa = self.asked, F.scaled_dot_product_attention
        if self.layer.kind == "self":
            own = torch.arange(query.shape[0], device=query.device)
            rows = torch.where(asked.limit >= self.pixels, asked.lender, own)
            return sdpa(query[rows], key[rows], value, **options)
        lender, s, t = asked.lender, asked.s[:, None], asked.t[:, None]  # (row, 1, token, token)
        if self.watched:
            maps = attention_maps(query, key, scale=options.get("scale"))
            asked.maps.append((maps[lender] @ s + maps @ t).mean(1))  # (row, pixel, token)
        lent = sdpa(query[lender], key[lender], s @ value, **options)
        return lent + sdpa(query, key, t @ value, **options)


class Asked:
    """What the rows of the batch ask for, and the maps that were made on the way."""

    lender: Int[Tensor, " row"]
    s: Float[Tensor, "row token token"]
    t: Float[Tensor, "row token token"]
    limit: Float[Tensor, " row"]

    def __init__(self, level: int):
        self.level = level  # of the maps that figures average
        self.maps: list[Tensor] = []


class Denoiser(nn.Module):
    """The UNet with the edit among its inputs; its maps are those that figures and masks average."""

    inputs: tuple[str, ...] = ("latents", "timestep", "text", "lender", "s", "t", "limit")
    outputs = ("noise", "maps")

    def __init__(self, pipe, size: tuple[int, int], tokens: int):
        super().__init__()
        self.unet = whole(pipe.unet)
        self.pooled = 0  # width of the whole prompt's vector, where the model reads one
        if is_xl(pipe):
            self.inputs = (*self.inputs, "pooled", "sizes")
            self.pooled = pipe.text_encoder_2.config.projection_dim
        layers = family_of(pipe).layers(self.unet)
        level = map_level(*size, text_levels(layers))
        self.asked, self.grid = Asked(level), halved(*size, level)
        for layer, module in layers.items():
            plain = stand_in(module)
            if plain is not None:
                module.set_processor(plain)
            module.forward = Lender(layer, module.forward, self.asked, size, tokens)
        self.shapes = {
            "latents": (self.unet.config.in_channels, *size),
            "text": (tokens, self.unet.config.cross_attention_dim),
        }

    def forward(self, latents, timestep, text, lender, s, t, limit, pooled=None, sizes=None):
        asked = self.asked
        asked.lender, asked.s, asked.t, asked.limit, asked.maps = lender, s, t, limit, []
        more = {"text_embeds": pooled, "time_ids": sizes} if self.pooled else None
        given = (latents, timestep, text)
        noise = self.unet(*given, added_cond_kwargs=more, return_dict=False)[0]
        maps = torch.stack(asked.maps).mean(0).transpose(1, 2)  # (row, token, pixel)
        return noise, maps.unflatten(2, self.grid)

    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Random inputs for so many rows, in which some borrow and some do not."""
        numbers = torch.Generator().manual_seed(rows)
        tokens, width = self.shapes["text"]
        matrices = torch.rand(2, rows, tokens, tokens, generator=numbers) / tokens
        more: tuple[Tensor, ...] = ()
        if self.pooled:
            sizes = torch.tensor([512.0, 512.0, 0.0, 0.0, 512.0, 512.0]).expand(rows, -1)
            more = (torch.randn(rows, self.pooled, generator=numbers), sizes)
        return (
            torch.randn(rows, *self.shapes["latents"], generator=numbers),
            torch.full((1,), 500.0),
            torch.randn(rows, tokens, width, generator=numbers),
            torch.randint(0, rows, (rows,), generator=numbers),
            matrices[0],
            matrices[1],
            self.grid[0] * self.grid[1] * torch.randint(0, 2, (rows,), generator=numbers).float(),
            *more,
        )


class TextEncoder(nn.Module):
    """From tokens to what the denoiser reads."""

    inputs, outputs = ("tokens",), ("text",)

    def __init__(self, pipe, tokens: int):
        super().__init__()
        self.encoder, self.length = whole(pipe.text_encoder), tokens
        self.vocabulary = self.encoder.config.vocab_size

    def forward(self, tokens):
        return (self.encoder(input_ids=tokens, return_dict=False)[0],)

    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Random tokens for so many prompts."""
        numbers = torch.Generator().manual_seed(rows)
        return (torch.randint(0, self.vocabulary, (rows, self.length), generator=numbers),)


class TwoTextEncoders(nn.Module):
    """The same of Stable Diffusion XL, whose encoders have a tokenizer each; and the whole prompt's vector."""

    inputs, outputs = ("tokens", "tokens_2"), ("text", "pooled")

    def __init__(self, pipe, tokens: int):
        super().__init__()
        self.first, self.second, self.length = (
            whole(pipe.text_encoder),
            whole(pipe.text_encoder_2),
            tokens,
        )
        self.vocabulary = min(e.config.vocab_size for e in (self.first, self.second))

    def forward(self, tokens, tokens_2):
        one, two = (
            encoder(input_ids=ids, output_hidden_states=True)
            for encoder, ids in ((self.first, tokens), (self.second, tokens_2))
        )
        return torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1), two.text_embeds

    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Random tokens for so many prompts."""
        numbers = torch.Generator().manual_seed(rows)
        shape = (2, rows, self.length)
        return tuple(torch.randint(0, self.vocabulary, shape, generator=numbers))


class Decoder(nn.Module):
    """From latents to pictures, 0…1."""

    inputs, outputs = ("latents",), ("pictures",)

    def __init__(self, pipe, size: tuple[int, int]):
        super().__init__()
        self.vae, self.size = whole(pipe.vae), size

    def forward(self, latents):
        pictures = self.vae.decode(undone(self.vae.config, latents), return_dict=False)[0]
        return ((pictures / 2 + 0.5).clamp(0, 1),)

    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Random latents for so many pictures."""
        numbers = torch.Generator().manual_seed(rows)
        return (torch.randn(rows, self.vae.config.latent_channels, *self.size, generator=numbers),)


class Encoder(nn.Module):
    """From pictures, 0…1, to latents."""

    inputs, outputs = ("pictures",), ("latents",)

    def __init__(self, pipe, size: tuple[int, int]):
        super().__init__()
        self.vae, self.size = whole(pipe.vae), size

    def forward(self, pictures):
        found = self.vae.encode(pictures * 2 - 1, return_dict=False)[0]
        return (normalised(self.vae.config, found.mode()),)

    def example(self, rows: int) -> tuple[Tensor, ...]:
        """Random pictures."""
        numbers = torch.Generator().manual_seed(rows)
        return (torch.rand(rows, 3, *self.size, generator=numbers),)


def is_xl(pipe) -> bool:
    """Whether the denoiser reads two text encoders, the whole prompt's vector, and sizes, as Stable Diffusion XL's does."""
    return pipe.unet.config.get("addition_embed_type") == "text_time"


def whole(module: nn.Module) -> nn.Module:
    """A copy in float32 on the CPU, so that the pipeline stays as it is."""
    return nn.Module.to(copy.deepcopy(module), "cpu", torch.float32).eval()
