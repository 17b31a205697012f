"""Pictures of every kind come out right, and what is no picture gives an explanation, never a crash."""

import io
import os
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

import p2p_helpers as p2p
from p2p_helpers.toyland import load_reader, photos
from p2p_helpers.view.map_figures import self_components

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


def test_a_models_pictures_may_be_wider_than_high():
    config = SimpleNamespace(sample_size=(16, 24))
    pipe = SimpleNamespace(vae_scale_factor=8, unet=SimpleNamespace(config=config))
    assert p2p.load_image(PICTURE, pipe).size == (192, 128)


def test_floats_are_rounded_to_the_nearest_grey_level():
    assert p2p.load_image(np.full((1, 1), 0.999)).getpixel((0, 0)) == (255, 255, 255)
    assert p2p.load_image(np.full((1, 1), 0.1)).getpixel((0, 0)) == (26, 26, 26)


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
        (lambda folder: np.full((4, 4), 300), "int64 from 300 to 300.*uint8"),
        (lambda folder: np.full((4, 4), 255.0), "float64 from 255 to 255.*array / 255"),
        (lambda folder: np.full((4, 4), -0.5), "float64 from -0.5"),
        (lambda folder: np.full((4, 4), np.nan), "finite"),
        (lambda folder: np.full((4, 4), 1j), "complex128"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_picture_is_explained(tmp_path, make, says):
    with pytest.raises(p2p.ImageError, match=says):
        p2p.load_image(make(tmp_path))


@pytest.mark.parametrize(("kind", "white"), [("bool", 1), ("uint8", 255), ("uint16", 65535)])
def test_an_arrays_kind_says_what_is_white(kind, white):
    for shape in ((2, 3), (2, 3, 3), (2, 3, 4)):
        array = np.full(shape, white, kind)
        array[0] = 0
        array[..., 3:] = white  # opaque
        seen = np.asarray(p2p.load_image(array))
        assert seen.shape == (2, 3, 3) and (seen[0] == 0).all() and (seen[1] == 255).all()
        shares = array.astype(float) / white
        np.testing.assert_array_equal(seen, p2p.load_image(shares))


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
@settings(max_examples=250, deadline=None)
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


def profile(name):
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()


def wide_gamut():
    """A profile with other primaries than sRGB's, as phones write them: XYZ swaps red and green."""
    data = bytearray(profile("sRGB"))
    places = {bytes(data[i : i + 4]): i for i in range(132, 132 + 12 * 20, 12)}
    red, green = places[b"rXYZ"], places[b"gXYZ"]
    offsets = data[red + 4 : red + 8], data[green + 4 : green + 8]
    data[red + 4 : red + 8], data[green + 4 : green + 8] = offsets[1], offsets[0]
    return bytes(data)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_colour_profile_is_converted(tmp_path, mode):
    """Red and green are swapped in this profile, so a red pixel is seen green."""
    image = PICTURE.quantize(8) if mode == "P" else PICTURE.convert(mode)
    file = saved(image, tmp_path / "a.png", icc_profile=wide_gamut())
    seen = np.asarray(p2p.load_image(file)).astype(int)
    assert np.abs(seen - COLOURS[..., [1, 0, 2]]).max() <= 6


def test_the_usual_profile_changes_nothing_and_a_damaged_one_is_left_out(tmp_path):
    for content, most in ((profile("sRGB"), 1), (b"no profile at all", 0)):
        file = saved(PICTURE, tmp_path / "a.png", icc_profile=content)
        assert np.abs(np.asarray(p2p.load_image(file)).astype(int) - COLOURS).max() <= most


def chunk(kind, content):
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def png(array, *chunks):
    """A PNG of 16 bits a channel with chunks of its own."""
    height, width = array.shape[:2]
    kind = 0 if array.ndim == 2 else 2
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    head = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    parts = [
        chunk(b"IHDR", head),
        *chunks,
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def odd_pictures(folder):
    """The same picture as files and programs hold it, each in another way than plain RGB."""
    fox = Image.open(photos()["fox-forest"].path)
    grey = np.asarray(fox.convert("L"))
    yield Image.fromarray(grey.astype(np.uint16) * 257)
    yield Image.fromarray((grey / 255).astype(np.float32))
    cut = fox.convert("RGBA")
    cut.putalpha(fox.getchannel("G"))
    yield cut
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    yield Image.open(saved(fox, folder / "turned.jpg", exif=exif))
    yield Image.open(saved(fox, folder / "wide.png", icc_profile=wide_gamut()))
    sixteen = np.asarray(fox).astype(np.uint16) * 257
    yield Image.open(png(sixteen, chunk(b"gAMA", struct.pack(">I", 100_000))))


@pytest.fixture(scope="module")
def recorded(toyland):
    return p2p.edit(toyland, "a fox", "a cat", steps=1, record=True, progress=False)


SEEN = {
    "load_image": lambda image, pipe, result: p2p.load_image(image),
    "invert": lambda image, pipe, result: (
        p2p.invert(pipe, image, "a fox", method="ddim", steps=1, progress=False).pixels
    ),
    "edit": lambda image, pipe, result: (
        p2p.edit(
            StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False),
            "a fox",
            "a cat",
            image=image,
            steps=2,
            progress=False,
        ).image
    ),
    "the reader": lambda image, pipe, result: repr(load_reader().read([image])),
    "difference": lambda image, pipe, result: p2p.difference(image, result.image),
    "gallery": lambda image, pipe, result: p2p.gallery(image).axes[0].images[0].get_array(),
    "slider": lambda image, pipe, result: p2p.slider([image] * 2, [0, 1], "x").page,
    "explore": lambda image, pipe, result: p2p.explore(result.maps, [image] * 2).page,
    "overlay": lambda image, pipe, result: result.maps["fox"].overlay(image, 0.5),
    "self_components": lambda image, pipe, result: (
        self_components(result, image).axes[0].images[0].get_array()
    ),
}


@pytest.mark.parametrize("name", SEEN)
def test_every_function_sees_a_picture_as_load_image_does(tmp_path, toyland, recorded, name):
    for odd in odd_pictures(tmp_path):
        found, wanted = (
            SEEN[name](image, toyland, recorded) for image in (odd, p2p.load_image(odd))
        )
        np.testing.assert_array_equal(found, wanted)


def test_sixteen_bits_with_a_transparent_colour():
    grey = np.array([[0, 30_000], [65_535, 30_000]], np.uint16)
    seen = np.asarray(p2p.load_image(png(grey, chunk(b"tRNS", struct.pack(">H", 0)))))[..., 0]
    np.testing.assert_array_equal(seen, [[255, 117], [255, 117]])  # black was transparent
    colour = np.zeros((1, 2, 3), np.uint16)
    colour[0, 0] = (65_535, 256, 0)
    hidden = chunk(b"tRNS", struct.pack(">HHH", 65_535, 256, 0))
    seen = np.asarray(p2p.load_image(png(colour, hidden)))
    np.testing.assert_array_equal(seen[0], [[255, 255, 255], [0, 0, 0]])


@pytest.mark.parametrize(
    ("gamma", "extra", "wanted"),
    [(45_455, [], 128), (100_000, [], 186), (100_000, [chunk(b"sRGB", b"\0")], 128)],
)
def test_a_files_own_gamma(gamma, extra, wanted):
    """Linear light of one half is 188 or so in sRGB; a file that says it is sRGB is."""
    grey = np.full((2, 2), 128 * 257, np.uint16)
    seen = p2p.load_image(png(grey, chunk(b"gAMA", struct.pack(">I", gamma)), *extra))
    assert abs(seen.getpixel((0, 0))[0] - wanted) <= 2


@pytest.mark.parametrize("top", [1, 255, 65_535])
def test_floats_with_infinities(tmp_path, top):
    values = np.array([[0.0, 0.5, 1.0], [np.inf, -np.inf, np.nan]], np.float32) * top
    file = saved(Image.fromarray(values), tmp_path / "a.tif")
    seen = np.asarray(p2p.load_image(file))[..., 0]
    np.testing.assert_allclose(seen, [[0, 128, 255], [255, 0, 0]], atol=1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(p2p.ImageError, match="no regular file"):
        p2p.load_image(tmp_path / "pipe.png")


def test_avif_where_this_pillow_reads_it(tmp_path):
    if not features.check("avif"):
        pytest.skip("Pillow without AVIF")
    seen = p2p.load_image(saved(PICTURE, tmp_path / "a.avif", quality=95))
    assert np.abs(np.asarray(seen).astype(int) - COLOURS).mean() < 8


def test_a_jpeg_painted_over_and_over_is_refused(monkeypatch):
    monkeypatch.setattr("p2p_helpers.images.MAX_SCANS", 60 * 80 * 20)
    buffer = io.BytesIO()
    PICTURE.save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    assert p2p.load_image(io.BytesIO(content)).size == PICTURE.size
    last = content[content.rfind(b"\xff\xda") : -2]
    with pytest.raises(p2p.ImageError, match="passes"):
        p2p.load_image(io.BytesIO(content[:-2] + last * 30 + content[-2:]))


def test_large_pictures_when_asked():
    large = Image.new("L", (5_001, 5_000))
    with pytest.raises(p2p.ImageError, match="give max_pixels"):
        p2p.load_image(large, size=(8, 8))
    assert p2p.load_image(large, size=(8, 8), max_pixels=30_000_000).size == (8, 8)


SIZES = {
    "one number": {"size": 512},
    "a gigantic one": {"size": (10**6, 10**6)},
    "nothing": {"size": (0, 10)},
    "below nothing": {"size": (-5, 10)},
    "halves": {"size": (8.5, 8)},
    "a text": {"size": "512"},
    "three sides of a box": {"crop": (0, 0, 10)},
    "a box of texts": {"crop": ("0", "0", "10", "10")},
    "half a pixel": {"crop": (0, 0, 10.5, 10)},
    "one side": {"crop": 5},
    "a pipeline without a size": {"pipe": object()},
}


@pytest.mark.usefixtures("untyped")
@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_boxes_that_are_none(name):
    with pytest.raises(p2p.ImageError):
        p2p.load_image(PICTURE, **SIZES[name])
    for wrong in (3, [[0, 1]], torch.zeros(3, 8, 8)):
        with pytest.raises(p2p.ImageError, match="give the name of a file.*tensor.permute"):
            p2p.load_image(wrong)
