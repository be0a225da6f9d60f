"""Data in NumPy's files: one array in a .npy, which is mapped, or named ones in a .npz. No pickle is read."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ancestral.data.raw import Array, Kind, Raw

# What NumPy and zipfile raise for damaged files; NumPy reads a .npy's header with Python's tokenizer.
_UNREADABLE = (
    ValueError,
    EOFError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Layout:
    """One convention for the names of the arrays in a .npz."""

    x: str
    y: str | None = None
    test_x: str | None = None
    test_y: str | None = None

    @property
    def keys(self) -> list[str]:
        """The names it allows, the examples' first."""
        return [key for key in (self.x, self.y, self.test_x, self.test_y) if key is not None]


LAYOUTS = (
    Layout("x_train", "y_train", "x_test", "y_test"),
    Layout("train", test_x="test"),
    *(Layout(x, y) for x in ("x", "images", "data") for y in ("y", "labels")),
)
_ALLOWED = (
    "x_train with any of y_train, x_test, y_test; train, with or without test; one of x, images, data, with "
    "or without one of y, labels; or one array of any name; and beside any of them a whole number `levels`"
)


def _read_npy(path: Path) -> Raw:
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise ValueError(
                f"{str(path)!r} is not a .npy file: it lacks the mark that each begins with. Write it with "
                "numpy.save(path, array); pickled objects are not read."
            )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _UNREADABLE as error:
        raise _unreadable(str(path), error) from error
    # A row of an array in Fortran's order lies all over the file: that is read from memory only.
    return Raw(path.stem, array if array.flags.c_contiguous else np.array(array))


def _read_npz(path: Path) -> Raw:
    try:
        # np.load would take a file that is no zip archive for a .npy or a pickle.
        with zipfile.ZipFile(path) as archive:
            names = [name[:-4] for name in archive.namelist() if name.endswith(".npy")]
    except _UNREADABLE as error:
        raise _unreadable(str(path), error) from error
    if not names:
        raise ValueError(
            f"{str(path)!r} holds no arrays. Write it with numpy.savez(path, …); the names of the arrays may "
            f"be: {_ALLOWED}."
        )
    with np.load(path, allow_pickle=False) as archive:
        parts = {name: _member(archive, name, path) for name in names}
    levels = _levels(parts.pop("levels", None), path)
    layout = layout_of(list(parts), f"in {str(path)!r}")
    part = {key: parts.get(key) for key in layout.keys}
    train_x = part[layout.x]
    assert train_x is not None
    return Raw(
        name=path.stem,
        train_x=train_x,
        train_labels=part.get(layout.y or ""),
        test_x=part.get(layout.test_x or ""),
        test_labels=part.get(layout.test_y or ""),
        levels=levels,
    )


def _member(archive: np.lib.npyio.NpzFile, name: str, path: Path) -> Array:
    where = f"the array {name!r} of {str(path)!r}"
    try:
        array = archive[name]
    except (*_UNREADABLE, RuntimeError) as error:  # RuntimeError: an encrypted archive
        raise _unreadable(where, error) from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{where} is not a NumPy array. Write the file with numpy.savez.")
    return array


def _unreadable(where: str, error: BaseException) -> ValueError:
    if "pickle" in str(error) or "Python objects" in str(error):
        return ValueError(
            f"{where} holds pickled Python objects, which are not read: they can run code. Save numbers, as "
            "an array of an integer or float type."
        )
    return ValueError(f"{where} cannot be read: it is truncated or damaged ({error}).")


def _levels(value: Array | None, path: Path) -> int | None:
    if value is None:
        return None
    if value.size != 1 or value.dtype.kind not in "iu":
        raise ValueError(
            f"`levels` in {str(path)!r} has type {value.dtype} and shape {value.shape}; it must be one whole "
            "number, how many values an entry can take."
        )
    return int(value.item())


def layout_of(keys: list[str], where: str) -> Layout:
    """The convention that the names of arrays follow; ``where`` says in a message where they are."""
    for layout in LAYOUTS:
        if layout.x in keys and set(keys) <= set(layout.keys):
            if layout.test_y in keys and layout.test_x not in keys:
                raise ValueError(
                    f"there is {layout.test_y} without {layout.test_x} {where}; give both or neither."
                )
            return layout
    if len(keys) == 1:
        return Layout(keys[0])
    found = ", ".join(keys) or "none beside `levels`"
    raise ValueError(f"the arrays {where} are named {found}; they may be: {_ALLOWED}.")


def _read(source: str) -> Raw:
    path = Path(source)
    return _read_npz(path) if path.suffix.lower() == ".npz" else _read_npy(path)


KIND = Kind(
    expects="a .npy or .npz file of integer images (N, H, W[, C]) or float vectors (N, D)",
    matches=lambda source: Path(source).suffix.lower() in (".npy", ".npz") and Path(source).is_file(),
    read=lambda source, reading: _read(source),
)
