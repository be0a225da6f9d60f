"""Which examples of one part of the data also occur in another, value for value.

A few words of each row, those that differ most between rows, give a first fingerprint; it reads a small part of
most arrays. Rows whose fingerprint occurs in both parts are read whole. Nothing is as large as the data in
memory: 8 bytes for a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ancestral.data import rows
from ancestral.data.raw import Array

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


def occurs_in(some: Part, other: Part) -> Array:
    """Which rows of ``some`` occur in ``other``, (n,) bool. The arrays hold examples of one shape.

    Zeros of both signs are equal. A wrong answer needs two different rows with the same 128 bits of hash.
    """
    a, b = (_Words.of(part.array, like=other.array) for part in (some, other))
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
            same = array.dtype == like.dtype and array.dtype.isnative
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
