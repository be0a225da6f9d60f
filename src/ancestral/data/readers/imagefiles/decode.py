"""One image file → 8-bit pixels of a stated form."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Pillow's modes without colour."""
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_ORIENTATION = 0x0112
"""The EXIF entry that says which way up an image is."""

DEEP = "of 16 bits, made 8 bits"
ALPHA = "with transparency, laid over white"
TURNED = "turned as their EXIF says"
ENLARGED = "smaller than the image size, enlarged"
REMARKS = (DEEP, ALPHA, TURNED, ENLARGED)
"""What may be said of an image that was changed."""


class BadImage(ValueError):
    """A file that holds no image that can be read; the message says why."""


class FoundColour(Exception):
    """An image in colour where grey ones were expected."""


@dataclass(frozen=True)
class Form:
    """What images are made to."""

    channels: int
    """1 for grey, 3 for colour."""
    image_size: int | None = None
    """The side of the square; None keeps an image's size."""
    only_grey: bool = False
    """Whether an image in colour raises ``FoundColour`` in place of being made grey."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """One image as it is modelled."""

    pixels: NDArray[np.uint8]
    """(H, W) or (H, W, 3)."""
    remarks: tuple[str, ...] = ()
    """What was done to it, of ``REMARKS``."""


def decode(file: str | Path | IO[bytes], form: Form) -> Decoded:
    """Read an image, upright, opaque, of 8 bits; its centre square, scaled, where a size is asked for.

    Scaling takes a windowed sinc over all pixels that fall into one (Lanczos), so nothing aliases. Raises
    ``BadImage`` for what cannot be read or is larger than Pillow holds safe, and ``FoundColour``.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many kinds, on files that are read nevertheless
            with Image.open(file) as image:
                return _decoded(image, form)
    except BadImage:
        raise
    # What Pillow raises for damaged files is of many kinds.
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
    ) as error:
        raise BadImage(_reason(error)) from error
    except Image.DecompressionBombError as error:
        raise BadImage("it has more pixels than are safe to read") from error
    except MemoryError as error:
        raise BadImage("it takes more memory than there is") from error


@functools.cache
def extensions() -> frozenset[str]:
    """How the names of files that Pillow reads end, in lower case."""
    from PIL import Image

    Image.init()
    return frozenset(end for end, name in Image.registered_extensions().items() if name in Image.OPEN)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "it is of no kind that Pillow reads" if text.startswith("cannot identify") else text


def _decoded(image: Any, form: Form) -> Decoded:
    from PIL import Image

    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or image.width * image.height):
        raise BadImage(f"{image.width}×{image.height} pixels are more than are safe to read")
    if form.only_grey and not _is_grey(image):
        raise FoundColour
    if form.image_size is not None:
        # Of a large JPEG, decode only as finely as is needed: no side comes out under twice the size.
        image.draft(None, (2 * form.image_size, 2 * form.image_size))
    remarks = []
    upright = _upright(image)
    if upright is not image:
        remarks.append(TURNED)
    opaque = _opaque(upright, remarks)
    flat = opaque.convert("L" if form.channels == 1 else "RGB")
    return Decoded(np.asarray(_fitted(flat, form.image_size, remarks)), tuple(remarks))


def _is_grey(image: Any) -> bool:
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in _GREY


def _upright(image: Any) -> Any:
    from PIL import ImageOps

    return image if image.getexif().get(_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)


def _opaque(image: Any, remarks: list[str]) -> Any:
    """8 bits to a channel, without transparency."""
    from PIL import Image

    if image.mode == "F":
        raise BadImage("it holds real numbers, whose black and white are not known; store 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise BadImage(f"it holds {values.min()} to {values.max()}; at most 16 bits are read")
        remarks.append(DEEP)
        return Image.fromarray(np.rint(values / 257.0).astype(np.uint8))
    if image.mode in _ALPHA or "transparency" in image.info:
        whole = image.convert("RGBA")
        if whole.getextrema()[3][0] < 255:
            remarks.append(ALPHA)
            return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
    return image


def _fitted(image: Image, size: int | None, remarks: list[str]) -> Image:
    from PIL import Image, ImageOps

    if size is None or image.size == (size, size):
        return image
    if min(image.size) < size:
        remarks.append(ENLARGED)
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
