"""Which columns of real numbers need 64 bits, so that differences within them are not lost."""

from __future__ import annotations

import numpy as np

from ancestral.data.raw import Array
from ancestral.data.rows import stored_pieces

_COARSE = 1e-5
"""The part of a column's range by which 32 bits may round it."""
_NOTHING = 1e-12
"""Columns whose values differ by less than this part of them are constant but for rounding in 64 bits."""
_SMALL, _LARGE = 1e-30, 1e30
"""Ranges and sizes between which 32 bits compute without under- and overflow."""
_LEAST = 1e-140
"""The least range, whose square is still a number of 64 bits."""
_TOGETHER = 512
"""Numbers that are reduced at once."""
_HALF = 2.0**-24
"""The relative error of rounding to 32 bits."""


class NeedsDouble(Exception):
    """Rows that were read as 32-bit floats are to be read again as 64-bit ones."""


def may_need_double(low: Array, high: Array) -> Array:
    """Columns (D,) that ``needs_double`` can select, from their least and largest values alone."""
    size = np.maximum(np.abs(low), np.abs(high))
    return _varies(low, high) & (
        (high - low < _SMALL)
        | (size > _LARGE)
        | (_HALF * size > _COARSE * (high - low))
        | (size > 1.0 / _HALF)
    )


def needs_double(low: Array, high: Array, error: Array, whole: Array) -> Array:
    """Which columns (D,) are stored as 64-bit floats, from their range and the rounding error of 32 bits.

    Those are columns that 32 bits would round by a notable part of their range, whole numbers that they would
    change at all, and units so small or large that computing in them would under- or overflow.
    """
    size = np.maximum(np.abs(low), np.abs(high))
    lossy = (error > _COARSE * (high - low)) | (whole & (error > 0))
    return _varies(low, high) & (lossy | (high - low < _SMALL) | (size > _LARGE))


def ranges(x: Array) -> tuple[Array, Array]:
    """The least and the largest value of each column of x, (N, D); what is not a number stays one."""
    low, high = np.full(x.shape[1], np.inf), np.full(x.shape[1], -np.inf)
    for _, piece in stored_pieces(x):
        low = np.minimum(low, per_column(np.minimum, piece))
        high = np.maximum(high, per_column(np.maximum, piece))
    return low, high


def per_column(of: np.ufunc, values: Array) -> Array:
    """``of.reduce`` over the rows of values, (n, D) with n ≥ 1: (D,)."""
    n, dims = values.shape
    together = max(1, _TOGETHER // max(1, dims))
    blocks = n // together
    if blocks < 2 or not values.flags.c_contiguous:
        return np.asarray(of.reduce(values, axis=0))
    # NumPy is ten times faster where what it reduces at once is long.
    split = blocks * together
    wide = of.reduce(values[:split].reshape(blocks, together * dims), axis=0).reshape(together, dims)
    return np.asarray(of.reduce(np.concatenate([wide, values[split:]]), axis=0))


def in_double(x: Array, low: Array, high: Array, where: str) -> bool:
    """Whether a column of x, (N, D) with these ``ranges``, needs 64 bits. ``ValueError`` for one near 0."""
    if (narrow := (high > low) & (high - low < _LEAST)).any():
        column = int(narrow.argmax())
        raise ValueError(
            f"{where} holds {low[column]:g} to {high[column]:g} in column {column} (counted from 0), numbers "
            "too small to compute with. Multiply that column, such as by 1e200."
        )
    which = np.flatnonzero(may_need_double(low, high))
    if not len(which):
        return False
    error, whole = np.zeros(len(which)), np.ones(len(which), bool)
    for _, piece in stored_pieces(x):
        exact = piece[:, which].astype(np.float64)
        error = np.maximum(error, np.abs(exact.astype(np.float32) - exact).max(axis=0))
        whole &= (exact == np.floor(exact)).all(axis=0)
    return bool(needs_double(low[which], high[which], error, whole).any())


def _varies(low: Array, high: Array) -> Array:
    return np.asarray(high - low > _NOTHING * np.maximum(np.abs(low), np.abs(high)))
