"""The data that a run's options name."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from ancestral._internal import checks
from ancestral.config import DataConfig
from ancestral.data import Dataset, Reading, load_data
from ancestral.data.readers.builtin import SOURCES
from ancestral.experiments.runs.folder import RunFolder


def load_configured(
    config: DataConfig,
    *,
    source: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Dataset:
    """Read the data of ``config``, from ``source`` where they have moved. Raises as ``load_data`` does."""
    reading = Reading(config.image_size, config.channels, config.skip_bad, config.label, progress)
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
    data = data_of_run(folder, source, progress)
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


def data_of_run(folder: RunFolder, source: str | None, progress: Callable[[int, int], None]) -> Dataset:
    """The data of a run; where its own source is no longer there, the error names ``--data``."""
    trained_on = folder.config.data.source
    try:
        return load_configured(folder.config.data, source=source, progress=progress)
    except ValueError as error:
        # A relative path may lead elsewhere now; a file that is there and damaged has its own message.
        moved = source in (None, trained_on) and not Path(trained_on).expanduser().exists()
        if not moved or trained_on in SOURCES or trained_on.startswith("hf:"):
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
