"""Which examples of one part of the data also occur in another, value for value.

A few words of each row, those that differ most between rows, give a first fingerprint; it reads a small part of
most arrays. Rows whose fingerprint occurs in both parts are read whole. Nothing is as large as the data in
memory: 8 bytes for a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ancestral.data import rows
from ancestral.data.dataset import GIVEN, Dataset, Split
from ancestral.data.raw import Array, Raw

_SEED = 5
_BYTES = 64
"""Of a row in its first fingerprint."""
_SAMPLED, _SEARCHED = 64, 2**12
"""Rows and words that are looked at to choose the words."""


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of an array (N, …)."""

    array: Array
    rows: Array
    """(n,) whole numbers."""


def on_copies(data: Dataset, raw: Raw, *, deduplicate: bool) -> Dataset:
    """``data``, before bits are drawn, with a note on test and validation examples that also occur in training.

    With ``deduplicate``, without the training and validation examples that also occur in the test part, and
    without the training examples that occur in the validation part; the test part is never changed. Raises
    ``ValueError`` where fewer than 2 training examples remain.
    """
    train = _part(data.train, raw.train_x)
    test = _part(data.test, raw.train_x if raw.test_x is None else raw.test_x)
    validation_x = raw.validation_x if data.validation_origin == GIVEN else raw.train_x
    held = None if data.validation is None or validation_x is None else _part(data.validation, validation_x)
    if deduplicate:
        return _without_copies(data, train, held, test)
    copies = {"test": int(occurs_in(test, train).sum())}
    totals = {"test": len(data.test)}
    if held is not None:
        copies["validation"] = int(occurs_in(held, train).sum())
        totals["validation"] = len(held.rows)
    counted = [f"{n:,} of {totals[part]:,} {part} examples" for part, n in copies.items() if n]
    if not counted:
        return data
    note = (
        f"{' and '.join(counted)} also occur in the training part, value for value, so figures on them are too "
        "good. To remove copies from training: --deduplicate (load_data(…, deduplicate=True))."
    )
    return replace(data, notes=(*data.notes, note))


def _without_copies(data: Dataset, train: Part, held: Part | None, test: Part) -> Dataset:
    removed = occurs_in(train, test)
    validation = data.validation
    gone = {"training": int(removed.sum())}
    if held is not None and validation is not None:
        copies = occurs_in(held, test)
        gone["validation"] = int(copies.sum())
        both = occurs_in(train, held) & ~removed
        gone["training"] += int(both.sum())
        removed |= both
        kept = np.flatnonzero(~copies)
        validation = validation.take(kept) if len(kept) else None
    left = np.flatnonzero(~removed)
    if len(left) < 2:
        raise ValueError(
            f"of {len(removed):,} training examples of {data.name!r} {len(left)} remain without copies of test "
            "and validation examples, and at least 2 are needed. Leave deduplicate out, or give more data."
        )
    if not any(gone.values()):
        return data
    counted = " and ".join(f"{n:,} {part} examples" for part, n in gone.items() if n)
    note = f"{counted} removed, as they also occur in a part that is held out (deduplicate)."
    return replace(data, train=data.train.take(left), validation=validation, notes=(*data.notes, note))


def _part(split: Split, array: Array) -> Part:
    return Part(array, np.arange(len(split)) if split.rows is None else split.rows)


def occurs_in(some: Part, other: Part) -> Array:
    """Which rows of ``some`` occur in ``other``, (n,) bool. The arrays hold examples of one shape.

    Zeros of both signs are equal. A wrong answer needs two different rows with the same 128 bits of hash.
    """
    a, b = _Words.of(some.array, like=other.array), _Words.of(other.array, like=some.array)
    chosen = b.telling(other.rows)
    first, second = a.first(chosen)[some.rows], b.first(chosen)[other.rows]
    found = np.zeros(len(some.rows), bool)
    mine = np.flatnonzero(_within(first, second))
    if len(mine) == 0:
        return found
    theirs = np.flatnonzero(_within(second, first[mine]))
    there = set(b.whole(other.rows[theirs]))
    found[mine] = [one in there for one in a.whole(some.rows[mine])]
    return found


def _within(values: Array, others: Array) -> Array:
    """Which of the values are among others, (n,) bool."""
    ordered = np.sort(others)
    place = np.searchsorted(ordered, values).clip(max=len(ordered) - 1)
    return np.asarray(ordered[place] == values)


@dataclass(frozen=True, eq=False)
class _Words:
    """The rows of an array as words: its numbers where they are real, else bytes together."""

    flat: Array
    """(N, W)."""
    stored: np.dtype[np.generic] | None
    """The type that they are converted to when read; None for their own."""

    @staticmethod
    def of(array: Array, *, like: Array) -> _Words:
        """``like`` is the array that these are compared with."""
        flat = np.asarray(array).reshape(len(array), -1)
        if array.dtype != like.dtype or array.dtype.kind == "f":
            kind = np.dtype(np.float32 if array.dtype.kind == "f" else np.int64)
            same = array.dtype == like.dtype and array.dtype in (np.float32, np.float64)
            return _Words(flat, None if same else kind)
        if not flat.flags.c_contiguous:
            return _Words(flat, np.dtype(np.int64))
        unit = math.gcd(flat.shape[1] * flat.dtype.itemsize, 8)
        return _Words(flat.view(f"u{unit}"), None)

    def telling(self, among: Array) -> Array:
        """The words that take most different values in a sample of rows."""
        width = self.flat.shape[1]
        places = np.unique(np.linspace(0, width - 1, min(width, _SEARCHED)).astype(np.int64))
        count = max(1, _BYTES // self._read(self.flat[:1, :1]).itemsize)
        if width <= count:
            return np.arange(width)
        sample = among[:: max(1, len(among) // _SAMPLED)][:_SAMPLED]
        ordered = np.sort(self._read(self.flat[np.ix_(sample, places)]), axis=0)
        different = (np.diff(ordered, axis=0) != 0).sum(axis=0)
        best = np.argsort(-different, kind="stable")[:count]
        return np.sort(places[best])

    def first(self, chosen: Array) -> Array:
        """The first fingerprint of every row, (N,) uint64."""
        return np.concatenate(
            [_hash(self._read(piece[:, chosen]), _SEED) for piece in self._pieces(len(chosen))]
        )

    def whole(self, index: Array) -> Iterator[tuple[int, int]]:
        """128 bits of each row at ``index``."""
        step = max(1, rows.PIECE // (8 * self.flat.shape[1]))
        for at in range(0, len(index), step):
            words = self._read(self.flat[index[at : at + step]])
            yield from zip(_hash(words, _SEED + 1).tolist(), _hash(words, _SEED + 2).tolist(), strict=True)

    def _pieces(self, chosen: int) -> Iterator[Array]:
        step = max(1, rows.PIECE // (8 * chosen))
        return (self.flat[at : at + step] for at in range(0, len(self.flat), step))

    def _read(self, values: Array) -> Array:
        """As unsigned whole numbers of the bits."""
        if self.stored is not None:
            values = values.astype(self.stored)
        if values.dtype.kind == "f":
            values = values + 0.0  # -0.0 is 0.0
        return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def _hash(words: Array, seed: int) -> Array:
    """A sum of the words times random numbers, modulo 2^64, (n,)."""
    wide = words.astype(np.uint64)
    # The upper bits would reach the lowest bits of no product.
    wide ^= wide >> np.uint64(32)
    factors = np.random.default_rng(seed).integers(0, 2**64, wide.shape[1], dtype=np.uint64)
    found: Array = np.einsum("ij,j->i", wide, factors)
    return found
