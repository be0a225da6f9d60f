"""The data that a run's options name."""

from __future__ import annotations

from collections.abc import Callable

from ancestral.config import DataConfig
from ancestral.data import Dataset, Reading, load_data


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
