"""Samples into a file: the forms that ``--out`` may name, each of which ``--data`` reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ancestral._internal.atomic import replacing, write_text_atomically

if TYPE_CHECKING:
    import numpy as np

TABLES = (".csv", ".parquet")
"""For vectors only."""
FORMS = (".png", ".npy", ".npz", *TABLES)


def save_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, text)


def as_array(x: Any, spec: Any) -> Any:
    """Examples (n, *shape) as they come in: images (N, H, W) or (N, H, W, C), vectors (N, D)."""
    values = x.cpu().numpy()
    if spec.is_image:
        values = values[:, 0] if spec.shape[0] == 1 else values.transpose(0, 2, 3, 1)
    return values


def save_array(path: Path, arrays: dict[str, np.ndarray], *, columns: Sequence[str] | None = None) -> None:
    """Write arrays in the form that the name says, whole or not at all.

    A .npz takes all of them; the others take "samples", which for a table is (n, D), with the names of its
    columns, by default "column 1", "column 2", ….
    """
    import numpy as np

    samples = arrays["samples"] if path.suffix != ".npz" else np.empty(0)
    writers: dict[str, Callable[[Path], Any]] = {
        ".npz": lambda place: np.savez_compressed(place, **arrays),  # type: ignore[arg-type]
        ".npy": lambda place: np.save(place, samples),
        ".csv": lambda place: _write_csv(place, samples, columns),
        ".parquet": lambda place: _write_parquet(place, samples, columns),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        writers[path.suffix](temporary)


def _write_csv(path: Path, samples: np.ndarray, columns: Sequence[str] | None) -> None:
    import csv

    from pyarrow import csv as arrow

    table = _table(samples, columns)
    with path.open("w", encoding="utf-8", newline="") as file:
        # Arrow would put quotation marks around every name.
        csv.writer(file, lineterminator="\n").writerow(table.column_names)
    with path.open("ab") as file:
        arrow.write_csv(table, file, arrow.WriteOptions(include_header=False))


def _write_parquet(path: Path, samples: np.ndarray, columns: Sequence[str] | None) -> None:
    import pyarrow.parquet as pq

    pq.write_table(_table(samples, columns), path)


def _table(samples: np.ndarray, columns: Sequence[str] | None) -> Any:
    import numpy as np
    import pyarrow as pa

    names = columns or [f"column {number}" for number in range(1, samples.shape[1] + 1)]
    return pa.table([np.ascontiguousarray(column) for column in samples.T], names=list(names))
