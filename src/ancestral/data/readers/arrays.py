"""Data in NumPy's files: one array in a .npy, which is mapped, or named ones in a .npz. No pickle is read."""

from __future__ import annotations

import re
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ancestral.data.raw import Array, Kind, Raw
from ancestral.data.readers.splits import part_of

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


_EXAMPLES = ("x", "images", "image", "imgs", "data", "samples", "examples")
_LABELS = ("y", "labels", "label", "targets", "target", "classes")
_ALLOWED = (
    "x_train with any of y_train, x_test, y_test, x_val, y_val; train, with or without test; one of x, images, "
    "data, with or without one of y, labels; or one array of any name; and beside any of them a whole number "
    "`levels`"
)
Role = tuple[str, str]
"""The part, and x or y."""


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
    try:
        archive = np.load(path, allow_pickle=False)
    except _UNREADABLE as error:
        # An archive that does not begin as one; NumPy takes it for something else.
        raise ValueError(f"{str(path)!r} cannot be read: it is damaged. Write it again.") from error
    with archive:
        parts = {name: _member(archive, name, path) for name in names}
    levels = _levels(parts.pop("levels", None), path)
    roles = {role: parts[name] for role, name in roles_of(list(parts), f"in {str(path)!r}").items()}
    return Raw(
        name=path.stem,
        train_x=roles["train", "x"],
        train_labels=roles.get(("train", "y")),
        test_x=roles.get(("test", "x")),
        test_labels=roles.get(("test", "y")),
        validation_x=roles.get(("validation", "x")),
        validation_labels=roles.get(("validation", "y")),
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


def roles_of(keys: list[str], where: str) -> dict[Role, str]:
    """The name of the array in each role: the part, train, validation or test, and x or y.

    ``where`` says in a message where the arrays are.
    """
    if len(keys) == 1:
        return {("train", "x"): keys[0]}
    roles: dict[Role, str] = {}
    for key in keys:
        role = _role(key)
        if role is None or role in roles:
            twice = None if role is None else roles.get(role)
            what = f"{key!r} is not clear" if twice is None else f"{twice!r} and {key!r} mean the same"
            raise ValueError(
                f"the arrays {where} are named {', '.join(keys)}, and {what}; they may be: {_ALLOWED}."
            )
        roles[role] = key
    if ("train", "x") not in roles:
        found = ", ".join(keys) or "none beside `levels`"
        raise ValueError(
            f"the arrays {where} are named {found}, and none holds training examples; they may be: "
            f"{_ALLOWED}."
        )
    for part, kind in roles:
        if (part, "x") not in roles:
            raise ValueError(
                f"there is {roles[part, kind]} without the examples of the {part} part {where}; give both or "
                "neither."
            )
    return roles


def _role(key: str) -> Role | None:
    """What an array's name says: x_train, train_images, labels, Test, …; None where it says nothing."""
    if (part := part_of(key)) and not re.search(r"label|target|(^|[\W_])y([\W_]|$)", key, re.IGNORECASE):
        return part, "x"
    words = [word for word in re.split(r"[\W_]+", key.lower()) if word]
    kinds = [kind for kind, names in (("x", _EXAMPLES), ("y", _LABELS)) for word in words if word in names]
    parts = [part for word in words if (part := part_of(word))]
    if len(kinds) != 1 or len(parts) > 1 or len(words) != 1 + len(parts):
        return None
    return (parts or ["train"])[0], kinds[0]


def _read(source: str) -> Raw:
    path = Path(source)
    return _read_npz(path) if path.suffix.lower() == ".npz" else _read_npy(path)


KIND = Kind(
    expects="a .npy or .npz file of integer images (N, H, W[, C]) or float vectors (N, D)",
    matches=lambda source: Path(source).suffix.lower() in (".npy", ".npz") and Path(source).is_file(),
    read=lambda source, reading: _read(source),
    choices=("levels",),
)
