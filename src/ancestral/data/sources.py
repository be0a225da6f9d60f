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
from ancestral.data.convert import MAX_LEVELS, Checked, convert
from ancestral.data.dataset import GIVEN, Augmentation, Binarize, Dataset, Split
from ancestral.data.density import density_notes
from ancestral.data.duplicates import on_copies
from ancestral.data.identity import identified
from ancestral.data.labels import with_classes
from ancestral.data.memory import Source, in_memory, raw_of
from ancestral.data.raw import Array, Kind, Raw, Reading
from ancestral.data.readers import arrays, builtin, folder, hub, idx, tables
from ancestral.data.readers.builtin import SOURCES
from ancestral.data.readers.imagefiles.listing import has_image
from ancestral.data.rows import Examples, pieces

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
_RARE = 0.01
"""The share of bits below which their number is reported."""


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
        raw = _stated(_read(name, reading or Reading()), reading or Reading())
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
    raw = with_classes(raw)
    parts, levels = convert(raw)
    parts, notes = _labels_alike(raw.name, parts)
    train, test, held = parts["train"], parts.get("test"), parts.get("validation")
    unbounded = density_notes(train.x, raw.columns) if levels.count is None else ()
    rows = np.arange(len(train.x))
    if test is None:
        count = max(1, round(TEST_SHARE * len(rows)))
        test_origin = f"held out, {count} of {len(rows)}, seed {TEST_SEED}"
        rows, test_rows = _hold_out(rows, count, TEST_SEED)
        test_split = _take(train, test_rows)
    else:
        test_origin = GIVEN
        test_split = _take(test, np.arange(len(test.x)))
    if held is None or validation == 0:
        count = min(MAX_VALIDATION, max(1, round(validation * len(rows)))) if validation > 0 else 0
        rows, held_rows = _hold_out(rows, count, VALIDATION_SEED)
        held_split = _take(train, held_rows) if count else None
        held_origin = f"held out, {count} of {len(rows) + count}, seed {VALIDATION_SEED}" if count else ""
    else:
        count, held_split, held_origin = 0, _take(held, np.arange(len(held.x))), GIVEN
    if len(rows) < 2:
        raise ValueError(
            f"{raw.name!r} has too few examples: of {len(train.x)}, {len(test_split) if test is None else 0} "
            f"are held out for testing and {count} for validation, which leaves {len(rows)} to train on, and "
            "at least 2 are needed. Give more examples."
        )
    dataset = Dataset(
        name=raw.name,
        spec=DataSpec(tuple(train.x.shape[1:]), levels.count, train.x.dtype == torch.float64),
        train=_take(train, rows),
        validation=held_split,
        validation_origin=held_origin,
        test=test_split,
        test_origin=test_origin,
        source_levels=levels.count,
        levels_origin=levels.origin,
        columns=raw.columns,
        class_names=raw.class_names,
        notes=(*raw.notes, *notes, *_on_validation(raw.name, held, validation), *unbounded),
    )
    dataset = on_copies(identified(dataset, raw), raw, deduplicate=deduplicate)
    if binarize == "none":
        return replace(dataset, notes=(*dataset.notes, *levels.notes))
    checked = replace(dataset, notes=(*dataset.notes, *_on_bits(dataset, binarize, of_run=levels.of_run)))
    return _binarized(checked, binarize)


def _labels_alike(name: str, parts: dict[str, Checked]) -> tuple[dict[str, Checked], list[str]]:
    """The parts without labels that the training part does not have, and what there is to say of labels."""
    notes = []
    labelled = parts["train"].labels is not None
    for part in ("validation", "test"):
        if part not in parts or (parts[part].labels is not None) == labelled:
            continue
        if labelled:
            notes.append(f"the {part} part of {name!r} has no labels; those of the training part are read.")
        else:
            notes.append(
                f"the labels of the {part} part of {name!r} are not read: the training part has none."
            )
            parts = {**parts, part: replace(parts[part], labels=None)}
    return parts, notes


def _on_validation(name: str, held: Checked | None, validation: float) -> list[str]:
    if held is None:
        return []
    count = f"the validation part of {name!r}, {len(held.x):,} examples,"
    if validation == 0:
        return [f"{count} is not used: validation is 0."]
    return [f"{count} is used, and nothing is held out of the training part for it."]


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
        reading = replace(reading, columns=columns, levels=None, run_levels=levels)
        raw = _stated(_read(source, reading), reading)
    except OSError as error:
        raise ValueError(f"the data source {source!r} cannot be read: {error.strerror or error}.") from error
    if raw.test_x is not None:
        return None
    # Ids are named first, as a new source may hold some of a run's classes only.
    raw = _with_classes(_with_columns(with_classes(raw), columns), class_names)
    if raw.train_x.dtype.kind in "biu" and channels == 3 and raw.train_x.ndim == 3:
        raw = replace(raw, train_x=np.repeat(raw.train_x[..., None], 3, axis=3))
    return _whole(raw, binarize=binarize)


def _whole(raw: Raw, *, binarize: Binarize) -> Dataset:
    """All examples of ``raw``, which has no test part and names its classes, as the test part."""
    parts, levels = convert(raw)
    everything = _take(parts["train"], np.arange(len(parts["train"].x)))
    dataset = Dataset(
        name=raw.name,
        spec=DataSpec(tuple(everything.x.shape[1:]), levels.count, everything.x.dtype == torch.float64),
        train=everything,
        validation=None,
        test=everything,
        test_origin=f"all {len(everything)} examples",
        source_levels=levels.count,
        levels_origin=levels.origin,
        columns=raw.columns,
        class_names=raw.class_names,
        notes=(*raw.notes, *levels.notes),
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


def _on_bits(dataset: Dataset, binarize: Binarize, *, of_run: bool) -> list[str]:
    """What there is to say of the bits. Raises ``ValueError`` where the training values do not use both halves
    of the grey levels, unless these are those of a run, which other data may not fill."""
    levels = dataset.source_levels
    if levels is None:
        raise ValueError(
            f"binarize is {binarize!r}, and {dataset.name!r} holds real-valued vectors; only integer images "
            "can be binarised. Use binarize none."
        )
    if levels == 2:
        return []
    x, middle = dataset.train.x, (levels - 1) / 2
    low, high = _span(x, middle)
    where = f"the values of {dataset.name!r} run from {low} to {high} of {levels} grey levels"
    if high <= middle:
        most = (
            "every bit would be 0" if binarize == "threshold" else f"P(bit = 1) ≤ {high / (levels - 1):.2g}"
        )
        if of_run:
            return [f"{where} of the run: {most}."]
        raise ValueError(
            f"binarize is {binarize!r}, and {where}: {most}. State the grey levels that they use, --levels "
            f"{max(2, high + 1)} (Reading(levels={max(2, high + 1)}) in Python), or use binarize none."
        )
    if binarize == "threshold" and low > middle:
        if of_run:
            return [f"{where} of the run: every bit is 1."]
        raise ValueError(
            f"binarize is 'threshold', and {where}: every bit would be 1. Subtract {low} from the values, or use "
            "binarize none."
        )
    if binarize == "threshold" and isinstance(x, torch.Tensor):
        share = float((x > middle).count_nonzero()) / x.numel()
        if not _RARE <= share <= 1 - _RARE:
            return [f"of the bits of {dataset.name!r}, cut above {middle:g}, {share:.2%} are 1."]
    return []


def _span(x: Examples, middle: float) -> tuple[int, int]:
    """The smallest and the largest value, of as much of x as shows that they are on both sides of ``middle``."""
    low, high = MAX_LEVELS, 0
    for piece in pieces(x):
        low, high = min(low, int(piece.min())), max(high, int(piece.max()))
        if low <= middle < high:
            break
    return low, high


def _binarized(dataset: Dataset, binarize: Binarize) -> Dataset:
    levels = dataset.source_levels
    assert levels is not None

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
    kind, notes = _kind(source)
    if unknown := [name for name in reading.chosen if name not in kind.choices]:
        wanted = [other.expects for other in KINDS if unknown[0] in other.choices]
        raise ValueError(
            f"{unknown[0]} is given, and {source!r} is {kind.expects}, which has no use for it. Leave it out"
            f"{f', or give {chr(32).join(wanted)}' if wanted else ''}."
        )
    raw = kind.read(_path(source), reading)
    return replace(raw, notes=(*raw.notes, *notes)) if notes else raw


def _stated(raw: Raw, reading: Reading) -> Raw:
    """The data with the grey levels that the options or a run state."""
    raw = replace(raw, run_levels=reading.run_levels)
    if reading.levels is None:
        return raw
    notes = raw.notes
    if raw.levels not in (None, reading.levels):
        notes = (
            *notes,
            f"{raw.name!r} states {raw.levels} grey levels; {reading.levels} are used, as stated.",
        )
    return replace(raw, levels=reading.levels, levels_origin="as stated", notes=notes)


def _path(source: str) -> str:
    """The source with a leading ~ read as the home folder, as a shell would."""
    return os.path.expanduser(source)


def _kind(source: str) -> tuple[Kind, list[str]]:
    """The kind that reads a source, and notes on what else could have been meant.

    Raises ``ValueError`` that says what the source could have been, or lists the choices.
    """
    place = _path(source)
    matching = (kind for kind in KINDS if source.strip() and kind.matches(place))
    if (first := next(matching, None)) is not None:
        if first is builtin.KIND:
            return first, _on_namesake(source)
        if first is not folder.KIND and os.path.isdir(place) and folder.KIND in matching:
            return _beside_images(first, place)
        return first, []
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


def _on_namesake(source: str) -> list[str]:
    if not os.path.lexists(source):
        return []
    found = "folder" if os.path.isdir(source) else "file"
    return [
        f"{source!r} is the built-in data set. There is a {found} of that name here, which is not read; to read "
        f"it, give ./{source}."
    ]


def _beside_images(kind: Kind, place: str) -> tuple[Kind, list[str]]:
    """The kind that reads a folder of images that ``kind`` could read as well."""
    if kind is idx.KIND:
        if idx.has_training_images(place):
            return kind, [f"{place!r} also holds image files, which are not read: its IDX files are."]
        return folder.KIND, []
    with os.scandir(place) as entries:
        names = sorted(entry.name for entry in entries if tables.KIND.matches(entry.path))
    if has_image(place, deep=False):
        raise ValueError(
            f"the folder {place!r} holds both images and tables ({', '.join(names[:5])}). To read a table, "
            f"give it: {os.path.join(place, names[0])}; to read the images, put them into a folder of their "
            "class or part."
        )
    return folder.KIND, [
        f"{place!r} also holds tables, which are not read: its images are. To read a table, give it: "
        f"{os.path.join(place, names[0])}."
    ]


def _near(path: Path, source: str) -> str:
    """The built-in names near a misspelt one, or else what lies near a misspelt path."""
    if path.name == source and (found := checks.suggest(source, SOURCES)):
        return found
    if not path.parent.is_dir():
        return f" Its folder {str(path.parent)!r} does not exist either."
    siblings = (p.name for p in islice(path.parent.iterdir(), 1_000))
    return checks.suggest(path.name, [name for name in siblings if not name.startswith(".")])
