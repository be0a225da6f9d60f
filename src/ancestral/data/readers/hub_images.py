"""Images of a Hugging Face data set → 8-bit arrays of one shape."""

from __future__ import annotations

import io
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ancestral.data.raw import Array, Reading
from ancestral.data.readers.imagefiles.decode import Decoded, decode
from ancestral.data.readers.imagefiles.depths import Depths
from ancestral.data.readers.imagefiles.errors import BadImage

_SHOWN = 5
"""Images in a note."""


class Pictures:
    """Rows of images out of Arrow tables, decoded on all cores."""

    def __init__(self, where: str, column: str, reading: Reading, depths: Depths) -> None:
        self.where = where
        self._column, self._reading, self._depths = column, reading, depths
        self._rows = self._films = self._unread = 0
        self._remarks: Counter[str] = Counter()
        self._bad: list[str] = []
        self._shape: tuple[int, ...] | None = None

    @property
    def notes(self) -> list[str]:
        """What there is to tell of the rows so far."""
        notes = [
            f"{count:,} images of {self.where} {remark}." for remark, count in self._remarks.most_common()
        ]
        if self._unread:
            notes.append(
                f"{self._films:,} images of {self.where} have {self._unread:,} more frames, which are not read."
            )
        if self._bad:
            more = ", …" if len(self._bad) > _SHOWN else ""
            notes.append(
                f"{len(self._bad)} of {self.where} left out, as unreadable: "
                f"{', '.join(self._bad[:_SHOWN])}{more}."
            )
        return notes

    def take(self, batch: Any) -> tuple[Array, Array]:
        """Images (n, H, W) or (n, H, W, 3), uint8, of the rows that can be read; and which these are."""
        cells = batch.column(self._column).to_pylist()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            images = list(pool.map(self._try, cells))
        kept = np.zeros(len(cells), bool)
        good = []
        for number, image in enumerate(images):
            row = self._rows + number + 1
            if isinstance(image, str):
                self._refuse(row, image)
            else:
                # A row is one example, so of several pages the first.
                self._check_shape(image.pixels.shape[1:], row)
                self._count(row, image)
                kept[number] = True
                good.append(image.pixels[0])
        self._rows += len(cells)
        return np.stack(good) if good else np.empty(0, np.uint8), kept

    def _count(self, row: int, image: Decoded) -> None:
        self._depths.take(f"row {row} of {self.where}", image)
        self._remarks.update(image.remarks)
        if more := image.unread + len(image.pixels) - 1:
            self._films, self._unread = self._films + 1, self._unread + more

    def _refuse(self, row: int, why: str) -> None:
        if not self._reading.skip_bad:
            raise ValueError(
                f"row {row} of {self.where} holds no image that can be read ({why}). Remove it, or leave "
                "such rows out: --skip-bad."
            )
        self._bad.append(f"row {row} ({why})")

    def _check_shape(self, shape: tuple[int, ...], row: int) -> None:
        self._shape = self._shape or shape
        if shape != self._shape:
            raise ValueError(
                f"row {row} of {self.where} is an image of {shape[1]}×{shape[0]} and those before are of "
                f"{self._shape[1]}×{self._shape[0]}; all must be of one size. Make them so: --image-size "
                f"{min(*shape[:2], *self._shape[:2])}."
            )

    def _try(self, cell: dict[str, Any] | None) -> Decoded | str:
        """The image, or why there is none."""
        try:
            return decode(io.BytesIO(_bytes(cell)), self._depths.form)
        except (BadImage, OSError) as error:
            return str(error)


def _bytes(cell: dict[str, Any] | None) -> bytes:
    """The file of an image: in the table, on this machine, or where the library says."""
    if cell is None:
        raise BadImage("none is there")
    content, path = cell["bytes"], cell["path"]
    if content is not None:
        return bytes(content)
    if path is None:
        raise BadImage("none is there")
    if Path(path).is_file():
        return Path(path).read_bytes()
    import fsspec

    with fsspec.open(path, "rb") as file:
        return bytes(file.read())
