"""NumPy's files: which arrays become which data, and every refusal with its remedy."""

from __future__ import annotations

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ancestral.data import Dataset, load_data

RNG = np.random.default_rng(3)
GREY = RNG.integers(0, 256, (20, 4, 5), dtype=np.uint8)
POINTS = RNG.normal(size=(20, 3))
LABELS = RNG.integers(0, 4, 20)


def saved(folder: Path, *array: Any, **arrays: Any) -> Path:
    """One array as a .npy, or named ones as a .npz."""
    if array:
        np.save(folder / "a.npy", array[0])
        return folder / "a.npy"
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def refused(source: Path, *words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words[0])) as caught:
        load_data(source)
    for word in words:
        assert word in str(caught.value)


def everything(data: Dataset) -> torch.Tensor:
    """All examples, whichever split they are in, sorted by their entries."""
    parts = [data.train.x, data.test.x] + ([data.validation.x] if data.validation else [])
    rows = torch.cat(parts).flatten(1)
    return torch.tensor(sorted(rows.tolist()))


# What is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_images_get_their_channels_first(tmp_path: Path, channels: int | None) -> None:
    shape = (20, 4, 5) if channels is None else (20, 4, 5, channels)
    x = RNG.integers(0, 256, shape, dtype=np.uint8)
    data = load_data(saved(tmp_path, x_train=x, x_test=x[:3]), validation=0)
    assert data.spec.shape == (channels or 1, 4, 5)
    for n, c, h, w in [(0, 0, 0, 0), (2, (channels or 1) - 1, 3, 1), (1, 0, 2, 4)]:
        expected = x[n, h, w] if channels is None else x[n, h, w, c]
        assert data.test.x[n, c, h, w] == expected
        assert data.train.x[n, c, h, w] == expected


@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f4", "<f8", ">f8", "longdouble"])
def test_vectors_become_float32(tmp_path: Path, dtype: str) -> None:
    x = POINTS.astype(dtype)
    data = load_data(saved(tmp_path, x))
    assert data.spec.shape == (3,)
    assert data.spec.levels is None
    assert data.train.x.dtype == torch.float32
    assert everything(data).tolist() == sorted(x.astype(np.float32).tolist())


@pytest.mark.parametrize(
    ("values", "dtype", "levels", "kept_as"),
    [
        ([0, 1], "bool", 2, torch.uint8),
        ([0, 1], "uint8", 2, torch.uint8),
        ([0, 1], "int64", 2, torch.uint8),
        ([0, 2], "int8", 256, torch.uint8),
        ([3, 15], ">u2", 256, torch.uint8),
        ([0, 16], "int32", 256, torch.uint8),
        ([0, 255], ">i8", 256, torch.uint8),
        ([0, 256], "uint64", 512, torch.int32),
        ([0, 4095], "uint16", 4096, torch.int32),
        ([0, 65535], "uint16", 65536, torch.int32),
    ],
)
def test_levels_of_integers(
    tmp_path: Path, values: list[int], dtype: str, levels: int, kept_as: torch.dtype
) -> None:
    x = np.resize(np.array(values), (20, 2, 2)).astype(dtype)
    data = load_data(saved(tmp_path, x))
    assert data.spec.levels == data.source_levels == levels
    assert data.train.x.dtype == kept_as
    assert everything(data).tolist() == sorted(x.reshape(20, 4).astype(int).tolist())


def test_levels_look_at_the_test_split_too(tmp_path: Path) -> None:
    small = np.ones((9, 2, 2), dtype=np.int64)
    assert load_data(saved(tmp_path, train=small, test=small * 900)).spec.levels == 1024


def test_levels_given_with_the_data(tmp_path: Path) -> None:
    data = load_data(saved(tmp_path, x=GREY // 16, levels=17))
    assert data.spec.levels == 17
    assert data.levels_origin == "given with the data"
    refused(saved(tmp_path, x=GREY % 17, levels=16), "holds 16", "levels = 16", "17 or more")
    refused(saved(tmp_path, x=GREY, levels=1), "levels", "from 2 to 65536")
    refused(saved(tmp_path, x=GREY, levels=[256, 256]), "`levels`", "one whole number")
    refused(saved(tmp_path, x=GREY, levels=256.0), "`levels`", "one whole number")
    refused(saved(tmp_path, x=POINTS, levels=256), "levels = 256", "real numbers")


@pytest.mark.parametrize(
    ("x", "y"),
    [("x", "y"), ("x", "labels"), ("images", "y"), ("images", "labels"), ("data", "y"), ("anything", None)],
)
def test_names_of_one_array_and_labels(tmp_path: Path, x: str, y: str | None) -> None:
    rows = np.arange(20.0)[:, None]  # an example is its own row number, and so is its label
    data = load_data(saved(tmp_path, **{x: rows}, **({y: np.arange(20)} if y else {})))
    assert data.test_origin == "held out, 4 of 20, seed 0"
    for split in (data.train, data.validation, data.test):
        assert split is not None
        if y is None:
            assert split.labels is None
        else:
            assert split.labels is not None
            assert split.labels.dtype == torch.int64
            assert split.labels.tolist() == split.x[:, 0].tolist()


def test_names_of_two_splits(tmp_path: Path) -> None:
    data = load_data(saved(tmp_path, train=POINTS, test=POINTS[:5]), validation=0)
    assert (len(data.train), len(data.test)) == (20, 5)
    parts = {
        "x_train": GREY,
        "y_train": LABELS[:, None],
        "x_test": GREY[:5],
        "y_test": LABELS[:5].astype("u1"),
    }
    data = load_data(saved(tmp_path, **parts), validation=0)
    assert data.test_origin == "given with the data"
    assert data.train.labels is not None
    assert data.test.labels is not None
    assert data.train.labels.tolist() == LABELS.tolist()
    assert data.test.labels.tolist() == LABELS[:5].tolist()


# What is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ("a", "b"),
        ("x", "images"),
        ("x", "y", "z"),
        ("x_train", "train"),
        ("x_test", "y_test"),
    ],
)
def test_names_of_no_convention(tmp_path: Path, names: tuple[str, ...]) -> None:
    refused(
        saved(tmp_path, **dict.fromkeys(names, POINTS)), ", ".join(names), "x_train", "one of x, images, data"
    )


def test_only_levels_and_labels_without_examples(tmp_path: Path) -> None:
    refused(saved(tmp_path, levels=3), "none beside `levels`", "x_train")
    refused(saved(tmp_path, x_train=GREY, y_test=LABELS), "y_test without the examples")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (GREY[0], ("(4, 5)", "(N, H, W)", "convert them to floats")),
        (np.arange(5), ("(5,)", "(N, H, W)")),
        (GREY[..., None, None], ("(20, 4, 5, 1, 1)", "(N, H, W)")),
        (GREY.reshape(20, 2, 5, 2), ("(20, 2, 5, 2)", "channels", "1, 3 or 4")),
        (np.zeros((20, 3, 8, 8), "u1"), ("channels", "x.transpose(0, 2, 3, 1)")),
        (GREY / 255, ("floats of shape (20, 4, 5)", "Store images as integers")),
        (POINTS[0], ("floats of shape (3,)", "Reshape it to (N, D)")),
        (np.float64(1.0), ("floats of shape ()",)),
        (GREY.astype("i2") - 1, ("holds -1", "count from 0")),
        (GREY.astype("i4") + 65536, ("below 65536",)),
        (POINTS + 0j, ("complex128", "integers (images) or floats (vectors)")),
        (POINTS.astype(str), ("<U", "integers (images) or floats (vectors)")),
        (np.zeros(20, [("x", "f4")]), ("[('x', '<f4')]", "integers (images) or floats (vectors)")),
        (GREY.astype("M8[s]"), ("datetime64", "integers (images) or floats (vectors)")),
        (POINTS[:0], ("(0, 3)", "at least one example")),
        (GREY[:0], ("(0, 4, 5)", "at least one example")),
        (GREY[:, :0], ("(20, 0, 5)", "holds nothing")),
        (POINTS[:2], ("too few examples", "of 2")),
        (POINTS[:1], ("too few examples", "of 1")),
    ],
)
def test_arrays_that_are_no_data(tmp_path: Path, array: Any, words: tuple[str, ...]) -> None:
    refused(saved(tmp_path, array), *words)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39, -1e300])
def test_numbers_that_are_not_finite_in_32_bits(tmp_path: Path, bad: float) -> None:
    x = POINTS.copy()
    x[7, 2] = x[9, 0] = bad
    refused(saved(tmp_path, x), str(bad), "row 7, column 2 (counted from 0)", "one of 2 entries")


def test_refusals_name_the_split(tmp_path: Path) -> None:
    refused(saved(tmp_path, train=POINTS, test=POINTS * np.nan), "the test array", "nan in row 0")
    refused(saved(tmp_path, train=POINTS, test=POINTS[:0]), "the test array", "(0, 3)")
    refused(saved(tmp_path, train=POINTS, test=POINTS[:, :2]), "(3,)", "(2,)", "one shape")
    refused(saved(tmp_path, train=POINTS, test=GREY), "float64", "uint8", "both")
    refused(saved(tmp_path, train=GREY, test=GREY[:, :3]), "(4, 5)", "(3, 5)", "one shape")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS[:-1], ("(19,)", "(20,)")),
        (np.stack([LABELS, LABELS], axis=1), ("(20, 2)", "(20,)")),
        (LABELS + 0.5, ("float64", "whole numbers")),
        (LABELS * 1j, ("complex128", "whole numbers")),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: np.ndarray, words: tuple[str, ...]) -> None:
    refused(saved(tmp_path, x=POINTS, y=labels), "training labels", *words)


class Bomb:
    """Fails the test if it is ever unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    refused(saved(tmp_path, np.array([Bomb()] * 20, dtype=object)), "a.npy", "pickled")
    refused(saved(tmp_path, x=np.array([Bomb()] * 20, dtype=object)), "'x'", "a.npz", "pickled")
    path = tmp_path / "b.npy"
    path.write_bytes(pickle.dumps(Bomb()))
    refused(path, "b.npy", "is not a .npy file", "pickled objects are not read")


def test_damaged_files(tmp_path: Path) -> None:
    npy, npz = saved(tmp_path, GREY), saved(tmp_path, x=GREY)
    for path, kept in ((npy, -1), (npy, 300), (npy, 60), (npy, 8), (npz, -1), (npz, 300), (npz, 4), (npz, 0)):
        whole = path.read_bytes()
        path.write_bytes(whole[:kept])
        refused(path, path.name, "cannot be read: it is truncated or damaged")
        path.write_bytes(whole)
    npy.write_bytes(npy.read_bytes()[:4])
    refused(npy, "a.npy", "is not a .npy file")
    content = bytearray(npz.read_bytes())
    content[200] ^= 1  # an entry of x: the archive's checksum no longer agrees
    npz.write_bytes(content)
    refused(npz, "the array 'x'", "a.npz", "truncated or damaged")


def test_header_that_python_cannot_tokenize(tmp_path: Path) -> None:
    path = saved(tmp_path, GREY)
    path.write_bytes(path.read_bytes().replace(b"}", b"(", 1))
    refused(path, "a.npy", "truncated or damaged")


def test_zip_without_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no arrays")
    refused(path, "a.npz", "holds no arrays", "numpy.savez")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", "no array")
    refused(path, "'x'", "a.npz")
