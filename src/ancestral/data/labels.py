"""Labels that come as an array: which classes they mean, whatever their type."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ancestral.data.raw import Array, Raw
from ancestral.data.readers.classes import MAX_CLASSES, in_order
from ancestral.data.readers.columns import shown

_MISSING = 10
"""Classes that may be missing from data whose labels count from 0, beside as many as there are."""


def with_classes(raw: Raw) -> Raw:
    """``raw`` with labels that count its classes from 0, int64, shared by its parts.

    Labels that count from 0, and those that count given ``class_names``, stay as they are. Other whole numbers,
    floats that are whole, text and truth values mean the classes that occur: these are named, and a note
    reports them. Raises ``ValueError`` for labels that are none of these, or more than 10,000 different ones.
    """
    every = {"training": raw.train_labels, "test": raw.test_labels, "validation": raw.validation_labels}
    parts = {part: labels for part, labels in every.items() if labels is not None}
    if not parts or raw.class_names is not None:
        return raw
    words = [_values(labels, f"the {part} labels of {raw.name!r}") for part, labels in parts.items()]
    kinds = {values.dtype.kind for values in words}
    if len(kinds) > 1:
        raise ValueError(
            f"the labels of {raw.name!r} are numbers in one part and text in the other; they must be of one "
            "kind. Convert one of them."
        )
    if kinds == {"i"} and _count_from_0(words):
        codes, names, notes = words, None, raw.notes
    else:
        codes, names, note = _coded(words, raw.name)
        notes = (*raw.notes, note)
    coded = dict(zip(parts, codes, strict=True))
    return replace(
        raw,
        train_labels=coded.get("training"),
        test_labels=coded.get("test"),
        validation_labels=coded.get("validation"),
        class_names=names,
        notes=notes,
    )


def _values(labels: Array, where: str) -> Array:
    """The labels as int64, or as text."""
    labels = np.asarray(labels)
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8", "replace")
    if labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.flat):
        labels = labels.astype(str)
    if labels.dtype.kind == "b":
        return np.where(labels, "True", "False")
    if labels.dtype.kind == "U":
        if (empty := np.char.strip(labels) == "").any():
            raise ValueError(
                f"{where} are empty in row {int(np.argmax(empty))} (counted from 0). Give each example a class, "
                "or leave the labels out."
            )
        return labels
    if labels.dtype.kind == "f":
        if (bad := ~(np.isfinite(labels) & (labels == np.floor(labels)))).any():
            raise ValueError(
                f"{where} have type {labels.dtype} and hold {labels[bad].flat[0]}; labels must be whole numbers "
                "or text. Leave them out, or round them."
            )
    elif labels.dtype.kind not in "iu":
        raise ValueError(
            f"{where} have type {labels.dtype}; labels must be whole numbers or text. Convert "
            "them, or leave them out."
        )
    if labels.size and not (float(labels.min()) >= -(2.0**63) and float(labels.max()) < 2.0**63):
        raise ValueError(
            f"{where} run from {labels.min()} to {labels.max()}; whole numbers must fit in 64 "
            "bits. Write them as text."
        )
    return labels.astype(np.int64)


def _count_from_0(parts: list[Array]) -> bool:
    """Whether the labels of all parts together count classes from 0, of which few may be missing."""
    sizes = [values for values in parts if values.size]
    if not sizes:
        return True
    low, high = min(int(v.min()) for v in sizes), max(int(v.max()) for v in sizes)
    # Ids leave larger gaps than a small part of the data does.
    if low != 0 or high >= 2 * sum(v.size for v in sizes) + _MISSING:
        return False
    present = np.zeros(high + 1, bool)
    for values in sizes:
        present[values.ravel()] = True
    return high < 2 * int(present.sum()) + _MISSING


def _coded(parts: list[Array], name: str) -> tuple[list[Array], tuple[str, ...], str]:
    """Each part's classes, counted from 0 in the order of their names; the names; and what is reported."""
    found = np.unique(np.concatenate([values.ravel() for values in parts]))
    if len(found) > MAX_CLASSES:
        raise ValueError(
            f"the labels of {name!r} hold {len(found):,} different values, such as {found[0]}; they must be "
            f"classes, at most {MAX_CLASSES:,}. Leave the labels out."
        )
    words = [str(value) for value in found]
    names = in_order(words)
    place = {word: number for number, word in enumerate(names)}
    order = np.array([place[word] for word in words], np.int64)
    codes = [order[np.searchsorted(found, values)] for values in parts]
    count = "1 class" if len(names) == 1 else f"{len(names)} classes"
    return codes, tuple(names), f"the labels of {name!r} name {count}: {shown(names)}."
