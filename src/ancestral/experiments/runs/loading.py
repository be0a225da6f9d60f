"""The data that a run's options name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from ancestral._internal import checks
from ancestral.config import DataConfig
from ancestral.data import Dataset, Reading, Split, content_hash, load_data
from ancestral.data.readers.builtin import SOURCES
from ancestral.data.sources import load_whole
from ancestral.experiments.runs.folder import RunFolder

SPLITS = ("test", "validation", "train")


@dataclass(frozen=True)
class Asked:
    """Examples that a run is asked about."""

    data: Dataset
    splits: dict[str, Split]
    """By name: one split, or all of them."""
    new: bool
    """Whether they are all examples of a new source, which has no parts."""

    @property
    def words(self) -> str:
        """The name of the split, or "all"."""
        return next(iter(self.splits)) if len(self.splits) == 1 else "all"


def load_configured(
    config: DataConfig,
    *,
    source: str | None = None,
    run_levels: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """Read the data of ``config``, from ``source`` where they have moved. Raises as ``load_data`` does.

    ``run_levels`` are the grey levels of the run that the data are for, and other data have where they fit.
    """
    here = source is None or source == config.source
    source = config.source if source is None else source
    if not source:
        raise ValueError(
            "the run was trained on arrays in memory, which its folder cannot read again. Write them to a file "
            "(numpy.savez) and give it: --data FILE. To resume, call fit(chain, data, …, out=…) in Python."
        )
    reading = reading_of(config, progress)
    if not here:
        # The grey levels of the run are those of other data only where they fit.
        reading = replace(reading, levels=None)
    return load_data(
        source,
        binarize=config.binarize,
        validation=config.validation,
        reading=replace(reading, run_levels=run_levels or config.levels),
        augment=config.augment,
        deduplicate=config.deduplicate,
    )


def reading_of(
    config: DataConfig, progress: Callable[[int, int], None] = lambda done, total: None
) -> Reading:
    """How the options say that a source is read."""
    return Reading(
        image_size=config.image_size,
        channels=config.channels,
        skip_bad=config.skip_bad,
        label=config.label,
        key=config.key,
        levels=config.levels,
        header=config.header,
        progress=progress,
    )


def examples_of(
    folder: RunFolder,
    split: str,
    *,
    source: str | None = None,
    key: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Asked:
    """The examples of a split of a run's data, or of all with "all"; of a new ``source`` all there are.

    A source is new where its content is not that of the run's data and it has no test part. ``key`` is the
    column that names each row of a table, by default the run's. Raises ``ValueError`` as ``load_data_of``, and for
    a split of a new source.
    """
    config = folder.config.data
    moved = None if source is None else _whole(folder, source, key, progress)
    if moved is not None:
        if split not in ("test", "all"):
            raise ValueError(
                f"split is {split}, and {source} is not the data of {folder.path} and has no such part: all its "
                "examples are read. Leave split out."
            )
        return Asked(moved, {"all": moved.test}, new=True)
    if key is not None and key != config.key:
        raise ValueError(
            f"key is {key!r}, and the data are those of {folder.path}, which were read with "
            f"{'no key' if config.key is None else f'the key {config.key!r}'}. Leave key out."
        )
    data = load_data_of(folder, source=source, progress=progress)
    if split != "all":
        return Asked(data, {split: data.split(split)}, new=False)
    names = [name for name in SPLITS if name != "validation" or data.validation is not None]
    return Asked(data, {name: data.split(name) for name in names}, new=False)


def _whole(
    folder: RunFolder, source: str, key: str | None, progress: Callable[[int, int], None]
) -> Dataset | None:
    """All examples of a source that is new to a run; None where it is the run's data, or has a test part."""
    config = folder.config.data
    if source == config.source:
        return None
    reading = reading_of(config, progress)
    try:
        same = load_configured(config, source=source, run_levels=folder.source_levels, progress=progress)
    except ValueError:
        # A source of a single example cannot be split. Other reasons are raised below as well.
        pass
    else:
        if content_hash(same) == folder.facts["content"]:
            return None
    grey = folder.spec.levels if config.binarize == "none" else folder.source_levels
    data = load_whole(
        source,
        reading=replace(reading, key=key or config.key),
        binarize=config.binarize,
        columns=folder.columns,
        class_names=folder.class_names,
        levels=grey,
        channels=folder.spec.shape[0] if folder.spec.is_image else None,
    )
    if data is not None:
        _check_alike(folder, data)
    return data


def load_data_of(
    folder: RunFolder,
    *,
    source: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """The data of a run, from ``source`` where they have moved or others are to be looked at.

    ``ValueError`` where they cannot be read, or are no examples of what the run was trained on: of another
    shape, number of levels, or order of columns.
    """
    data = data_of_run(folder, source, progress)
    _check_alike(folder, data)
    return data


def _check_alike(folder: RunFolder, data: Dataset) -> None:
    if data.spec != folder.spec:
        raise ValueError(
            f"the data are {data.spec.words}, and {folder.path} was trained on {folder.spec.words}. Give "
            "data of the same shape and levels."
        )
    if None not in (data.columns, folder.columns) and data.columns != folder.columns:
        raise ValueError(
            f"the columns of the data are {' '.join(map(repr, data.columns or ()))}, and {folder.path} was "
            f"trained on {' '.join(map(repr, folder.columns or ()))}. Put them in that order."
        )


def data_of_run(folder: RunFolder, source: str | None, progress: Callable[[int, int], None]) -> Dataset:
    """The data of a run; where its own source is no longer there, the error names ``--data``."""
    trained_on = folder.config.data.source
    try:
        return load_configured(
            folder.config.data, source=source, run_levels=folder.source_levels, progress=progress
        )
    except ValueError as error:
        # A relative path may lead elsewhere now; a file that is there and damaged has its own message.
        moved = source in (None, trained_on) and not Path(trained_on).expanduser().exists()
        if not trained_on or not moved or trained_on in SOURCES or trained_on.startswith("hf:"):
            raise
        raise ValueError(
            f"there is no data source {trained_on!r} any more, which {folder.path} was trained on (seen from "
            f"{str(Path.cwd())!r}).{_near(Path(trained_on).expanduser())} Say where the data are now: --data PATH."
        ) from error


def _near(path: Path) -> str:
    """The names beside a path that are near its own."""
    if not path.parent.is_dir():
        return ""
    return checks.suggest(path.name, [beside.name for beside in islice(path.parent.iterdir(), 1000)])
