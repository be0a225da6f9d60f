"""How many bits an image file has for a value, and the values of those that have more than 8.

Pillow's modes do not say it: of 16-bit colours it reads the upper 8 bits, it scales the values of a PGM file
to 16 bits, and 32-bit files hold values of any size. A raw mode says how values lie in the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ancestral.data.readers.imagefiles.errors import BadImage

DEEPEST = 0xFFFF
_FEW = {1: 1, 3: 2, 15: 4}
"""The bits of the largest values that fewer than 8 bits fill."""
_UPPER = re.compile(r"(RGB|RGBA|RGBX);16([BLN])")
"""Raw modes of which Pillow reads the upper byte of each value."""
_SWAPPED = {"B": "L", "L": "B", "N": "B" if np.little_endian else "L"}
_SIGNED = 2
_SEPARATE = 2
_SAMPLE_FORMAT, _BITS_PER_SAMPLE, _PLANES = 339, 258, 284


@dataclass(frozen=True)
class Depth:
    """The bits of a value, and what white is."""

    bits: int
    """1, 2, 4, 8 or 16; 16 stands for all above 8."""
    white: int
    """The largest value that the file can hold; in pixels of at most 8 bits 255."""
    scaled: bool = False
    """Whether the file has fewer than 256 grey levels, of no whole number of bits, which are made 0 … 255."""
    cut: bool = False
    """Whether the file has more than 8 bits, of which Pillow can read only 8."""


_PLAIN = Depth(8, 255)
_EIGHT = ("L", "LA", "P", "RGB", "RGBA")
_OTHERWISE = ("PPM", "TIFF", "JPEG2000", "AVIF")
"""Formats whose raw modes do not say the depth."""


def depth_of(image: Any, file: str | Path | IO[bytes]) -> Depth:
    """The depth of an image that is open and not loaded. ``BadImage`` for values that Pillow mistakes."""
    raw, largest = _raw(image)
    if image.format not in _OTHERWISE and ";" not in raw and image.mode in _EIGHT:
        return _PLAIN
    if image.format == "PPM" and largest is not None:
        if largest > 255:
            return Depth(16, largest)
        return Depth(_FEW.get(largest, 8), 255, scaled=largest not in (*_FEW, 255))
    if (
        image.format == "TIFF"
        and _SIGNED in _tag(image, _SAMPLE_FORMAT)
        and 8 in _tag(image, _BITS_PER_SAMPLE)
    ):
        raise BadImage("it holds signed 8-bit values, which Pillow takes for others; store unsigned ones")
    if image.format == "JPEG2000":
        bits = _jpeg_2000_bits(_head(file))
        if bits > 8:
            return Depth(16, 2**bits - 1) if image.mode.startswith("I") else Depth(8, 255, cut=True)
    if image.format == "AVIF" and _is_deep_avif(_head(file)):
        return Depth(8, 255, cut=True)
    if image.mode == "1":
        return Depth(1, 255)
    if image.mode[0] in "IF" or (";16" in raw and not raw.startswith("BGR")):
        return Depth(16, DEEPEST)
    if image.format == "TIFF" and max((8, *_tag(image, _BITS_PER_SAMPLE))) > 8:
        return Depth(16, DEEPEST)  # in separate planes, whose raw modes do not say it
    if image.mode == "L" and (found := re.match(r"L;([24])", raw)):
        return Depth(int(found[1]), 255)
    return _PLAIN


def deep_values(image: Any, file: str | Path | IO[bytes], page: int, depth: Depth) -> NDArray[np.uint16]:
    """The values of an image of more than 8 bits, (H, W), (H, W, 3), or (H, W, 4) with its opacity.

    ``image`` is at ``page`` and not loaded. Raises ``BadImage`` for values other than whole numbers of
    16 bits, and for kinds of files of which Pillow reads no more than 8 bits.
    """
    raw, _ = _raw(image)
    if image.mode[0] in "IF":
        transparent = image.info.get("transparency")
        values: NDArray[Any] = np.asarray(image)
        if values.dtype.kind == "f" and not (values == np.rint(values)).all():
            low, high = values.min(), values.max()
            raise BadImage(
                f"it holds real numbers, {low:.6g} to {high:.6g}, whose grey levels are not known; store 8 or "
                "16 bits, or save vectors as .npy"
            )
        if values.min() < 0 or values.max() > DEEPEST:
            raise BadImage(f"it holds {values.min():.0f} to {values.max():.0f}; at most 16 bits are read")
        values = values.astype(np.int64)
        if image.format == "PPM":
            values = np.rint(values * (depth.white / DEEPEST))
        elif image.format == "JPEG2000":
            values >>= 16 - depth.white.bit_length()
        if transparent is not None and (values == transparent).any():
            raise BadImage("it has 16 bits and a transparent value; store it opaque, or in 8 bits")
        return values.astype(np.uint16)
    codec, planes = image.tile[0].codec_name, image.format == "TIFF" and _tag(image, _PLANES) == (_SEPARATE,)
    if image.format == "PPM" and codec == "ppm":
        upper, lower = (_loaded(file, page, "RGB", f"RGB;16{order}", codec="raw") for order in "BL")
    elif codec in ("zip", "raw", "libtiff") and not planes and (kind := _UPPER.fullmatch(raw)):
        upper = _loaded(file, page, image.mode, raw)
        lower = _loaded(file, page, image.mode, f"{kind[1]};16{_SWAPPED[kind[2]]}")
    elif raw == "LA;16B" and codec == "zip":
        four = _loaded(file, page, "RGBA", "RGBA")  # both bytes of grey, then both of opacity
        upper, lower = four[..., [0, 0, 0, 2]], four[..., [1, 1, 1, 3]]
    else:
        raise BadImage(
            "it has 16 bits in a layout of which Pillow reads 8; store it as a 16-bit PNG or in 8 bits"
        )
    both: NDArray[np.uint16] = ((upper.astype(np.uint16) << 8) | lower).astype(np.uint16, copy=False)
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple) and len(transparent) == both.shape[-1]:
        clear = (both == np.array(transparent)).all(-1, keepdims=True)
        both = np.concatenate([both, np.where(clear, 0, DEEPEST).astype(np.uint16)], -1)
    return both[..., :3] if image.mode == "RGBX" else both


def _raw(image: Any) -> tuple[str, int | None]:
    """How values lie in the file, and the largest value that a PNM file states."""
    args = image.tile[0].args if image.tile else ""
    if not isinstance(args, tuple):
        return str(args), 255 if image.format == "PPM" and image.mode in ("L", "RGB") else None
    raw = str(args[0]) if args else ""
    if image.format == "PPM" and image.tile[0].codec_name.startswith("ppm") and len(args) > 1:
        return raw, int(args[1])
    if image.format == "PPM" and raw == "I;16B":
        return raw, DEEPEST
    return raw, None


def _loaded(
    file: str | Path | IO[bytes], page: int, mode: str, raw: str, *, codec: str | None = None
) -> NDArray[np.uint8]:
    """The bytes of a page that one raw mode picks out."""
    from PIL import Image

    if not isinstance(file, str | Path):
        file.seek(0)
    with Image.open(file) as image:
        image.seek(page)
        upright_by_us(image)
        image._mode = mode
        image.tile = [
            tile._replace(
                codec_name=codec or tile.codec_name,
                args=(raw, *tile.args[1:]) if codec is None and isinstance(tile.args, tuple) else raw,
            )
            for tile in image.tile
        ]
        image.load()
        # What is loaded may lie on its side; its own size is that of the pixels.
        image._size = image.im.size
        return np.asarray(image)


def upright_by_us(image: Any) -> None:
    """Keep a TIFF from being turned while it is loaded, which fails where its EXIF is broken."""
    if image.format == "TIFF":
        image.load_end = lambda: None


def _tag(image: Any, tag: int) -> tuple[int, ...]:
    value = image.tag_v2.get(tag, ())
    return value if isinstance(value, tuple) else (value,)


def _head(file: str | Path | IO[bytes]) -> bytes:
    """The first bytes, enough for the headers that say the depth."""
    if isinstance(file, str | Path):
        with open(file, "rb") as opened:
            return opened.read(1 << 14)
    at = file.tell()
    file.seek(0)
    head = file.read(1 << 14)
    file.seek(at)
    return head


def _jpeg_2000_bits(head: bytes) -> int:
    """The bits of the deepest channel, in the SIZ segment of the code stream; 8 where that is not found."""
    at = head.find(b"\xff\x4f\xff\x51")
    count = int.from_bytes(head[at + 40 : at + 42]) if at >= 0 else 0
    return max([8, *(1 + (byte & 0x7F) for byte in head[at + 42 : at + 42 + 3 * count : 3])])


def _is_deep_avif(head: bytes) -> bool:
    """Whether the codec's configuration says 10 or 12 bits."""
    at = head.find(b"av1C")
    return at >= 0 and len(head) > at + 6 and bool(head[at + 6] & 0x40)
