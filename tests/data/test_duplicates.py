"""Copies of rows in other parts, against sets of bytes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ancestral.data import load_data, rows
from ancestral.data.duplicates import Part, occurs_in

RNG = np.random.default_rng(0)
ARRAYS = {
    "bytes": RNG.integers(0, 2, (900, 2, 4)).astype(np.uint8),
    "an odd number of bytes": RNG.integers(0, 3, (900, 1, 5)).astype(np.uint8),
    "truth values": RNG.integers(0, 2, (900, 3, 3)).astype(bool),
    "16 bits, of another order": (RNG.integers(0, 2, (900, 2, 3)) * 65535).astype(">u2"),
    "whole numbers as floats": RNG.integers(-1, 2, (900, 6)).astype(np.float32),
    "one-hot columns": np.eye(300)[RNG.integers(0, 300, 900)],
    "signs of zero": RNG.choice([0.0, -0.0, 1.0], (900, 5)),
    "Fortran's order": np.asfortranarray(RNG.integers(0, 3, (900, 2, 3)).astype(np.uint8)),
    "long rows with few differences": np.where(np.arange(2000) == 1000, RNG.integers(0, 200, (900, 1)), 7.0),
    "no copies": RNG.normal(size=(900, 3)),
}


def keys(x: np.ndarray) -> list[bytes]:
    return [(row + 0 if row.dtype.kind != "b" else row).tobytes() for row in x]


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("piece", [2**20, 400])
def test_copies_are_those_of_the_bytes(name, piece, monkeypatch):
    monkeypatch.setattr(rows, "PIECE", piece)
    x = ARRAYS[name]
    order = RNG.permutation(len(x))
    some, other = Part(x, order[:300]), Part(x, order[300:])
    known = set(keys(x[other.rows]))
    expected = np.array([key in known for key in keys(x[some.rows])])
    assert np.array_equal(occurs_in(some, other), expected)
    assert expected.any() == (name != "no copies")


def test_arrays_of_different_types():
    train = np.arange(40, dtype=np.int32).reshape(10, 2, 2)
    test = train[3:5].astype(np.uint8)
    everything = np.arange(10)
    assert occurs_in(Part(test, np.arange(2)), Part(train, everything)).all()
    real = train.reshape(10, 4) / 7
    assert occurs_in(Part(real.astype(np.float32), everything), Part(real, everything)).all()


def test_a_mapped_file_is_counted_as_one_in_memory(tmp_path, monkeypatch):
    from ancestral.data import sources

    x = RNG.integers(0, 4, (200, 1, 3)).astype(np.uint8)
    np.save(tmp_path / "x.npy", x)
    resident = load_data(tmp_path / "x.npy", deduplicate=True)
    monkeypatch.setattr(sources, "MAPPED_ABOVE", 0)
    mapped = load_data(tmp_path / "x.npy", deduplicate=True)
    assert mapped.notes == resident.notes
    assert len(mapped.train) == len(resident.train) < 144
    assert replace(mapped.test, x=mapped.test.x.to("cpu")).x.equal(resident.test.x)


def test_too_few_rows_remain():
    x = np.zeros((30, 4, 4), np.uint8)
    x[0, 0, 0] = 1
    with pytest.raises(ValueError, match="deduplicate"):
        load_data(x, deduplicate=True)
