"""Columns of numbers, out of batches of Arrow columns, whatever kind of file these come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ancestral._internal import checks
from ancestral.data.raw import Array
from ancestral.data.width import NeedsDouble, needs_double

MISSING = frozenset(
    ["", "?", "#N/A", "#NA", "<NA>", "N/A", "NA", "n/a", "NULL", "null", "None", "NaN", "NAN", "nan", "-nan"]
)
"""What programs write where there is no value."""
_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([ T].*)?")
_COMMA = re.compile(r"[-+]?\d[\d.]*,[\d,.]*")
_EXACT = 2.0**53
"""Whole numbers above are rounded in 64 bits."""
_SHOWN = 10
"""Names of columns in a message."""


@dataclass(frozen=True)
class Table:
    """A file that holds a table, not read yet."""

    path: Path
    names: tuple[str, ...]
    """Of its columns."""
    batches: Callable[[Callable[[int], None]], Iterator[Any]]
    """Its rows, as Arrow record batches of a bounded size; tells how many bytes of the file are read."""
    nbytes: int
    """About how much memory its numbers take, and rather more than less."""
    notes: tuple[str, ...] = ()
    """What whoever reads it should be told."""


class Columns:
    """The columns of one table as rows of numbers, checked as they come."""

    def __init__(self, where: str, names: Sequence[str], dtype: type[np.floating[Any]] = np.float32) -> None:
        self.where = where
        self.names = tuple(names)
        self.dtype = dtype
        self.rows = 0
        """Rows taken so far."""
        self._boolean: set[str] = set()
        self._low = np.full(len(self.names), np.inf)
        self._high = np.full(len(self.names), -np.inf)
        self._whole = np.ones(len(self.names), bool)
        self._error = np.zeros(len(self.names))

    def take(self, batch: Any) -> Array:
        """Rows (n, D) of an Arrow record batch or table, its columns by name.

        Raises ``ValueError`` with the column, and the row counted from 1, for what is not a finite number.
        """
        exact = np.empty((batch.num_rows, len(self.names)))
        for number, name in enumerate(self.names):
            exact[:, number] = self._numbers(name, batch.column(name))
        with np.errstate(over="ignore"):  # what overflows is refused below, by name
            values = exact.astype(np.float32)
        if not np.isfinite(values).all():
            row, number = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise self._not_finite(self.names[number], row, exact[row, number])
        self._learn(exact, values)
        self.rows += len(values)
        return values if self.dtype == np.float32 else exact

    def check(self) -> None:
        """Raise ``NeedsDouble`` where the rows taken so far lose differences as 32-bit floats."""
        if self.dtype == np.float32 and needs_double(self._low, self._high, self._error, self._whole).any():
            raise NeedsDouble

    def notes(self) -> list[str]:
        """What whoever trains on these columns should know."""
        found = []
        size = np.maximum(np.abs(self._low), np.abs(self._high))
        if rounded := self._named(self._whole & (size > _EXACT)):
            found.append(
                f"of more digits than 64 bits hold, in {self.where}: {rounded}. They are rounded (whole "
                "numbers from 9,007,199,254,740,992 on). Remove what counts or names the rows."
            )
        return found

    def _named(self, which: Array) -> str:
        return shown([name for name, here in zip(self.names, which, strict=True) if here])

    def _learn(self, exact: Array, values: Array) -> None:
        if not len(exact):
            return
        self._low = np.minimum(self._low, exact.min(axis=0))
        self._high = np.maximum(self._high, exact.max(axis=0))
        self._whole &= (exact == np.floor(exact)).all(axis=0)
        self._error = np.maximum(self._error, np.abs(values - exact).max(axis=0))

    def _numbers(self, name: str, values: Any) -> Array:
        """One column as float64, NaN and infinities included."""
        import pyarrow as pa

        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        check_type(name, values.type, self.where)
        if values.null_count:
            raise missing(name, self.rows + _first(values.is_null()), self.where)
        if is_text(values.type):
            values = self._parsed(name, values)
        numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        assert isinstance(numbers, np.ndarray)
        return numbers

    def _parsed(self, name: str, values: Any) -> Any:
        """Text that is numbers or, from the first row on, true and false."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if name not in self._boolean:
            try:
                return values.cast(pa.float64())
            except pa.ArrowInvalid:
                values = pc.utf8_trim_whitespace(values)
            try:
                return values.cast(pa.float64())
            except pa.ArrowInvalid:
                pass
        truth = pc.is_in(pc.utf8_lower(values), pa.array(["true", "false"], values.type))
        if (self.rows == 0 or name in self._boolean) and pc.all(truth).as_py():
            self._boolean.add(name)
            return values.cast(pa.bool_())
        raise self._not_a_number(name, values.to_pylist())

    def _not_a_number(self, name: str, values: list[str]) -> ValueError:
        """The first text among the values, or where there is none, the first that is missing."""
        if name in self._boolean:
            row, other = next(pair for pair in enumerate(values) if pair[1].lower() not in ("true", "false"))
            if other in MISSING:
                return missing(name, self.rows + row, self.where, value=other)
            return ValueError(
                f"column {name!r} of {self.where} holds {other!r} in row {self.rows + row + 1}, which is not "
                "true or false as in the rows before. Write the column in one way."
            )
        gap = None
        for row, value in enumerate(values, self.rows):
            if value in MISSING:
                gap = (row, value) if gap is None else gap
            elif not _is_number(value):
                return text(name, value, row=row, where=self.where)
        assert gap is not None
        return missing(name, gap[0], self.where, value=gap[1])

    def _not_finite(self, name: str, row: int, value: float) -> ValueError:
        if np.isnan(value):
            return missing(name, self.rows + row, self.where, value="NaN")
        return ValueError(
            f"column {name!r} of {self.where} holds {value:g} in row {self.rows + row + 1}, which is not a "
            "finite number of 32 bits. Remove or replace it."
        )


def shown(names: Iterable[object]) -> str:
    """Names for a message, not too many of them."""
    names = list(names)
    more = f", … ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is one of text."""
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(kind: Any) -> bool:
    """Whether an Arrow type is one of numbers, or of true and false."""
    import pyarrow as pa

    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def check_type(name: str, kind: Any, where: str) -> None:
    """Refuse the Arrow types that hold no numbers; whether text does is known when it is read."""
    import pyarrow as pa

    if is_number(kind) or is_text(kind) or pa.types.is_null(kind):
        return
    if pa.types.is_temporal(kind):
        raise ValueError(f"column {name!r} of {where} holds dates or times ({kind}); {_DATES}")
    if pa.types.is_nested(kind):
        raise ValueError(
            f"column {name!r} of {where} is nested ({kind}); columns must be numbers. Write each entry "
            "into a column of its own, or give an array (N, D) as .npy."
        )
    raise ValueError(f"column {name!r} of {where} has type {kind}; columns must be numbers. Remove it.")


def check_label(label: str | None, names: Sequence[str], where: str) -> None:
    """Refuse a label that is no column."""
    if label is not None and label not in names:
        raise ValueError(
            f"label is {label!r}, and {where} has no such column; it has {shown(names)}."
            f"{checks.suggest(label, names)}"
        )


_DATES = "columns must be numbers. Remove it, or write it as a number, such as days since the first."


def missing(name: str, row: int, where: str, *, value: str = "") -> ValueError:
    """That a value is missing in a row counted from 0; told as counted from 1."""
    held = f" (it holds {value!r})" if value else ""
    return ValueError(
        f"column {name!r} of {where} has no value in row {row + 1}{held}; rows are counted from 1, without a "
        "header. Missing values are not guessed: fill it in, or remove the row or the column."
    )


def text(name: str, value: str, *, row: int, where: str) -> ValueError:
    """That a value is no number, with what may have been meant."""
    given = value if len(value) <= 40 else value[:37] + "…"
    held = f"column {name!r} of {where} holds {given!r} in row {row + 1}"
    if _DATE.fullmatch(value):
        return ValueError(f"{held}, which looks like a date; {_DATES}")
    if _COMMA.fullmatch(value):
        return ValueError(
            f"{held}, a number with a comma; write it with a point, and nothing between thousands: 1234.5."
        )
    return ValueError(
        f"{held}, which is text; columns must be numbers. If it is the class, say so: --label {name!r}. "
        "Otherwise remove it, or write it as numbers."
    )


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return "_" not in value


def _first(mask: Any) -> int:
    import pyarrow.compute as pc

    return int(pc.index(mask, True).as_py())
