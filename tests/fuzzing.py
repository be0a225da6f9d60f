"""What the fuzzers share: damage, a limit of time, and how a data set compares with an independent reading."""

from __future__ import annotations

import contextlib
import signal
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ancestral.data import Dataset, load_data

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
