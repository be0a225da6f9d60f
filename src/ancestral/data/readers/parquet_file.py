"""Tables in Parquet files, as Arrow batches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ancestral.data.readers.columns import Table, shown

_BATCH = 2**19
"""Numbers read at once."""


def open_parquet(path: Path) -> Table:
    """What a file is and how to read it. ``ValueError`` for one that is damaged."""
    import pyarrow.parquet as pq

    with _readable(path), pq.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    # pandas stores the names of its rows in columns that are none of the table's.
    stored = (schema.pandas_metadata or {}).get("index_columns", [])
    index = [
        name
        for place, name in enumerate(schema.names)
        if name.startswith("__index_level_") or (place == 0 and name == "Unnamed: 0") or name in stored
    ]
    index = index if len(index) < len(schema.names) else []
    names = tuple(name for name in schema.names if name not in index)
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path.name!r} has several columns of the name {shown(double)}. Give each its own.")
    notes = [f"the index that pandas wrote into {path.name} is left out ({shown(index)})."] if index else []

    def batches(told: Callable[[int], None]) -> Iterator[Any]:
        size, done = path.stat().st_size, 0
        # What is buffered ahead is kept to the end.
        with _readable(path), pq.ParquetFile(path, pre_buffer=False) as file:
            step = max(1, _BATCH // max(1, len(names)))
            for batch in file.iter_batches(step, columns=list(names), use_threads=False):
                done += batch.num_rows
                told(size * done // max(1, rows))
                yield batch

    return Table(path, names, batches, 4 * rows * len(names), notes)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say which file is damaged; what our own checks say passes."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{str(path)!r} is no Parquet file, or a damaged one ({error}).") from error
