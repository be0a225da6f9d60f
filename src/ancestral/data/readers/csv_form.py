"""How a text file of a table is written: its separator, its names, and where its rows begin."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ancestral.data.raw import Header
from ancestral.data.readers.columns import number_of, shown
from ancestral.data.readers.header import judge

SEPARATORS = "\t;|,"
"""In the order in which they are tried: a comma is also found in numbers and in text."""
_TRIED = 5
"""Records that a separator must cut into equally many fields."""
_LOOKED_AT = 200
"""Records that are looked at to tell names from numbers."""
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")
_STATED = re.compile(r'"?sep=(.)"?\s*')
"""A spreadsheet's line that states the separator."""
_UNNAMED = re.compile(r"Unnamed: 0(\.\d+)*")
"""How pandas names the index that it once wrote."""


@dataclass(frozen=True)
class Form:
    """How a file is written."""

    separator: str
    fields: tuple[str, ...]
    """A name for each field of a line, those that are left out included."""
    header: bool
    """Whether there is a line of names."""
    start: int
    """Bytes before the first row."""
    lines: int
    """Lines before the first row."""
    first: tuple[str, ...] = ()
    """The fields of the first row of a file without names."""
    index: tuple[str, ...] = ()
    """Fields that hold an index, which is no data."""
    blank: tuple[str, ...] = ()
    """Fields that are empty in all rows."""
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(name for name in self.fields if name not in self.index and name not in self.blank)


class _Lines:
    """The beginning of a file, line by line."""

    def __init__(self, text: str, mark: int) -> None:
        self.lines: list[str] = _LINE.findall(text)
        self.mark = mark
        """Bytes of a mark before the text."""
        self.at = 0

    def skip(self) -> list[str]:
        """Pass over empty lines and comments; returns the comments."""
        comments = []
        while self.at < len(self.lines):
            line = self.lines[self.at].strip()
            if line.startswith("#"):
                comments.append(line)
            elif line:
                break
            self.at += 1
        return comments

    def records(self, separator: str, count: int, *, start: int | None = None) -> list[tuple[list[str], int]]:
        """The next records, each with the number of the line behind it."""
        begin = self.at if start is None else start
        reader = csv.reader(iter(self.lines[begin:]), delimiter=separator)
        found: list[tuple[list[str], int]] = []
        try:
            for fields in reader:
                if any(part.strip() for part in fields) and not fields[0].startswith("#"):
                    found.append((fields, begin + reader.line_num))
                if len(found) == count:
                    break
        except csv.Error:
            pass
        return found

    def offset(self, line: int) -> int:
        """Bytes before a line."""
        return self.mark + len("".join(self.lines[:line]).encode())


def form_of(text: str, path: Path, header: Header | None, *, mark: int = 0) -> Form:
    """The form of a file that begins with ``text``, behind a mark of so many bytes.

    ``header`` says whether its first line holds names; None leaves that to ``judge``. ``ValueError`` for a file
    without a line, names that are missing or double, and a first line that could be either.
    """
    lines = _Lines(text, mark)
    stated = _STATED.fullmatch(lines.lines[0]) if lines.lines else None
    lines.at = 1 if stated else 0
    comments = lines.skip()
    if lines.at == len(lines.lines):
        raise ValueError(f"{path.name!r} is empty: it must have a line for each example.")
    separator = stated[1] if stated else _separator(lines, path)
    records = lines.records(separator, _LOOKED_AT)
    (first, behind), rows = records[0], [fields for fields, _ in records[1:]]
    notes: list[str] = []
    names: list[str] | None = first
    start, count = behind, behind
    if not _names(first, rows, path, header):
        start = count = lines.at
        names = _commented(comments, separator, first) if header is None else None
        rows = [first, *rows]
        if names is not None:
            notes.append(f"the names of the columns of {path.name} are those of its last comment line.")
    if names is None:
        fields = tuple(f"column {number}" for number in range(1, len(first) + 1))
        notes.append(f"{path.name} has no line of names: its columns are called {shown(fields)}.")
        return Form(separator, fields, False, lines.offset(start), count, tuple(first), notes=notes)
    if any(number_of(name) is not None for name in names):
        counts = len(names) > 2 and any([*names] == [str(n + k) for n in range(len(names))] for k in (0, 1))
        notes.append(
            f"the first line of {path.name}, which counts the columns, is taken for their names."
            if counts
            else f"the first line of {path.name} is taken for names: {shown(names)}."
        )
    form = _named(names, rows, path, notes)
    return Form(separator, *form[:1], True, lines.offset(start), count, (), *form[1:], notes=notes)


def _names(first: list[str], rows: list[list[str]], path: Path, header: Header | None) -> bool:
    """Whether the first record holds names."""
    verdict = judge(first, rows) if header is None else {"yes": "names", "no": "data"}[header]
    if verdict == "ask":
        raise ValueError(
            f"the first line of {path.name!r} ({shown(first)}) may hold names or the numbers of an example. "
            "Say which: --header yes or --header no (in Python: Reading(header=…))."
        )
    return verdict == "names"


def _commented(comments: list[str], separator: str, first: Sequence[str]) -> list[str] | None:
    """Names in the last comment line, as NumPy's savetxt writes them."""
    if not comments:
        return None
    names = next(csv.reader([comments[-1].lstrip("# ")], delimiter=separator), [])
    text = all(name.strip() and number_of(name) is None for name in names)
    return names if len(names) == len(first) and text else None


def _separator(lines: _Lines, path: Path) -> str:
    if ".tsv" in (suffix.lower() for suffix in path.suffixes):
        return "\t"
    counts = {mark: [len(fields) for fields, _ in lines.records(mark, _TRIED)] or [1] for mark in SEPARATORS}
    for mark, found in counts.items():
        if found[0] > 1 and len(set(found)) == 1:
            return mark
    return max(reversed(SEPARATORS), key=lambda mark: counts[mark][0])


def _named(
    given: list[str], rows: list[list[str]], path: Path, notes: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """A name for each field, the fields of an index and those that are empty."""
    where = repr(path.name)
    names = [" ".join(name.split()) for name in given]
    width = {len(row) for row in rows}
    if width == {len(names) + 1} and not any(row[-1].strip() for row in rows):
        names.append("")
    elif width == {len(names) - 1} and names[-1] == "":
        names.pop()
    fields: list[str] = []
    index: list[str] = []
    blank: list[str] = []
    for place, name in enumerate(names):
        empty = all(place >= len(row) or not row[place].strip() for row in rows) and bool(rows)
        if name == "" and empty:
            blank.append(f"\0blank {place}")
        elif len(index) == place and (name == "" or _UNNAMED.fullmatch(name)) and len(names) > 1:
            index.append(f"\0index {place}")
        elif name == "":
            raise ValueError(
                f"column {place + 1} of {where} has no name in the header. Name it, or remove it."
            )
        fields.append(blank[-1] if name == "" and empty else index[-1] if len(index) > place else name)
    if double := sorted({name for name in fields if fields.count(name) > 1}):
        raise ValueError(f"{where} has several columns of the name {shown(double)}. Give each its own.")
    if index:
        told = ", ".join(repr(row[0]) for row in rows[:3])
        called = "has no name" if names[0] == "" else f"is called {names[0]!r}"
        notes.append(
            f"the first column of {path.name} {called} and holds {told}, …: it is the index of the rows, and "
            "left out."
        )
    if blank:
        notes.append(f"{path.name} has {len(blank)} empty column(s) without a name, which are left out.")
    return tuple(fields), tuple(index), tuple(blank)
