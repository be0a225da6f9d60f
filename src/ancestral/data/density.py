"""Columns of real numbers on which a density has no bound: reported, so that nobody compares their ELBO.

A density may put a peak of any height on a value that repeats, and on a line or plane that all rows lie on:
its ELBO then grows for as long as training goes on. Columns are judged by at most a few thousand rows, spread
evenly over the data. What looks constant or whole there is checked in all rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ancestral.data.raw import Array
from ancestral.data.readers.columns import shown
from ancestral.data.relations import LARGEST, relations
from ancestral.data.rows import Examples, piece_rows

NOT_COMPARABLE = "this ELBO is not comparable: "
"""How every note of this module begins; the reports look for it."""
ROWS = 1_000
"""Rows that are looked at; three for each column where these are more."""
_AGREE = 1 / 150
"""Two rows that agree in a column with this probability make it one of repeated values. For comparison: of
standard normals rounded to two decimals 1 pair of 350 agrees, of ages in years 1 of 70."""
_WHOLE_RANGE = 10_000
"""Whole numbers over a wider range, such as incomes, are as good as real."""
_GRIDS = (15, 16, 31, 32, 63, 64, 100, 127, 128, 255, 256)
"""Steps in which fractions from 0 to 1 are often counted."""
_OFF_GRID = 0.02
"""Of a step: by so much a printed fraction may be off its grid."""
_PICTURE = 16
"""Columns from which a common grid means pictures."""
_ENDLESS = "A density has no bound there: the ELBO grows for as long as training goes on."


def density_notes(x: Examples, columns: Sequence[str] | None) -> tuple[str, ...]:
    """Notes on the columns of vectors x, (N, D), on which a density has no bound; () where there are none.

    Each names the columns, the reason and the remedy. ``columns`` are their names; without them they are
    counted from 0.
    """
    n, dims = x.shape
    if n < 3:
        return ()
    count = min(n, max(ROWS, 3 * dims) if dims <= LARGEST else ROWS)
    sample = x.index_select(0, torch.from_numpy(np.linspace(0, n - 1, count).astype(np.int64)))
    found = _judged(x, sample.double().numpy())
    names = [f"column {number}" for number in range(dims)] if columns is None else list(columns)
    notes = _notes(found, names)
    if found.picture is None:
        varying = np.flatnonzero(~found.constant)
        eps = torch.finfo(sample.dtype).eps
        told = relations(sample[:, varying].double().numpy(), [names[i] for i in varying], eps=eps)
        notes += [f"{NOT_COMPARABLE}{fact} {_ENDLESS} {remedy}" for fact, remedy in told]
    return tuple(notes)


def not_comparable(notes: Iterable[str]) -> list[str]:
    """Those of a data set's notes that say that its ELBO is not comparable."""
    return [note for note in notes if note.startswith(NOT_COMPARABLE)]


@dataclass
class _Judged:
    """What each column is, (D,) each."""

    constant: Array
    low: Array
    high: Array
    whole: Array
    repeated: Array
    """Columns of few or repeated values that are not whole."""
    values: Array
    """Different values in the rows looked at."""
    share: Array
    """The share of the most frequent value among them."""
    top: Array
    """That value."""
    picture: int | None
    """The L of a common grid k / L of nearly all columns."""


def _judged(x: Examples, sample: Array) -> _Judged:
    agree, values, share, top = _repeats(np.sort(sample, axis=0))
    whole = (sample == np.floor(sample)).all(axis=0)
    grid = _grids(sample)
    low, high = sample.min(axis=0), sample.max(axis=0)
    suspect = np.flatnonzero(whole | (low == high))
    if len(suspect) and len(sample) < len(x):
        low[suspect], high[suspect], whole[suspect] = _in_all_rows(x, suspect)
    constant = low == high
    whole &= ~constant & ((high - low < _WHOLE_RANGE) | (agree >= _AGREE))
    repeated = ~constant & ~whole & ((agree >= _AGREE) | (grid > 0))
    varying = int((~constant).sum())
    picture = None
    if varying >= _PICTURE:
        common, times = np.unique(grid[~constant], return_counts=True)
        largest = int(common.max())
        # Columns of few values may be on a coarser grid, which is part of the finest.
        on = times[[c > 0 and largest % c == 0 for c in common]].sum() if largest else 0
        picture = largest if on >= 0.9 * varying else None
    return _Judged(constant, low, high, whole, repeated, values, share, top, picture)


def _repeats(ordered: Array) -> tuple[Array, Array, Array, Array]:
    """Of sorted columns (n, D): how often two rows agree, the number of values, the most frequent's share, it."""
    n, dims = ordered.shape
    places = np.arange(n)[:, None]
    new = np.ones((n, dims), bool)
    new[1:] = ordered[1:] != ordered[:-1]
    before = places - np.maximum.accumulate(np.where(new, places, 0), axis=0)
    pairs = before.sum(axis=0)
    last = before.argmax(axis=0)
    top = ordered[last, np.arange(dims)]
    # Few pairs agree by chance: two standard deviations are taken off.
    agree = (pairs - 2.0 * np.sqrt(pairs)) / (n * (n - 1) / 2)
    return agree, new.sum(axis=0), (before.max(axis=0) + 1) / n, top


def _grids(sample: Array) -> Array:
    """For each column the smallest L such that it holds k / L (or 2k / L − 1) only; 0 where there is none."""
    low, high = sample.min(axis=0), sample.max(axis=0)
    slack = 1e-3
    unit = (low >= -slack) & (high <= 1 + slack)
    both = (low >= -1 - slack) & (high <= 1 + slack) & ~unit
    fractions = np.where(both, (sample + 1) / 2, sample)
    grid = np.zeros(sample.shape[1], np.int64)
    for steps in _GRIDS:
        # A column must reach from one step to the next: near 0 everything is.
        step = np.where(both, 2.0, 1.0) / steps
        open_ = np.flatnonzero((unit | both) & (grid == 0) & (high - low > 0.9 * step))
        if not len(open_):
            continue
        # Most columns are off the grid in the first rows.
        scaled = fractions[:20, open_] * steps
        open_ = open_[(np.abs(scaled - np.round(scaled)) < _OFF_GRID).all(axis=0)]
        scaled = fractions[:, open_] * steps
        grid[open_[(np.abs(scaled - np.round(scaled)) < _OFF_GRID).all(axis=0)]] = steps
    return grid


def _in_all_rows(x: Examples, which: Array) -> tuple[Array, Array, Array]:
    """The least and largest of some columns, and whether all are whole, over all rows."""
    low, high, whole = np.full(len(which), np.inf), np.full(len(which), -np.inf), np.ones(len(which), bool)
    step = piece_rows(x)
    for first in range(0, len(x), step):
        piece = x[first : first + step].to("cpu").numpy()[:, which]
        low, high = np.minimum(low, piece.min(axis=0)), np.maximum(high, piece.max(axis=0))
        whole &= (piece == np.floor(piece)).all(axis=0)
    return low, high, whole


def _notes(found: _Judged, names: list[str]) -> list[str]:
    def named(which: Array) -> str:
        return shown([names[number] for number in np.flatnonzero(which)])

    notes = []
    if found.constant.any():
        notes.append((f"constant: {named(found.constant)}.", "Remove columns that never vary."))
    if found.picture is not None:
        notes.append(
            (
                f"the columns hold steps of 1/{found.picture}, as the grey levels of pictures do.",
                f"Store them as integers 0 … {found.picture}, images (N, H, W): these have bits/dim.",
            )
        )
        return [f"{NOT_COMPARABLE}{fact} {_ENDLESS} {remedy}" for fact, remedy in notes]
    binary = found.whole & (found.low == 0) & (found.high == 1)
    if binary.any():
        remedy = "Name the class as the label, or remove them; samples are not 0 or 1."
        notes.append((f"only 0 and 1: {named(binary)}.", remedy))
    if (whole := found.whole & ~binary).any():
        remedy = "Remove them, or model integers: images (N, H, W) have bits/dim."
        if whole.sum() >= _PICTURE and found.low.min() >= 0 and found.high.max() <= 255:
            remedy = "If these are pictures, store them as integers, images (N, H, W): these have bits/dim."
        notes.append((f"whole numbers: {named(whole)}.", remedy))
    if found.repeated.any():
        told = [_repetition(found, int(number), names[number]) for number in np.flatnonzero(found.repeated)]
        notes.append(
            (f"few or repeated values: {_listed(told)}.", "Remove them, or name the class as the label.")
        )
    return [f"{NOT_COMPARABLE}{fact} {_ENDLESS} {remedy}" for fact, remedy in notes]


def _repetition(found: _Judged, number: int, name: str) -> str:
    if found.values[number] > 300:
        return f"{name!r} ({found.top[number]:g} in {found.share[number]:.0%} of the rows)"
    return f"{name!r} ({found.values[number]} values)"


def _listed(told: list[str]) -> str:
    return ", ".join(told[:10]) + (f", … ({len(told)} in all)" if len(told) > 10 else "")
