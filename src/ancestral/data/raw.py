"""What a source of data hands over, and how a kind of source is described: the seam for new kinds.

A new kind of source (a folder of images, a table, …) is one file with a ``KIND`` and one line in
``sources.KINDS``. It reads and names things; what arrays are allowed is checked once, in ``convert``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

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

    def __post_init__(self) -> None:
        assert self.test_x is not None or self.test_labels is None


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
    header: Header | None = None
    """Whether the first line of a text table holds names: "yes" or "no"; None for what the lines say."""
    progress: Callable[[int, int], None] = lambda done, total: None
    """Told how many of how many parts of a long job are done."""

    @property
    def chosen(self) -> list[str]:
        """The names of the choices that were made."""
        return [
            name for name in ("image_size", "channels", "skip_bad", "label", "header") if getattr(self, name)
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
