"""Tables in text files, separated by commas, semicolons, tabs or bars, plain or gzipped, as Arrow batches."""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ancestral.data.raw import Header
from ancestral.data.readers.columns import Table
from ancestral.data.readers.csv_form import Form, form_of

_HEAD = 2**16
"""Bytes that are looked at to learn what a file is; a longer first line is read whole."""
_BLOCK = 2**20
"""Bytes read at once, and the longest line."""
_PACKED = 10
"""How many times smaller gzip may make a table."""
_UTF8 = "Save it as UTF-8: in a spreadsheet, choose 'CSV UTF-8'."


def open_csv(path: Path, header: Header | None = None) -> Table:
    """What a file is and how to read it. ``ValueError`` for one that is no table, or in another encoding.

    Empty lines and comments (#) above the rows are passed over. Without ``header``, whether the first line
    holds names is told from it and the next ones; where it holds none, the columns are "column 1", "column
    2", …. An index that pandas wrote and empty columns are left out. Notes report all of this.
    """
    with _readable(path), _stream(path) as stream:
        text, mark, quoted = _head(stream, path)
        form = form_of(text, path, header, mark=mark)
    notes = list(form.notes)

    def batches(told: Callable[[int], None]) -> Iterator[Any]:
        notes[:] = form.notes
        return _batches(path, form, notes, told, quoted=quoted)

    # A number takes at least two bytes of text, and four in memory.
    nbytes = 2 * path.stat().st_size * (_PACKED if _zipped(path) else 1)
    return Table(
        path,
        form.names,
        batches,
        nbytes,
        notes,
        first=form.first,
        line_of=lambda row: _line_of(path, form, row),
        grouped=form.separator == ";",
    )


def _batches(
    path: Path, form: Form, notes: list[str], told: Callable[[int], None], *, quoted: bool
) -> Iterator[Any]:
    """All as text: what is a number is decided by one piece of code, for all rows."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    passed: list[int] = []

    def other(row: Any) -> str:
        text = row.text.strip()
        if text and not text.startswith("#"):
            return "error"
        passed.extend([1] if text else [])
        return "skip"

    read = arrow.ReadOptions(use_threads=False, block_size=_BLOCK, column_names=form.fields)
    # An empty line of a table of one column is a missing value; of others it is nothing.
    parse = arrow.ParseOptions(
        delimiter=form.separator,
        ignore_empty_lines=len(form.fields) > 1,
        newlines_in_values=quoted,
        invalid_row_handler=other,
    )
    convert = arrow.ConvertOptions(
        column_types={name: pa.string() for name in form.fields}, strings_can_be_null=False
    )
    rows = 0
    with _readable(path), path.open("rb") as file:
        stream = pa.input_stream(file, compression="gzip" if _zipped(path) else None)
        stream.read(form.start)
        try:
            for batch in arrow.open_csv(
                stream, read_options=read, parse_options=parse, convert_options=convert
            ):
                told(file.tell())
                if form.index or form.blank:
                    _check_left_out(batch, form, path, rows)
                    batch = batch.select(list(form.names))
                rows += batch.num_rows
                yield batch
        except pa.ArrowInvalid as error:
            if "Empty CSV" not in str(error):
                raise _damaged(path, form, str(error)) from error
    if passed:
        notes.append(f"{path.name} has {len(passed):,} comment line(s) between its rows, which are left out.")


def _check_left_out(batch: Any, form: Form, path: Path, rows: int) -> None:
    """Reject values in columns that were taken for empty ones, and real numbers for an index."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in form.blank:
        full = pc.not_equal(pc.utf8_trim_whitespace(batch.column(name)), "")
        if pc.any(full).as_py():
            row = rows + int(pc.index(full, True).as_py())
            raise ValueError(
                f"column {form.fields.index(name) + 1} of {path.name!r} has no name, and holds a value in row "
                f"{row + 1} (line {_line_of(path, form, row)}). Name it, or remove it."
            )
    for name in form.index:
        try:
            numbers = batch.column(name).cast(pa.float64())
        except pa.ArrowInvalid:
            continue
        if pc.any(pc.not_equal(numbers, pc.floor(numbers))).as_py():
            raise ValueError(
                f"column {form.fields.index(name) + 1} of {path.name!r} has no name, and holds numbers that are "
                "no index. Name it, or remove it."
            )


def _line_of(path: Path, form: Form, row: int) -> int:
    """The line, from 1, at which a row begins."""
    number, begin = -1, 0
    with _stream(path) as stream, contextlib.suppress(csv.Error):
        stream.read(form.start)
        text = io.TextIOWrapper(stream, "utf-8", errors="replace", newline="")
        lines = csv.reader(text, delimiter=form.separator)
        for fields in lines:
            number += len(fields) == len(form.fields) or (not fields and len(form.fields) == 1)
            if number == row:
                break
            begin = lines.line_num
    return form.lines + begin + 1


def _damaged(path: Path, form: Form, message: str) -> ValueError:
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
            f"{'its header' if form.header else 'its first line'} has {len(form.fields)}; every line must "
            "have as many. Mend that line."
        )
    return ValueError(f"{where} cannot be read as a table ({message}).")


def _ragged(path: Path, form: Form) -> tuple[int, int, str] | None:
    """The first line of another number of fields: its number from 1, how many, and how it begins."""
    with _stream(path) as stream, contextlib.suppress(csv.Error):
        stream.read(form.start)
        text = io.TextIOWrapper(stream, "utf-8", errors="replace", newline="")
        lines = csv.reader(text, delimiter=form.separator)
        for fields in lines:
            comment = fields and (fields[0].lstrip().startswith("#") or fields == [fields[0].strip()] == [""])
            if fields and len(fields) != len(form.fields) and not comment:
                return form.lines + lines.line_num, len(fields), repr(form.separator.join(fields)[:30])
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


def _head(stream: Any, path: Path) -> tuple[str, int, bool]:
    """The first lines, whole ones; the bytes of a mark before them; whether they hold quotation marks."""
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
        mark = len(codecs.BOM_UTF8) if lines.startswith(codecs.BOM_UTF8) else 0
        return lines[mark:].decode(), mark, b'"' in lines
    except UnicodeDecodeError as error:
        raise _undecodable(path) from error
