"""Integers of any type and files of any depth: how many grey levels they have."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ancestral.data import Dataset, Reading, load_data
from inputs.cases import Cases

CASES = Cases("Pixel depth and grey levels")
RNG = np.random.default_rng(0)
MASKS = (RNG.random((60, 6, 6)) < 0.3).astype(np.uint8)


def everything(data: Dataset) -> set[bytes]:
    parts = [part for part in (data.train, data.validation, data.test) if part is not None]
    return {image.numpy().astype(np.int64).tobytes() for part in parts for image in part.x}


def as_stored(x: np.ndarray) -> set[bytes]:
    return {image.astype(np.int64).tobytes() for image in x}


def notes(data: Dataset) -> str:
    return "\n".join(data.describe()["notes"])


def save(folder: str, images: np.ndarray, ending: str = "png") -> str:
    os.makedirs(folder, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(f"{folder}/{number:03}.{ending}")
    return folder


@CASES.add("8-bit values in 16- and 32-bit files", answer="these values, in 256 grey levels")
def eight_bits_in_deeper_files(folder: Path) -> None:
    x = RNG.integers(0, 256, (30, 5, 5))
    for name, dtype, ending in (
        ("a", np.uint16, "png"),
        ("b", np.uint16, "tif"),
        ("c", np.int32, "tif"),
        ("d", np.float32, "tif"),
    ):
        data = load_data(save(name, x.astype(dtype), ending))
        assert everything(data) == as_stored(x)
        assert data.spec.levels == 256


@CASES.add(
    "12 bits in 16-bit files, in a PGM with maxval 4095, in a uint16 array", answer="4,096 grey levels"
)
def twelve_bits(folder: Path) -> None:
    x = RNG.integers(0, 4096, (30, 5, 5)).astype(np.uint16)
    x[:, 0, 0] = 4095
    np.save("c.npy", x)
    os.makedirs("b")
    for number, image in enumerate(x):
        Path(f"b/{number}.pgm").write_bytes(b"P5 5 5 4095\n" + image.astype(">u2").tobytes())
    for source in (save("a", x), "b", "c.npy"):
        data = load_data(source)
        assert everything(data) == as_stored(x)
        assert data.spec.levels == 4096


@CASES.add(
    "8-bit files beside 16-bit ones", answer="made 8 bits with a note; rejected where white is not known"
)
def mixed_depths(folder: Path) -> None:
    save("a", RNG.integers(0, 256, (20, 4, 4)).astype(np.uint8))
    bright = np.full((4, 4), 65535, np.uint16)
    Image.fromarray(bright).save("a/deep.png")
    data = load_data("a")
    assert as_stored(np.full((1, 4, 4), 255)) <= everything(data)
    assert "1 images of 16 bits, made 8 bits" in notes(data)
    Image.fromarray(bright // 16).save("a/deep.png")
    with pytest.raises(
        ValueError, match=r"a/000\.png' has white at 255 and 'a/deep\.png' at 65,535"
    ) as caught:
        load_data("a")
    assert "4,095" in str(caught.value)


@CASES.add("real numbers in an image file", answer="rejected by name")
def real_numbers(folder: Path) -> None:
    save("a", RNG.random((20, 4, 4)).astype(np.float32), "tif")
    with pytest.raises(ValueError, match=r"a/000\.tif' cannot be read as an image: it holds real numbers"):
        load_data("a")


@CASES.add(
    "masks of 0 and 1 as uint8, int64, bool, 8-bit PNG and 1-bit PNG", answer="2 grey levels, the same bits"
)
def masks(folder: Path) -> None:
    for dtype in (np.uint8, np.int64, np.uint16, bool):
        np.save(f"{np.dtype(dtype).name}.npy", MASKS.astype(dtype))
    save("png", MASKS)
    save("one-bit", MASKS.astype(bool))
    for source in ("uint8.npy", "int64.npy", "uint16.npy", "bool.npy", "png", "one-bit"):
        for binarize in ("none", "threshold", "dynamic"):
            data = load_data(source, binarize=binarize)
            assert (data.spec.levels, data.source_levels) == (2, 2)
            shown = next(iter(torch.utils.data.DataLoader(data.train.x, len(data.train))))
            assert torch.equal(data.shown(shown), data.train.x)
            assert everything(data) == as_stored(MASKS)


@CASES.add(
    "masks of 0 and 255", answer="256 grey levels, a note that two occur; --binarize threshold keeps the bits"
)
def black_and_white(folder: Path) -> None:
    np.save("a.npy", MASKS * 255)
    data = load_data("a.npy")
    assert data.spec.levels == 256
    assert "none but 0 and 255 occurs" in notes(data)
    assert everything(load_data("a.npy", binarize="threshold")) == as_stored(MASKS)


@CASES.add("4-bit PNGs", answer="16 grey levels")
def four_bits(folder: Path) -> None:
    x = RNG.integers(0, 16, (30, 5, 5)).astype(np.uint8)
    os.makedirs("a")
    for number, image in enumerate(x):
        Path(f"a/{number}.pgm").write_bytes(b"P5 5 5 15\n" + image.tobytes())
    data = load_data("a")
    assert everything(data) == as_stored(x)
    assert (data.spec.levels, data.levels_origin) == (16, "given with the data")


@CASES.add("dark values, to be binarised", answer="rejected with the number of grey levels to state")
def dark_bits(folder: Path) -> None:
    x = RNG.integers(0, 101, (60, 5, 5)).astype(np.uint8)
    x[0, 0, 0] = 100
    np.save("a.npy", x)
    assert "run to 100 of 256 grey levels" in notes(load_data("a.npy"))
    for binarize in ("threshold", "dynamic"):
        with pytest.raises(ValueError, match="--levels 101"):
            load_data("a.npy", binarize=binarize)
    data = load_data("a.npy", binarize="threshold", reading=Reading(levels=101))
    assert everything(data) == as_stored(x > 50)
    np.save("b.npy", x + 150)
    with pytest.raises(ValueError, match="every bit would be 1"):
        load_data("b.npy", binarize="threshold")


@CASES.add(
    "--levels 17 for values 0 … 16; --levels 16", answer="17 grey levels; rejected with the least number"
)
def stated_levels(folder: Path) -> None:
    x = RNG.integers(0, 17, (60, 5, 5)).astype(np.uint8)
    np.save("a.npy", x)
    assert load_data("a.npy").spec.levels == 256
    data = load_data("a.npy", reading=Reading(levels=17))
    assert (data.spec.levels, data.levels_origin, data.notes) == (17, "as stated", ())
    with pytest.raises(ValueError, match=r"levels = 16 .*levels = 17"):
        load_data("a.npy", reading=Reading(levels=16))


@CASES.add(
    "other data, dark ones, for a run with 4,096 grey levels", answer="read in the grey levels of the run"
)
def levels_of_a_run(folder: Path) -> None:
    x = RNG.integers(0, 241, (60, 5, 5)).astype(np.uint16)
    np.save("dark.npy", x)
    for dtype in (np.uint16, np.uint8):
        np.save("dark.npy", x.astype(dtype))
        data = load_data("dark.npy", reading=Reading(run_levels=4096))
        assert (data.spec.levels, data.levels_origin) == (4096, "those of the run")
    np.save("bright.npy", x * 20)
    assert load_data("bright.npy", reading=Reading(run_levels=4096)).spec.levels == 8192
