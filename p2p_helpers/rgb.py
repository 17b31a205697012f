"""Whatever a picture holds as 8-bit sRGB."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

SRGB_GAMMA = 1 / 2.2


def _range(mode: str, low: float, high: float) -> tuple[float, float]:
    """Black and white: the smallest usual range that holds all values, or their own."""
    usual = {"F": (1, 255, 65535), "I": (255, 65535)}.get(mode, (65535,))
    for top in usual:
        if low >= 0 and high <= top:
            return 0.0, float(top)
    return low, high


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey values of more than 8 bits in 8. What is infinite becomes white or black."""
    values = np.asarray(image, dtype=np.float32)
    finite = np.isfinite(values)
    low, high = (
        values.min(where=finite, initial=np.inf),
        values.max(where=finite, initial=-np.inf),
    )
    low, high = _range(image.mode, *((float(low), float(high)) if finite.any() else (0.0, 1.0)))
    with np.errstate(invalid="ignore"):
        grey = np.clip((values - low) * (255 / max(high - low, 1e-9)), 0, 255)
    grey[np.isnan(grey)] = 0
    made = Image.fromarray(grey.round().astype(np.uint8))
    if "transparency" in image.info:
        made.putalpha(Image.fromarray(((values != image.info["transparency"]) * 255).astype("u1")))
    return made


def _srgb(image: Image.Image) -> Image.Image:
    """Colours as sRGB has them: a profile is converted, a PNG's own gamma is taken out."""
    profile, gamma = image.info.get("icc_profile"), image.info.get("gamma")
    if profile:
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            usual = ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, own, usual, outputMode="RGB") or image
        except (ImageCms.PyCMSError, OSError, ValueError):
            return image  # damaged, or made for other channels: browsers show it as it is, too
    if (
        gamma
        and "srgb" not in image.info
        and abs(gamma - SRGB_GAMMA) > 0.01
        and image.mode != "CMYK"
    ):
        curve = [round(255 * (value / 255) ** (SRGB_GAMMA / gamma)) for value in range(256)]
        return image.point(curve * len(image.getbands()))
    return image


def rgb(image: Image.Image) -> Image.Image:
    """8-bit sRGB, transparency laid on white."""
    if image.mode.startswith(("I", "F")):
        info, image = image.info, _eight_bit(image)
        image.info.update(
            {key: info[key] for key in ("gamma", "srgb", "icc_profile") if key in info}
        )
    hidden = image.info.get("transparency")
    if isinstance(hidden, tuple) and max(hidden) > 255:  # of 16 bits, whose pixels have 8 by now
        image.info["transparency"] = tuple(value >> 8 for value in hidden)
    if image.mode == "La":
        image = image.convert("LA")
    alpha = None
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        info, image = image.info, image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
        image.info.update(info)
    elif image.mode not in ("L", "RGB", "CMYK"):
        info, image = image.info, image.convert("RGB")
        image.info.update(info)
    image = _srgb(image).convert("RGB")
    for taken_out in ("icc_profile", "gamma", "transparency"):
        image.info.pop(taken_out, None)  # or it would be taken out a second time
    if alpha is None:
        return image
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=alpha)
    return white
