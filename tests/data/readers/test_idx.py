"""IDX files: what an independent writer wrote comes back, and what is damaged is refused by name."""

from __future__ import annotations

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from ancestral.data import content_hash, load_data
from ancestral.data.readers.idx import read_idx

RNG = np.random.default_rng(7)
TRAIN = RNG.integers(0, 256, (30, 3, 4), dtype=np.uint8)
TEST = RNG.integers(0, 256, (6, 3, 4), dtype=np.uint8)
TRAIN_LABELS = RNG.integers(0, 10, 30)
TEST_LABELS = RNG.integers(0, 10, 6)
MNIST_NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
DOTTED_NAMES = tuple(name.replace("-idx", ".idx") for name in MNIST_NAMES)


def idx_bytes(array: np.ndarray, *, code: int = 8, entry: str = "B") -> bytes:
    """The IDX file of an array, written entry by entry with struct."""
    head = struct.pack(">BBBB", 0, 0, code, array.ndim)
    sizes = b"".join(struct.pack(">I", n) for n in array.shape)
    return head + sizes + b"".join(struct.pack(">" + entry, value) for value in array.ravel().tolist())


def write_layout(folder: Path, *, names: tuple[str, ...] = MNIST_NAMES, zipped: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    arrays: tuple[np.ndarray, ...] = (TRAIN, TRAIN_LABELS, TEST, TEST_LABELS)
    for name, array in zip(names, arrays, strict=True):
        content = idx_bytes(array)
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


def refused(source: Path, *words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        load_data(source)
    for word in (source.name, *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("names", [MNIST_NAMES, DOTTED_NAMES])
def test_mnists_layout_round_trip(tmp_path: Path, names: tuple[str, ...], zipped: bool) -> None:
    data = load_data(write_layout(tmp_path / "numbers", names=names, zipped=zipped), validation=0)
    assert data.name == "numbers"
    assert data.spec.shape == (1, 3, 4)
    assert data.spec.levels == 256
    assert data.test_origin == "given with the data"
    for split, x, labels in ((data.train, TRAIN, TRAIN_LABELS), (data.test, TEST, TEST_LABELS)):
        assert split.x.dtype == torch.uint8
        assert torch.equal(split.x, torch.tensor(x.tolist(), dtype=torch.uint8)[:, None])
        assert split.labels is not None
        assert split.labels.tolist() == labels.tolist()


def test_content_is_the_same_raw_and_zipped(tmp_path: Path) -> None:
    raw = write_layout(tmp_path / "raw")
    zipped = write_layout(tmp_path / "zipped", zipped=True)
    assert content_hash(load_data(raw)) == content_hash(load_data(zipped))


def test_raw_twin_of_a_zipped_file_is_read(tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "both", zipped=True)
    write_layout(folder)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"never read")
    assert len(load_data(folder, validation=0).train) == 30


@pytest.mark.parametrize(
    ("code", "entry", "low", "high"),
    [
        (8, "B", 0, 255),
        (9, "b", -128, 127),
        (0x0B, "h", -(2**15), 2**15 - 1),
        (0x0C, "i", -(2**31), 2**31 - 1),
    ],
)
def test_integer_types_are_big_endian(tmp_path: Path, code: int, entry: str, low: int, high: int) -> None:
    array = np.array([[low, high, 1], [0, 2, high]])
    path = tmp_path / "a.idx"
    path.write_bytes(idx_bytes(array, code=code, entry=entry))
    assert read_idx(path).tolist() == array.tolist()


def test_single_file_as_source_and_alone_in_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "pictures.idx3-ubyte"
    path.write_bytes(idx_bytes(TRAIN))
    for source in (path, tmp_path):
        data = load_data(source)
        assert data.test_origin == "held out, 6 of 30, seed 0"
        assert data.train.labels is None


def test_labels_and_test_split_may_be_missing(tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "d")
    (folder / MNIST_NAMES[3]).unlink()
    data = load_data(folder)
    assert data.train.labels is not None
    assert data.test.labels is None
    (folder / MNIST_NAMES[2]).unlink()
    assert load_data(folder).test_origin == "held out, 6 of 30, seed 0"


def damaged(tmp_path: Path, content: bytes, *, name: str = "images-idx3-ubyte") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "start", [b"", b"\0", b"\0\0\x08", b"\x01\0\x08\x03", b"\0\0\x07\x03", b"\0\0\x08\0"]
)
def test_wrong_magic(tmp_path: Path, start: bytes) -> None:
    content = start + idx_bytes(TRAIN)[4:] if len(start) == 4 else start
    refused(damaged(tmp_path, content), "is not an IDX file", start.hex(" ") or "(none)")


@pytest.mark.parametrize("kept", [-1, 17, 16])
def test_truncated(tmp_path: Path, kept: int) -> None:
    refused(damaged(tmp_path, idx_bytes(TRAIN)[:kept]), "is truncated", "360 bytes", "(30, 3, 4)")


def test_truncated_header(tmp_path: Path) -> None:
    refused(damaged(tmp_path, idx_bytes(TRAIN)[:11]), "truncated within its header")


def test_header_that_promises_more_than_memory(tmp_path: Path) -> None:
    refused(damaged(tmp_path, b"\0\0\x08\x03" + b"\xff" * 12 + b"body"), "is truncated")


def test_trailing_bytes(tmp_path: Path) -> None:
    refused(damaged(tmp_path, idx_bytes(TRAIN) + b"\0"), "trailing bytes", "360")


def test_damaged_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(idx_bytes(TRAIN))
    name = "images-idx3-ubyte.gz"
    for content in (whole[:-1], whole[:-12], whole[: len(whole) // 2], whole[:5], whole + b"more"):
        refused(damaged(tmp_path, content, name=name), "truncated or damaged gzip")
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # the checksum
    refused(damaged(tmp_path, bytes(flipped), name=name), "truncated or damaged gzip")


def test_trailing_bytes_within_gzip(tmp_path: Path) -> None:
    content = gzip.compress(idx_bytes(TRAIN) + b"\0")
    refused(damaged(tmp_path, content, name="images-idx3-ubyte.gz"), "trailing bytes")


@pytest.mark.parametrize(("code", "entry"), [(9, "b"), (0x0B, "h"), (0x0C, "i")])
def test_images_must_be_unsigned_bytes(tmp_path: Path, code: int, entry: str) -> None:
    refused(damaged(tmp_path, idx_bytes(TRAIN // 2, code=code, entry=entry)), "8-bit unsigned")


@pytest.mark.parametrize(("code", "entry"), [(0x0D, "f"), (0x0E, "d")])
def test_floats_are_refused(tmp_path: Path, code: int, entry: str) -> None:
    refused(damaged(tmp_path, idx_bytes(TRAIN, code=code, entry=entry)), "floats", ".npy")


@pytest.mark.parametrize("array", [TRAIN[0], TRAIN[:, :, :, None]])
def test_images_have_three_axes(tmp_path: Path, array: np.ndarray) -> None:
    refused(damaged(tmp_path, idx_bytes(array)), str(array.shape), "(N, H, W)")


@pytest.mark.parametrize("labels", [TRAIN_LABELS[:-1], np.append(TRAIN_LABELS, 1), TRAIN_LABELS[:, None]])
def test_labels_of_another_length(tmp_path: Path, labels: np.ndarray) -> None:
    folder = write_layout(tmp_path / "d")
    (folder / MNIST_NAMES[1]).write_bytes(idx_bytes(labels))
    refused(folder, MNIST_NAMES[1], str(labels.shape), "(30,)")


def test_test_images_of_another_size(tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "d")
    (folder / MNIST_NAMES[2]).write_bytes(idx_bytes(TEST[:, :2]))
    refused(folder, "one shape", "(3, 4)", "(2, 4)")


def test_several_data_sets_in_one_folder(tmp_path: Path) -> None:
    folder = write_layout(tmp_path / "d")
    write_layout(folder, names=tuple(f"letters-{name}" for name in MNIST_NAMES))
    refused(folder, "several data sets", "letters-")


def test_files_of_unknown_role(tmp_path: Path) -> None:
    for name in ("one.idx", "two.idx"):
        (tmp_path / name).write_bytes(idx_bytes(TRAIN))
    refused(tmp_path, "none is named as training images", "one.idx, two.idx", "train-images-idx3-ubyte")
