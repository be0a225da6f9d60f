"""From the arrays of a source to those a model is given: every check of contents, whatever the source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ancestral._internal import checks
from ancestral.data.raw import Array, Raw
from ancestral.data.rows import Rows, stored_pieces
from ancestral.data.width import in_double, ranges

MAX_LEVELS = 65_536
"""The most values an integer entry can take, 16 bits."""
_ROUND_LEVELS = (2, 16, 256, MAX_LEVELS)
_CHANNELS = (1, 3, 4)
_MAX_LABEL = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Checked:
    """All examples of one part, (N, C, H, W) integers or (N, D) floats, and labels (N,) int64 or None."""

    x: Rows
    labels: Array | None


def convert(raw: Raw) -> tuple[Checked, Checked | None, int | None, str]:
    """The training part, the test part if there is one, the number of levels and where it comes from.

    Integers become uint8 where they fit and int32 otherwise, with the channels first; floats become float32,
    or float64 where 32 bits would lose differences within a column. They do when they are read: here an array
    is only looked through, a piece at a time. Levels that a source does not state are 2 for bool, 256 for
    uint8, and for other integers the first of 2, 16, 256 and 65536 that holds both parts. Raises
    ``ValueError``, naming the part, for arrays that are neither integer images nor float vectors, for values
    out of range, and for labels that do not go with them.
    """
    parts = {f"the training array of {raw.name!r}": raw.train_x}
    if raw.test_x is not None:
        parts[f"the test array of {raw.name!r}"] = raw.test_x
    for where, x in parts.items():
        _check_kind(x, where)
    if raw.test_x is not None:
        _check_alike(raw)
    if raw.train_x.dtype.kind == "f":
        if raw.levels is not None:
            raise ValueError(
                f"levels = {raw.levels} is given for {raw.name!r}, which holds real numbers; levels are "
                "counted for integers only. Leave `levels` out, or store integers."
            )
        double = [_needs_double(x, where) for where, x in parts.items()]
        levels, origin = None, "real numbers have none"
        dtype = torch.float64 if any(double) else torch.float32
    else:
        levels, origin = _levels(raw, parts)
        dtype = torch.uint8 if levels <= 256 else torch.int32
    xs = [Rows(x, dtype, np.arange(len(x))) for x in parts.values()]
    train = Checked(xs[0], _labels(raw.train_labels, len(raw.train_x), f"training labels of {raw.name!r}"))
    if raw.test_x is None:
        return train, None, levels, origin
    test = Checked(xs[1], _labels(raw.test_labels, len(raw.test_x), f"test labels of {raw.name!r}"))
    return train, test, levels, origin


def _check_kind(x: Array, where: str) -> None:
    """Refuse what is neither integer images nor float vectors, with the remedy."""
    if x.dtype.kind not in "biuf":
        raise ValueError(
            f"{where} has type {x.dtype}; it must hold integers (images) or floats (vectors). Convert it."
        )
    if x.dtype.kind == "f" and x.ndim != 2:
        remedy = (
            "Store images as integers, e.g. 0 to 255 as uint8: their likelihood is one over integers."
            if x.ndim > 2
            else "Reshape it to (N, D), D numbers for each of N examples."
        )
        raise ValueError(f"{where} holds floats of shape {x.shape}; floats must be vectors (N, D). {remedy}")
    if x.dtype.kind in "biu" and x.ndim not in (3, 4):
        raise ValueError(
            f"{where} holds integers of shape {x.shape}; integers must be images (N, H, W) or (N, H, W, C). "
            "Reshape them to images, or convert them to floats (N, D) to model them as real numbers."
        )
    if x.ndim == 4 and x.shape[3] not in _CHANNELS:
        first = " The second axis looks like the channels: use x.transpose(0, 2, 3, 1)."
        raise ValueError(
            f"{where} has shape {x.shape}; the last axis holds the channels, (N, H, W, C), and C must be "
            f"1, 3 or 4.{first if x.shape[1] in _CHANNELS else ''}"
        )
    if x.size == 0:
        raise ValueError(f"{where} has shape {x.shape}: it holds nothing. Give at least one example.")


def _check_alike(raw: Raw) -> None:
    assert raw.test_x is not None
    train, test = raw.train_x, raw.test_x
    if (train.dtype.kind == "f") != (test.dtype.kind == "f"):
        raise ValueError(
            f"the training array of {raw.name!r} has type {train.dtype} and the test array {test.dtype}; "
            "both must hold integers or both floats."
        )
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"the training examples of {raw.name!r} have shape {train.shape[1:]} and the test examples "
            f"{test.shape[1:]}; they must be of one shape."
        )


def _needs_double(x: Array, where: str) -> bool:
    """Whether vectors need 64 bits. Rejects entries that are not finite in 32 bits."""
    low, high = ranges(x)
    with np.errstate(over="ignore"):
        if not np.isfinite(np.array([low, high]).astype(np.float32)).all():
            _check_finite(x, where)
    return in_double(x, low, high, where)


def _check_finite(x: Array, where: str) -> None:
    """Reject vectors with entries that are not finite in 32 bits."""
    count, row, column = 0, 0, 0
    for first, piece in stored_pieces(x):
        with np.errstate(over="ignore"):  # what overflows is refused below, by name
            finite = np.isfinite(piece.astype(np.float32))
        if not finite.all():
            if count == 0:
                row, column = (int(i) for i in np.argwhere(~finite)[0])
                row += first
            count += int((~finite).sum())
    if count:
        raise ValueError(
            f"{where} holds {x[row, column]} in row {row}, column {column} (counted from 0), one of "
            f"{count} entries that are not finite numbers of 32 bits. Remove or replace them."
        )


def _levels(raw: Raw, parts: dict[str, Array]) -> tuple[int, str]:
    """How many values an integer entry can take, and how that is known."""
    types = {x.dtype for x in parts.values()}
    if raw.levels is None and types == {np.dtype(bool)}:
        return 2, "the type bool"
    if raw.levels is None and types == {np.dtype(np.uint8)}:
        return 256, "the type uint8"
    largest = 0
    for where, x in parts.items():
        low, high = _range(x)
        if low < 0:
            raise ValueError(f"{where} holds {low}; integer data count from 0. Add {-low} to them.")
        largest = max(largest, high)
    if largest >= MAX_LEVELS:
        raise ValueError(
            f"{raw.name!r} holds {largest}; integer data must be below {MAX_LEVELS} (16 bits). Divide them."
        )
    if raw.levels is not None:
        checks.integer(f"levels of {raw.name!r}", raw.levels, low=2, high=MAX_LEVELS)
        if largest >= raw.levels:
            raise ValueError(
                f"{raw.name!r} holds {largest}, and levels = {raw.levels} allows 0 to {raw.levels - 1}. Give "
                f"levels = {largest + 1} or more."
            )
        return raw.levels, "given with the data"
    levels = next(n for n in _ROUND_LEVELS if n > largest)
    return levels, f"the largest value, {largest}, rounded up"


def _range(x: Array) -> tuple[int, int]:
    """The smallest and the largest entry."""
    bounds = [(int(piece.min()), int(piece.max())) for _, piece in stored_pieces(x)]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _labels(labels: Array | None, n: int, where: str) -> Array | None:
    """(N,) int64 from whole numbers (N,) or (N, 1), at least 0."""
    if labels is None:
        return None
    if labels.dtype.kind not in "biu":
        raise ValueError(
            f"the {where} have type {labels.dtype}; labels must be whole numbers, which count the classes "
            "from 0."
        )
    if labels.shape not in ((n,), (n, 1)):
        raise ValueError(f"the {where} have shape {labels.shape}; they must be ({n},), one per example.")
    if labels.min() < 0 or labels.max() > _MAX_LABEL:
        raise ValueError(
            f"the {where} run from {labels.min()} to {labels.max()}; labels count the classes from 0."
        )
    return labels.reshape(n).astype(np.int64)
