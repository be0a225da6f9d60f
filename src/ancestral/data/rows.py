"""Examples that stay in a file: rows of a stored array, read and laid out when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ancestral.data.raw import Array

PIECE = 2**20
"""Bytes in memory at once where a whole array is gone through; small enough for a processor's cache."""

Bits = Callable[[Tensor, Array], Tensor]
"""From grey levels (n, *shape) and their places in the split, (n,), to bits (n, *shape), uint8 0 or 1."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of an array, as images (n, C, H, W) or vectors (n, D), read each time they are asked for.

    Answers to the names of ``Tensor`` with which examples are read, so that a reader need not know which
    of the two it has: ``len``, ``shape``, ``dtype``, ``device``, ``nbytes``, a slice x[a:b] (nothing is
    read), ``index_select`` and ``to`` (which read). The file must not change meanwhile.
    """

    array: Array
    """(N, H, W), (N, H, W, C) or (N, D), of any type, in memory or mapped."""
    stored: torch.dtype
    """The type that its values take in memory."""
    rows: Array
    """Which rows of it, (n,) whole numbers."""
    bits: Bits | None = None
    """What turns values into bits when they are read, where that is wanted."""
    places: Array | None = None
    """The places of the rows in their split, (n,), which ``bits`` needs; None for 0 … n − 1."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: slice) -> Rows:
        """The rows of a slice, still unread."""
        span = range(len(self))[key]
        assert span.step == 1
        return self.take(slice(span.start, span.stop))

    def take(self, key: slice | Array) -> Rows:
        """The rows of a slice without a step, or at places (k,), still unread."""
        if self.bits is None:
            return replace(self, rows=self.rows[key])
        places = np.arange(len(self)) if self.places is None else self.places
        return replace(self, rows=self.rows[key], places=places[key])

    @property
    def shape(self) -> torch.Size:
        """(n, C, H, W) or (n, D)."""
        _, *example = self.array.shape
        if len(example) > 1:
            height, width, *channels = example
            example = [*(channels or [1]), height, width]
        return torch.Size([len(self), *example])

    @property
    def dtype(self) -> torch.dtype:
        """Of what is read."""
        return self.stored if self.bits is None else torch.uint8

    @property
    def device(self) -> torch.device:
        """Of what ``index_select`` reads: the CPU."""
        return torch.device("cpu")

    @property
    def nbytes(self) -> int:
        """What all of it takes in memory."""
        return self.shape.numel() * self.dtype.itemsize

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """The rows at ``index``, (k,) whole numbers, in that order, as a contiguous tensor (k, *shape)."""
        assert dim == 0
        out = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype)
        self.read(index, out)
        return out

    def read(self, index: Tensor, out: Tensor) -> None:
        """As ``index_select``, into ``out`` on the CPU. Raises ``IndexError`` for an index out of range."""
        places = index.numpy()
        if len(places) and not (places.min() >= 0 and places.max() < len(self)):
            raise IndexError(f"index out of range: the rows are 0 … {len(self) - 1}")
        if self.bits is None:
            self._gather(self.rows[places], out.numpy())
            return
        values = torch.empty(out.shape, dtype=self.stored)
        self._gather(self.rows[places], values.numpy())
        out.copy_(self.bits(values, places if self.places is None else self.places[places]))

    def to(self, device: str | torch.device) -> Tensor:
        """All of it as a tensor on ``device``."""
        whole = torch.empty(self.shape, dtype=self.dtype, device=device)
        step = piece_rows(self)
        for first in range(0, len(self), step):
            index = torch.arange(first, min(first + step, len(self)))
            whole[first : first + step] = self.index_select(0, index)
        return whole

    def _gather(self, rows: Array, out: Array) -> None:
        # Of a mapped array NumPy's own view: the subclass costs time at each call. Not sorted by row: in
        # the page cache that takes longer than it saves (1.3 times, rows of 784 bytes).
        array = np.asarray(self.array)
        if array.ndim < 4 and array.dtype == out.dtype and array.flags.c_contiguous and array.flags.aligned:
            # All rows are in range; with mode "raise" NumPy would buffer its output.
            array.take(rows, axis=0, out=out.reshape(len(rows), *array.shape[1:]), mode="clip")
            return
        values = array[rows]
        if array.ndim > 2:
            values = values.reshape(*values.shape[:3], -1).transpose(0, 3, 1, 2)
        np.copyto(out, values, casting="unsafe")


Examples = Tensor | Rows
"""Examples in memory, or in a file; what both answer to reads both."""


def piece_rows(x: Examples) -> int:
    """How many examples of x fit in ``PIECE``, at least 1."""
    return _rows_within(x.shape, x.dtype.itemsize)


def pieces(x: Examples) -> Iterator[Tensor]:
    """All of x in order, as tensors on the CPU of a bounded size."""
    step = piece_rows(x)
    for first in range(0, len(x), step):
        yield x[first : first + step].to("cpu")


def stored_pieces(array: Array) -> Iterator[tuple[int, Array]]:
    """All of an array as it is stored, in parts of a bounded size, each with the number of its first row."""
    step = _rows_within(array.shape, array.dtype.itemsize)
    for first in range(0, len(array), step):
        yield first, np.asarray(array[first : first + step])


def _rows_within(shape: tuple[int, ...], itemsize: int) -> int:
    return max(1, PIECE // max(1, math.prod(shape[1:]) * itemsize))
