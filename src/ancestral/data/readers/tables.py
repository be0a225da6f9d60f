"""Tables of numbers in CSV and Parquet files → float vectors with the names of their columns.

A folder with train.csv and test.csv (or .tsv, .csv.gz, .parquet) comes with its test split. Files that are
large are read once, by batches, into the cache.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ancestral._internal import checks
from ancestral.data.cache import cached, identity
from ancestral.data.raw import Array, Kind, Raw, Reading, named
from ancestral.data.readers.classes import Classes
from ancestral.data.readers.columns import BadCell, Columns, Table, check_label, shown
from ancestral.data.readers.csv_file import open_csv
from ancestral.data.readers.parquet_file import open_parquet
from ancestral.data.readers.splits import parts_of
from ancestral.data.width import NeedsDouble

CACHED_ABOVE = 2**27
"""Bytes of numbers above which they go into the cache, and not into memory."""
_TEXT = (".csv", ".csv.gz", ".tsv", ".tsv.gz")
_SUFFIXES = (*_TEXT, ".parquet")


Float = type[np.floating[Any]]
"""float32, or float64 where differences within a column need it."""


class Sink(Protocol):
    """Where rows go as they are read: a cache's draft, or memory."""

    def append(self, name: str, rows: Array) -> None:
        """Add rows (n, …) to the array ``name``."""


class _Memory:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self._parts: dict[str, list[Array]] = {}

    def append(self, name: str, rows: Array) -> None:
        self._parts.setdefault(name, []).append(rows)

    @property
    def arrays(self) -> dict[str, Array]:
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}


def _suffix(path: Path) -> str | None:
    return next((suffix for suffix in _SUFFIXES if path.name.lower().endswith(suffix)), None)


def _files(source: Path) -> dict[str, Path]:
    """The file of each part: train, and validation and test where they are there."""
    if source.is_file():
        return {"train": source}
    parts = _parts(source)
    for part, found in parts.items():
        if len(found) > 1:
            raise ValueError(
                f"the folder {str(source)!r} holds {', '.join(path.name for path in found)}, which are "
                f"several files for the split {part}; keep one of them."
            )
    return {part: found[0] for part, found in parts.items()}


def _parts(folder: Path) -> dict[str, list[Path]]:
    """The tables of a folder by the part that their names say."""
    tables = sorted(path for path in folder.iterdir() if _suffix(path) and path.is_file())
    found = parts_of({_stem(path) for path in tables})
    return {part: [path for path in tables if _stem(path) in names] for part, names in found.items()}


def _stem(path: Path) -> str:
    suffix = _suffix(path)
    return path.name[: -len(suffix)] if suffix else path.stem


def _matches(source: str) -> bool:
    path = Path(source)
    if path.is_dir():
        return "train" in _parts(path)
    return path.is_file() and _suffix(path) is not None


def _read(source: str, reading: Reading) -> Raw:
    path = Path(source)
    files = _files(path)
    tables = {part: _open(file, reading) for part, file in files.items()}
    reading = replace(reading, label=_label(tables["train"], reading.label))
    columns = _columns(tables, reading)
    large = sum(table.nbytes for table in tables.values()) > CACHED_ABOVE
    try:
        arrays, facts = _arrays(large, files, tables, columns, reading, np.float32)
    except NeedsDouble:
        arrays, facts = _arrays(large, files, tables, columns, reading, np.float64)
    return Raw(
        name=path.resolve().name if path.is_dir() else _stem(path),
        train_x=arrays["train_x"],
        train_labels=arrays.get("train_labels"),
        test_x=arrays.get("test_x"),
        test_labels=arrays.get("test_labels"),
        train_keys=arrays.get("train_keys"),
        test_keys=arrays.get("test_keys"),
        validation_x=arrays.get("validation_x"),
        validation_labels=arrays.get("validation_labels"),
        validation_keys=arrays.get("validation_keys"),
        columns=columns,
        class_names=None if facts["class_names"] is None else tuple(facts["class_names"]),
        notes=tuple(facts["notes"]),
    )


def _open(file: Path, reading: Reading) -> Table:
    if _suffix(file) in _TEXT:
        return open_csv(file, reading.header)
    if reading.header is not None:
        raise ValueError(
            f"header is {reading.header!r}, and {file.name!r} is a Parquet file, which has no lines. Leave it out."
        )
    return open_parquet(file)


def _label(train: Table, label: str | None) -> str | None:
    """The column of the label; where no line holds names, the column that has it in the first row."""
    if label is None or label in train.names or train.first.count(label) != 1:
        return label
    name = train.names[train.first.index(label)]
    train.notes.append(f"{label!r} is in the first row of {train.path.name}: the label is {name!r}.")
    return name


def _arrays(
    large: bool,
    files: dict[str, Path],
    tables: dict[str, Table],
    columns: tuple[str, ...],
    reading: Reading,
    dtype: Float,
) -> tuple[dict[str, Array], dict[str, Any]]:
    """All rows, in the cache or in memory, and what there is to know beside them."""
    if large:
        entry = cached(_key(files, reading), lambda draft: _fill(draft, tables, columns, reading, dtype))
        return entry.arrays, entry.facts
    memory = _Memory()
    facts = _fill(memory, tables, columns, reading, dtype)
    return memory.arrays, facts


def _columns(tables: dict[str, Table], reading: Reading) -> tuple[str, ...]:
    """The names of the columns that are modelled, which all tables must have."""
    train, label, key = tables["train"], reading.label, reading.key
    if reading.columns is not None:
        for table in tables.values():
            if missing := [name for name in reading.columns if name not in table.names]:
                raise ValueError(
                    f"{table.path.name!r} has no column {shown(missing)}, which the model was trained on; it has "
                    f"{shown(table.names)}. Add it."
                )
        return reading.columns
    check_label(label, train.names, repr(train.path.name))
    if key is not None and key not in train.names:
        raise ValueError(
            f"key is {key!r}, and {train.path.name!r} has no such column; it has {shown(train.names)}."
            f"{checks.suggest(key, train.names)}"
        )
    if key is not None and key == label:
        raise ValueError(f"key and label are both {key!r}; they must be two columns. Leave one out.")
    columns = tuple(name for name in train.names if name not in (label, key))
    if not columns:
        raise ValueError(
            f"{train.path.name!r} has no column beside the label {label!r}, so there is nothing to model."
        )
    for other in tables.values():
        if differ := {*columns} ^ ({*other.names} - {label, key}):
            raise ValueError(
                f"{train.path.name!r} and {other.path.name!r} must have the same columns, and only one of them "
                f"has {shown(sorted(differ))}."
            )
    return columns


def _fill(
    sink: Sink, tables: dict[str, Table], columns: tuple[str, ...], reading: Reading, dtype: Float
) -> dict[str, Any]:
    """Read all tables into a sink; returns what there is to know beside the arrays.

    Raises ``NeedsDouble`` where the rows are to be read as 64-bit floats instead.
    """
    classes = None if reading.label is None else Classes(reading.label)
    keys: dict[str, list[str]] = {}
    total, before = sum(table.path.stat().st_size for table in tables.values()), 0
    notes: list[str] = []
    for part, table in tables.items():

        def told(done: int, before: int = before) -> None:
            reading.progress((before + done) >> 20, total >> 20)

        rows = Columns(repr(table.path.name), columns, dtype, grouped=table.grouped)
        try:
            for batch in table.batches(told):
                if classes is not None and classes.name in table.names:
                    classes.take(part, batch.column(classes.name), first=rows.rows, where=rows.where)
                if reading.key is not None and reading.key in table.names:
                    keys.setdefault(part, []).extend(_texts(batch.column(reading.key)))
                sink.append(f"{part}_x", rows.take(batch))
            rows.check()
        except BadCell as error:
            if table.line_of is None:
                raise
            raise ValueError(f"{error} It is in line {table.line_of(error.row)} of the file.") from error
        if rows.rows == 0:
            raise ValueError(f"{rows.where} has columns and no rows. Give at least one example.")
        notes += [*table.notes, *(rows.notes() if part == "train" else [])]
        before += table.path.stat().st_size
    # A table that is read for a run's columns need not have the label.
    labelled = classes is not None and classes.name in tables["train"].names
    notes += classes.notes if classes is not None and labelled else []
    names, labels = classes.finish() if classes is not None and labelled else (None, {})
    for part, values in labels.items():
        sink.append(f"{part}_labels", values)
    for part, texts in keys.items():
        sink.append(f"{part}_keys", named(texts))
    return {"class_names": names, "notes": notes}


def _texts(column: Any) -> list[str]:
    """The entries of a column as text; empty where there is none."""
    return ["" if value is None else str(value) for value in column.to_pylist()]


def _key(files: dict[str, Path], reading: Reading) -> str:
    """Of all that the content of an entry follows from."""
    stats = {part: (str(path.resolve()), path.stat()) for part, path in files.items()}
    content = [(part, path, *identity(stat)) for part, (path, stat) in stats.items()]
    chosen = (reading.label, reading.key, reading.columns, reading.header)
    return hashlib.sha256(repr(("tables 2", chosen, content)).encode()).hexdigest()[:32]


KIND = Kind(
    expects="a table of numbers (.csv, .tsv, .csv.gz or .parquet), or a folder with train and test tables",
    matches=_matches,
    read=_read,
    choices=("label", "key", "header"),
)
