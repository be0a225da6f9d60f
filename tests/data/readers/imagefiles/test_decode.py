"""One image file: every mode that Pillow has comes out upright, opaque and of 8 bits."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from ancestral.data.readers.imagefiles.decode import (
    ALPHA,
    DEEP,
    ENLARGED,
    TURNED,
    BadImage,
    Form,
    FoundColour,
    decode,
    extensions,
)

GREY, COLOUR = Form(1), Form(3)
RAMP = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10


def stored(image: Image.Image, kind: str = "PNG", **more) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **more)
    file.seek(0)
    return file


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "PPM"])
def test_grey_pixels_of_lossless_formats_are_kept(kind):
    found = decode(
        stored(Image.fromarray(RAMP), kind, **({"lossless": True} if kind == "WEBP" else {})), GREY
    )
    np.testing.assert_array_equal(found.pixels, RAMP)
    assert found.remarks == ()


def test_colour_pixels_are_kept():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(decode(stored(Image.fromarray(pixels)), COLOUR).pixels, pixels)


def test_sixteen_bits_become_eight():
    values = np.array([[0, 257, 128 * 257, 65535], [128, 129, 384, 386]], np.uint16)
    found = decode(stored(Image.fromarray(values)), GREY)
    np.testing.assert_array_equal(found.pixels, [[0, 1, 128, 255], [0, 1, 1, 2]])
    assert found.remarks == (DEEP,)


def test_transparency_lies_over_white():
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
    found = decode(stored(Image.fromarray(pixels)), COLOUR)
    np.testing.assert_array_equal(found.pixels, [[[10, 20, 30], [255, 255, 255]]])
    assert found.remarks == (ALPHA,)
    opaque = pixels | np.array([0, 0, 0, 255], np.uint8)
    assert decode(stored(Image.fromarray(opaque)), COLOUR).remarks == ()


def test_a_palette_with_a_transparent_entry():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    found = decode(stored(image, transparency=1), COLOUR)
    np.testing.assert_array_equal(found.pixels, [[[255, 0, 0], [255, 255, 255]]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_way_up_that_exif_says(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {
        1: RAMP,
        2: RAMP[:, ::-1],
        3: RAMP[::-1, ::-1],
        4: RAMP[::-1],
        5: RAMP.T,
        6: np.rot90(RAMP, -1),
        7: RAMP[::-1, ::-1].T,
        8: np.rot90(RAMP),
    }
    found = decode(stored(Image.fromarray(RAMP), exif=exif), GREY)
    np.testing.assert_array_equal(found.pixels, turns[orientation])
    assert found.remarks == (() if orientation == 1 else (TURNED,))


def test_the_centre_square_is_scaled_without_aliasing():
    """Stripes finer than the new pixels average to grey; a plain choice of pixels keeps them."""
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 48))
    stripes[:, :16] = stripes[:, -16:] = 200  # outside the centre square
    found = decode(stored(Image.fromarray(stripes)), Form(1, 8))
    assert found.pixels.shape == (8, 8)
    assert abs(found.pixels[:, 1:-1].astype(int) - 127).max() <= 8


def test_enlarging_is_remarked():
    found = decode(stored(Image.fromarray(RAMP)), Form(1, 8))
    assert (found.pixels.shape, found.remarks) == ((8, 8), (ENLARGED,))


def test_a_large_jpeg_is_near_to_one_decoded_in_full():
    x = np.linspace(0, 3, 800)
    pixels = np.rint(127 + 120 * np.sin(x[:, None] * 2) * np.cos(x[None])).astype(np.uint8)
    file = stored(Image.fromarray(pixels), "JPEG", quality=95)
    exact = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.LANCZOS), int)
    assert abs(decode(file, Form(1, 32)).pixels - exact).max() <= 3


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "YCbCr", "HSV", "LAB"])
def test_colour_where_grey_is_expected_is_found(mode):
    image = Image.new("RGB", (3, 3), (9, 200, 30))
    file = stored(image.convert(mode) if mode in ("CMYK",) else image, "TIFF")
    with pytest.raises(FoundColour):
        decode(file, Form(1, only_grey=True))
    file.seek(0)
    assert decode(file, GREY).pixels.shape == (3, 3)


def test_a_grey_palette_is_grey():
    image = Image.fromarray(RAMP).convert("P")
    assert decode(stored(image), Form(1, only_grey=True)).pixels.shape == RAMP.shape
    image.putpalette([0, 0, 0, 255, 0, 0])
    with pytest.raises(FoundColour):
        decode(stored(image), Form(1, only_grey=True))


def test_what_is_no_image_is_refused_with_a_reason():
    whole = stored(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
    for content, reason in ((b"", "no kind"), (b"text", "no kind"), (whole.getvalue()[:900], "truncated")):
        with pytest.raises(BadImage, match=reason):
            decode(io.BytesIO(content), COLOUR)
    with pytest.raises(BadImage, match="No such file"):
        decode("nowhere.png", GREY)
    with pytest.raises(BadImage, match="real numbers"):
        decode(stored(Image.fromarray(np.zeros((3, 3), np.float32)), "TIFF"), GREY)


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side in (11, 20):  # above the limit, where Pillow warns; above twice the limit, where it raises
        with pytest.raises(BadImage, match="safe"):
            decode(stored(Image.new("L", (side, side))), GREY)
    assert decode(stored(Image.new("L", (10, 10))), GREY).pixels.shape == (10, 10)


def test_names_of_image_files():
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".bmp", ".gif"} <= extensions()
    assert not {".txt", ".csv", ".npy", ".json", ".pdf"} & extensions()
