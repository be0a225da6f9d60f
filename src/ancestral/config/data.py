"""Options of the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from ancestral._internal import checks
from ancestral.config.strict import ABSENT, STRICT

Binarize = Literal["none", "dynamic", "threshold"]
Augmentation = Literal["flip", "shift"]


@dataclass(frozen=True)
class DataConfig:
    """Where the data come from, and what is done to them before a model sees them."""

    source: str
    """digits, swiss-roll, moons, a folder of IDX files or of images, a .npy, .npz, .csv or .parquet file, or
    hf:NAME[:COLUMN]."""
    binarize: Binarize = "none"
    """dynamic draws the bits of a training image anew each time; threshold cuts at one half."""
    validation: float = 0.1
    """Share of the training split that is only watched (at most 1,000 examples); 0 for none."""
    image_size: int | None = None
    """Image files: the side of the square that each is made to; by default they must be of one size."""
    channels: Literal[1, 3] | None = None
    """Image files: 1 for grey, 3 for colour; by default 1 where all are grey."""
    skip_bad: bool = False
    """Image files: leave out, count and list those that cannot be read, in place of stopping."""
    label: str | None = None
    """Tables and hf: the column that holds the class, in whole numbers or text; it is not modelled."""
    levels: int | None = field(default=None, metadata={ABSENT: None})
    """Integer images: the number of grey levels, 0 … N − 1; by default what their type and values say."""
    header: Literal["yes", "no"] | None = field(default=None, metadata={ABSENT: None})
    """Text tables: whether the first line holds the names of the columns; by default the lines tell it."""
    augment: tuple[Augmentation, ...] = ()
    """Of training images, when they are drawn: flip mirrors half of them from left to right, shift moves each
    by up to an eighth of its side. Never of those that are evaluated on."""
    deduplicate: bool = field(default=False, metadata={ABSENT: False})
    """Remove from the training and validation parts what also occurs in the test part, value for value."""
    key: str | None = field(default=None, metadata={ABSENT: None})
    """Tables: the column that names each row. It is not modelled; scores show it."""

    __pydantic_config__: ClassVar = STRICT

    def __post_init__(self) -> None:
        checks.one_of("binarize", self.binarize, get_args(Binarize))
        checks.number("validation", self.validation, low=0.0, high=0.5)
        if self.header is not None:
            checks.one_of("header", self.header, ("yes", "no"))
        if self.image_size is not None:
            checks.integer("image_size", self.image_size, low=1, high=1 << 14)
        if self.levels is not None:
            checks.integer("levels", self.levels, low=2, high=1 << 16)
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels is {self.channels}; it must be 1 (grey) or 3 (colour).")
        for name in self.augment:
            checks.one_of("augment", name, get_args(Augmentation))
        if len(set(self.augment)) < len(self.augment):
            raise ValueError(f"augment is {' '.join(self.augment)}; name each augmentation once.")
