"""The cache: whole entries or none."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from ancestral.data.cache import Draft, cache_folder, cached


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ANCESTRAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(draft: Draft) -> dict[str, int]:
    for first in range(0, 10_000, 999):
        rows = np.arange(first, min(first + 999, 10_000), dtype=np.uint16)
        draft.append("x", rows[:, None] + np.zeros((1, 3), np.uint16))
        draft.append("y", rows.astype(np.int64))
    return {"rows": 10_000}


def test_an_entry_is_what_was_written_and_is_written_once(place):
    first = cached("ab12", written)
    assert first.facts == {"rows": 10_000}
    assert isinstance(first.arrays["x"], np.memmap)
    np.testing.assert_array_equal(first.arrays["x"][:, 2], np.arange(10_000))
    np.testing.assert_array_equal(first.arrays["y"], np.arange(10_000))
    again = cached("ab12", lambda draft: pytest.fail("written twice"))
    np.testing.assert_array_equal(again.arrays["x"], first.arrays["x"])
    assert [path.name for path in place.iterdir()] == [first.path.name]


def test_nothing_is_left_of_one_that_failed(place):
    def fails(draft: Draft) -> dict[str, int]:
        draft.append("x", np.zeros((3, 2)))
        raise ValueError("a bad file")

    with pytest.raises(ValueError, match="a bad file"):
        cached("ab", fails)
    assert list(place.iterdir()) == []
    assert cached("ab", written).facts == {"rows": 10_000}


def test_who_comes_second_takes_the_firsts(place):
    def slow(draft: Draft) -> dict[str, int]:
        cached("ab", written)
        return {"rows": written(draft)["rows"] + 1}

    assert cached("ab", slow).facts == {"rows": 10_000}
    assert len(list(place.iterdir())) == 1


def test_old_drafts_are_cleared_and_young_ones_are_not(place):
    for name, age in (("draft-old", 48 * 3600), ("draft-young", 60)):
        (place / name).mkdir(parents=True)
        (place / name / "x.npy").write_bytes(b"half")
        for path in (place / name / "x.npy", place / name):
            os.utime(path, (time.time() - age,) * 2)
    cached("ab", written)
    assert sorted(path.name for path in place.iterdir())[1:] == ["draft-young"]


def test_a_damaged_entry_says_what_to_do(place):
    entry = cached("ab", written)
    (entry.path / "x.npy").write_bytes(b"half")
    with pytest.raises(ValueError, match="Remove that folder"):
        cached("ab", written)


def test_where_it_is(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("ANCESTRAL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "ancestral"
