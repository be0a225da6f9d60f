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
from ancestral.data.density import density_notes
from ancestral.data.labels import with_classes
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
    source: str | os.PathLike[str],
    *,
    binarize: Binarize = "none",
    validation: float = 0.1,
    reading: Reading | None = None,
    augment: tuple[Augmentation, ...] = (),
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
    Raises ``ValueError`` for a source that is not there, not of a known kind, or damaged.

    Examples in a .npy or raw IDX file of more than 1 GiB stay there and are read when they are needed, with
    the same values: they may be larger than memory. Such a file must not change meanwhile.
    """
    name = os.fspath(source)
    # Before a large file is read.
    _check_options(binarize, validation)
    try:
        raw = _read(name, reading or Reading())
    except OSError as error:
        raise ValueError(f"the data source {name!r} cannot be read: {error.strerror or error}.") from error
    data = assemble(raw, binarize=binarize, validation=validation)
    return _augmented(data, augment) if augment else data


def assemble(raw: Raw, *, binarize: Binarize = "none", validation: float = 0.1) -> Dataset:
    """Check the arrays of ``raw``, split them as ``load_data`` states, and binarise them if asked."""
    _check_options(binarize, validation)
    raw = with_classes(raw)
    train, test, source_levels, levels_origin = convert(raw)
    unbounded = density_notes(train.x, raw.columns) if source_levels is None else ()
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
        spec=DataSpec(tuple(train.x.shape[1:]), source_levels, train.x.dtype == torch.float64),
        train=_take(train, rows),
        validation=_take(train, validation_rows) if count else None,
        test=test_split,
        test_origin=test_origin,
        source_levels=source_levels,
        levels_origin=levels_origin,
        columns=raw.columns,
        class_names=raw.class_names,
        notes=(*raw.notes, *unbounded),
    )
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
    return Split(x if mapped else x.to("cpu"), labels)


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
        train=Split(bits(dataset.train.x, "train"), dataset.train.labels),
        validation=None if held is None else Split(bits(held.x, "validation"), held.labels),
        test=Split(bits(dataset.test.x, "test"), dataset.test.labels),
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
