"""Files that are there whole or not at all: written under another name, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".incomplete-"
"""How the name of a file or folder begins that is still being written, or removed."""


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name ``path`` in an ``OSError`` that is raised within, such as that of a full disk.

    Errors of writing to an open file name no file, and those of a library often have neither a number nor a
    type in common with Python's.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None and str(path) in str(error):
            raise
        if error.errno is None:
            raise OSError(f"{path} cannot be written ({error})") from error
        raise OSError(error.errno, error.strerror, str(path)) from error
    except Exception as error:
        # safetensors, zipfile and pyarrow report a full disk in their own ways.
        if type(error).__name__ != "SafetensorError" and "os error" not in str(error):
            raise
        raise OSError(f"{path} cannot be written ({error})") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what is to be at ``path``: it takes that name at the end, and is removed on failure.

    An ``OSError`` names ``path``.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}")
    with naming(path):
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A new folder to fill, that takes the name ``folder`` at the end, and is removed on failure.

    ``folder`` must not exist or be empty. An ``OSError`` names it.
    """
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}")
    with naming(folder):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if folder.exists():
                folder.rmdir()
            temporary.replace(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write a text file in UTF-8; a process killed at any moment leaves the old one or the new one.

    Bytes of file names that are not UTF-8 (surrogates) are written as escapes, such as ``\\udce9``.
    """
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file. Where it does not fit on the disk, none of it is left."""
    data = f"{line}\n".encode("utf-8", errors="backslashreplace")
    with naming(path), path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        try:
            while data:
                # A disk that fills takes a part; the next write raises.
                data = data[file.write(data) :]
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(before)
            raise
