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
_BYTE = 256
_OF_RUN = "those of the run"
_CHANNELS = (1, 3, 4)
_MAX_LABEL = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Checked:
    """All examples of one part, (N, C, H, W) integers or (N, D) floats, and labels (N,) int64 or None."""

    x: Rows
    labels: Array | None


@dataclass(frozen=True)
class GreyLevels:
    """How many values an integer entry can take, and how that is known."""

    count: int | None
    """None for real numbers."""
    origin: str
    of_run: bool = False
    """Whether they are those of a run, and not of the data."""
    notes: tuple[str, ...] = ()


def convert(raw: Raw) -> tuple[dict[str, Checked], GreyLevels]:
    """The parts that there are, train, validation and test, and their grey levels.

    Integers become uint8 where they fit and int32 otherwise, with the channels first; floats become float32,
    or float64 where 32 bits would lose differences within a column. They do when they are read: here an array
    is only looked through, a piece at a time. Grey levels that a source does not state are 2 where only 0 and 1
    occur, else 256 for 8-bit types, and for other integers the smallest power of two, at least 256, above the
    largest value of all parts. Raises
    ``ValueError``, naming the part, for arrays that are neither integer images nor float vectors, for values
    out of range, and for labels that do not go with them.
    """
    words = {"train": "training", "validation": "validation", "test": "test"}
    found = {"train": raw.train_x, "validation": raw.validation_x, "test": raw.test_x}
    labels = {"train": raw.train_labels, "validation": raw.validation_labels, "test": raw.test_labels}
    arrays = {part: x for part, x in found.items() if x is not None}
    parts = {f"the {words[part]} array of {raw.name!r}": x for part, x in arrays.items()}
    for where, x in parts.items():
        _check_kind(x, where)
    for part, x in arrays.items():
        _check_alike(raw, x, words[part])
    if raw.train_x.dtype.kind == "f":
        if raw.levels is not None:
            raise ValueError(
                f"levels = {raw.levels} is given for {raw.name!r}, which holds real numbers; levels are "
                "counted for integers only. Leave `levels` out, or store integers."
            )
        double = [_needs_double(x, where) for where, x in parts.items()]
        levels = GreyLevels(None, "real numbers have none")
        dtype = torch.float64 if any(double) else torch.float32
    else:
        levels = _levels(raw, parts)
        assert levels.count is not None
        dtype = torch.uint8 if levels.count <= _BYTE else torch.int32
    checked = {
        part: Checked(
            Rows(x, dtype, np.arange(len(x))),
            _labels(labels[part], len(x), f"{words[part]} labels of {raw.name!r}"),
        )
        for part, x in arrays.items()
    }
    return checked, levels


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


def _check_alike(raw: Raw, x: Array, part: str) -> None:
    train = raw.train_x
    if (train.dtype.kind == "f") != (x.dtype.kind == "f"):
        raise ValueError(
            f"the training array of {raw.name!r} has type {train.dtype} and the {part} array {x.dtype}; "
            "both must hold integers or both floats."
        )
    if train.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"the training examples of {raw.name!r} have shape {train.shape[1:]} and the {part} examples "
            f"{x.shape[1:]}; they must be of one shape."
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


def _levels(raw: Raw, parts: dict[str, Array]) -> GreyLevels:
    types, run = {x.dtype for x in parts.values()}, raw.run_levels
    if raw.levels is None and types == {np.dtype(bool)} and run is None:
        return GreyLevels(2, "the type bool")
    if raw.levels is None and types == {np.dtype(np.uint8)}:
        if run is not None and run >= _BYTE:
            return GreyLevels(run, _OF_RUN, of_run=True)
        if run is None or max(_range(x)[1] for x in parts.values()) >= run:
            return _byte_levels(raw.name, list(parts.values()))
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
        return GreyLevels(raw.levels, raw.levels_origin)
    if run is not None and largest < run:
        few = (f"the values of {raw.name!r} run to {largest} of the {run} grey levels of the run.",)
        return GreyLevels(run, _OF_RUN, of_run=True, notes=few if largest < run // 2 else ())
    if largest <= 1:
        return GreyLevels(2, "only 0 and 1 occur")
    levels = max(_BYTE, 1 << largest.bit_length())
    return GreyLevels(
        levels, f"the largest value, {largest}, rounded up", notes=_few(raw.name, levels, largest)
    )


def _byte_levels(name: str, arrays: list[Array]) -> GreyLevels:
    """Of 8-bit values. They are looked through as far as it takes to see that they use their range."""
    largest, between = 0, False
    for x in arrays:
        for _, piece in stored_pieces(x):
            high = max(largest, int(piece.max()))
            # Beside 0 and the largest value, the largest of the pieces before is a third.
            between = between or 0 < largest < high or bool(((piece != 0) & (piece != high)).any())
            largest = high
            if between and largest >= _BYTE // 2:
                return GreyLevels(_BYTE, "the type uint8")
    if largest <= 1:
        return GreyLevels(2, "only 0 and 1 occur")
    if not between:
        more = f" --levels {largest + 1}" if largest < _BYTE // 2 else ""
        note = (
            f"of the 256 grey levels of {name!r} none but 0 and {largest} occurs; they can be read as bits: "
            f"--binarize threshold{more}."
        )
        return GreyLevels(_BYTE, "the type uint8", notes=(note,))
    return GreyLevels(_BYTE, "the type uint8", notes=_few(name, _BYTE, largest))


def _few(name: str, levels: int, largest: int) -> tuple[str, ...]:
    """A note where less than half of the grey levels occur."""
    if largest >= levels // 2:
        return ()
    return (
        f"the values of {name!r} run to {largest} of {levels} grey levels. If no larger ones can occur, state "
        f"the number: --levels {largest + 1} (Reading(levels={largest + 1}) in Python).",
    )


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
