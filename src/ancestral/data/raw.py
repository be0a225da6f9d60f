"""What a source of data hands over, and how a kind of source is described: the seam for new kinds.

A new kind of source (a folder of images, a table, …) is one file with a ``KIND`` and one line in
``sources.KINDS``. It reads and names things; what arrays are allowed is checked once, in ``convert``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Header = Literal["yes", "no"]


@dataclass(frozen=True, eq=False)
class Raw:
    """The arrays of one data set as they were read, before any check of what they hold.

    Arrays of examples are integer images (N, H, W) or (N, H, W, C), or float vectors (N, D).
    """

    name: str
    """A short name for reports and messages: the built-in's, the folder's or the file's."""
    train_x: Array
    train_labels: Array | None = None
    test_x: Array | None = None
    """The test split that comes with the data; None has one held out."""
    test_labels: Array | None = None
    levels: int | None = None
    """The number of values an integer entry can take, where the source states it."""
    columns: tuple[str, ...] | None = None
    """The names of the entries of a vector, where the source has them."""
    class_names: tuple[str, ...] | None = None
    """The names of the classes that labels count, where the source has them."""
    notes: tuple[str, ...] = ()
    """What whoever loads the data should be told: files that were left out, say."""
    train_names: Array | None = None
    """The file of each training example, relative to the source (``named``); None where examples are rows."""
    test_names: Array | None = None
    train_keys: Array | None = None
    """The entry of each training example in the key column (``named``), where one was chosen."""
    test_keys: Array | None = None
    validation_x: Array | None = None
    """The validation part that comes with the data; None has one held out."""
    validation_labels: Array | None = None
    validation_names: Array | None = None
    validation_keys: Array | None = None
    levels_origin: str = "given with the data"
    """Where ``levels`` is from."""
    run_levels: int | None = None
    """The grey levels of the run that the data are for, which those that state none have, where they fit."""

    def __post_init__(self) -> None:
        assert self.test_x is not None or self.test_labels is None
        assert self.validation_x is not None or self.validation_labels is None


def named(names: Iterable[str]) -> Array:
    """Names as an array of UTF-8 bytes, (N,), which can be stored and mapped; ``name_at`` reads one."""
    encoded = [name.encode("utf-8", "surrogateescape") for name in names]
    return np.array(encoded, dtype=f"S{max([1, *map(len, encoded)])}")


def name_at(names: Array, place: int) -> str:
    """The name at a place of an array that ``named`` made."""
    return bytes(names[place]).decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Reading:
    """How a source is to be read, where there is a choice."""

    image_size: int | None = None
    """The side of the square that each image is made to; None where they must be of one size."""
    channels: int | None = None
    """1 for grey, 3 for colour; None for what the images are."""
    skip_bad: bool = False
    """Whether files that cannot be read are left out."""
    label: str | None = None
    """The column of a table that holds the class."""
    key: str | None = None
    """The column of a table that names each row. It is not modelled; scores show it."""
    columns: tuple[str, ...] | None = None
    """The columns of a table that are modelled, in this order; None for all. A label and a key need not be
    there then."""
    levels: int | None = None
    """The number of grey levels; None for what the values say."""
    run_levels: int | None = None
    """The grey levels of the run that the data are for: data that state none have them, where they fit."""
    header: Header | None = None
    """Whether the first line of a text table holds names: "yes" or "no"; None for what the lines say."""
    progress: Callable[[int, int], None] = lambda done, total: None
    """Told how many of how many parts of a long job are done."""

    @property
    def options(self) -> dict[str, Any]:
        """The choices by name, as a run stores them."""
        unstored = ("progress", "columns", "run_levels")
        return {part.name: getattr(self, part.name) for part in fields(self) if part.name not in unstored}

    @property
    def chosen(self) -> list[str]:
        """The names of the choices that were made."""
        return [
            name
            for name in ("image_size", "channels", "skip_bad", "label", "key", "levels", "header")
            if getattr(self, name)
        ]


@dataclass(frozen=True)
class Kind:
    """A kind of source: how to recognise it and how to read it."""

    expects: str
    """What it is, in words that complete "a source is …"."""
    matches: Callable[[str], bool]
    """Whether a source string is of this kind; the first kind that says so reads it."""
    read: Callable[[str, Reading], Raw]
    """Read it. Raises ``ValueError`` for contents that are not what they should be."""
    choices: tuple[str, ...] = ()
    """The choices of ``Reading`` that it knows; others are refused."""
