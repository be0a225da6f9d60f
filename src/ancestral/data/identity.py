"""Which file, or which row of its source and with which key, an example is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ancestral.data.dataset import GIVEN, Dataset, Split
from ancestral.data.raw import Array, Raw, name_at


def identified(data: Dataset, raw: Raw) -> Dataset:
    """``data`` with the names and keys of its examples, which were taken from ``raw`` by their rows."""
    held = data.validation
    from_test = raw.test_x is not None
    test = (raw.test_names, raw.test_keys) if from_test else (raw.train_names, raw.train_keys)
    from_held = data.validation_origin == GIVEN
    validation = (
        (raw.validation_names, raw.validation_keys) if from_held else (raw.train_names, raw.train_keys)
    )
    return replace(
        data,
        train=_named(data.train, raw.train_names, raw.train_keys),
        validation=None if held is None else _named(held, *validation),
        test=_named(data.test, *test),
    )


def identities(split: Split) -> list[dict[str, int | str]]:
    """The ``file`` of each example, or its ``row`` in the source, and its ``key`` where it has one."""
    rows = np.arange(len(split)) if split.rows is None else split.rows
    found = []
    for place, row in enumerate(rows.tolist()):
        one: dict[str, int | str] = {"index": row}
        one |= {"row": row} if split.names is None else {"file": name_at(split.names, place)}
        if split.keys is not None:
            one["key"] = name_at(split.keys, place)
        found.append(one)
    return found


def _named(split: Split, names: Array | None, keys: Array | None) -> Split:
    rows = split.rows
    if rows is None:
        return split
    return replace(
        split, names=None if names is None else names[rows], keys=None if keys is None else keys[rows]
    )
