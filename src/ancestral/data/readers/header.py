"""Whether the first line of a table holds the names of its columns, or numbers of an example."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ancestral.data.raw import Array
from ancestral.data.readers.columns import MISSING, number_of

Verdict = Literal["names", "data", "ask"]
_VALUE = re.compile(r"[-+−$€£]?\s?\d.*")
"""How numbers with units, dates and times begin."""
_FAR = 3.0
"""Ranges of a column by which a value must be off to be none of it."""
_LEAST = 5
"""Rows from which the range of a column is told."""
_TYPICAL = 0.05
"""The share of rows in which a pattern is no sign of names."""


def judge(first: Sequence[str], rows: Sequence[Sequence[str]]) -> Verdict:
    """What the first line is, by its fields and those of the next lines.

    Names are text above numbers. Numbers are names where they count the columns or rise evenly, as years and
    wavelengths do, and the lines below do not; they are data where they look like the lines below. "ask" is
    for numbers far from all others, and for counts above whole numbers of the same size.
    """
    kinds = [_kind(field) for field in first]
    below = [{_kind(row[place]) for row in rows if place < len(row)} for place in range(len(first))]
    text_above = [kind == "text" for kind in kinds]
    if any(
        above and "text" not in under and "value" in under
        for above, under in zip(text_above, below, strict=True)
    ):
        return "names"
    values = [place for place, kind in enumerate(kinds) if kind == "value"]
    if not values:
        return "names"
    numbers = [(place, number_of(first[place])) for place in values]
    if any(number is None for _, number in numbers) or not rows:
        return "data"
    top = np.array([number for _, number in numbers], float)
    table = [[number_of(row[place]) if place < len(row) else None for place in values] for row in rows]
    whole = [line for line in table if None not in line]
    return _of_numbers(top, np.array(whole, float).reshape(-1, len(values)))


def _kind(field: str) -> str:
    field = field.strip()
    if field in MISSING:
        return "missing"
    return "value" if number_of(field) is not None or _VALUE.fullmatch(field) else "text"


def _of_numbers(top: Array, rows: Array) -> Verdict:
    if len(rows) == 0 or len(set(top.tolist())) < len(top):
        return "data"
    low, high = rows.min(axis=0), rows.max(axis=0)
    reach = _FAR * np.where(high > low, high - low, np.maximum(np.abs(high), 1.0))
    outside = (top < low) | (top > high)
    far = (top < low - reach) | (top > high + reach)
    some = len(rows) >= _LEAST
    finer = bool((top == np.floor(top)).all()) and bool((rows != np.floor(rows)).any(axis=0).all())
    rare_even = _share(rows, _even) <= _TYPICAL
    if len(top) > 2 and _even(top) and rare_even:
        fractions = bool((rows != np.floor(rows)).any())
        if finer or (len(top) > 3 and fractions) or (some and outside.mean() > 0.5):
            return "names"
        return "ask" if _counts(top) or len(top) > 3 else "data"
    if not some:
        return "data"
    if len(top) > 2 and far.all() and _rising(top) and _share(rows, _rising) <= _TYPICAL:
        return "names"
    return "ask" if far.all() else "data"


def _share(rows: Array, test: object) -> float:
    assert callable(test)
    return float(np.mean([test(row) for row in rows]))


def _even(row: Array) -> bool:
    """Whether numbers rise or fall by equal steps."""
    steps = np.diff(row)
    return bool(len(steps) > 1 and steps[0] != 0 and np.allclose(steps, steps[0], rtol=1e-2, atol=0.0))


def _rising(row: Array) -> bool:
    steps = np.diff(row)
    return bool((steps > 0).all() or (steps < 0).all())


def _counts(row: Array) -> bool:
    return row[0] in (0.0, 1.0) and bool((np.diff(row) == 1.0).all())
