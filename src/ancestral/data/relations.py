"""Columns that follow from others exactly: copies in other units, constant sums, linear dependence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ancestral.data.raw import Array
from ancestral.data.readers.columns import shown

LARGEST = 1_000
"""The most columns whose dependence is looked for; of more, copies only."""
_NEAR = 1e-4
"""The part of the variance that a relation may leave over, however coarsely columns are rounded."""
_EXACT = 1e-12
"""The part of the variance that is rounding in this computation."""
_ROUNDED = 500
"""Rows from which the digits of a column are told."""
_SPARSE = 1e-3
"""Coefficients below this part of the largest are 0."""


def relations(sample: Array, names: Sequence[str], *, eps: float) -> list[tuple[str, str]]:
    """Facts about columns of ``sample``, (n, D) float64 and none constant, each with a remedy.

    A relation holds where what it leaves over is no more than the rounding of the columns: by the digits they
    were written with, or by ``eps``, the precision they are stored in. Whole numbers must fit exactly. So two
    columns that are alike but for something real, such as a start and an end, are not reported.
    """
    n, dims = sample.shape
    if dims < 2 or n < 4:
        return []
    mean, spread = sample.mean(axis=0), sample.std(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = (sample - mean) / spread
        rounding = np.square(_resolution(sample, eps) / spread) / 12.0
    if not np.isfinite(z).all():
        return []
    copies = _copies(z, rounding)
    found = _copies_told(copies, mean, spread, z, names)
    rest = np.array([number for number in range(dims) if number not in copies])
    if 2 < len(rest) <= min(LARGEST, n - 2):
        found += _dependent(z[:, rest], rounding[rest], mean[rest], spread[rest], [names[i] for i in rest])
    return found


def _resolution(sample: Array, eps: float) -> Array:
    """By how much the values of each column are rounded, (D,): as written or as stored; 0 for whole numbers."""
    part = sample[:: max(1, len(sample) // _ROUNDED)]
    stored = np.float32 if eps > 1e-10 else np.float64
    exact = part.astype(stored)
    size = np.power(10.0, np.floor(np.log10(np.where(part == 0, 1.0, np.abs(part)))))
    steps = eps * np.sqrt(np.square(part).mean(axis=0))
    open_decimals, open_digits = np.ones((2, part.shape[1]), bool)
    for digits in range(7):
        same = (np.round(part, digits).astype(stored) == exact).all(axis=0) & open_decimals
        steps[same] = np.maximum(steps[same], 10.0**-digits)
        open_decimals &= ~same
        same = ((np.round(part / size, digits) * size).astype(stored) == exact).all(axis=0) & open_digits
        coarse = 10.0**-digits * np.sqrt(np.square(size).mean(axis=0))
        steps[same] = np.maximum(steps[same], coarse[same])
        open_digits &= ~same
    steps[(sample == np.floor(sample)).all(axis=0)] = 0.0
    return np.asarray(steps)


def _allowed(rounding: Array) -> Array:
    """The variance that a relation may leave over, from that of rounding: three standard deviations."""
    return np.asarray(np.minimum(9.0 * rounding + _EXACT, _NEAR))


def _copies(z: Array, rounding: Array) -> dict[int, int]:
    """For each column that is another one in other units, the first such column."""
    # Columns that agree but for their sign have nearly the same products with any vector.
    n = len(z)
    products = np.abs(np.random.default_rng(0).normal(size=(4, n)) @ z) / n**0.5
    order = np.argsort(products[0])
    places = products[0, order]
    reach = 6.0 * np.sqrt(2.0 * _allowed(rounding).max())
    ends = np.searchsorted(places, places + reach, side="right")
    copies: dict[int, int] = {}
    for place, first in enumerate(order):
        near = order[place + 1 : ends[place]]
        near = near[(np.abs(products[:, near] - products[:, [first]]) <= reach).all(axis=0)]
        left = 1.0 - np.abs(z[:, near].T @ z[:, first]) / n
        for second in near[left <= _allowed((rounding[near] + rounding[first]) / 2.0)]:
            low, high = sorted((int(first), int(second)))
            copies[high] = min(copies.get(high, low), copies.get(low, low))
    return copies


def _copies_told(
    copies: dict[int, int], mean: Array, spread: Array, z: Array, names: Sequence[str]
) -> list[tuple[str, str]]:
    if not copies:
        return []
    told = []
    for number, first in sorted(copies.items()):
        sign = 1.0 if z[:, number] @ z[:, first] > 0 else -1.0
        factor = sign * spread[number] / spread[first]
        offset = mean[number] - factor * mean[first]
        if abs(offset) < 1e-6 * (abs(mean[number]) + spread[number]):
            offset = 0.0
        told.append(f"{names[number]!r} is {_line(factor, offset, names[first])}")
    more = f"; … ({len(told)} in all)" if len(told) > 5 else ""
    return [(f"copies: {'; '.join(told[:5])}{more}.", "Keep one of each.")]


def _line(factor: float, offset: float, name: str) -> str:
    times = "" if abs(factor - 1.0) < 1e-6 else "−" if abs(factor + 1.0) < 1e-6 else f"{factor:.4g} × "
    rest = f" {'+' if offset > 0 else '−'} {abs(offset):.4g}" if offset else ""
    return f"{times}{name!r}{rest}"


def _dependent(
    z: Array, rounding: Array, mean: Array, spread: Array, names: Sequence[str]
) -> list[tuple[str, str]]:
    """Sums that are constant, and columns that follow from several others."""
    values, vectors = np.linalg.eigh(z.T @ z / len(z))
    fits = values <= _allowed(np.square(vectors).T @ rounding)
    if not fits.any():
        return []
    sums, others = [], []
    for row in _reduced(vectors[:, fits].T.copy()):
        part = [int(i) for i in np.flatnonzero(np.abs(row) > _SPARSE * np.abs(row).max())]
        factors = row[part] / spread[part]
        told = shown([names[number] for number in part])
        if np.allclose(factors, factors[0], rtol=1e-2):
            sums.append(f"{told} always add up to {mean[part].sum():.4g}")
        else:
            others.append(f"each of {told} follows from the others")
    remedy = "Remove one of them."
    return [
        (f"{'; '.join(facts[:3])}{'; …' if len(facts) > 3 else ''}.", remedy)
        for facts in (sums, others)
        if facts
    ]


def _reduced(rows: Array) -> Array:
    """Relations (k, D) combined to ones of few columns each: every one has a column that the others lack."""
    used: list[int] = []
    for index in range(len(rows)):
        free = np.abs(rows[index])
        free[used] = 0.0
        pivot = int(free.argmax())
        used.append(pivot)
        rows[index] /= rows[index, pivot]
        for other in range(len(rows)):
            if other != index:
                rows[other] -= rows[other, pivot] * rows[index]
    return rows
