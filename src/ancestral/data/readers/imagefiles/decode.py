"""One image file → its pixels in a stated form."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ancestral.data.readers.imagefiles.depth import DEEPEST, Depth, deep_values, depth_of, upright_by_us
from ancestral.data.readers.imagefiles.errors import BadImage

if TYPE_CHECKING:
    from PIL.Image import Image

_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Pillow's modes without colour."""
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_ORIENTATION = 0x0112
"""The EXIF entry that says which way up an image is."""
_REDUCED = ((254, 1 | 4), (255, 2))
"""TIFF's entries, and their bits, that say that a page is a small copy or a mask of another."""
_BRIGHT = 1 << 15
"""A 16-bit image with a value from here on has white at 65535."""

DEEP = "of 16 bits, made 8 bits"
CUT = "of more than 8 bits, of which 8 are read"
SCALED = "of fewer than 256 grey levels, made 0 … 255"
ALPHA = "with transparency, laid over white"
TURNED = "turned as their EXIF says"
NO_EXIF = "with EXIF that cannot be read, not turned"
ENLARGED = "smaller than the image size, enlarged"
REMARKS = (DEEP, CUT, SCALED, ALPHA, TURNED, NO_EXIF, ENLARGED)
"""What may be said of an image that was changed."""


@dataclass(frozen=True)
class Form:
    """What images are made to."""

    channels: int
    """1 for grey, 3 for colour."""
    image_size: int | None = None
    """The side of the square; None keeps an image's size."""
    only_grey: bool = False
    """Whether an image in colour raises ``OtherForm`` in place of being made grey."""
    depth: int = 8
    """Bits of a value. 8; or 16, for values as they are stored; or 1, 2 or 4, which all files must have."""
    shrink: bool = False
    """Whether 16 bits are made 8, in place of raising ``OtherForm``."""


class OtherForm(Exception):
    """An image that the form does not suit; ``form`` suits it and all that suit the form before."""

    def __init__(self, form: Form) -> None:
        super().__init__(form)
        self.form = form


@dataclass(frozen=True, eq=False)
class Decoded:
    """The images of one file as they are modelled."""

    pixels: NDArray[Any]
    """(pages, H, W) or (pages, H, W, 3), uint8, or uint16 where the form has 16 bits."""
    remarks: tuple[str, ...] = ()
    """What was done to each, of ``REMARKS``."""
    white: int = 255
    """The largest value that the file can hold: above 255 where it has more than 8 bits."""
    unread: int = 0
    """How many more frames the file has: of an animation, small copies, or pages of another size."""


def decode(file: str | Path | IO[bytes], form: Form) -> Decoded:
    """Read the images of a file, upright and opaque; the centre square, scaled, where a size is given.

    All pages of a TIFF are read that are of the size and mode of the first; of an animation, the first
    frame. Scaling takes a windowed sinc over all pixels that fall into one (Lanczos), so nothing aliases.
    Raises ``BadImage`` for a file that cannot be read, whatever the reason, or that is larger than Pillow
    holds safe, and ``OtherForm``.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many kinds, on files that are read nevertheless
            with Image.open(file) as image:
                return _decoded(image, file, form)
    except (BadImage, OtherForm):
        raise
    except Image.DecompressionBombError as error:
        raise BadImage("it has more pixels than are safe to read") from error
    except MemoryError as error:
        raise BadImage("it takes more memory than there is") from error
    # Pillow and its libraries raise exceptions of any kind for damaged files.
    except Exception as error:
        raise BadImage(_reason(error)) from error


@functools.cache
def extensions() -> frozenset[str]:
    """How the names of files that Pillow reads end, in lower case."""
    from PIL import Image

    Image.init()
    return frozenset(end for end, name in Image.registered_extensions().items() if name in Image.OPEN)


def first_depth(path: str) -> int:
    """The bits of a value in the first file of many, to begin with; 8 where it cannot be read."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                return depth_of(image, path).bits
    except Exception:  # of a damaged file; whoever decodes it says why
        return 8


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "it is of no kind that Pillow reads" if text.startswith("cannot identify") else text


def _decoded(image: Any, file: str | Path | IO[bytes], form: Form) -> Decoded:
    from PIL import Image

    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or image.width * image.height):
        raise BadImage(f"{image.width}×{image.height} pixels are more than are safe to read")
    depth = depth_of(image, file)
    if (suited := _suited(form, depth, grey=not form.only_grey or _is_grey(image))) != form:
        raise OtherForm(suited)
    if form.image_size is not None:
        # Of a large JPEG, decode only as finely as is needed: no side comes out under twice the size.
        image.draft(None, (2 * form.image_size, 2 * form.image_size))
    frames = getattr(image, "n_frames", 1)
    if frames == 1 or image.format != "TIFF":
        pixels, remarks = _page(image, file, 0, depth, form)
        return Decoded(pixels[None], tuple(remarks), depth.white, frames - 1)
    kind = (image.size, image.mode, depth)
    pages, every = [], set[str]()
    for number in range(frames):
        image.seek(number)
        if (image.size, image.mode, depth_of(image, file)) != kind or (number and _is_copy(image)):
            continue
        if (suited := _suited(form, depth, grey=_is_grey(image))) != form:
            raise OtherForm(suited)  # one of the palettes is in colour
        pixels, remarks = _page(image, file, number, depth, form)
        pages.append(pixels)
        every.update(remarks)
    return Decoded(np.stack(pages), tuple(sorted(every)), depth.white, frames - len(pages))


def _suited(form: Form, depth: Depth, *, grey: bool) -> Form:
    if form.only_grey and not grey:
        form = replace(form, channels=3, only_grey=False)
    if depth.bits == 16 and form.depth != 16 and not form.shrink:
        form = replace(form, depth=16)
    if form.depth < 8 and depth.bits != form.depth:
        form = replace(form, depth=8)
    return form


def _is_copy(image: Any) -> bool:
    return any(int(image.tag_v2.get(tag, 0)) & bits for tag, bits in _REDUCED)


def _page(
    image: Any, file: str | Path | IO[bytes], number: int, depth: Depth, form: Form
) -> tuple[NDArray[Any], list[str]]:
    """One image, (H, W) or (H, W, 3), and what was done to it."""
    remarks = [remark for remark, so in ((CUT, depth.cut), (SCALED, depth.scaled)) if so]
    upright_by_us(image)
    # A TIFF closes its file when it is loaded; a PNG's EXIF may lie behind its pixels.
    first = _orientation(image, remarks) if image.format == "TIFF" else None
    if depth.bits == 16:
        values = deep_values(image, file, number, depth)
        turned = _turned(values, first or _orientation(image, remarks), remarks)
        return _fitted_values(_formed(_over_white(turned, remarks), form), form, remarks), remarks
    if first is not None:
        image.load()
        image._size = image.im.size  # a TIFF's own is that of the image once it is turned
    upright = _upright(image, first or _orientation(image, remarks), remarks)
    opaque = _opaque(upright, remarks)
    flat = opaque.convert("L" if form.channels == 1 else "RGB")
    pixels = np.asarray(_fitted(flat, form.image_size, remarks))
    if form.depth == 16:
        return pixels.astype(np.uint16), remarks
    return (pixels // (255 // (2**form.depth - 1)) if form.depth < 8 else pixels), remarks


def _is_grey(image: Any) -> bool:
    if image.mode in ("P", "PA"):
        palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    raw = image.tile[0].args if image.tile else ""
    return image.mode in _GREY or raw == "LA;16B"


def _orientation(image: Any, remarks: list[str]) -> int:
    """1 … 8, as EXIF counts; 1 where it says nothing that can be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF is of any content, and the pixels are not to blame for it
        remarks.append(NO_EXIF)
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _upright(image: Any, orientation: int, remarks: list[str]) -> Any:
    from PIL.Image import Transpose

    if orientation == 1:
        return image
    remarks.append(TURNED)
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation])


def _turned(values: NDArray[Any], orientation: int, remarks: list[str]) -> NDArray[Any]:
    """As ``_upright``, of an array (H, W, …)."""
    if orientation == 1:
        return values
    remarks.append(TURNED)
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    across, down = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    return values[:: -1 if down else 1, :: -1 if across else 1]


def _opaque(image: Any, remarks: list[str]) -> Any:
    """The image without transparency."""
    from PIL import Image

    if image.mode in _ALPHA or "transparency" in image.info:
        whole = image.convert("RGBA")
        if whole.getextrema()[3][0] < 255:
            remarks.append(ALPHA)
            return Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
    return image


def _over_white(values: NDArray[Any], remarks: list[str]) -> NDArray[Any]:
    """As ``_opaque``, of 16-bit values (H, W[, 3 or 4])."""
    if values.ndim == 2 or values.shape[2] == 3:
        return values
    colour, opacity = values[..., :3], values[..., 3:] / DEEPEST
    if (opacity == 1).all():
        return colour
    if colour.max() < _BRIGHT:
        raise BadImage("it has 16 bits, transparency, and a white that is not known; store it opaque")
    remarks.append(ALPHA)
    return np.rint(colour * opacity + DEEPEST * (1 - opacity)).astype(np.uint16)


def _formed(values: NDArray[Any], form: Form) -> NDArray[Any]:
    """Grey or in colour, as the form says, of 16-bit values (H, W[, 3])."""
    if values.ndim == 2:
        return values if form.channels == 1 else np.repeat(values[..., None], 3, 2)
    if form.channels == 3:
        return values
    return np.rint(values @ np.array([0.299, 0.587, 0.114])).astype(np.uint16)


def _fitted_values(values: NDArray[Any], form: Form, remarks: list[str]) -> NDArray[Any]:
    """As ``_fitted``, of 16-bit values (H, W[, 3]); made 8 bits where the form says so."""
    from PIL import Image

    if form.image_size is not None and values.shape[:2] != (form.image_size, form.image_size):
        channels = [values] if values.ndim == 2 else list(np.moveaxis(values, 2, 0))
        fitted = [_fitted(Image.fromarray(c.astype(np.float32)), form.image_size, remarks) for c in channels]
        whole = np.stack([np.asarray(one) for one in fitted], -1).reshape(*fitted[0].size, *values.shape[2:])
        values = np.rint(np.clip(whole, values.min(), values.max())).astype(np.uint16)
    if form.shrink:
        remarks.append(DEEP)
        return np.rint(values / 257.0).astype(np.uint8)
    return np.ascontiguousarray(values)


def _fitted(image: Image, size: int | None, remarks: list[str]) -> Image:
    from PIL import Image, ImageOps

    if size is None or image.size == (size, size):
        return image
    if min(image.size) < size and ENLARGED not in remarks:
        remarks.append(ENLARGED)
    return ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
