"""Samples into a file: the forms that ``--out`` may name, each of which ``--data`` reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ancestral._internal.atomic import filling, replacing, write_text_atomically

if TYPE_CHECKING:
    import numpy as np

TABLES = (".csv", ".parquet")
"""For vectors only."""
FORMS = (".png", ".npy", ".npz", *TABLES)
_BYTE = 256
"""Grey levels that 8 bits hold."""


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


def check_images_folder(path: Path, spec: Any) -> None:
    """Raise ``ValueError`` where single image files of these examples cannot be written into ``path``."""
    if not spec.is_image:
        raise ValueError(
            f"--out is {path}, a folder of image files, and the run is a model of vectors. Give a .csv, .parquet, "
            ".npy, .npz or .png."
        )
    channels, levels = spec.shape[0], spec.levels
    if channels not in (1, 3, 4) or (levels is not None and levels > (_BYTE if channels > 1 else _BYTE**2)):
        raise ValueError(
            f"--out is {path}, a folder of image files, and PNG files do not hold images of {channels} "
            f"channels in {levels} grey levels. Give a .npy or .npz."
        )
    if path.is_file():
        raise ValueError(f"--out is {path}, which is a file. Give a new folder.")
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"--out is {path}, a folder that is not empty. Give a new or empty folder.")


def save_images(folder: Path, x: Any, spec: Any) -> None:
    """Write images (n, *shape) as ``folder``/00000.png, 00001.png, …; all of them or none.

    Up to 256 grey levels are scaled to 0 … 255; more are stored as they are, in 16 bits.
    """
    import numpy as np
    from PIL import Image

    from ancestral.evaluation.pictures import image_bytes

    values = x.cpu().double().numpy()
    if spec.levels is not None and spec.levels > _BYTE:
        images = np.round(values).clip(0, spec.levels - 1).astype(np.uint16).transpose(0, 2, 3, 1)
    else:
        images = image_bytes(values, spec)
    images = images[:, :, :, 0] if images.shape[3] == 1 else images
    digits = max(5, len(str(len(images) - 1)))
    with filling(folder) as place:
        for number, image in enumerate(images):
            Image.fromarray(image).save(place / f"{number:0{digits}}.png")


def save_array(
    path: Path,
    arrays: dict[str, np.ndarray],
    *,
    columns: Sequence[str] | None = None,
    whole: Sequence[bool] | None = None,
) -> None:
    """Write arrays in the form that the name says, whole or not at all.

    A .npz takes all of them; the others take "samples", which for a table is (n, D), with the names of its
    columns, by default "column 1", "column 2", …. Those that are ``whole`` are integers in a table.
    """
    import numpy as np

    samples = arrays["samples"] if path.suffix != ".npz" else np.empty(0)
    writers: dict[str, Callable[[Any], Any]] = {
        ".npz": lambda file: np.savez_compressed(file, **arrays),  # type: ignore[arg-type]
        ".npy": lambda file: np.save(file, samples),
        ".csv": lambda file: _write_csv(file, _table(samples, columns, whole)),
        ".parquet": lambda file: _write_parquet(file, _table(samples, columns, whole)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # To an open file: not every library takes every name.
    with replacing(path) as temporary, temporary.open("wb") as file:
        writers[path.suffix](file)


def _write_csv(file: Any, table: Any) -> None:
    import csv
    import io

    from pyarrow import csv as arrow

    head = io.StringIO()
    # Arrow would put quotation marks around every name.
    csv.writer(head, lineterminator="\n").writerow(table.column_names)
    file.write(head.getvalue().encode("utf-8", "backslashreplace"))
    file.flush()
    arrow.write_csv(table, file, arrow.WriteOptions(include_header=False))


def _write_parquet(file: Any, table: Any) -> None:
    import pyarrow.parquet as pq

    pq.write_table(table, file)


def _table(samples: np.ndarray, columns: Sequence[str] | None, whole: Sequence[bool] | None) -> Any:
    import numpy as np
    import pyarrow as pa

    names = columns or [f"column {number}" for number in range(1, samples.shape[1] + 1)]
    types = [np.int64 if one else samples.dtype for one in whole or [False] * samples.shape[1]]
    values = [
        np.ascontiguousarray(column).astype(kind, copy=False)
        for column, kind in zip(samples.T, types, strict=True)
    ]
    return pa.table(values, names=list(names))
