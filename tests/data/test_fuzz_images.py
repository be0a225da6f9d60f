"""Damaged and odd image files, with fixed seeds: each is read as Pillow reads it, or rejected by name."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ancestral.data import Reading, load_data
from ancestral.data.readers.imagefiles.decode import Form, OtherForm, decode
from ancestral.data.readers.imagefiles.errors import BadImage
from fuzzing import Made, damaged, limited

pytestmark = pytest.mark.slow

KINDS = {
    "png": ("L", "RGB", "RGBA", "LA", "P", "1", "I;16"), "jpg": ("L", "RGB", "CMYK"), "gif": ("L", "P", "RGB"),
    "tif": ("L", "RGB", "1", "I;16", "I", "F", "CMYK", "RGBA"), "bmp": ("L", "RGB", "1"), "webp": ("RGB", "RGBA"),
    "pgm": ("L", "I;16"), "ppm": ("RGB",), "tga": ("L", "RGB", "RGBA"), "pcx": ("L", "RGB"), "sgi": ("L", "RGB"),
    "jp2": ("L", "RGB", "I;16"), "ico": ("RGBA",), "avif": ("RGB",), "dds": ("RGB", "RGBA"), "qoi": ("RGB",),
    "pfm": ("F",),
}  # fmt: skip


def odd_image(rng: np.random.Generator) -> Made:
    """An image file of any format, mode, number of frames and EXIF, whole or damaged."""
    ending = str(rng.choice([*KINDS]))
    mode = str(rng.choice(KINDS[ending]))
    size = (16, 16) if ending == "ico" else (int(rng.integers(1, 12)), int(rng.integers(1, 12)))
    grey = rng.integers(0, int(rng.choice([2, 256, 4096])), size).astype(np.uint16)
    base = Image.fromarray(grey.astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray(grey)
    elif mode in ("I", "F"):
        image = Image.fromarray(
            (grey / rng.choice([1, 1, 3])).astype(np.int32 if mode == "I" else np.float32)
        )
    else:
        image = base.convert("RGB").convert(mode) if mode == "P" else base.convert(mode)
    more: dict[str, Any] = {}
    if ending in ("tif", "gif", "png", "webp") and rng.random() < 0.3:
        more.update(save_all=True, append_images=[image] * int(rng.integers(1, 4)))
    if ending == "tif" and mode != "F" and rng.random() < 0.5:
        more["compression"] = str(rng.choice(["tiff_lzw", "tiff_deflate", "packbits"]))
    if ending in ("jpg", "png", "webp", "tif") and rng.random() < 0.4:
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(0, 10))
        exif[0x011A] = 72.0
        content = exif.tobytes()
        more["exif"] = (
            content[:6] + damaged(content[6:], rng) if rng.random() < 0.7 and ending != "tif" else content
        )
    file = io.BytesIO()
    names = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM", "pfm": "PPM", "jp2": "JPEG2000"}
    try:
        image.save(file, names.get(ending, ending.upper()), **more)
    except (OSError, ValueError, KeyError, SystemError, RuntimeError, TypeError):
        return odd_image(rng)  # a combination that Pillow does not write
    content = file.getvalue()
    return f"a.{ending}", content if rng.random() < 0.2 else damaged(content, rng)


def pillow(content: bytes) -> np.ndarray | None:
    """The pixels as Pillow reads them, upright, where its modes lose nothing and nothing is converted."""
    with Image.open(io.BytesIO(content)) as image:
        frames = getattr(image, "n_frames", 1)
        tile = str(image.tile[0]) if image.tile else ""
        if (
            frames > 1
            or image.mode not in ("L", "RGB", "I;16")
            or ";" in tile
            or "transparency" in image.info
        ):
            return None
        if image.format in ("PPM", "JPEG2000") and image.mode == "I;16":
            return None
        try:
            turn = image.getexif().get(0x0112, 1)
        except Exception:
            turn = 1
        return np.asarray(image) if turn == 1 else None


def test_image_files():
    """Decoded one at a time."""
    rng = np.random.default_rng(4)
    found = Counter[str]()
    for _ in range(2500):
        name, content = odd_image(rng)
        form, read = Form(1, only_grey=True), None
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(3):
                try:
                    read = decode(io.BytesIO(content), form)
                    break
                except OtherForm as other:
                    form = other.form
                except BadImage:
                    break
            try:
                truth = pillow(content)
            except Exception:
                truth = None
        if read is None:
            found["rejected"] += 1
            continue
        pixels = read.pixels
        assert pixels.dtype == (np.uint16 if form.depth == 16 else np.uint8)
        assert pixels.shape[3:] == (() if form.channels == 1 else (3,))
        if truth is not None:
            found["read"] += 1
            np.testing.assert_array_equal(pixels[0], truth, err_msg=f"{name} {content!r}")
        else:
            found["read, truth unknown"] += 1
    print(dict(found))
    assert min(found.values()) > 200


def test_folders_of_images(tmp_path, monkeypatch):
    """Several files in a folder, as a user has them: bad ones are named, and left out where that is asked for."""
    monkeypatch.setenv("ANCESTRAL_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(5)
    found = Counter[str]()
    for number in range(100):
        folder = tmp_path / f"set{number}"
        folder.mkdir()
        for place in range(10):
            name, content = odd_image(rng)
            (folder / f"{place}-{name}").write_bytes(content)
        for skip_bad in (False, True):
            try:
                with limited():
                    data = load_data(folder, reading=Reading(skip_bad=skip_bad, image_size=8))
            except ValueError as error:
                named = "" if f"set{number}" in str(error) else f" without its name: {error}"
                found[f"rejected, skip_bad {skip_bad}{named}"] += 1
            else:
                assert data.spec.shape[1:] == (8, 8)
                found[f"read, skip_bad {skip_bad}"] += 1
    print(dict(found))
    assert not any("without" in what for what in found)
    assert found["read, skip_bad True"] > 30
