"""What one example of a data set is: its shape and, for integers, its number of levels."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

from ancestral._internal import checks


@dataclass(frozen=True)
class DataSpec:
    """The shape and kind of one example.

    ``shape`` is (C, H, W) for images and (D,) for vectors. ``levels`` is the number of values an
    entry can take when the data are integers 0 … levels − 1 (256 for 8-bit images, 2 for binary
    ones), or None for real numbers. Bits per dimension exist only where ``levels`` does.

    ``double`` says that real numbers are 64-bit floats, as differences within a column would be lost in 32
    bits: of times in seconds since 1970, say. Networks compute in 32 bits all the same. Specs that differ in it
    alone are equal, so a model of either takes data of both.
    """

    shape: tuple[int, ...]
    levels: int | None = None
    double: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.shape) not in (1, 3):
            raise ValueError(
                f"the shape of one example is {self.shape}; it must be (D,) for vectors or (C, H, W) "
                "for images."
            )
        for size in self.shape:
            checks.integer("a size in the shape of one example", size, low=1)
        if self.levels is not None:
            checks.integer("levels", self.levels, low=2, high=65536)
            if self.double:
                raise ValueError(f"double is True and levels is {self.levels}; it is for real numbers only.")

    @functools.cached_property
    def dims(self) -> int:
        """The number of entries of one example, the D of "bits per dimension"."""
        return math.prod(self.shape)

    @property
    def top(self) -> int:
        """The highest grey level; ``ValueError`` for real numbers."""
        if self.levels is None:
            raise ValueError(f"{self.words} have no grey levels.")
        return self.levels - 1

    @property
    def is_image(self) -> bool:
        """Whether an example is an image (C, H, W)."""
        return len(self.shape) == 3

    @property
    def words(self) -> str:
        """Examples of this kind, in words: "grey images of 8 × 8 pixels with 17 levels"."""
        if self.is_image:
            channels, height, width = self.shape
            kind = {1: "grey images", 3: "colour images"}.get(channels, f"images of {channels} channels")
            joined = "and" if channels not in (1, 3) else "of"
            square = "" if height == width else " (height × width)"
            what = f"{kind} {joined} {height} × {width} pixels{square}"
            return f"{what} with {self.levels} levels" if self.levels else f"{what} of real numbers"
        numbers = "number" if self.dims == 1 else "numbers"
        if self.levels is None:
            return f"vectors of {self.dims} real {numbers}"
        return f"vectors of {self.dims} whole {numbers} with {self.levels} levels"
