"""Load real photographs safely, at the size a model wants."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .errors import ImageError, InputError
from .rgb import rgb
from .values import file_path, shown

# None of them starts another program, as EPS does. The last two need a plug-in in some versions.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "HEIF")
MAX_PIXELS = 25_000_000
MAX_SCANS = 1_000_000_000  # pixels times passes over them, in a progressive JPEG


def load_image(
    source: str | Path | io.IOBase | Image.Image | np.ndarray,
    pipe=None,
    *,
    crop: tuple[int, int, int, int] | None = None,
    fit: str = "crop",
    size: tuple[int, int] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Image.Image:
    """A photograph as an RGB picture of the model's size.

    Rotated as its EXIF says, in sRGB whatever colour profile it has; transparency is laid on white;
    grey, palette, CMYK, 16-bit and float pictures become 8-bit RGB.

    Args:
        source: a file or its name, a PIL picture, or an array (height, width) or (height, width, 3
            or 4), uint8, uint16 or bool, or floats from 0 to 1. HEIC needs the plug-in pillow-heif.
        pipe: a pipeline with a UNet or a transformer, whose size is taken: its latent's times its
            autoencoder's factor.
        crop: the part to use, as left, top, right, bottom in pixels of the upright picture; all of
            it when not given.
        fit: "crop" cuts off what does not fit the model's aspect, evenly on both sides; "pad" keeps
            everything on white.
        size: height and width in the pipeline's place; the picture's own when neither is given.
        max_pixels: of a picture to be decoded; larger ones are refused.

    Raises:
        ImageError: no such file, not a picture, a damaged or a gigantic one, a box outside the
            picture, a size that is none, a pipeline that does not say its size.
    """
    if fit not in ("crop", "pad"):
        raise ImageError(
            f'fit={shown(fit)}: it is "crop" (cut off what does not fit) or "pad" (keep all of it '
            "on white)."
        )
    size = _size(size, max_pixels) if size is not None else _models(pipe)
    image = rgb(_opened(source, max_pixels))
    if crop is not None:
        image = image.crop(_box(crop, image))
    if size is None or size == (image.height, image.width):
        return image
    height, width = size
    if fit == "crop":
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    return ImageOps.pad(image, (width, height), Image.Resampling.LANCZOS, color="white")


def picture(given) -> Image.Image:
    """A PIL picture of the user's as `load_image` has it: upright, 8-bit sRGB, transparency laid on white.

    Raises:
        InputError: it is no PIL picture, or a damaged one.
    """
    if isinstance(given, Image.Image):
        return rgb(_opened(given, given.width * given.height))
    file = shown(str(given)) if isinstance(given, (str, Path)) else "file"
    raise InputError(
        f"A picture is needed, not {shown(given)}. Read a file or an array with load_image({file}, pipe). "
        "Of a result take .image, .source or .images."
    )


def _whole(values, count: int) -> tuple[int, ...] | None:
    """So many whole numbers, or None if they are something else."""
    try:
        found = tuple(int(value) for value in values)
        return found if len(found) == count and found == tuple(values) else None
    except (TypeError, ValueError, OverflowError):
        return None


def _size(size, max_pixels: int) -> tuple[int, int]:
    """Height and width that can be made."""
    sides = _whole(size, 2)
    if sides is None or min(sides) < 1 or sides[0] * sides[1] > max_pixels:
        raise ImageError(
            f"size={shown(size)}: give height and width in pixels, e.g. (512, 512), of at most "
            f"{max_pixels:,} pixels."
        )
    height, width = sides
    return height, width


def _models(pipe) -> tuple[int, int] | None:
    """Height and width of a model's pictures."""
    if pipe is None:
        return None
    factor = getattr(pipe, "vae_scale_factor", None)
    model = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    side = getattr(getattr(model, "config", None), "sample_size", None)
    side = side or getattr(pipe, "default_sample_size", None)  # Flux knows its pictures' size so
    if side is None or factor is None:
        raise ImageError(
            f"A {type(pipe).__name__} does not say the size of its pictures. Give a pipeline with "
            "an autoencoder and a UNet or transformer, or size=(height, width)."
        )
    sides = side if isinstance(side, (tuple, list)) else (side, side)
    return sides[0] * factor, sides[1] * factor


def _box(crop, image: Image.Image) -> tuple[int, int, int, int]:
    """A box inside the picture."""
    box = _whole(crop, 4)
    if box is not None:
        left, top, right, bottom = box
        if 0 <= left < right <= image.width and 0 <= top < bottom <= image.height:
            return left, top, right, bottom
    raise ImageError(
        f"crop={shown(crop)} is not a box in this picture of {image.width}×{image.height}: left, "
        "top, right, bottom in whole pixels."
    )


def _opened(source, max_pixels: int) -> Image.Image:
    """The picture, decoded and upright, in whatever mode it has."""
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    name = str(source) if isinstance(source, (str, Path)) else "The picture"
    if "://" in name:
        raise ImageError(
            f"{name} is an address; nothing is downloaded here. Save the picture and give its path."
        )
    try:
        image = source if isinstance(source, Image.Image) else _file(source, name)
        if image.width * image.height > max_pixels:
            raise ImageError(
                f"{name} has {image.width}×{image.height} pixels, more than {max_pixels:,}. Make "
                "it smaller first, or give max_pixels."
            )
        _check_scans(image, name)
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
            f"readable are {', '.join(_formats())}."
        ) from error


def _formats() -> list[str]:
    """Of the formats that we take those that this Pillow reads."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _file(source, name: str) -> Image.Image:
    """A file's picture, not decoded yet."""
    if not hasattr(source, "read"):
        if not isinstance(source, (str, Path)):
            raise ImageError(
                f"source={shown(source)}: give the name of a file, a PIL picture, or an array (height, width, 3). Of a tensor "
                "(3, height, width) with values from 0 to 1, tensor.permute(1, 2, 0).cpu().numpy() makes one."
            )
        try:
            source = file_path("source", source, "cat.png")
        except InputError as error:
            raise ImageError(str(error)) from None
        if source.exists() and not source.is_file():  # a pipe would keep us waiting
            raise ImageError(
                f"{name} cannot be read as a picture: it is no regular file. Give a picture's file."
            )
    return Image.open(source, formats=_formats())


def _check_scans(image: Image.Image, name: str):
    """Refuse a JPEG that is painted over and over: a small file could take hours."""
    file = getattr(image, "fp", None)
    if image.format != "JPEG" or file is None:
        return
    place = file.tell()
    file.seek(0)
    scans = file.read().count(b"\xff\xda")
    file.seek(place)
    if scans * image.width * image.height > MAX_SCANS:
        raise ImageError(
            f"{name} is painted in {scans} passes, which takes too long. Save it again as a PNG, or "
            "as a JPEG that is not progressive."
        )


def _from_array(array: np.ndarray, max_pixels: int) -> Image.Image:
    """An array as a picture."""
    channels = array.shape[2] if array.ndim == 3 else 0
    if array.ndim not in (2, 3) or channels not in (0, 3, 4) or array.size == 0:
        raise ImageError(
            f"An array of shape {array.shape} is no picture: give (height, width) or (height, "
            "width, 3 or 4)."
        )
    if array.shape[0] * array.shape[1] > max_pixels:
        raise ImageError(
            f"The array has {array.shape[0]}×{array.shape[1]} pixels, more than {max_pixels:,}. "
            "Make it smaller first, or give max_pixels."
        )
    if array.dtype == np.uint8:
        return Image.fromarray(array)
    white = {"bool": 1, "uint16": 65535}.get(array.dtype.name)
    if white is None:
        _check_shares(array)
    return Image.fromarray((array * (255 / (white or 1))).round().astype(np.uint8))


def _check_shares(array: np.ndarray):
    """Refuse an array of other values than floats from 0 to 1."""
    floats = np.issubdtype(array.dtype, np.floating)
    if floats and np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1:
        return
    values = f" from {array.min():g} to {array.max():g}" if array.dtype.kind in "iuf" else ""
    raise ImageError(
        f"This array holds {array.dtype}{values}, and it is not said which value is white. Give uint8, uint16, bool, or finite floats from "
        "0 to 1: array / 255 makes these where 255 is white, array / 65535 where 65535 is."
    )
