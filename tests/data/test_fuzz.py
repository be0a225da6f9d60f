"""Damaged and odd files of arrays and tables, with fixed seeds; with test_fuzz_images.py more than 10,000.

Each is read, or rejected by a ``ValueError`` that names it. What is read is what NumPy, pyarrow or Python's own
csv reads, where those succeed.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fuzzing import Made, damaged, run

pytestmark = pytest.mark.slow


def odd_array(rng: np.random.Generator) -> np.ndarray:
    """An array of any type, shape, order and byte order; about half of them are allowed."""
    kinds = [
        "u1",
        "u1",
        "u1",
        "i1",
        "u2",
        "u2",
        "i2",
        "i4",
        "u4",
        "i8",
        "i8",
        "u8",
        "f2",
        "f4",
        "f4",
        "f8",
        "f8",
        "?",
        "?",
        "c8",
        "U3",
        "S2",
        "M8[s]",
        "O",
    ]
    kind = str(rng.choice(kinds))
    usual = (2,) if kind[0] == "f" else (3, 4)
    dims = int(rng.choice(usual if rng.random() < 0.85 else range(6)))
    shape = tuple(int(n) for n in rng.integers(1, 6, dims))
    if dims:
        shape = (int(rng.choice([30, 30, 30, 30, 30, 5, 1, 0])), *shape[1:])
    if dims == 4:
        shape = (*shape[:3], int(rng.choice([1, 3, 4, 2])))
    high = int(rng.choice([2, 17, 100, 256, 4096, 65_536, 70_000]))
    values = rng.integers(-3 if rng.random() < 0.05 else 0, high, shape)
    if (kind[0] in "ui" and kind[1:] == "1") or kind == "i2":
        values %= 128
    if kind[0] == "f":
        values = values / 7.0
        if values.size and rng.random() < 0.1:
            values.flat[0] = rng.choice([np.nan, np.inf, 1e300])
    if kind[0] in "uif" and kind[1:] != "1":
        kind = str(rng.choice(["<", ">"])) + kind
    with np.errstate(all="ignore"):
        array = values.astype(kind)
    return np.asfortranarray(array) if rng.random() < 0.2 else array


def as_npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def test_npy(tmp_path):
    def make(rng: np.random.Generator) -> Made:
        content = as_npy(odd_array(rng))
        return "a.npy", content if rng.random() < 0.4 else damaged(content, rng)

    def truth(path: Path) -> np.ndarray:
        return np.load(path, allow_pickle=False)

    run(2000, 1, make, truth, tmp_path)


def test_npz(tmp_path):
    names = [
        "x",
        "images",
        "data",
        "anything",
        "x_train",
        "Train",
        "train_images",
        "y",
        "labels",
        "x_test",
        "levels",
    ]

    def make(rng: np.random.Generator) -> Made:
        chosen = rng.choice(names, int(rng.choice([1, 1, 1, 2, 3])), replace=False)
        file = io.BytesIO()
        with zipfile.ZipFile(
            file, "w", int(rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
        ) as archive:
            for name in chosen:
                archive.writestr(f"{name}.npy", as_npy(odd_array(rng)))
        content = file.getvalue()
        return "a.npz", content if rng.random() < 0.5 else damaged(content, rng)

    def truth(path: Path) -> np.ndarray | None:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            return archive[names[0]] if len(names) == 1 else None

    run(1500, 2, make, truth, tmp_path)


def test_idx(tmp_path):
    types = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4"}

    def make(rng: np.random.Generator) -> Made:
        kind = int(rng.choice([*types], p=[0.8, *[0.05] * 4]))
        shape = tuple(
            int(n) for n in rng.integers(1, 6, int(rng.choice([1, 2, 3, 4], p=[0.1, 0.1, 0.7, 0.1])))
        )
        shape = (int(rng.choice([0, 1, 20, 20, 20, 20])), *shape[1:])
        values = rng.integers(0, 120, shape).astype(types[kind])
        content = (
            struct.pack(">HBB", 0, kind, len(shape))
            + struct.pack(f">{len(shape)}I", *shape)
            + values.tobytes()
        )
        packed = rng.random() < 0.3
        if rng.random() < 0.3:
            content = damaged(content, rng)
        content = gzip.compress(content, 1) if packed else content
        if rng.random() < 0.3:
            content = damaged(content, rng)
        return f"images-idx3-ubyte{'.gz' * packed}", content

    def truth(path: Path) -> np.ndarray | None:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        _, kind, dims = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
        return np.frombuffer(content[4 + 4 * dims :], types[kind]).reshape(shape)

    run(1500, 3, make, truth, tmp_path)


def odd_table(rng: np.random.Generator) -> str:
    """A table of numbers as text, with one of many oddities."""
    rows, columns = int(rng.integers(1, 12)), int(rng.integers(1, 5))
    values = rng.normal(size=(rows, columns)).round(int(rng.integers(0, 6)))
    cells = [[repr(float(value)) for value in row] for row in values]
    mark = str(rng.choice([",", ",", ",", ";", "\t"]))
    lines = [[f"c{i}" for i in range(columns)], *cells]
    oddities = [
        "",
        "nan",
        "NA",
        "1e400",
        "1,5",
        "-",
        "x",
        "1_000",
        "٣",
        "0x10",
        "inf",
        " 7 ",
        '"8"',
        "1e-320",
        "+4",
        ".5",
        "5.",
    ]
    if rng.random() < 0.5:
        lines[int(rng.integers(1, len(lines)))][int(rng.integers(columns))] = str(rng.choice(oddities))
    if rng.random() < 0.1:
        lines[int(rng.integers(len(lines)))].append("9")
    if rng.random() < 0.1:
        lines.insert(int(rng.integers(len(lines))), [])
    end = str(rng.choice(["\n", "\r\n"]))
    return end.join(mark.join(line) for line in lines) + end * int(rng.integers(2))


def test_csv(tmp_path):
    def make(rng: np.random.Generator) -> Made:
        text = odd_table(rng)
        content = text.encode(str(rng.choice(["utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig"])))
        return "a.csv", content if rng.random() < 0.5 else damaged(content, rng)

    def truth(path: Path) -> np.ndarray | None:
        lines = list(csv.reader(io.StringIO(path.read_bytes().decode("ascii"), newline="")))
        head, *rows = [line for line in lines if line]
        if any(_is_number(cell) for cell in head):
            return None
        return np.array([[float(cell) for cell in row] for row in rows])

    run(1500, 6, make, truth, tmp_path)


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell)) or True
    except ValueError:
        return False


def test_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    def make(rng: np.random.Generator) -> Made:
        columns = {}
        for number in range(int(rng.integers(1, 5))):
            kind = str(
                rng.choice(
                    ["f8", "f4", "i8", "u1", "?", "text", "missing", "date"], p=[0.4, *[0.1] * 5, 0.05, 0.05]
                )
            )
            values: Any = rng.integers(0, 2, 8).astype(
                kind if kind in ("f8", "f4", "i8", "u1", "?") else "i8"
            )
            if kind == "text":
                values = pa.array([str(value) for value in values])
            elif kind == "missing":
                values = pa.array([1.0, None, *[2.0] * 6])
            elif kind == "date":
                values = pa.array(values.astype("M8[s]"))
            columns[f"c{number}"] = values
        file = io.BytesIO()
        pq.write_table(pa.table(columns), file)
        content = file.getvalue()
        return "a.parquet", content if rng.random() < 0.4 else damaged(content, rng)

    def truth(path: Path) -> np.ndarray:
        table = pq.read_table(path)
        return np.stack([np.array(column.to_pylist(), dtype=np.float64) for column in table.columns], axis=1)

    run(1000, 7, make, truth, tmp_path)
