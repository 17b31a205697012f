"""Pictures of every kind come out right, and what is no picture gives an explanation, never a crash."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import p2p_helpers as p2p

COLOURS = np.zeros((60, 80, 3), np.uint8)
COLOURS[:30, :40], COLOURS[:30, 40:], COLOURS[30:, :40], COLOURS[30:, 40:] = (
    (250, 10, 10),
    (10, 250, 10),
    (10, 10, 250),
    (240, 240, 10),
)
PICTURE = Image.fromarray(COLOURS)


def saved(image, path, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    "mode",
    [
        "1",
        "L",
        "LA",
        "La",
        "P",
        "PA",
        "RGB",
        "RGBA",
        "RGBa",
        "RGBX",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
        "I",
        "F",
        "I;16",
    ],
)
def test_every_mode_becomes_rgb(mode):
    if mode == "I;16":
        image = Image.fromarray(np.asarray(PICTURE.convert("L")).astype(np.uint16) * 257)
    elif mode in ("La", "RGBa", "PA"):
        image = PICTURE.convert({"La": "LA", "RGBa": "RGBA", "PA": "P"}[mode]).convert(mode)
    elif mode == "LAB":
        image = Image.new("LAB", PICTURE.size)
    else:
        image = PICTURE.convert(mode)
    loaded = p2p.load_image(image)
    assert (loaded.mode, loaded.size) == ("RGB", PICTURE.size)
    if mode not in ("1", "LAB", "P", "PA"):
        grey = mode in ("L", "LA", "La", "I", "F", "I;16")
        expected = np.asarray(PICTURE.convert("L").convert("RGB") if grey else PICTURE).astype(int)
        assert np.abs(np.asarray(loaded).astype(int) - expected).max() <= 3


def test_exif_rotation_and_transparency(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = p2p.load_image(saved(PICTURE, tmp_path / "a.jpg", exif=exif, quality=95))
    assert turned.size == (60, 80)
    assert np.abs(np.asarray(turned).astype(int) - np.rot90(COLOURS, -1)).mean() < 5
    clear = PICTURE.convert("RGBA")
    clear.putalpha(0)
    assert (
        np.asarray(p2p.load_image(saved(clear, tmp_path / "b.png"))).min() == 255
    )  # transparent is white
    palette = PICTURE.convert("P")
    loaded = p2p.load_image(
        saved(palette, tmp_path / "c.gif", transparency=palette.getpixel((0, 0)))
    )
    assert loaded.getpixel((0, 0)) == (255, 255, 255) and loaded.getpixel((79, 59)) != (
        255,
        255,
        255,
    )


def test_the_models_size(toyland):
    cropped = p2p.load_image(PICTURE, toyland)
    padded = p2p.load_image(PICTURE, toyland, fit="pad")
    assert cropped.size == padded.size == (128, 128)
    assert padded.getpixel((0, 0)) == (255, 255, 255) != cropped.getpixel((0, 0))
    box = p2p.load_image(PICTURE, crop=(40, 0, 80, 30), size=(16, 16))
    np.testing.assert_allclose(np.asarray(box), np.full((16, 16, 3), (10, 250, 10)), atol=1)
    assert p2p.load_image(np.asarray(PICTURE) / 255).size == (80, 60)
    assert p2p.load_image(Image.new("RGB", (20_000, 1)), toyland).size == (128, 128)
    assert p2p.load_image(Image.new("RGB", (1, 1)), toyland).size == (128, 128)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: "https://example.org/cat.png", "nothing is downloaded"),
        (lambda folder: folder / "absent.png", "There is no file"),
        (lambda folder: folder, "cannot be read as a picture"),
        (
            lambda folder: saved(Image.new("1", (20_000, 20_000)), folder / "bomb.png"),
            "20000×20000 pixels|too large",
        ),
        (lambda folder: np.zeros((4, 4, 2), np.uint8), "shape"),
        (lambda folder: np.full((4, 4), 300), "uint8"),
        (lambda folder: np.full((4, 4), np.nan), "finite"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_picture_is_explained(tmp_path, make, says):
    with pytest.raises(p2p.ImageError, match=says):
        p2p.load_image(make(tmp_path))


@pytest.mark.parametrize(
    "options", [{"crop": (0, 0, 81, 10)}, {"crop": (5, 0, 5, 10)}, {"fit": "stretch"}]
)
def test_wrong_options_are_explained(options):
    with pytest.raises(p2p.ImageError):
        p2p.load_image(PICTURE, **options)


FILES = {}
for name, options in {
    "PNG": {},
    "JPEG": {},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "WEBP": {},
    "PPM": {},
}.items():
    buffer = io.BytesIO()
    PICTURE.save(buffer, name, **options)
    FILES[name] = buffer.getvalue()


@pytest.mark.filterwarnings("ignore")  # decoders warn of what they find
@settings(max_examples=1000, deadline=None)
@given(st.sampled_from(list(FILES)), st.data())
def test_damaged_files_are_pictures_or_explained(tmp_path_factory, name, data):
    """Cut off anywhere, bits flipped anywhere, or both."""
    content = bytearray(FILES[name][: data.draw(st.integers(0, len(FILES[name])))])
    for position, bit in data.draw(
        st.lists(st.tuples(st.integers(0, 400), st.integers(0, 7)), max_size=5)
    ):
        if position < len(content):
            content[position] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(content)
    try:
        image = p2p.load_image(path)
    except p2p.ImageError as error:
        assert "damaged" in str(error) or "large" in str(error) or "pixels" in str(error)
    else:
        assert image.mode == "RGB" and min(image.size) > 0
