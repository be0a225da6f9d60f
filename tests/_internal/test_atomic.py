"""Files are whole or absent, and a full disk is reported with the file's path."""

from __future__ import annotations

import contextlib
import errno
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from ancestral._internal.atomic import append_line, filling, naming, replacing, write_text_atomically

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """Files of at most ``size`` bytes: a larger one fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


WRITERS = {
    "text": lambda path: write_text_atomically(path, "x" * 100_000),
    "npy": lambda path: _through(path, lambda place: np.save(place.open("wb"), np.zeros(100_000))),
    "npz": lambda path: _through(path, lambda place: np.savez(place.open("wb"), x=np.zeros(100_000))),
    "tensors": lambda path: _through(path, lambda place: save_file({"x": torch.zeros(100_000)}, place)),
    "line": lambda path: append_line(path, "x" * 100_000),
}


def _full(path: Path) -> None:
    path.write_text("x")
    raise OSError(errno.ENOSPC, "no room")


def _through(path: Path, write) -> None:
    with replacing(path) as temporary:
        write(temporary)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_reported_with_the_path_and_leaves_what_was_there(kind, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before\n")
    with small_files(20_000), pytest.raises(OSError, match=r"too large|cannot be written") as raised:
        WRITERS[kind](path)
    shown = f"{raised.value.filename}: {raised.value}"
    assert str(path) in shown
    assert ".incomplete" not in shown
    assert path.read_bytes() == b"before\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_the_error_number_stays(number, tmp_path):
    with pytest.raises(OSError, match=r"x\.npy") as raised, naming(tmp_path / "x.npy"):
        raise OSError(number, "no room")
    assert (raised.value.errno, raised.value.filename) == (number, str(tmp_path / "x.npy"))


def test_errors_without_a_number_are_named_once(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(OSError, match="os error 28") as raised, naming(path), naming(path):
        raise SafetensorError("No space left on device (os error 28)")
    assert str(raised.value).count(str(path)) == 1
    with pytest.raises(KeyError), naming(path):
        raise KeyError("another mistake")


def test_a_folder_is_there_whole_or_not(tmp_path):
    folder = tmp_path / "a" / "images"
    with pytest.raises(OSError, match="images"), filling(folder) as place:
        _full(place / "0")
    assert list((tmp_path / "a").iterdir()) == []
    folder.mkdir()
    with filling(folder) as place:
        (place / "0").write_text("x")
    assert [path.name for path in folder.iterdir()] == ["0"]
    assert list((tmp_path / "a").iterdir()) == [folder]


def test_lines_are_added(tmp_path):
    append_line(tmp_path / "a.jsonl", "1")
    append_line(tmp_path / "a.jsonl", "caf\udce9 é")
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == "1\ncaf\\udce9 é\n"


def test_text_is_utf8_with_escapes(tmp_path):
    write_text_atomically(tmp_path / "a.csv", "caf\udce9,é\n")
    assert (tmp_path / "a.csv").read_bytes() == "caf\\udce9,é\n".encode()
