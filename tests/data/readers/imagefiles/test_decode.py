"""One image file: every mode that Pillow has comes out upright, opaque and with its depth."""

from __future__ import annotations

import io
import struct
import zlib

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
    OtherForm,
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
    np.testing.assert_array_equal(found.pixels[0], RAMP)
    assert found.remarks == ()


def test_colour_pixels_are_kept():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(decode(stored(Image.fromarray(pixels)), COLOUR).pixels[0], pixels)


DEEP_VALUES = np.array([[0, 257, 128 * 257, 65535], [128, 129, 384, 386]], np.uint16)


def test_sixteen_bits_are_read_as_they_are():
    file = stored(Image.fromarray(DEEP_VALUES))
    with pytest.raises(OtherForm) as other:
        decode(file, GREY)
    assert other.value.form == Form(1, depth=16)
    found = decode(file, other.value.form)
    np.testing.assert_array_equal(found.pixels[0], DEEP_VALUES)
    assert (found.pixels.dtype, found.white, found.remarks) == (np.uint16, 65535, ())


def test_sixteen_bits_become_eight_beside_images_of_eight():
    found = decode(stored(Image.fromarray(DEEP_VALUES)), Form(1, shrink=True))
    np.testing.assert_array_equal(found.pixels[0], [[0, 1, 128, 255], [0, 1, 1, 2]])
    assert found.remarks == (DEEP,)


def png(lines: list[bytes], size: tuple[int, int], kind: int, bits: int) -> io.BytesIO:
    """A PNG by its specification: lines begin with the number of their filter; size is (width, height)."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    head = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + body)


def deep_png(values: np.ndarray, kind: int) -> io.BytesIO:
    """16-bit values (H, W[, C]) as a PNG of a colour type, every second line as differences to the left."""
    left = 2 * (values.shape[2] if values.ndim == 3 else 1)
    lines = []
    for number, row in enumerate(values.astype(">u2").reshape(len(values), -1)):
        line = np.frombuffer(row.tobytes(), np.uint8)
        if number % 2:
            line = line - np.concatenate([np.zeros(left, np.uint8), line[:-left]])
        lines.append(bytes([number % 2]) + line.tobytes())
    return png(lines, (values.shape[1], len(values)), kind, 16)


@pytest.mark.parametrize(("kind", "channels"), [(0, 0), (2, 3), (6, 4), (4, 2)])
def test_both_bytes_of_sixteen_bit_pngs_are_read(kind, channels):
    values = np.random.default_rng(kind).integers(0, 65536, (6, 5, *([channels] if channels else [])))
    if channels in (2, 4):
        values[..., -1] = 65535
    colour = channels > 2
    found = decode(deep_png(values, kind), Form(3 if colour else 1, only_grey=not colour, depth=16))
    grey = values if channels == 0 else values[..., 0]
    np.testing.assert_array_equal(found.pixels[0], values[..., :3] if colour else grey)


def test_transparency_in_sixteen_bits():
    values = np.array([[[60000, 10, 20, 0], [60000, 10, 20, 65535], [60000, 10, 20, 32768]]])
    found = decode(deep_png(values, 6), Form(3, depth=16))
    assert found.pixels[0].tolist() == [[[65535] * 3, [60000, 10, 20], [62767, 32772, 32777]]]
    assert found.remarks == (ALPHA,)
    with pytest.raises(BadImage, match="white that is not known"):
        decode(deep_png(values // 300 * np.array([1, 1, 1, 300]), 6), Form(3, depth=16))


def test_sixteen_bits_are_scaled_and_turned_as_eight_are():
    values = (np.add.outer(np.arange(12) * 13, np.arange(12) * 5) + 20).astype(np.uint16)
    eight = decode(stored(Image.fromarray(values.astype(np.uint8))), Form(1, 6)).pixels[0].astype(int)
    deep = decode(stored(Image.fromarray(values)), Form(1, 6, depth=16)).pixels[0].astype(int)
    assert abs(eight - deep).max() <= 1
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        one, other = (
            decode(stored(Image.fromarray(values.astype(kind)), exif=exif), Form(1, depth=16)).pixels[0]
            for kind in (np.uint8, np.uint16)
        )
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", [b"P5", b"P2"])
@pytest.mark.parametrize("white", [1, 3, 15, 100, 255, 1000, 4095, 65535])
def test_the_white_of_a_pgm(kind, white):
    values = np.random.default_rng(white).integers(0, white + 1, (4, 5))
    values[0, :2] = 0, white
    if kind == b"P5":
        body = values.astype(">u2" if white > 255 else np.uint8).tobytes()
    else:
        body = " ".join(map(str, values.ravel())).encode()
    content = kind + b" 5 4 %d\n" % white + body
    bits = {1: 1, 3: 2, 15: 4}.get(white, 16 if white > 255 else 8)
    found = decode(io.BytesIO(content), Form(1, depth=bits))
    expected = np.rint(values * 255 / 100) if white == 100 else values
    np.testing.assert_array_equal(found.pixels[0], expected)
    assert found.white == (white if white > 255 else 255)


def test_a_ppm_in_sixteen_bits():
    values = np.random.default_rng(0).integers(0, 4096, (4, 5, 3))
    content = b"P6 5 4 4095\n" + values.astype(">u2").tobytes()
    found = decode(io.BytesIO(content), Form(3, depth=16))
    np.testing.assert_array_equal(found.pixels[0], values)
    assert found.white == 4095


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_of_a_png(bits):
    values = np.arange(64, dtype=np.uint8).reshape(8, 8) % 2**bits
    lines = []
    for row in values:
        packed = np.packbits((row[:, None] >> np.arange(bits)[::-1]) & 1)
        lines.append(b"\0" + packed.tobytes())
    np.testing.assert_array_equal(decode(png(lines, (8, 8), 0, bits), Form(1, depth=bits)).pixels[0], values)
    # Among files of 8 bits they are spread over all.
    spread = values * (255 // (2**bits - 1))
    np.testing.assert_array_equal(decode(png(lines, (8, 8), 0, bits), GREY).pixels[0], spread)
    with pytest.raises(OtherForm) as other:
        decode(stored(Image.fromarray(RAMP)), Form(1, depth=bits))
    assert other.value.form.depth == 8


def test_whole_numbers_in_32_bits():
    values = np.array([[0, 7], [200, 255]])
    for dtype in (np.int32, np.float32):
        found = decode(stored(Image.fromarray(values.astype(dtype)), "TIFF"), Form(1, depth=16))
        np.testing.assert_array_equal(found.pixels[0], values)
    for wrong in (-1, 70_000):
        with pytest.raises(BadImage, match=f"{wrong}"):
            decode(stored(Image.fromarray((values + wrong).astype(np.int32)), "TIFF"), Form(1, depth=16))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("planes", [1, 2])
def test_a_colour_tiff_of_sixteen_bits(order, packed, planes):
    """Written by hand: Pillow has no mode for it."""
    values = np.random.default_rng(0).integers(0, 65536, (3, 4, 3))
    body = (values if planes == 1 else np.moveaxis(values, 2, 0)).astype(f"{order}u2").tobytes()
    strips = [body] if planes == 1 else [body[:24], body[24:48], body[48:]]
    strips = [zlib.compress(strip) if packed else strip for strip in strips]
    starts = [300 + sum(map(len, strips[:number])) for number in range(len(strips))]
    entries = {
        256: (4,), 257: (3,), 258: (16, 16, 16), 259: (8 if packed else 1,), 262: (2,), 273: tuple(starts),
        277: (3,), 278: (3,), 279: tuple(map(len, strips)), 284: (planes,),
    }  # fmt: skip
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    apart = b""
    for tag, numbers in entries.items():
        content = struct.pack(f"{order}{len(numbers)}H", *numbers)
        head += struct.pack(f"{order}HHI", tag, 3, len(numbers))
        if len(content) > 4:
            head, apart = head + struct.pack(f"{order}I", 200 + len(apart)), apart + content
        else:
            head += content.ljust(4, b"\0")
    file = io.BytesIO((head.ljust(200, b"\0") + apart).ljust(300, b"\0") + b"".join(strips))
    if planes == 2:
        with pytest.raises(BadImage, match="16-bit PNG"):
            decode(file, Form(3, depth=16))
    else:
        np.testing.assert_array_equal(decode(file, Form(3, depth=16)).pixels[0], values)


def test_all_pages_of_a_tiff_and_the_first_frame_of_a_film():
    pages = [Image.fromarray(RAMP + page) for page in range(5)]
    file = stored(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    found = decode(file, GREY)
    np.testing.assert_array_equal(found.pixels, np.stack([RAMP + page for page in range(5)]))
    assert found.unread == 0
    small = stored(pages[0], "TIFF", save_all=True, append_images=[pages[1].resize((2, 3)), pages[2]])
    assert (decode(small, GREY).pixels.shape, decode(small, GREY).unread) == ((2, 6, 4), 1)
    for kind, more in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        film = stored(pages[0], kind, save_all=True, append_images=pages[1:], **more)
        found = decode(film, GREY)
        np.testing.assert_array_equal(found.pixels[0], RAMP)
        assert (len(found.pixels), found.unread) == (1, 4)


def test_pixels_are_read_whatever_the_exif():
    turn = struct.pack("<HHII", 0x0112, 3, 1, 6)
    rational = struct.pack("<HHII", 0x011B, 10, 1, 38)
    head = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + turn + rational + struct.pack("<I", 0)
    signed = head + struct.pack("<ii", -1, 0)
    for exif, turned in ((signed, True), (head[:20], False), (b"Exif\0\0", False), (b"Exif\0\0MM", False)):
        for kind in ("JPEG", "PNG", "WEBP"):
            whole = Image.fromarray(np.repeat(RAMP, 4, 0))
            found = decode(stored(whole, kind, exif=exif), GREY)
            assert found.pixels.shape == ((1, 4, 24) if turned else (1, 24, 4))


def test_transparency_lies_over_white():
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
    found = decode(stored(Image.fromarray(pixels)), COLOUR)
    np.testing.assert_array_equal(found.pixels[0], [[[10, 20, 30], [255, 255, 255]]])
    assert found.remarks == (ALPHA,)
    opaque = pixels | np.array([0, 0, 0, 255], np.uint8)
    assert decode(stored(Image.fromarray(opaque)), COLOUR).remarks == ()


def test_a_palette_with_a_transparent_entry():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    found = decode(stored(image, transparency=1), COLOUR)
    np.testing.assert_array_equal(found.pixels[0], [[[255, 0, 0], [255, 255, 255]]])


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
    np.testing.assert_array_equal(found.pixels[0], turns[orientation])
    assert found.remarks == (() if orientation == 1 else (TURNED,))


def test_the_centre_square_is_scaled_without_aliasing():
    """Stripes finer than the new pixels average to grey; a plain choice of pixels keeps them."""
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 48))
    stripes[:, :16] = stripes[:, -16:] = 200  # outside the centre square
    found = decode(stored(Image.fromarray(stripes)), Form(1, 8))
    assert found.pixels.shape == (1, 8, 8)
    assert abs(found.pixels[0, :, 1:-1].astype(int) - 127).max() <= 8


def test_enlarging_is_remarked():
    found = decode(stored(Image.fromarray(RAMP)), Form(1, 8))
    assert (found.pixels.shape, found.remarks) == ((1, 8, 8), (ENLARGED,))


def test_a_large_jpeg_is_near_to_one_decoded_in_full():
    x = np.linspace(0, 3, 800)
    pixels = np.rint(127 + 120 * np.sin(x[:, None] * 2) * np.cos(x[None])).astype(np.uint8)
    file = stored(Image.fromarray(pixels), "JPEG", quality=95)
    exact = np.asarray(Image.fromarray(pixels).resize((32, 32), Image.Resampling.LANCZOS), int)
    assert abs(decode(file, Form(1, 32)).pixels[0] - exact).max() <= 3


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "YCbCr", "HSV", "LAB"])
def test_colour_where_grey_is_expected_is_found(mode):
    image = Image.new("RGB", (3, 3), (9, 200, 30))
    file = stored(image.convert(mode) if mode in ("CMYK",) else image, "TIFF")
    with pytest.raises(OtherForm):
        decode(file, Form(1, only_grey=True))
    file.seek(0)
    assert decode(file, GREY).pixels.shape == (1, 3, 3)


def test_a_grey_palette_is_grey():
    image = Image.fromarray(RAMP).convert("P")
    assert decode(stored(image), Form(1, only_grey=True)).pixels.shape == (1, *RAMP.shape)
    image.putpalette([0, 0, 0, 255, 0, 0])
    with pytest.raises(OtherForm):
        decode(stored(image), Form(1, only_grey=True))


def test_what_is_no_image_is_refused_with_a_reason():
    whole = stored(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
    for content, reason in ((b"", "no kind"), (b"text", "no kind"), (whole.getvalue()[:900], "truncated")):
        with pytest.raises(BadImage, match=reason):
            decode(io.BytesIO(content), COLOUR)
    with pytest.raises(BadImage, match="No such file"):
        decode("nowhere.png", GREY)
    with pytest.raises(BadImage, match="real numbers"):
        decode(stored(Image.fromarray(np.full((3, 3), 0.5, np.float32)), "TIFF"), Form(1, depth=16))


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for side in (11, 20):  # above the limit, where Pillow warns; above twice the limit, where it raises
        with pytest.raises(BadImage, match="safe"):
            decode(stored(Image.new("L", (side, side))), GREY)
    assert decode(stored(Image.new("L", (10, 10))), GREY).pixels.shape == (1, 10, 10)


def test_names_of_image_files():
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".bmp", ".gif"} <= extensions()
    assert not {".txt", ".csv", ".npy", ".json", ".pdf"} & extensions()
