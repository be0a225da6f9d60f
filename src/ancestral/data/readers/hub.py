"""Data sets of Hugging Face's ``datasets`` library: from its hub, or from folders on this machine.

``hf:NAME[:COLUMN]``, where NAME is a data set of the hub, a folder of Parquet files or of images (with a
folder for each class, and train and test where there are such), or one that ``save_to_disk`` wrote. They are
read once, a batch at a time, into the cache. No code that comes with a data set is run.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from ancestral.data.cache import Draft, cached
from ancestral.data.raw import Kind, Raw, Reading
from ancestral.data.readers.classes import Classes
from ancestral.data.readers.columns import shown
from ancestral.data.readers.hub_columns import Chosen, KnownClasses, Vectors, choose
from ancestral.data.readers.hub_images import Pictures
from ancestral.data.readers.hub_places import BATCH, LOCAL, PREFIX, Place, find, in_short
from ancestral.data.readers.imagefiles.decode import Form, OtherForm
from ancestral.data.readers.imagefiles.depths import Depths
from ancestral.data.readers.splits import PARTS, parts_of
from ancestral.data.width import NeedsDouble

_VERSION = 3
"""Part of the key: raised when the same files come to be other values."""


def _read(source: str, reading: Reading) -> Raw:
    try:
        import datasets  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"{source!r} is for the package datasets, which is not installed: pip install 'ancestral[hf]'."
        ) from error
    place, column = find(source.removeprefix(PREFIX))
    told = (column, reading.label, reading.image_size, reading.channels, reading.skip_bad)
    key = hashlib.sha256(repr(("hub", _VERSION, place.identity, told)).encode()).hexdigest()[:32]
    form = Form(reading.channels or 1, reading.image_size, only_grey=reading.channels is None)
    dtype: type[np.floating[Any]] = np.float32
    while True:
        try:
            entry = cached(
                key, partial(_fill, place=place, column=column, reading=reading, form=form, dtype=dtype)
            )
            break
        except OtherForm as found:
            form = found.form
        except NeedsDouble:
            dtype = np.float64
    facts = entry.facts
    counts = {part: len(entry.arrays[f"{part}_x"]) for part in PARTS if f"{part}_x" in entry.arrays}
    parts = ", ".join(f"{part} ({count:,})" for part, count in counts.items())
    division = [f"of {place.name!r} are read: {parts}."] if len(counts) > 1 else []
    return Raw(
        name=place.name,
        train_x=entry.arrays["train_x"],
        train_labels=entry.arrays.get("train_labels"),
        test_x=entry.arrays.get("test_x"),
        test_labels=entry.arrays.get("test_labels"),
        validation_x=entry.arrays.get("validation_x"),
        validation_labels=entry.arrays.get("validation_labels"),
        columns=None if facts["columns"] is None else tuple(facts["columns"]),
        class_names=None if facts["class_names"] is None else tuple(facts["class_names"]),
        notes=(*division, *facts["notes"]),
    )


def _fill(
    draft: Draft,
    *,
    place: Place,
    column: str | None,
    reading: Reading,
    form: Form,
    dtype: type[np.floating[Any]],
) -> dict[str, Any]:
    """Read the splits into a draft; returns what there is to know beside the arrays."""
    with _quiet():
        splits, notes = _splits(place)
        chosen = choose(_features(splits["train"]), column, reading.label, where=repr(place.name))
        _check_choices(chosen, reading, place)
        filling = _Filling(draft, chosen, reading, sum(_count(split) for split in splits.values()))
        depths = Depths(form)
        for part, split in splits.items():
            where = f"{place.name!r} ({part})"
            reader: Pictures | Vectors
            if chosen.kind == "image":
                reader = Pictures(where, chosen.columns[0], reading, depths)
            else:
                reader = Vectors(where, chosen, filling.names, dtype)
            filling.take(part, split, reader)
    return filling.finish([*notes, *chosen.notes, *depths.finish()])


class _Filling:
    """The splits of a data set on their way into a draft."""

    def __init__(self, draft: Draft, chosen: Chosen, reading: Reading, total: int) -> None:
        self.names: tuple[str, ...] | None = None
        self._draft, self._chosen, self._reading = draft, chosen, reading
        self._done, self._total = 0, total
        self._notes: list[str] = []
        self._classes: Classes | KnownClasses | None = None
        if chosen.label is not None:
            known = chosen.known
            self._classes = Classes(chosen.label) if known is None else KnownClasses(chosen.label, known)

    def take(self, part: str, split: Any, reader: Pictures | Vectors) -> None:
        """All examples of a split."""
        features = _features(split)
        if lacking := [name for name in self._chosen.columns if name not in features]:
            raise ValueError(f"{reader.where} lacks {shown(lacking)}, which the training split has.")
        label = self._chosen.label if self._chosen.label in features else None
        rows = kept_rows = 0
        for batch in _batches(split, self._chosen, label, where=reader.where):
            x, kept = reader.take(batch)
            if len(x):
                self._draft.append(f"{part}_x", x)
                if self._classes is not None and label is not None:
                    values = batch.column(label).filter(kept)
                    self._classes.take(part, values, first=rows, where=reader.where)
            rows, kept_rows = rows + len(kept), kept_rows + len(x)
            self._done += len(kept)
            self._reading.progress(self._done, max(self._done, self._total))
        if kept_rows == 0:
            raise ValueError(f"{reader.where} holds no example{' that can be read' if rows else ''}.")
        if isinstance(reader, Vectors):
            reader.check()
            self.names = reader.names
        if part == "train" or isinstance(reader, Pictures):
            self._notes += reader.notes

    def finish(self, notes: list[str]) -> dict[str, Any]:
        """Write the labels; returns the facts."""
        names = None
        if self._classes is not None:
            if isinstance(self._classes, Classes):
                self._notes += self._classes.notes
            names, labels = self._classes.finish()
            for part, values in labels.items():
                self._draft.append(f"{part}_labels", values)
        return {"columns": self.names, "class_names": names, "notes": [*notes, *self._notes]}


def _splits(place: Place) -> tuple[dict[str, Any], list[str]]:
    """The splits that are read, by part; and what is said of them and of others."""
    with _explained(place.name):
        loaded = place.load()
    found = loaded if isinstance(loaded, dict) else {"train": loaded}
    named = parts_of(found)
    if several := next((names for names in named.values() if len(names) > 1), None):
        raise ValueError(
            f"{place.name!r} has the splits {shown(several)}, which are named for the same part. Give "
            f"{LOCAL}, with one of each."
        )
    if len(found) == 1 and not named:
        return {"train": next(iter(found.values()))}, []
    if "train" not in named:
        raise ValueError(
            f"{place.name!r} has the splits {shown(found)}, and none is called train. Give {LOCAL}, with "
            "that name."
        )
    splits = {part: found[named[part][0]] for part in PARTS if part in named}
    unused = [name for name in found if name not in [names[0] for names in named.values()]]
    return splits, [f"of {place.name!r} the splits {shown(unused)} are not read."] if unused else []


def _features(split: Any) -> dict[str, Any]:
    """What the columns hold; of some kinds of files the first row says it."""
    import datasets

    if split.features is None:
        with _explained("the data set"):
            first = next(split.with_format("arrow").iter(batch_size=1), None)
        return {} if first is None else dict(datasets.Features.from_arrow_schema(first.schema))
    return dict(split.features)


def _count(split: Any) -> int:
    """How many examples there are, where that is known before they are read."""
    if hasattr(split, "__len__"):
        return len(split)
    known = (split.info.splits or {}).get(str(split.split))
    return int(known.num_examples or 0) if known is not None else 0


def _batches(split: Any, chosen: Chosen, label: str | None, *, where: str) -> Iterator[Any]:
    """The columns that are read, as Arrow tables."""
    import datasets

    with _explained(where):
        view = split.select_columns([*chosen.columns, *([] if label is None else [label])])
        if isinstance(_features(split)[chosen.columns[0]], datasets.Image):
            # As files: how they are decoded is the same for all kinds of sources.
            view = view.cast_column(chosen.columns[0], datasets.Image(decode=False))
        batches = view.with_format("arrow").iter(batch_size=BATCH)
    while True:
        with _explained(where):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _check_choices(chosen: Chosen, reading: Reading, place: Place) -> None:
    given = [name for name in reading.chosen if name != "label"]
    if chosen.kind != "image" and given:
        raise ValueError(
            f"{given[0]} is given, and {place.name!r} is read as vectors ({shown(chosen.columns)}). Leave "
            "it out, or name the column of images: hf:NAME:COLUMN."
        )


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    """Say of what the library cannot read that it cannot; it lets errors of every kind through."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{where} cannot be read by datasets: {in_short(error)}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library's own bars and warnings, put away for a while."""
    import datasets

    level, bars = datasets.logging.get_verbosity(), datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()


KIND = Kind(
    expects="hf:NAME[:COLUMN], a data set of Hugging Face's hub or a local folder of one",
    matches=lambda source: source.startswith(PREFIX),
    read=_read,
    choices=("image_size", "channels", "skip_bad", "label", "levels"),
)
