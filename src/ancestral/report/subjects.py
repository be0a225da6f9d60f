"""What a report is of: a run, or the runs of a comparison, with their figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ancestral.chain import Chain
from ancestral.compare import Compared, measure, read_comparison, rulers_of
from ancestral.comparison_table import NAMES
from ancestral.data import Dataset
from ancestral.runs import RunFolder, load_data_of, load_run, pick_device
from ancestral.runs.quality import check_count


@dataclass(frozen=True)
class Measuring:
    """What is measured of a run for its report. A comparison's runs have been measured by it."""

    n: int | None = 1000
    """How many test examples are evaluated; None for all."""
    importance_samples: int = 256
    """Draws per example for log p(x) of a vae or hvae; 0 for none."""
    quality: int = 500
    """How many samples are measured against as many test examples; 0 for none."""


@dataclass(frozen=True)
class Subject:
    """One model of a report."""

    compared: Compared
    folder: RunFolder

    @property
    def name(self) -> str:
        """As in titles."""
        return NAMES[self.compared.kind]

    @property
    def chain(self) -> Chain:
        """Its averaged weights."""
        return self.compared.chain

    @property
    def figures(self) -> dict[str, Any]:
        """As in comparison.json."""
        return self.compared.figures

    @property
    def records(self) -> list[dict[str, Any]]:
        """Of its training, as in metrics.jsonl."""
        return self.folder.records()


@dataclass(frozen=True)
class Subjects:
    """All of a report's models, and the data they share."""

    path: Path
    models: list[Subject]
    data: Dataset
    comparison: dict[str, Any] | None
    """comparison.json; None for a single run."""


def open_subjects(
    path: Path,
    *,
    source: str | None = None,
    measuring: Measuring | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Subjects:
    """What lies at ``path``: a comparison's folder, whose figures are read, or a run's, which are measured
    now.

    ``ValueError`` where there is neither, where ``measuring`` is given and the figures are there already, or
    where the data (at ``source``, if they moved) are others than those trained on.
    """
    place = pick_device(device)
    if (path / "comparison.json").is_file():
        if measuring is not None:
            raise ValueError(
                f"{path} is a comparison, whose figures have been measured; what is to be measured cannot be "
                "chosen now. Leave it out, or give a run's folder."
            )
        facts, compared = read_comparison(path)
        if not compared:
            raise ValueError(f"{path / 'comparison.json'} has no models. Make it anew: ancestral compare.")
        folders = [RunFolder.open(path / one.kind) for one in compared]
        data = load_data_of(folders[0], source=source)
        for one in compared:
            one.chain.to(place)
        models = [Subject(one, folder) for one, folder in zip(compared, folders, strict=True)]
        return Subjects(path, models, data, facts)
    folder = RunFolder.open(path)
    measuring = measuring or Measuring()
    check_count(measuring.quality)
    chain = load_run(path).to(place)
    data = load_data_of(folder, source=source)
    one = measure(
        folder,
        chain,
        data,
        n=measuring.n,
        importance_samples=measuring.importance_samples,
        rulers=rulers_of(data, measuring.quality),
        progress=progress,
    )
    return Subjects(path, [Subject(one, folder)], data, None)
