"""Images in IDX files, raw or gzipped, as MNIST and its relatives are published.

An IDX file is two zero bytes, a byte for the type of its entries, a byte for the number of axes, each
axis's size as a big-endian 32-bit number, then the entries, the last axis fastest
(http://yann.lecun.com/exdb/mnist, "the IDX file format").
"""

from __future__ import annotations

import gzip
import math
import os
import re
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ancestral.data.raw import Array, Kind, Raw

_INTEGERS = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4"}
_FLOATS = {0x0D: "32-bit floats", 0x0E: "64-bit floats"}
_LOOKS_IDX = re.compile(r"([-.]idx\d-[a-z]+|ubyte|\.idx)(\.gz)?$", re.IGNORECASE)
_MEMBER = re.compile(
    r"^(?P<set>.*?)(?P<split>train|t10k|test)[-_]?(?P<what>images|labels)[-.]idx\d-[a-z]+$", re.IGNORECASE
)


def read_idx(path: Path) -> Array:
    """The array in one IDX file of integers, raw or gzipped (told apart by content, not by name).

    That of a raw file is mapped, that of a gzipped one in memory.
    Raises ``ValueError``, naming the file, for anything but one whole IDX array: another magic number,
    a type that is not an integer, too few or too many bytes, a damaged gzip stream.
    """
    with path.open("rb") as raw:
        gzipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not gzipped:
            return _map(raw, path)
        try:
            # gzip checks its own length and checksum once the last byte has been read.
            with gzip.open(raw) as unpacked:
                return _parse(unpacked, path)  # type: ignore[arg-type]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(
                f"{str(path)!r} is a truncated or damaged gzip file ({error}). Fetch it again."
            ) from error


def _map(file: BinaryIO, path: Path) -> Array:
    shape, dtype = _header(file, path)
    expected, start = math.prod(shape) * dtype.itemsize, file.tell()
    _check_length(path, shape, expected, file.seek(0, os.SEEK_END) - start)
    # Nothing cannot be mapped.
    return np.memmap(path, dtype, "r", start, shape) if expected else np.empty(_sized(shape), dtype)


def _sized(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape with 0 entries that NumPy can make: it multiplies the other sizes."""
    return shape if math.prod(n for n in shape if n) < 1 << 40 else (0,) * len(shape)


def _parse(stream: BinaryIO, path: Path) -> Array:
    shape, dtype = _header(stream, path)
    expected = math.prod(shape) * dtype.itemsize
    body = bytearray()
    # By pieces: the header of a damaged file may promise more than there is memory.
    while len(body) < expected and (piece := stream.read(min(expected - len(body), 1 << 24))):
        body += piece
    _check_length(path, shape, expected, len(body) + len(stream.read(1)))
    return np.frombuffer(body, dtype=dtype).reshape(shape if expected else _sized(shape))


def _check_length(path: Path, shape: tuple[int, ...], expected: int, found: int) -> None:
    """Refuse a file whose entries take more or fewer bytes than its header says."""
    if found < expected:
        raise ValueError(
            f"{str(path)!r} is truncated: its header promises {expected:,} bytes of entries for the "
            f"shape {shape}, and it holds {found:,}. Fetch it again."
        )
    if found > expected:
        raise ValueError(
            f"{str(path)!r} holds trailing bytes after the {expected:,} that its header promises for the "
            f"shape {shape}; it is not one whole IDX array. Fetch it again."
        )


def _header(stream: BinaryIO, path: Path) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _INTEGERS | _FLOATS or magic[3] == 0:
        raise ValueError(
            f"{str(path)!r} is not an IDX file: it begins with the bytes {magic.hex(' ') or '(none)'}, and "
            "an IDX file with 00 00, the type of its entries (08 for 8-bit unsigned) and its number of axes."
        )
    if magic[2] in _FLOATS:
        raise ValueError(
            f"{str(path)!r} holds {_FLOATS[magic[2]]}; images and labels in IDX files must be integers. Save "
            "real-valued vectors as a .npy file of shape (N, D)."
        )
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise ValueError(f"{str(path)!r} is truncated within its header. Fetch it again.")
    return tuple(int(n) for n in np.frombuffer(sizes, dtype=">u4")), np.dtype(_INTEGERS[magic[2]])


def _images(path: Path) -> Array:
    """8-bit grey images (N, H, W)."""
    images = read_idx(path)
    if images.dtype != np.uint8:
        raise ValueError(
            f"{str(path)!r} holds entries of type {images.dtype.name}; images in IDX files must be 8-bit "
            "unsigned (type 08). Save other integer images as .npy."
        )
    if images.ndim != 3:
        raise ValueError(
            f"{str(path)!r} holds an array of shape {images.shape}; images in IDX files must be (N, H, W). "
            "Save images with several channels as .npy, (N, H, W, C)."
        )
    return images


def _labels(path: Path | None, images: Array, images_path: Path) -> Array | None:
    if path is None:
        return None
    labels = read_idx(path)
    if labels.shape != (len(images),):
        raise ValueError(
            f"{str(path)!r} holds labels of shape {labels.shape}, and {images_path.name!r} "
            f"{len(images):,} images; the labels must be ({len(images)},), one per image."
        )
    return labels


def _stem(path: Path) -> str:
    return path.name[:-3] if path.name.lower().endswith(".gz") else path.name


def _members(folder: Path) -> dict[str, Path]:
    """The IDX files of a folder by name without .gz; of a file and its gzipped twin, the plain one."""
    found = sorted(p for p in folder.iterdir() if p.is_file() and _LOOKS_IDX.search(p.name))
    # A name with .gz is longer than its plain twin's, so the plain one comes last and stays.
    return {_stem(p): p for p in sorted(found, key=lambda p: -len(p.name))}


def _roles(folder: Path) -> dict[tuple[str, str], Path]:
    """The files of MNIST's layout by (train or test, images or labels)."""
    roles: dict[tuple[str, str], Path] = {}
    sets: set[str] = set()
    for stem, path in _members(folder).items():
        if match := _MEMBER.match(stem):
            split = "train" if match["split"].lower() == "train" else "test"
            role = (split, match["what"].lower())
            sets.add(match["set"])
            if role in roles or len(sets) > 1:
                names = ", ".join(sorted(p.name for p in {*roles.values(), path}))
                raise ValueError(
                    f"the folder {str(folder)!r} holds the IDX files of several data sets ({names}, …); keep "
                    "those of one data set in a folder of their own."
                )
            roles[role] = path
    return roles


def has_training_images(folder: str) -> bool:
    """Whether a folder holds IDX files in MNIST's layout."""
    return ("train", "images") in _roles(Path(folder))


def _read_folder(folder: Path) -> Raw:
    name = folder.resolve().name
    roles = _roles(folder)
    first = roles.get(("train", "images"))
    if first is not None:
        train_x = _images(first)
        train_labels = _labels(roles.get(("train", "labels")), train_x, first)
        second = roles.get(("test", "images"))
        if second is None:
            return Raw(name, train_x, train_labels)
        test_x = _images(second)
        test_labels = _labels(roles.get(("test", "labels")), test_x, second)
        return Raw(name, train_x, train_labels, test_x, test_labels)
    files = list(_members(folder).values())
    if len(files) != 1:
        raise ValueError(
            f"the folder {str(folder)!r} holds the IDX files {', '.join(sorted(p.name for p in files))}, and "
            "none is named as training images. Name them as MNIST's: train-images-idx3-ubyte, "
            "train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte (each may end in .gz), "
            "or give one file of images."
        )
    return Raw(name, _images(files[0]))


def _matches(source: str) -> bool:
    path = Path(source)
    if path.is_dir():
        return bool(_members(path))
    return path.is_file() and _LOOKS_IDX.search(path.name) is not None


def _read(source: str) -> Raw:
    path = Path(source)
    return _read_folder(path) if path.is_dir() else Raw(_stem(path), _images(path))


KIND = Kind(
    expects="a folder of IDX files (MNIST's layout, raw or .gz) or one such file of images",
    matches=_matches,
    read=lambda source, reading: _read(source),
    choices=("levels",),
)
