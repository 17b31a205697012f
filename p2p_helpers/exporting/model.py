"""Everything that a program needs of a pipeline to edit pictures: `export`."""

from __future__ import annotations

import json
import math
from pathlib import Path

from diffusers import DDIMScheduler

from ..attention.families import family_of
from ..attention.unet import UNet
from ..errors import InputError, ModelError
from ..inversion.methods import usual_guidance
from ..inversion.samplers import own_schedule
from ..prompts.offsets import with_offsets
from ..prompts.words import vocabulary
from ..values import file_path
from .files import libraries, write
from .parts import Decoder, Denoiser, Encoder, TextEncoder, TwoTextEncoders, is_xl

VERSION = 1  # of what model.json says
MORE = ("class_embed_type", "time_cond_proj_dim")  # that a UNet may read


def export(pipe, folder: str | Path) -> dict:
    """Write a pipeline as ONNX files in which an edit is data, with all that an editor needs.

    The folder gets `unet.onnx`, `text.onnx`, `decoder.onnx`, `encoder.onnx`, the tokenizer, and
    `model.json`, which says sizes, the noise schedule, the usual guidance scale and the files'
    digests. The batch of the UNet may have any number of rows. Every row names a lender, the row
    whose queries and keys it borrows, the matrices S and T of its edit, and the largest
    self-attention map to be injected, in pixels; so one file does every edit, with any number of
    targets. Stable Diffusion XL's has two tokenizers (the second in `tokenizer_2/`), the whole
    prompt's vector `pooled`, and `sizes`, diffusers' `time_ids`, among its inputs. A graph of more
    than 2 GiB has its weights in a file beside it. Weights that are half-precision numbers are
    stored so, and all is computed in float32.

    Every file is compared with torch before this returns: on random inputs they differ by at most
    a thousandth of a standard deviation, pictures by at most one grey level.

    Args:
        pipe: a Stable Diffusion 1.x, 2.x or XL pipeline, or the embedded model. It is left as it is.
        folder: is made if it is not there.

    Returns:
        What `model.json` says.

    Raises:
        ModelError: onnx or onnxruntime is not installed, the pipeline's model reads something else
            than these do, or a file differs from torch.
        InputError: the folder cannot be written.
        AttentionControlError: the pipeline's attention cannot be controlled.
        InversionError: its scheduler has no schedule of noise.
    """
    libraries()
    _check(pipe)
    folder = file_path("folder", folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _written(pipe, folder)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written: {error.strerror or error}. Give another folder."
        ) from error


def _check(pipe):
    """Refuse a pipeline whose model reads more than latents, time and text."""
    ours = type(family_of(pipe)) is UNet
    config = pipe.unet.config if ours else {}
    added = config.get("addition_embed_type")
    encoders = [getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2")]
    known = encoders[1] is None if added is None else added == "text_time" and None not in encoders
    alone = ours and config.in_channels == pipe.vae.config.latent_channels  # inpainting reads more
    if not alone or not known or any(config.get(key) is not None for key in MORE):
        raise ModelError(
            f"{type(pipe).__name__} cannot be exported: its model reads something else than latents, "
            "time and text. Take Stable Diffusion 1.x, 2.x or XL, or the embedded model."
        )
    _noise(pipe)  # raises what is wrong with its scheduler


def _written(pipe, folder: Path) -> dict:
    """Write all files."""
    side = pipe.unet.config.sample_size
    size = (side, side) if isinstance(side, int) else tuple(side)
    tokens, factor = pipe.tokenizer.model_max_length, pipe.vae_scale_factor
    pixels = (size[0] * factor, size[1] * factor)
    xl = is_xl(pipe)
    denoiser, reader = Denoiser(pipe, size, tokens), TwoTextEncoders if xl else TextEncoder
    files = write(denoiser, folder / "unet.onnx", rows=4)
    files |= write(reader(pipe, tokens), folder / "text.onnx", rows=3)
    files |= write(Decoder(pipe, size), folder / "decoder.onnx", rows=2)
    files |= write(Encoder(pipe, pixels), folder / "encoder.onnx", rows=2)
    with_offsets(pipe.tokenizer).save_pretrained(folder)
    more = {}
    if xl:
        with_offsets(pipe.tokenizer_2).save_pretrained(folder / "tokenizer_2")
        zeros = bool(pipe.config.force_zeros_for_empty_prompt)
        more = {"pooled": denoiser.pooled, "empty_prompt_is_zeros": zeros}
    said = {
        "version": VERSION,
        "files": files,
        **more,
        "latent": list(denoiser.shapes["latents"]),
        "picture": list(pixels),
        "text": list(denoiser.shapes["text"]),
        "maps": list(denoiser.grid),
        "self_pixels": _self_pixels(pipe, size),
        "guidance_scale": usual_guidance(pipe),
        "known_words": list(vocabulary(pipe.tokenizer)),
        "noise": _noise(pipe),
    }
    (folder / "model.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    return said


def _self_pixels(pipe, size: tuple[int, int]) -> int:
    """The largest self-attention map that an edit injects if it does not say, in pixels."""
    share = family_of(pipe).self_size(pipe)
    return math.ceil(size[0] * share) * math.ceil(size[1] * share)


def _noise(pipe) -> dict:
    """DDIM's numbers: how much of the picture is left at every time, and which times are steps."""
    schedule = own_schedule(pipe)
    if (
        schedule["prediction_type"] not in ("epsilon", "v_prediction")
        or schedule["timestep_spacing"] != "leading"
    ):
        raise ModelError(
            "Only models that predict noise or velocity, and whose steps are spaced from the first "
            f"time on, can be exported; this one has {schedule['prediction_type']} and "
            f"{schedule['timestep_spacing']}."
        )
    ddim = DDIMScheduler.from_config(schedule)
    return {
        "prediction": schedule["prediction_type"],
        "offset": schedule["steps_offset"],
        "alphas": ddim.alphas_cumprod.tolist(),
        "final_alpha": float(ddim.final_alpha_cumprod),
    }
