"""Tables in text files, separated by commas, semicolons, tabs or bars, plain or gzipped, as Arrow batches."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ancestral.data.readers.columns import Table, shown

_HEAD = 2**16
"""Bytes that are looked at to learn what a file is; a longer first line is read whole."""
_BLOCK = 2**20
"""Bytes read at once, and the longest line."""
_SEPARATORS = "\t;|,"
"""In the order in which they are tried: a comma is also found in numbers and in text."""
_TRIED = 5
"""Lines that a separator must cut into equally many fields."""
_PACKED = 10
"""How many times smaller gzip may make a table."""
_UTF8 = "Save it as UTF-8: in a spreadsheet, choose 'CSV UTF-8'."


@dataclass(frozen=True)
class _Form:
    """How a file is written."""

    separator: str
    names: tuple[str, ...]
    header: bool
    """Whether the first line holds the names."""


def open_csv(path: Path) -> Table:
    """What a file is and how to read it. ``ValueError`` for one that is no table, or in another encoding.

    Where every field of the first line that is not empty is a number, that line is data and the columns are
    "column 1", "column 2", …; one that counts three columns or more from 0 or 1 holds names. Notes say so.
    """
    with _readable(path), _stream(path) as stream:
        form = _form(_head(stream, path), path)
    notes = []
    if not form.header:
        notes.append(f"{path.name} has no line of names: its columns are called {shown(form.names)}.")
    elif _counts(form.names):
        notes.append(f"the first line of {path.name}, which counts the columns, is taken for their names.")

    def batches(told: Callable[[int], None]) -> Iterator[Any]:
        return _batches(path, form, told)

    # A number takes at least two bytes of text, and four in memory.
    nbytes = 2 * path.stat().st_size * (_PACKED if _zipped(path) else 1)
    return Table(path, form.names, batches, nbytes, tuple(notes))


def _batches(path: Path, form: _Form, told: Callable[[int], None]) -> Iterator[Any]:
    """All as text: what is a number is decided by one piece of code, for all rows."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    read = arrow.ReadOptions(
        use_threads=False, block_size=_BLOCK, column_names=form.names, skip_rows=int(form.header)
    )
    # An empty line of a table of one column is a missing value; of others it is nothing.
    parse = arrow.ParseOptions(delimiter=form.separator, ignore_empty_lines=len(form.names) > 1)
    convert = arrow.ConvertOptions(
        column_types={name: pa.string() for name in form.names}, strings_can_be_null=False
    )
    with _readable(path), path.open("rb") as file:
        stream = pa.input_stream(file, compression="gzip" if _zipped(path) else None)
        try:
            for batch in arrow.open_csv(
                stream, read_options=read, parse_options=parse, convert_options=convert
            ):
                told(file.tell())
                yield batch
        except pa.ArrowInvalid as error:
            raise _damaged(path, form, str(error)) from error


def _damaged(path: Path, form: _Form, message: str) -> ValueError:
    """What Arrow complains of, with the place in the file."""
    where = repr(path.name)
    if "UTF8" in message:
        return _undecodable(path)
    if "straddl" in message:
        return ValueError(
            f"{where} has a line of more than {_BLOCK >> 20} MiB, or a quotation mark that is never closed. "
            "Mend it, or give the numbers as a .npy array (N, D)."
        )
    if ragged := _ragged(path, form):
        line, count, start = ragged
        return ValueError(
            f"line {line} of {where} has {count} {'field' if count == 1 else 'fields'} ({start}), and "
            f"{'its header' if form.header else 'its first line'} has {len(form.names)}; every line must "
            "have as many. Mend that line."
        )
    return ValueError(f"{where} cannot be read as a table ({message}).")


def _ragged(path: Path, form: _Form) -> tuple[int, int, str] | None:
    """The first line of another number of fields: its number from 1, how many, and how it begins."""
    with _stream(path) as stream, contextlib.suppress(csv.Error):
        text = io.TextIOWrapper(stream, "utf-8-sig", errors="replace", newline="")
        lines = csv.reader(text, delimiter=form.separator)
        for fields in lines:
            if fields and len(fields) != len(form.names):
                return lines.line_num, len(fields), repr(form.separator.join(fields)[:30])
    return None


def _undecodable(path: Path) -> ValueError:
    """The first line that is not UTF-8."""
    place = ""
    with _stream(path) as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                place = f": line {number} holds the byte {line[error.start]:#x}"
                break
    return ValueError(f"{path.name!r} is not UTF-8{place}. It may be Latin-1. {_UTF8}")


def _zipped(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _stream(path: Path) -> contextlib.AbstractContextManager[Any]:
    return gzip.open(path, "rb") if _zipped(path) else path.open("rb")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say of a damaged .gz that it is one."""
    try:
        yield
    except (EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(
            f"{str(path)!r} is a truncated or damaged gzip file ({error}). Fetch it again."
        ) from error


def _head(stream: Any, path: Path) -> str:
    """The first lines, whole ones."""
    where = repr(path.name)
    head: bytes = stream.read(_HEAD)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{where} is written in UTF-16. {_UTF8}")
    if b"\0" in head:
        raise ValueError(f"{where} holds zero bytes, so it is no text in UTF-8. {_UTF8}")
    while b"\n" not in head and b"\r" not in head and len(head) < _BLOCK and (more := stream.read(_HEAD)):
        head += more
    complete = len(head) < _HEAD or (b"\n" not in head and b"\r" not in head)
    lines = head if complete else head[: max(head.rfind(b"\n"), head.rfind(b"\r"))]
    try:
        return lines.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _undecodable(path) from error


def _form(head: str, path: Path) -> _Form:
    lines = [line for line in head.splitlines()[: 4 * _TRIED] if line.strip()][:_TRIED]
    if not lines:
        raise ValueError(f"{path.name!r} is empty: it must have a line for each example.")
    separator = _separator(lines, path)
    names = [name.strip() for name in next(csv.reader(lines[:1], delimiter=separator))]
    if _is_data(names):
        return _Form(separator, tuple(f"column {number}" for number in range(1, len(names) + 1)), False)
    _check_names(names, repr(path.name))
    return _Form(separator, tuple(names), True)


def _separator(lines: list[str], path: Path) -> str:
    if ".tsv" in (suffix.lower() for suffix in path.suffixes):
        return "\t"
    counts = {mark: [len(next(csv.reader([line], delimiter=mark))) for line in lines] for mark in _SEPARATORS}
    for mark, found in counts.items():
        if found[0] > 1 and len(set(found)) == 1:
            return mark
    return max(reversed(_SEPARATORS), key=lambda mark: counts[mark][0])


def _is_data(fields: list[str]) -> bool:
    if _counts(fields):
        return False
    try:
        return bool([float(field) for field in fields if field])
    except ValueError:
        return False


def _counts(fields: Sequence[str]) -> bool:
    """Whether columns are called by their numbers, as pandas does: of three and more, data hardly are so."""
    return len(fields) > 2 and any(
        [*fields] == [str(n + first) for n in range(len(fields))] for first in (0, 1)
    )


def _check_names(names: list[str], where: str) -> None:
    if "" in names:
        raise ValueError(
            f"column {names.index('') + 1} of {where} has no name in the header. Name it, or remove it if it "
            "only counts the rows: pandas writes such a column unless told to_csv(…, index=False)."
        )
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{where} has several columns of the name {shown(double)}. Give each its own.")
