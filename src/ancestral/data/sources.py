"""From the name of a source to a data set in splits: ``load_data``."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ancestral._internal import checks
from ancestral.core.spec import DataSpec
from ancestral.data.augment import AUGMENTATIONS
from ancestral.data.bits import FixedBits, binarized, threshold_bits
from ancestral.data.convert import Checked, convert
from ancestral.data.dataset import Augmentation, Binarize, Dataset, Split
from ancestral.data.duplicates import on_copies
from ancestral.data.identity import identified
from ancestral.data.memory import Source, in_memory, raw_of
from ancestral.data.raw import Array, Kind, Raw, Reading
from ancestral.data.readers import arrays, builtin, folder, hub, idx, tables
from ancestral.data.readers.builtin import SOURCES
from ancestral.data.rows import Examples

KINDS: tuple[Kind, ...] = (builtin.KIND, hub.KIND, idx.KIND, arrays.KIND, tables.KIND, folder.KIND)
"""The kinds of sources, the first that matches reads. A new kind is a file and a line here."""

TEST_SHARE = 0.2
"""The share of the rows held out for testing where the data come without a test split."""
TEST_SEED = 0
"""The seed that chooses those rows."""
MAX_VALIDATION = 1_000
"""The most training rows held out for validation."""
VALIDATION_SEED = 1
"""The seed that chooses those rows."""
MAPPED_ABOVE = 2**30
"""Bytes of examples above which an array in a file stays there, to be read as it is needed."""


def load_data(
    source: Source,
    *,
    binarize: Binarize = "none",
    validation: float = 0.1,
    reading: Reading | None = None,
    augment: tuple[Augmentation, ...] = (),
    deduplicate: bool = False,
    levels: int | None = None,
) -> Dataset:
    """Read a data set and split it.

    ``source`` is a built-in name (digits, swiss-roll, moons; ``./digits`` is a path), a folder of IDX
    files or one IDX file of images, a .npy or .npz file, a table (.csv, .tsv, .csv.gz, .parquet, or a folder
    of them by the names train and test), or hf:NAME[:COLUMN]. A test split that comes with the data is
    kept; otherwise a fixed fifth of the rows is held out. ``validation`` is the share of the training
    rows held out to watch training, 0 … 0.5 and at most 1,000 rows; 0 holds out none. ``binarize`` is
    none, dynamic (bits drawn anew for each batch) or threshold, and never changes which rows go where.
    ``reading`` holds what is for some kinds of sources only, such as the size of images. ``augment`` names
    what is done to training images whenever a batch of them is drawn (``Dataset.batch``), and to no others.
    ``deduplicate`` removes from the training and validation parts what also occurs in the test part.
    Raises ``ValueError`` for a source that is not there, not of a known kind, or damaged.

    Examples in a .npy or raw IDX file of more than 1 GiB stay there and are read when they are needed, with
    the same values: they may be larger than memory. Such a file must not change meanwhile.

    Instead of a name, ``source`` may be arrays in memory: a tensor (images (N, H, W) or (N, C, H, W)), a NumPy
    array (images (N, H, W) or (N, H, W, C)), a pair of one of these and the labels, or a mapping with the names of
    the arrays of a .npz file. ``levels`` is the number of grey levels of integers in memory; by default what their
    type and values say.
    """
    if in_memory(source):
        _check_options(binarize, validation)
        raw = raw_of(source)
        raw = raw if levels is None else replace(raw, levels=levels)
        data = assemble(raw, binarize=binarize, validation=validation, deduplicate=deduplicate)
        return _augmented(data, augment) if augment else data
    if not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"the data source is a {type(source).__name__}; it must be a name or a path, a tensor, a NumPy array, "
            "a pair of examples and labels, or a mapping of arrays. To train from a DataLoader give it to fit."
        )
    if levels is not None:
        raise ValueError(
            f"levels is {levels} and the source is {os.fspath(source)!r}; the parameter is for arrays in memory. "
            "Leave it out."
        )
    name = os.fspath(source)
    # Before a large file is read.
    _check_options(binarize, validation)
    try:
        raw = _read(name, reading or Reading())
    except OSError as error:
        raise ValueError(f"the data source {name!r} cannot be read: {error.strerror or error}.") from error
    data = assemble(raw, binarize=binarize, validation=validation, deduplicate=deduplicate)
    data = _augmented(data, augment) if augment else data
    options = {
        "source": name,
        "binarize": binarize,
        "validation": validation,
        **(reading or Reading()).options,
        "augment": augment,
        "deduplicate": deduplicate,
    }
    return replace(data, options=options)


def assemble(
    raw: Raw, *, binarize: Binarize = "none", validation: float = 0.1, deduplicate: bool = False
) -> Dataset:
    """Check the arrays of ``raw``, split them as ``load_data`` states, and binarise them if asked."""
    _check_options(binarize, validation)
    train, test, source_levels, levels_origin = convert(raw)
    rows = np.arange(len(train.x))
    if test is None:
        count = max(1, round(TEST_SHARE * len(rows)))
        test_origin = f"held out, {count} of {len(rows)}, seed {TEST_SEED}"
        rows, test_rows = _hold_out(rows, count, TEST_SEED)
        test_split = _take(train, test_rows)
    else:
        test_origin = "given with the data"
        test_split = _take(test, np.arange(len(test.x)))
    count = min(MAX_VALIDATION, max(1, round(validation * len(rows)))) if validation > 0 else 0
    rows, validation_rows = _hold_out(rows, count, VALIDATION_SEED)
    if len(rows) < 2:
        raise ValueError(
            f"{raw.name!r} has too few examples: of {len(train.x)}, {len(test_split) if test is None else 0} "
            f"are held out for testing and {count} for validation, which leaves {len(rows)} to train on, and "
            "at least 2 are needed. Give more examples."
        )
    dataset = Dataset(
        name=raw.name,
        spec=DataSpec(tuple(train.x.shape[1:]), source_levels),
        train=_take(train, rows),
        validation=_take(train, validation_rows) if count else None,
        test=test_split,
        test_origin=test_origin,
        source_levels=source_levels,
        levels_origin=levels_origin,
        columns=raw.columns,
        class_names=raw.class_names,
        notes=raw.notes,
    )
    dataset = on_copies(identified(dataset, raw), raw, deduplicate=deduplicate)
    return dataset if binarize == "none" else _binarized(dataset, binarize)


def _check_options(binarize: str, validation: float) -> None:
    checks.one_of("binarize", binarize, ("none", "dynamic", "threshold"))
    checks.number("validation", validation, low=0.0, high=0.5)


def _hold_out(rows: Array, count: int, seed: int) -> tuple[Array, Array]:
    """``rows`` without ``count`` of them, and those, each in their first order."""
    order = np.random.default_rng(seed).permutation(len(rows))
    return rows[np.sort(order[count:])], rows[np.sort(order[:count])]


def _take(part: Checked, rows: Array) -> Split:
    """The rows, in memory unless they are of a large file."""
    labels = None if part.labels is None else torch.from_numpy(part.labels[rows])
    array, x = part.x.array, replace(part.x, rows=rows)
    mapped = isinstance(array, np.memmap) and array.nbytes > MAPPED_ABOVE
    return Split(x if mapped else x.to("cpu"), labels, rows)


def load_whole(
    source: str,
    *,
    reading: Reading,
    binarize: Binarize = "none",
    columns: tuple[str, ...] | None = None,
    class_names: tuple[str, ...] | None = None,
    levels: int | None = None,
    channels: int | None = None,
) -> Dataset | None:
    """All examples of a source as one test part, for a model of these columns, classes, levels and channels.

    Columns are found by their names. A grey image has its channel three times where the model is of colour. There
    may be a single example; the training part is the same examples. None for a source that comes with a test
    part. Raises ``ValueError`` as ``load_data``, and for a column that is missing.
    """
    try:
        raw = _read(source, replace(reading, columns=columns))
    except OSError as error:
        raise ValueError(f"the data source {source!r} cannot be read: {error.strerror or error}.") from error
    if raw.test_x is not None:
        return None
    raw = _with_classes(_with_columns(raw, columns), class_names)
    if raw.train_x.dtype.kind in "biu":
        raw = raw if levels is None or raw.levels is not None else replace(raw, levels=levels)
        if channels == 3 and raw.train_x.ndim == 3:
            raw = replace(raw, train_x=np.repeat(raw.train_x[..., None], 3, axis=3))
    return whole(raw, binarize=binarize)


def whole(raw: Raw, *, binarize: Binarize = "none") -> Dataset:
    """All examples of ``raw``, which has no test part, as the test part."""
    train, _, source_levels, levels_origin = convert(raw)
    everything = _take(train, np.arange(len(train.x)))
    dataset = Dataset(
        name=raw.name,
        spec=DataSpec(tuple(train.x.shape[1:]), source_levels),
        train=everything,
        validation=None,
        test=everything,
        test_origin=f"all {len(everything)} examples",
        source_levels=source_levels,
        levels_origin=levels_origin,
        columns=raw.columns,
        class_names=raw.class_names,
        notes=raw.notes,
    )
    dataset = identified(dataset, raw)
    return dataset if binarize == "none" else _binarized(dataset, binarize)


def _with_columns(raw: Raw, columns: tuple[str, ...] | None) -> Raw:
    """The columns of these names, in this order."""
    if columns is None or raw.columns is None or raw.columns == columns:
        return raw
    if missing := [name for name in columns if name not in raw.columns]:
        raise ValueError(
            f"{raw.name!r} has no column {', '.join(map(repr, missing))}, which the model was trained on. Add it."
        )
    places = [raw.columns.index(name) for name in columns]
    return replace(raw, train_x=raw.train_x[:, places], columns=columns)


def _with_classes(raw: Raw, names: tuple[str, ...] | None) -> Raw:
    """Labels that count the classes of these names; classes beside them come after."""
    if names is None or raw.class_names is None or raw.train_labels is None:
        return raw
    every = (*names, *(name for name in raw.class_names if name not in names))
    places = np.array([every.index(name) for name in raw.class_names], np.int64)
    return replace(raw, train_labels=places[raw.train_labels], class_names=every)


def _binarized(dataset: Dataset, binarize: Binarize) -> Dataset:
    levels = dataset.source_levels
    if levels is None:
        raise ValueError(
            f"binarize is {binarize!r}, and {dataset.name!r} holds real-valued vectors; only integer images "
            "can be binarised. Use binarize none."
        )

    def bits(grey: Examples, split: str) -> Examples:
        if binarize == "threshold":
            return binarized(grey, lambda values, _: threshold_bits(values, levels=levels))
        return grey if split == "train" else binarized(grey, FixedBits(split, levels))

    held = dataset.validation
    return replace(
        dataset,
        spec=DataSpec(dataset.spec.shape, 2),
        train=dataset.train.with_x(bits(dataset.train.x, "train")),
        validation=None if held is None else held.with_x(bits(held.x, "validation")),
        test=dataset.test.with_x(bits(dataset.test.x, "test")),
        binarize=binarize,
    )


def _augmented(data: Dataset, augment: tuple[Augmentation, ...]) -> Dataset:
    for name in augment:
        checks.one_of("augment", name, AUGMENTATIONS)
    if not data.spec.is_image:
        raise ValueError(
            f"augment is {' '.join(augment)} and {data.name!r} holds vectors; only images are augmented. "
            "Leave it out."
        )
    return replace(data, augment=augment)


def _read(source: str, reading: Reading) -> Raw:
    kind = _kind(source)
    if unknown := [name for name in reading.chosen if name not in kind.choices]:
        wanted = [other.expects for other in KINDS if unknown[0] in other.choices]
        raise ValueError(
            f"{unknown[0]} is given, and {source!r} is {kind.expects}, which has no use for it. Leave it out"
            f"{f', or give {chr(32).join(wanted)}' if wanted else ''}."
        )
    return kind.read(_path(source), reading)


def _path(source: str) -> str:
    """The source with a leading ~ read as the home folder, as a shell would."""
    return os.path.expanduser(source)


def _kind(source: str) -> Kind:
    """The kind that reads a source, or a ``ValueError`` that says what it could have been."""
    place = _path(source)
    for kind in KINDS:
        if source.strip() and kind.matches(place):
            return kind
    path = Path(place)
    allowed = f"A source is {'; or '.join(kind.expects for kind in KINDS)}."
    if not source.strip():
        raise ValueError(f"the data source is empty. {allowed}")
    if path.is_dir():
        inside = sorted(p.name for p in islice(path.iterdir(), 100))
        shown = ", ".join(inside[:5]) + (", …" if len(inside) > 5 else "") or "nothing"
        raise ValueError(f"the folder {source!r} holds no data of a known kind (it holds {shown}). {allowed}")
    if path.exists():
        raise ValueError(f"the file {source!r} is of no known kind, going by its name. {allowed}")
    raise ValueError(
        f"there is no data source {source!r}: no built-in of that name and no such file."
        f"{_near(path, source)} {allowed}"
    )


def _near(path: Path, source: str) -> str:
    """The built-in names near a misspelt one, or else what lies near a misspelt path."""
    if path.name == source and (found := checks.suggest(source, SOURCES)):
        return found
    if not path.parent.is_dir():
        return f" Its folder {str(path.parent)!r} does not exist either."
    siblings = (p.name for p in islice(path.parent.iterdir(), 1_000))
    return checks.suggest(path.name, [name for name in siblings if not name.startswith(".")])
