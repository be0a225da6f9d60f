"""Columns of numbers, out of batches of Arrow columns, whatever kind of file these come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ancestral._internal import checks
from ancestral.data.raw import Array
from ancestral.data.width import NeedsDouble, needs_double, per_column

MISSING = frozenset(
    ["", "?", "#N/A", "#NA", "<NA>", "N/A", "NA", "n/a", "NULL", "null", "None", "NaN", "NAN", "nan", "-nan"]
)
"""What programs write where there is no value."""
_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([ T].*)?")
_COMMA = re.compile(r"[-+]?\d[\d.]*,[\d,.]*")
_POINTS = re.compile(r"[-+]?\d{1,3}(\.\d{3}){2,}")
_UNIT = re.compile(
    r"[-+]?[$€£¥]?\s?[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s?[^\d\s][^\d]{0,9}|[-+]?[$€£¥]\s?[\d.,]+", re.I
)
_GROUP = r"^\s*[-+]?[1-9]\d{0,2}(\.\d{3})+\s*$"
_SHORT = r"^\s*[-+]?(0|[1-9]\d{0,2})\s*$"
_ROUNDED = (2.0**53, 2.0**64)
"""Whole numbers between these are rounded as 64-bit floats; larger ones were floats before."""
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
    notes: list[str] = field(default_factory=list)
    """What is reported of it; complete when all rows have been read."""
    first: tuple[str, ...] = ()
    """The fields of the first row of a file without names."""
    line_of: Callable[[int], int] | None = None
    """The line of the file, from 1, at which a row, from 0, begins; None where there are no lines."""
    grouped: bool = False
    """Whether points may stand between thousands."""


@dataclass(frozen=True)
class _Points:
    """The points in a column of text."""

    parted: tuple[int, str] | None = None
    """The first row that holds a point before three digits, and its text."""
    short: bool = False
    """Whether there are whole numbers of up to three digits."""
    real: bool = False
    """Whether anything else is there, so that points are decimal points."""


class Columns:
    """The columns of one table as rows of numbers, checked as they come."""

    def __init__(
        self,
        where: str,
        names: Sequence[str],
        dtype: type[np.floating[Any]] = np.float32,
        *,
        grouped: bool = False,
    ) -> None:
        self.where = where
        self.names = tuple(names)
        self.dtype = dtype
        self.rows = 0
        """Rows taken so far."""
        self._boolean: set[str] = set()
        self._foreign: dict[str, tuple[str, float | None]] = {}
        self._grouped = grouped
        self._points: dict[str, _Points] = {}
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
        """Raise ``NeedsDouble`` where the rows taken so far lose differences as 32-bit floats.

        ``ValueError`` where points may stand between thousands.
        """
        self._check_points()
        if self.dtype == np.float32 and needs_double(self._low, self._high, self._error, self._whole).any():
            raise NeedsDouble

    def notes(self) -> list[str]:
        """What whoever trains on these columns should know."""
        found = []
        for name, (word, number) in self._foreign.items():
            found.append(
                f"column {name!r} of {self.where} has digits or signs of another script, read as numbers: {word} "
                f"is {number:g}."
            )
        whole = [name for name, seen in self._points.items() if seen.parted and not (seen.short or seen.real)]
        if whole:
            found.append(
                f"the points in {shown(whole)} of {self.where} are read as decimal points: "
                f"{(self._points[whole[0]].parted or (0, ''))[1]} is less than a thousand."
            )
        size = np.maximum(np.abs(self._low), np.abs(self._high))
        if rounded := self._named(self._whole & (size > _ROUNDED[0]) & (size < _ROUNDED[1])):
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
        self._low = np.minimum(self._low, per_column(np.minimum, exact))
        self._high = np.maximum(self._high, per_column(np.maximum, exact))
        self._whole &= per_column(np.logical_and, exact == np.floor(exact))
        self._error = np.maximum(self._error, per_column(np.maximum, np.abs(values - exact)))

    def _numbers(self, name: str, values: Any) -> Array:
        """One column as float64, NaN and infinities included."""
        import pyarrow as pa

        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        check_type(name, values.type, self.where)
        if values.null_count:
            raise missing(name, self.rows + _first(values.is_null()), self.where)
        if is_text(values.type):
            if self._grouped:
                self._watch_points(name, values)
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
            if (numbers := self._of_other_scripts(name, values.to_pylist())) is not None:
                return pa.array(numbers, pa.float64())
        truth = pc.is_in(pc.utf8_lower(values), pa.array(["true", "false"], values.type))
        if (self.rows == 0 or name in self._boolean) and pc.all(truth).as_py():
            self._boolean.add(name)
            return values.cast(pa.bool_())
        raise self._not_a_number(name, values.to_pylist())

    def _of_other_scripts(self, name: str, words: list[str]) -> list[float] | None:
        """The numbers that words are in any digits of Unicode; None where one is missing or none."""
        numbers = [None if word in MISSING else number_of(word) for word in words]
        if None in numbers:
            return None
        first = next((word for word in words if not word.isascii()), words[0])
        self._foreign.setdefault(name, (first, number_of(first)))
        return [number for number in numbers if number is not None]

    def _watch_points(self, name: str, values: Any) -> None:
        """Whether points in a column only ever stand where a thousand would be parted."""
        import pyarrow.compute as pc

        seen = self._points.get(name, _Points())
        if seen.real:
            return
        parted = pc.match_substring_regex(values, _GROUP)
        short = pc.match_substring_regex(values, _SHORT)
        real = not pc.all(pc.or_(parted, short)).as_py()
        first = seen.parted
        if first is None and pc.any(parted).as_py():
            row = _first(parted)
            first = (self.rows + row, values[row].as_py())
        self._points[name] = _Points(first, seen.short or pc.any(short).as_py(), real)

    def _check_points(self) -> None:
        for name, seen in self._points.items():
            if seen.parted is not None and seen.short and not seen.real:
                row, word = seen.parted
                raise BadCell(
                    f"column {name!r} of {self.where} holds {word!r} in row {row + 1} beside whole numbers below "
                    "1,000, so its points may stand between thousands. Write thousands without points, or every "
                    "number with its decimals, such as 987.000.",
                    row,
                )

    def _not_a_number(self, name: str, values: list[str]) -> ValueError:
        """The first text among the values, or where there is none, the first that is missing."""
        if name in self._boolean:
            row, other = next(pair for pair in enumerate(values) if pair[1].lower() not in ("true", "false"))
            if other in MISSING:
                return missing(name, self.rows + row, self.where, value=other)
            return BadCell(
                f"column {name!r} of {self.where} holds {other!r} in row {self.rows + row + 1}, which is not "
                "true or false as in the rows before. Write the column in one way.",
                self.rows + row,
            )
        gap = None
        for row, value in enumerate(values, self.rows):
            if value in MISSING:
                gap = (row, value) if gap is None else gap
            elif number_of(value) is None:
                return text(name, value, row=row, where=self.where)
        assert gap is not None
        return missing(name, gap[0], self.where, value=gap[1])

    def _not_finite(self, name: str, row: int, value: float) -> ValueError:
        if np.isnan(value):
            return missing(name, self.rows + row, self.where, value="NaN")
        return BadCell(
            f"column {name!r} of {self.where} holds {value:g} in row {self.rows + row + 1}, which is not a "
            "finite number of 32 bits. Remove or replace it.",
            self.rows + row,
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


class BadCell(ValueError):
    """That a value is none that a column can hold."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row
        """Counted from 0."""


def missing(name: str, row: int, where: str, *, value: str = "") -> BadCell:
    """That a value is missing in a row counted from 0; told as counted from 1."""
    held = f" (it holds {value!r})" if value else ""
    return BadCell(
        f"column {name!r} of {where} has no value in row {row + 1}{held}; rows are counted from 1, without a "
        "header. Missing values are not guessed: fill it in, or remove the row or the column.",
        row,
    )


def text(name: str, value: str, *, row: int, where: str) -> BadCell:
    """That a value is no number, with what may have been meant."""
    given = value if len(value) <= 40 else value[:37] + "…"
    held = f"column {name!r} of {where} holds {given!r} in row {row + 1}"
    if _DATE.fullmatch(value):
        return BadCell(f"{held}, which looks like a date; {_DATES}", row)
    if _COMMA.fullmatch(value):
        return BadCell(
            f"{held}, a number with a comma; write it with a point, and nothing between thousands: 1234.5.",
            row,
        )
    if _POINTS.fullmatch(value):
        return BadCell(f"{held}, a number with points between thousands; write it without: 1234567.", row)
    if _UNIT.fullmatch(value):
        return BadCell(
            f"{held}, a number with a unit; write the number alone, and the unit in the name.", row
        )
    if value.startswith("#"):
        return BadCell(f"{held}, which looks like a comment line. Remove that line.", row)
    return BadCell(
        f"{held}, which is text; columns must be numbers. If it is the class, say so: --label {name!r}. "
        "Otherwise remove it, or write it as numbers.",
        row,
    )


def number_of(value: str) -> float | None:
    """The number that a text is, in any digits of Unicode; None where it is none."""
    try:
        return None if "_" in value else float(value.replace("−", "-").replace("٫", "."))
    except ValueError:
        return None


def _first(mask: Any) -> int:
    import pyarrow.compute as pc

    return int(pc.index(mask, True).as_py())
