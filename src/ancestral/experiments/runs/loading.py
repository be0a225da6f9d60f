"""The data that a run's options name."""

from __future__ import annotations

from collections.abc import Callable

from ancestral.config import DataConfig
from ancestral.data import Dataset, Reading, load_data
from ancestral.experiments.runs.folder import RunFolder


def load_configured(
    config: DataConfig,
    *,
    source: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """Read the data of ``config``, from ``source`` where they have moved. Raises as ``load_data`` does."""
    reading = Reading(
        config.image_size, config.channels, config.skip_bad, config.label, config.header, progress=progress
    )
    return load_data(
        config.source if source is None else source,
        binarize=config.binarize,
        validation=config.validation,
        reading=reading,
        augment=config.augment,
    )


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
    data = load_configured(folder.config.data, source=source, progress=progress)
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
    return data
