"""Load real photographs safely, at the size a model wants."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .errors import ImageError

# None of them starts another program, as EPS does.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
MAX_PIXELS = 100_000_000


def load_image(
    source: str | Path | io.IOBase | Image.Image | np.ndarray,
    pipe=None,
    *,
    crop: tuple[int, int, int, int] | None = None,
    fit: str = "crop",
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """A photograph as an RGB picture of the model's size.

    Rotated as its EXIF says; transparency is laid on white; grey, palette, CMYK and 16-bit pictures
    become 8-bit RGB.

    Args:
        source: a file or its name, a PIL picture, or an array (height, width) or (height, width, 3
            or 4), uint8 or 0…1.
        pipe: a pipeline, whose size is taken: its latent's times its autoencoder's factor.
        crop: the part to use, as left, top, right, bottom in pixels of the upright picture; all of
            it when not given.
        fit: "crop" cuts off what does not fit the model's aspect, evenly on both sides; "pad" keeps
            everything on white.
        size: height and width in the pipeline's place; the picture's own when neither is given.

    Raises:
        ImageError: no such file, not a picture, a damaged or a gigantic one, a box outside the
            picture.
    """
    if fit not in ("crop", "pad"):
        raise ImageError(
            f'fit={fit!r}: it is "crop" (cut off what does not fit) or "pad" (keep all of it on '
            "white)."
        )
    image = _rgb(_opened(source))
    if crop is not None:
        left, top, right, bottom = crop
        if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
            raise ImageError(
                f"crop={crop} is not a box in this picture of {image.width}×{image.height}: left, "
                "top, right, bottom in pixels."
            )
        image = image.crop(crop)
    if size is None and pipe is not None:
        side = pipe.unet.config.sample_size
        sides = side if isinstance(side, (tuple, list)) else (side, side)
        size = tuple(latent * pipe.vae_scale_factor for latent in sides)
    if size is None or size == (image.height, image.width):
        return image
    height, width = size
    if fit == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return ImageOps.pad(image, (width, height), Image.Resampling.LANCZOS, color="white")


def _opened(source) -> Image.Image:
    """The picture, decoded and upright, in whatever mode it has."""
    if isinstance(source, np.ndarray):
        return _from_array(source)
    name = str(source) if isinstance(source, (str, Path)) else "The picture"
    if "://" in name:
        raise ImageError(
            f"{name} is an address; nothing is downloaded here. Save the picture and give its path."
        )
    try:
        image = source if isinstance(source, Image.Image) else Image.open(source, formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(
                f"{name} has {image.width}×{image.height} pixels, more than {MAX_PIXELS:,}. Make "
                "it smaller first."
            )
        image.load()
        return ImageOps.exif_transpose(image)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"There is no file {name}. Give the path of a picture.") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large: {error}") from None
    except Exception as error:  # decoders raise almost anything when a file is damaged
        raise ImageError(
            f"{name} cannot be read as a picture ({type(error).__name__}: {error}). It may be "
            "damaged, cut off, empty, or no picture; "
            f"readable are {', '.join(FORMATS)}."
        ) from error


def _from_array(array: np.ndarray) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 0
    if array.ndim not in (2, 3) or channels not in (0, 3, 4) or array.size == 0:
        raise ImageError(
            f"An array of shape {array.shape} is no picture: give (height, width) or (height, "
            "width, 3 or 4)."
        )
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise ImageError(
            f"The array has {array.shape[0]}×{array.shape[1]} pixels, more than {MAX_PIXELS:,}. "
            "Make it smaller first."
        )
    if array.dtype != np.uint8:
        real = np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all()
        if not real or array.min() < 0 or array.max() > 1:
            raise ImageError("An array that is not uint8 must hold finite floats from 0 to 1.")
        array = (array * 255).round().astype(np.uint8)
    return Image.fromarray(array)


def _range(mode: str, values: np.ndarray) -> tuple[float, float]:
    """Black and white: the smallest usual range that holds all values, or their own."""
    usual = {"F": (1, 255, 65535), "I": (255, 65535)}.get(mode, (65535,))
    for top in usual:
        if values.min() >= 0 and values.max() <= top:
            return 0, top
    return values.min(), values.max()


def _rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB, transparency laid on white."""
    if image.mode.startswith(("I", "F")):  # more than 8 bits a pixel
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        low, high = _range(image.mode, values)
        shares = (values - low) / max(high - low, 1e-9)
        image = Image.fromarray((shares * 255).round().astype(np.uint8))
    if image.mode == "La":
        image = image.convert("LA")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
