"""Which columns of a Hugging Face data set are modelled, and how vectors and classes are read from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ancestral._internal import checks
from ancestral.data.raw import Array
from ancestral.data.readers.columns import Columns, missing, shown

_NUMBERS = ("int", "uint", "float", "bool", "decimal")


@dataclass(frozen=True)
class Chosen:
    """What of a data set is read."""

    columns: tuple[str, ...]
    """One of images, one of lists, or several of numbers."""
    kind: str
    """image, list or numbers."""
    label: str | None
    known: tuple[str, ...] | None
    """The names of the classes, where the data set says them."""
    notes: tuple[str, ...]


def choose(features: dict[str, Any], column: str | None, label: str | None, *, where: str) -> Chosen:
    """The columns to read of a data set's features; ``ValueError`` where they leave no single choice.

    By default the only column of images, else all of numbers, else the only one of lists of numbers; and for
    the label the only one of classes.
    """
    kinds = {name: _kind(feature) for name, feature in features.items()}
    given = {"label": label, "the column after the name": column}
    for what, name in given.items():
        if name is not None and name not in features:
            raise ValueError(
                f"{what} is {name!r}, and {where} has no such column; it has {_listed(features)}."
                f"{checks.suggest(name, features)}"
            )
    classes = [name for name, kind in kinds.items() if kind == "class"]
    if label is None and len(classes) == 1:
        label = classes[0]
    columns = _by_default(kinds, label, features, where) if column is None else (column,)
    kind = kinds[columns[0]]
    if kind not in ("image", "list", "numbers") or label in columns:
        said = "the label" if label in columns else f"of {_said(features[columns[0]])}"
        raise ValueError(
            f"column {column!r} of {where} is {said}; it must be one of images, numbers or lists of numbers. "
            f"There are {_listed(features)}."
        )
    unused = [name for name in features if name not in (*columns, label)]
    note = (
        f"of {where} these columns are not used: {shown(unused)}. One that is the class is named by --label."
    )
    known = tuple(features[label].names) if label is not None and kinds[label] == "class" else None
    return Chosen(columns, kind, label, known, (note,) if unused else ())


def _by_default(
    kinds: dict[str, str], label: str | None, features: dict[str, Any], where: str
) -> tuple[str, ...]:
    of = {
        kind: tuple(name for name in kinds if kinds[name] == kind and name != label)
        for kind in kinds.values()
    }
    for kind in ("image", "numbers", "list"):
        if found := of.get(kind, ()):
            if kind != "numbers" and len(found) > 1:
                break
            return found
    raise ValueError(
        f"which column of {where} is meant is not clear; it has {_listed(features)}. Name one that holds "
        "images, numbers or lists of numbers: hf:NAME:COLUMN."
    )


def _kind(feature: Any) -> str:
    """image, class, numbers, list (of numbers) or other."""
    import datasets

    # Other programs write images as the library stores them, but not that they are images.
    if isinstance(feature, datasets.Image) or (isinstance(feature, dict) and {*feature} == {"bytes", "path"}):
        return "image"
    if isinstance(feature, datasets.ClassLabel):
        return "class"
    if isinstance(feature, datasets.Value):
        return "numbers" if feature.dtype.startswith(_NUMBERS) else "other"
    inner = getattr(feature, "feature", None)
    return (
        "list"
        if isinstance(feature, datasets.List | datasets.LargeList) and _kind(inner) == "numbers"
        else "other"
    )


def _said(feature: Any) -> str:
    kind = _kind(feature)
    if kind == "numbers":
        return str(feature.dtype)
    words = {"image": "images", "class": "classes", "list": "lists of numbers"}
    return words.get(kind) or str(getattr(feature, "dtype", type(feature).__name__.lower()))


def _listed(features: dict[str, Any]) -> str:
    return ", ".join(f"{name!r} ({_said(feature)})" for name, feature in features.items())


class Vectors:
    """Rows of vectors out of Arrow tables: of columns of numbers, or of one of lists."""

    def __init__(
        self,
        where: str,
        chosen: Chosen,
        names: tuple[str, ...] | None = None,
        dtype: type[np.floating[Any]] = np.float32,
    ) -> None:
        self.where = where
        self._dtype = dtype
        self._lists = chosen.columns[0] if chosen.kind == "list" else None
        if self._lists is None:
            names = chosen.columns
        self._columns = None if names is None else Columns(where, names, dtype)

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of the entries; None before the first row of lists."""
        return None if self._columns is None else self._columns.names

    @property
    def notes(self) -> list[str]:
        """What there is to tell of the rows so far."""
        return [] if self._columns is None else self._columns.notes()

    def check(self) -> None:
        """Raise ``NeedsDouble`` where the rows so far lose differences as 32-bit floats."""
        if self._columns is not None:
            self._columns.check()

    def take(self, batch: Any) -> tuple[Array, Array]:
        """Rows (n, D) of a table; and that all are kept, (n,)."""
        if self._lists is not None:
            batch = self._apart(self._lists, batch.column(self._lists).combine_chunks())
        assert self._columns is not None
        rows = self._columns.take(batch)
        return rows, np.ones(len(rows), bool)

    def _apart(self, name: str, values: Any) -> Any:
        """A column of lists as a table of a column for each entry."""
        import pyarrow as pa
        import pyarrow.compute as pc

        done = 0 if self._columns is None else self._columns.rows
        if values.null_count:
            raise missing(name, done + pc.index(values.is_null(), True).as_py(), self.where)
        lengths = pc.list_value_length(values).to_numpy()
        if self._columns is None:
            names = tuple(f"{name} {i}" for i in range(1, int(lengths[0]) + 1))
            self._columns = Columns(self.where, names, self._dtype)
        size = len(self._columns.names)
        if (lengths != size).any() or size == 0:
            row = int(np.argmax(lengths != size))
            raise ValueError(
                f"column {name!r} of {self.where} holds a list of {lengths[row]} numbers in row "
                f"{done + row + 1}, and {size} in the first; all must be of one length, at least 1."
            )
        flat = values.flatten()
        entries = [flat.take(pa.array(np.arange(i, len(flat), size))) for i in range(size)]
        return pa.table(entries, list(self._columns.names))


class KnownClasses:
    """The classes of a column whose names the data set states, in its order."""

    def __init__(self, name: str, names: tuple[str, ...]) -> None:
        self.name = name
        self._names = names
        self._parts: dict[str, list[Array]] = {}

    def take(self, part: str, values: Any, *, first: int, where: str) -> None:
        """Values of an Arrow array of whole numbers, from row ``first`` on. -1 and none are no class."""
        import pyarrow.compute as pc

        codes = pc.fill_null(values, -1).to_numpy().astype(np.int64)
        if len(codes) and not (codes.min() >= -1 and codes.max() < len(self._names)):
            raise ValueError(
                f"the label {self.name!r} of {where} runs from {codes.min()} to {codes.max()}, and has the "
                f"names of {len(self._names)} classes."
            )
        self._parts.setdefault(part, []).append(codes)

    def finish(self) -> tuple[tuple[str, ...], dict[str, Array]]:
        """The names of the classes and the class of each row of those parts that have them, (N,) int64."""
        parts = {part: np.concatenate(codes) for part, codes in self._parts.items()}
        for part, codes in parts.items():
            if codes.max() >= 0 > codes.min():
                raise ValueError(
                    f"the label {self.name!r} is missing in row {int(np.argmin(codes)) + 1} of the split "
                    f"{part}, and given in others. Remove such rows, or the column."
                )
        return self._names, {part: codes for part, codes in parts.items() if codes.min() >= 0}
