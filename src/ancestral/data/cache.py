"""What was read once and need not be read again: arrays in files of their own, mapped when they are used.

An entry is a folder of .npy files and ``entry.json``. Its key says all that its content follows from, so
an entry is never changed: it is there whole, or it is not. The cache is what ``ANCESTRAL_CACHE`` names,
or ``ancestral`` in ``XDG_CACHE_HOME`` or ``~/.cache``; it can be removed while nothing trains from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from ancestral.data.raw import Array

_FORMAT = 1
"""Part of every key: entries of another format are not looked at."""
_ABANDONED = 24 * 3600
"""Seconds after which a draft that nothing was written to is one whose process has died."""


@dataclass(frozen=True)
class Entry:
    """Arrays mapped from the cache, and what goes with them."""

    path: Path
    arrays: dict[str, Array]
    facts: dict[str, Any]
    """What JSON holds."""


class Draft:
    """An entry that is being written: arrays that grow row by row, never whole in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._arrays: dict[str, _Growing] = {}

    def append(self, name: str, rows: Array) -> None:
        """Add rows (n, …) to the array ``name``; the first decide its type and the shape of a row."""
        with _room(self.folder):
            if name not in self._arrays:
                self._arrays[name] = _Growing(self.folder / f"{name}.npy", rows)
            self._arrays[name].append(rows)

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a failure there may be no room to write what is still buffered: the draft is not kept.
        with contextlib.suppress(OSError) if kind is not None else _room(self.folder):
            for array in self._arrays.values():
                array.close()


@contextlib.contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Say of an entry that cannot be written that it is the cache, and not the data."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"the cache in {str(folder.parent)!r} cannot be written ({error.strerror or error}). Make "
            "room, or name another folder: ANCESTRAL_CACHE=/path/with/room."
        ) from error


class _Growing:
    """A .npy file whose first axis grows; its header is written again when it is closed."""

    def __init__(self, path: Path, rows: Array) -> None:
        self.file: BinaryIO = path.open("wb")
        self.dtype, self.shape, self.count = rows.dtype, rows.shape[1:], 0
        self._header()

    def append(self, rows: Array) -> None:
        assert (rows.dtype, rows.shape[1:]) == (self.dtype, self.shape)
        self.file.write(np.ascontiguousarray(rows).data)
        self.count += len(rows)

    def close(self) -> None:
        with self.file:
            # NumPy leaves room in a header for the first axis to grow, so it keeps its length.
            self.file.seek(0)
            self._header()
            self.file.flush()
            os.fsync(self.file.fileno())

    def _header(self) -> None:
        facts = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.count, *self.shape),
        }
        np.lib.format.write_array_header_1_0(self.file, facts)


def identity(stat: os.stat_result) -> tuple[int, int, int, int]:
    """What of a file's state changes when its content does: its size, times and inode.

    The time of the last change of the inode (on Windows, of its creation) is new for a file that was replaced by
    one with the same size and modification time.
    """
    return (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


def cache_folder() -> Path:
    """Where entries are; it need not exist yet."""
    if given := os.environ.get("ANCESTRAL_CACHE"):
        return Path(given).expanduser()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "ancestral"
    try:
        return Path.home() / ".cache" / "ancestral"
    except RuntimeError as error:
        raise ValueError(
            f"there is no folder for the cache ({error}). Name one: ANCESTRAL_CACHE=/path/with/room."
        ) from error


def cached(key: str, write: Callable[[Draft], dict[str, Any]]) -> Entry:
    """The entry of ``key``, hexadecimal digits; where none is, ``write`` fills it and returns its facts.

    Nothing is left of a draft whose ``write`` raises. Two processes may write the same entry: the one that
    is done first decides, and as both hold the same, no reader can tell.
    """
    assert set(key) <= set("0123456789abcdef")
    folder = cache_folder() / f"{key}-{_FORMAT}"
    if not (folder / "entry.json").is_file():
        with _draft(folder) as place:
            with Draft(place) as draft:
                facts = write(draft)
            with _room(place):
                (place / "entry.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
            with contextlib.suppress(OSError):  # someone else's is there already
                place.rename(folder)
    return _open(folder)


@contextlib.contextmanager
def _draft(folder: Path) -> Iterator[Path]:
    with _room(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.glob("draft-*"):
        with contextlib.suppress(OSError):
            if time.time() - max(path.stat().st_mtime for path in (old, *old.iterdir())) > _ABANDONED:
                shutil.rmtree(old)
    with _room(folder):
        place = Path(tempfile.mkdtemp(prefix="draft-", dir=folder.parent))
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _open(folder: Path) -> Entry:
    try:
        facts = json.loads((folder / "entry.json").read_text(encoding="utf-8"))
        arrays = {
            path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in folder.glob("*.npy")
        }
    except (OSError, ValueError) as error:
        raise ValueError(
            f"the cached data in {str(folder)!r} cannot be read ({error}). Remove that folder: it is made "
            "anew."
        ) from error
    return Entry(folder, arrays, facts)
