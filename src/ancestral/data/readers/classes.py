"""The classes that one column of a table holds, as whole numbers from 0 and their names."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import numpy as np

from ancestral.data.raw import Array
from ancestral.data.readers.columns import MISSING, is_number, is_text, missing

MAX_CLASSES = 10_000
"""More different values than this are no classes."""
_WHOLE = re.compile(r"(-?[1-9][0-9]*|0)(\.0*)?")
"""A whole number as programs write it. Zeros in front make a word a code: 007 is not 7."""
_REAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


class Classes:
    """Values of a column as they come, in parts; at the end, which class each is and what it is called.

    Classes are words: 7 and 007 differ, and NA or None may be one. Whole numbers are put in order as numbers,
    all else as text, so that the classes 0 … 9 keep their numbers.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._codes: dict[str, int] = {}
        self._parts: dict[str, list[Array]] = {}

    def take(self, part: str, values: Any, *, first: int, where: str) -> None:
        """Values of an Arrow array, from row ``first`` of a part on. ``ValueError`` for what is no class."""
        import pyarrow as pa
        import pyarrow.compute as pc

        kind = values.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
            values = values.cast(kind)
        if not (is_text(kind) or is_number(kind)):
            raise ValueError(
                f"the label {self.name!r} of {where} has type {kind}; it must be whole numbers or text."
            )
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if pa.types.is_floating(kind):
            # What is no number is no word either, but missing.
            values = pc.if_else(pc.is_nan(values), pa.scalar(None, kind), values)
        words = pc.utf8_trim_whitespace(values.cast(pa.string()))
        coded = words.dictionary_encode(null_encoding="encode")
        known = [self._code(word) for word in coded.dictionary.to_pylist()]
        codes = np.array(known, np.int32)[coded.indices.to_numpy()]
        if (codes < 0).any():
            row = int(np.argmax(codes < 0))
            raise missing(self.name, first + row, where, value=words[row].as_py() or "")
        if len(self._codes) > MAX_CLASSES:
            raise ValueError(
                f"the label {self.name!r} of {where} holds more than {MAX_CLASSES:,} different values, such "
                f"as {next(iter(self._codes))!r}; it must be a class. Name another column, or none."
            )
        self._parts.setdefault(part, []).append(codes)

    def _code(self, word: str | None) -> int:
        return self._codes.setdefault(word, len(self._codes)) if word else -1

    @property
    def notes(self) -> list[str]:
        """What is unusual in the labels so far: words that elsewhere mean a missing value, with their counts."""
        counts = [
            np.bincount(part, minlength=len(self._codes)) for codes in self._parts.values() for part in codes
        ]
        words = [word for word in self._codes if word in MISSING]
        if not words:
            return []
        total = np.sum(counts, axis=0)
        told = ", ".join(f"{word!r} ({total[self._codes[word]]:,} rows)" for word in words)
        return [
            f"the label {self.name!r} holds {told}, read as the name of a class. If these rows have no class, "
            "remove them."
        ]

    def finish(self) -> tuple[tuple[str, ...], dict[str, Array]]:
        """The names of the classes and, for each part, the class of each row, (N,) int64."""
        words = list(self._codes)
        if all(_WHOLE.fullmatch(word) for word in words):
            meant = [word.split(".")[0] for word in words]
        else:
            self._check_words(words)
            meant = words
        names = in_order(set(meant))
        place = {name: number for number, name in enumerate(names)}
        order = np.array([place[word] for word in meant], np.int64)
        return tuple(names), {part: order[np.concatenate(codes)] for part, codes in self._parts.items()}

    def _check_words(self, words: list[str]) -> None:
        """Reject real numbers, which are no classes."""
        numbers = [word for word in words if word not in MISSING]
        real = [word for word in numbers if _REAL.fullmatch(word) and float(word) % 1 != 0]
        if real and all(_REAL.fullmatch(word) for word in numbers):
            raise ValueError(
                f"the label {self.name!r} holds real numbers, such as {real[0]}; it must be whole numbers or "
                "text. Leave --label out, or name the column of the class."
            )


def in_order(names: Collection[str]) -> list[str]:
    """Names of classes in their order: as numbers where all are whole numbers, else as text."""
    whole = all(re.fullmatch(r"-?[1-9][0-9]*|0", name) for name in names)
    return sorted(names, key=int) if whole else sorted(names)
