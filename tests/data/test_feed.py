"""The feed: the rows asked for, in order, read ahead; its thread ends, and its errors arrive."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
import torch

from ancestral.data import Examples, Rows, feed, rows
from ancestral.data.raw import Array

CPU = torch.device("cpu")
STORED = np.random.default_rng(5).integers(0, 256, (50, 3, 4, 3), dtype=np.uint8)
SIZES = (1, 7, 7, 30, 2, 0, 5)


def in_file(bits: rows.Bits | None = None) -> Rows:
    return Rows(STORED, torch.uint8, np.arange(50)[::-1], bits)


def batches(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 50, (size,), generator=generator) for size in SIZES]


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("ancestral-feed")]


@pytest.mark.parametrize("piece", [1, 100, 2**20])
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_rows_come_in_the_order_of_the_indices(
    kind: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "PIECE", piece)
    expected = torch.from_numpy(STORED[::-1].transpose(0, 3, 1, 2).copy())
    x: Examples = expected if kind == "memory" else in_file()
    found = list(feed(x, batches(), CPU))
    assert len(found) == len(SIZES)
    for batch, index in zip(found, batches(), strict=True):
        assert torch.equal(batch, expected[index])
        assert batch.is_contiguous()
    assert not threads()
    assert list(feed(x, [], CPU)) == []


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["device", "memory", "file"])
def test_rows_arrive_on_a_gpu(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PIECE", 100)
    expected = in_file().to("cpu")
    x: Examples = {"device": expected.to("cuda"), "memory": expected, "file": in_file()}[kind]
    index = [one for seed in range(40) for one in batches(seed)]
    for batch, one in zip(feed(x, index, torch.device("cuda")), index, strict=True):
        assert batch.device.type == "cuda"
        assert torch.equal(batch.cpu(), expected[one])


def test_nothing_random_is_drawn() -> None:
    before = torch.get_rng_state()
    list(feed(in_file(), batches(), CPU))
    assert torch.equal(torch.get_rng_state(), before)


def test_rows_are_read_ahead_by_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PIECE", 1)
    third, readers = threading.Event(), []

    def noting(grey: torch.Tensor, places: Array) -> torch.Tensor:
        readers.append(threading.current_thread())
        if len(readers) == 3:
            third.set()
        return grey

    taken = itertools.count()
    index = (torch.tensor([next(taken) % 50]) for _ in itertools.count())
    with closing(feed(in_file(noting), index, CPU)) as endless:
        next(endless)
        assert third.wait(timeout=10), "two more are read while the first is used"
        for _ in range(5):
            next(endless)
        assert next(taken) <= 6 + 4, "and not the whole data set"
        assert threading.current_thread() not in readers
        assert len(set(readers)) == 1
    assert not threads()


def test_the_thread_ends_when_the_feed_is_closed_or_forgotten() -> None:
    index = (torch.arange(10) for _ in itertools.count())
    endless = feed(in_file(), index, CPU)
    next(endless)
    assert threads()
    endless.close()
    assert not threads()
    endless = feed(in_file(), index, CPU)
    next(endless)
    del endless
    assert not threads()


def test_errors_of_the_thread_arrive_with_their_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PIECE", 1)
    index = [torch.tensor([0]), torch.tensor([1]), torch.tensor([50]), torch.tensor([2])]
    found = feed(in_file(), index, CPU)
    next(found)
    next(found)
    with pytest.raises(IndexError, match="the rows are 0 … 49"):
        next(found)
    assert not threads()


def test_errors_of_the_indices_arrive() -> None:
    def broken() -> Iterator[torch.Tensor]:
        yield torch.tensor([0])
        raise RuntimeError("no more order")

    for x in (in_file(), in_file().to("cpu")):
        with pytest.raises(RuntimeError, match="no more order"):
            list(feed(x, broken(), CPU))
        assert not threads()
