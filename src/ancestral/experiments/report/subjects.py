"""What a report is of: a run, or the runs of a comparison, with their figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ancestral.core.chain import Chain
from ancestral.data import Dataset
from ancestral.experiments.compare import Compared, checkpoint_of, compared, read_comparison
from ancestral.experiments.comparison_table import NAMES
from ancestral.experiments.runs import RunFolder, load_data_of, load_run, pick_device
from ancestral.experiments.runs.measuring import Plan


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
    plan: Plan | None = None,
    device: str = "auto",
    checkpoint: int | str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Subjects:
    """What lies at ``path``: a comparison's folder, whose figures are read, or a run's, which are measured
    now.

    ``ValueError`` where there is neither, where ``plan`` is given and the figures are there already, or
    where the data (at ``source``, if they moved) are others than those trained on.
    """
    place = pick_device(device)
    if (path / "comparison.json").is_file():
        if plan is not None:
            raise ValueError(
                f"{path} is a comparison, whose figures have been measured; what is to be measured cannot be "
                "chosen now. Leave it out, or give a run's folder."
            )
        if checkpoint is not None:
            raise ValueError(
                f"checkpoint is {checkpoint} and {path} is a comparison, whose figures are of the checkpoints "
                "that ancestral compare chose. Leave it out, or give a run's folder."
            )
        facts, found = read_comparison(path)
        if not found:
            raise ValueError(f"{path / 'comparison.json'} has no models. Make it anew: ancestral compare.")
        folders = [RunFolder.open(path / one.kind, checkpoint=checkpoint_of(one.figures)) for one in found]
        data = load_data_of(folders[0], source=source)
        for one in found:
            one.chain.to(place)
        models = [Subject(one, folder) for one, folder in zip(found, folders, strict=True)]
        return Subjects(path, models, data, facts)
    folder = RunFolder.open(path, checkpoint=checkpoint)
    chain = load_run(folder).to(place)
    data = load_data_of(folder, source=source)
    # With what is there already, where that is at least as much.
    one = compared(folder, chain, data, plan or Plan(), enough=plan is None, progress=progress)
    return Subjects(path, [Subject(one, folder)], data, None)
