"""Damaged and odd files, 10,000 of them with a fixed seed, in every format that is read.

Each is read, or rejected by a ``ValueError`` that names it. What is read is what NumPy, Pillow or Python's own
csv reads, where those succeed.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import math
import signal
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ancestral.data import Dataset, Reading, load_data
from ancestral.data.readers.imagefiles.decode import BadImage, Form, OtherForm, decode

pytestmark = pytest.mark.slow
SECONDS = 20
"""The most that one input may take."""

Made = tuple[str, bytes]
"""The name of a file and its content."""


class Hang(BaseException):
    """An input took too long. No ``Exception``: nothing that is tested may catch it."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with bytes flipped, cut, added, exchanged or taken from another place."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        if not data:
            break
        # Headers decide most, so half of all damage is near the start.
        reach = len(data) if rng.random() < 0.5 else min(len(data), 128)
        place = int(rng.integers(reach))
        kind = rng.integers(7)
        if kind == 0:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            data[place] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            data += rng.integers(0, 256, int(rng.integers(1, 50)), np.uint8).tobytes()
        elif kind == 4:
            del data[place : place + int(rng.integers(1, 9))]
        elif kind == 5:
            data[place:place] = rng.integers(0, 256, int(rng.integers(1, 9)), np.uint8).tobytes()
        else:
            value = int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1]))
            data[place : place + 4] = struct.pack(rng.choice(["<I", ">I"]), value)
    return bytes(data)


def everything(data: Dataset) -> list[bytes]:
    """All examples of a data set, each as bytes of float64, in order of size."""
    parts = [part.x for part in (data.train, data.validation, data.test) if part is not None]
    rows = [row for x in parts for row in x.to("cpu").double().numpy()]
    return sorted(row.tobytes() for row in rows)


def expected(array: np.ndarray) -> list[bytes]:
    """The same of an array as it is stored, (N, H, W[, C]) or (N, D)."""
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    if array.ndim > 2:
        array = array.reshape(*array.shape[:3], -1).transpose(0, 3, 1, 2)
    return sorted(np.ascontiguousarray(row, np.float64).tobytes() for row in array)


def run(
    count: int,
    seed: int,
    make: Callable[[np.random.Generator], Made],
    truth: Callable[[Path], Any],
    folder: Path,
) -> None:
    """Read ``count`` inputs; what is read must be the truth, where there is one (None where there is not)."""
    rng = np.random.default_rng(seed)
    found = Counter[str]()
    for number in range(count):
        name, content = make(rng)
        path = folder / f"{number}-{name}"
        path.write_bytes(content)
        try:
            with limited(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                data = load_data(path)
        except ValueError as error:
            named = f"{number}-{name.split('.')[0]}" in str(error)
            found["rejected" if named else f"rejected without its name: {error}"] += 1
        except BaseException as error:  # a traceback, or a hang
            raise AssertionError(f"{path}: {type(error).__name__}: {error}") from error
        else:
            try:
                other = truth(path)
            except Exception:
                other = None
            if other is not None:
                assert everything(data) == expected(other), path
            found["read" if other is not None else "read, truth unknown"] += 1
        path.unlink()
    print(dict(found))
    assert {*found} <= {"read", "read, truth unknown", "rejected"}
    assert found["read"] >= count / 50
    assert found["rejected"] >= count / 50


def odd_array(rng: np.random.Generator) -> np.ndarray:
    """An array of any type, shape, order and byte order; most of them are allowed."""
    kind = str(
        rng.choice(
            [
                "u1",
                "i1",
                "u2",
                "i2",
                "i4",
                "u4",
                "i8",
                "u8",
                "f2",
                "f4",
                "f8",
                "?",
                "c8",
                "U3",
                "S2",
                "M8[s]",
                "O",
            ],
            p=[0.2, *[0.05] * 14, 0.05, 0.05],
        )
    )
    dims = int(rng.choice([0, 1, 2, 3, 4, 5], p=[0.02, 0.05, 0.33, 0.35, 0.2, 0.05]))
    shape = tuple(int(n) for n in rng.integers(1, 6, dims))
    if dims:
        shape = (int(rng.choice([0, 1, 5, 30])), *shape[1:])
    if dims == 4:
        shape = (*shape[:3], int(rng.choice([1, 2, 3, 4])))
    high = int(rng.choice([2, 17, 200, 256, 4096, 70_000]))
    values = rng.integers(int(rng.choice([0, 0, 0, -3])), high, shape)
    if kind in ("f2", "f4", "f8"):
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
        shape = (int(rng.choice([0, 1, 20])), *shape[1:])
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


KINDS = {
    "png": ("L", "RGB", "RGBA", "LA", "P", "1", "I;16"), "jpg": ("L", "RGB", "CMYK"), "gif": ("L", "P", "RGB"),
    "tif": ("L", "RGB", "1", "I;16", "I", "F", "CMYK", "RGBA"), "bmp": ("L", "RGB", "1"), "webp": ("RGB", "RGBA"),
    "pgm": ("L", "I;16"), "ppm": ("RGB",), "tga": ("L", "RGB", "RGBA"), "pcx": ("L", "RGB"), "sgi": ("L", "RGB"),
    "jp2": ("L", "RGB", "I;16"), "ico": ("RGBA",), "avif": ("RGB",), "dds": ("RGB", "RGBA"), "qoi": ("RGB",),
    "pfm": ("F",),
}  # fmt: skip


def odd_image(rng: np.random.Generator) -> Made:
    """An image file of any format, mode, number of frames and EXIF, whole or damaged."""
    ending = str(rng.choice([*KINDS]))
    mode = str(rng.choice(KINDS[ending]))
    size = (16, 16) if ending == "ico" else (int(rng.integers(1, 12)), int(rng.integers(1, 12)))
    grey = rng.integers(0, int(rng.choice([2, 256, 4096])), size).astype(np.uint16)
    base = Image.fromarray(grey.astype(np.uint8))
    if mode == "I;16":
        image = Image.fromarray(grey)
    elif mode in ("I", "F"):
        image = Image.fromarray(
            (grey / rng.choice([1, 1, 3])).astype(np.int32 if mode == "I" else np.float32)
        )
    else:
        image = base.convert("RGB").convert(mode) if mode == "P" else base.convert(mode)
    more: dict[str, Any] = {}
    if ending in ("tif", "gif", "png", "webp") and rng.random() < 0.3:
        more.update(save_all=True, append_images=[image] * int(rng.integers(1, 4)))
    if ending == "tif" and mode != "F" and rng.random() < 0.5:
        more["compression"] = str(rng.choice(["tiff_lzw", "tiff_deflate", "packbits"]))
    if ending in ("jpg", "png", "webp", "tif") and rng.random() < 0.4:
        exif = Image.Exif()
        exif[0x0112] = int(rng.integers(0, 10))
        exif[0x011A] = 72.0
        content = exif.tobytes()
        more["exif"] = (
            content[:6] + damaged(content[6:], rng) if rng.random() < 0.7 and ending != "tif" else content
        )
    file = io.BytesIO()
    names = {"jpg": "JPEG", "tif": "TIFF", "pgm": "PPM", "pfm": "PPM", "jp2": "JPEG2000"}
    try:
        image.save(file, names.get(ending, ending.upper()), **more)
    except (OSError, ValueError, KeyError, SystemError, RuntimeError, TypeError):
        return odd_image(rng)  # a combination that Pillow does not write
    content = file.getvalue()
    return f"a.{ending}", content if rng.random() < 0.2 else damaged(content, rng)


def pillow(content: bytes) -> np.ndarray | None:
    """The pixels as Pillow reads them, upright, where its modes lose nothing and nothing is converted."""
    with Image.open(io.BytesIO(content)) as image:
        frames = getattr(image, "n_frames", 1)
        tile = str(image.tile[0]) if image.tile else ""
        if (
            frames > 1
            or image.mode not in ("L", "RGB", "I;16")
            or ";" in tile
            or "transparency" in image.info
        ):
            return None
        if image.format in ("PPM", "JPEG2000") and image.mode == "I;16":
            return None
        try:
            turn = image.getexif().get(0x0112, 1)
        except Exception:
            turn = 1
        return np.asarray(image) if turn == 1 else None


def test_image_files():
    """Decoded one at a time."""
    rng = np.random.default_rng(4)
    found = Counter[str]()
    for _ in range(2500):
        name, content = odd_image(rng)
        form, read = Form(1, only_grey=True), None
        with limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(3):
                try:
                    read = decode(io.BytesIO(content), form)
                    break
                except OtherForm as other:
                    form = other.form
                except BadImage:
                    break
            try:
                truth = pillow(content)
            except Exception:
                truth = None
        if read is None:
            found["rejected"] += 1
            continue
        pixels = read.pixels
        assert pixels.dtype == (np.uint16 if form.depth == 16 else np.uint8)
        assert pixels.shape[3:] == (() if form.channels == 1 else (3,))
        if truth is not None:
            found["read"] += 1
            np.testing.assert_array_equal(pixels[0], truth, err_msg=f"{name} {content!r}")
        else:
            found["read, truth unknown"] += 1
    print(dict(found))
    assert min(found.values()) > 200


def test_folders_of_images(tmp_path, monkeypatch):
    """Several files in a folder, as a user has them: bad ones are named, and left out where that is asked for."""
    monkeypatch.setenv("ANCESTRAL_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(5)
    found = Counter[str]()
    for number in range(100):
        folder = tmp_path / f"set{number}"
        folder.mkdir()
        for place in range(10):
            name, content = odd_image(rng)
            (folder / f"{place}-{name}").write_bytes(content)
        for skip_bad in (False, True):
            try:
                with limited():
                    data = load_data(folder, reading=Reading(skip_bad=skip_bad, image_size=8))
            except ValueError as error:
                named = "" if f"set{number}" in str(error) else f" without its name: {error}"
                found[f"rejected, skip_bad {skip_bad}{named}"] += 1
            else:
                assert data.spec.shape[1:] == (8, 8)
                found[f"read, skip_bad {skip_bad}"] += 1
    print(dict(found))
    assert not any("without" in what for what in found)
    assert found["read, skip_bad True"] > 30


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
