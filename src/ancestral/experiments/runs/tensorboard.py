"""A run's records as events that TensorBoard shows, beside metrics.jsonl."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def check_tensorboard() -> None:
    """``ValueError`` where the package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError("tensorboard is not installed. Install it: pip install 'ancestral[tensorboard]'.")


class TensorBoard:
    """A report for ``fit``, that writes scalars to ``tensorboard/`` in the run's folder.

    Nothing is written before the first record, as a run's folder must be new. ``close`` it at the end.
    """

    def __init__(self, run: Path) -> None:
        check_tensorboard()
        self.run = run
        self._writer: Any = None

    def __call__(self, record: dict[str, Any]) -> None:
        """Take in a record of metrics.jsonl."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.run / "tensorboard"))
        step = record["step"]
        for name, value in _scalars(record).items():
            self._writer.add_scalar(name, value, step)
        if record["kind"] == "note":
            self._writer.add_text("notes", record["text"], step)

    def close(self) -> None:
        """Write what is not yet written."""
        if self._writer is not None:
            self._writer.close()


def _scalars(record: dict[str, Any]) -> dict[str, float]:
    if record["kind"] == "train":
        found = {"train/loss": record["loss"], "train/gradient_norm": record["gradient_norm"]}
        found |= {f"train/{name}": value for name, value in record["terms"].items()}
        if "learning_rate" in record:
            found["train/learning_rate"] = record["learning_rate"]
        return found
    if record["kind"] == "validation":
        found = {"validation/elbo": record["elbo"]["mean"]}
        if record["bits_per_dim"] is not None:
            found["validation/bits_per_dim"] = record["bits_per_dim"]["mean"]
        return found
    return {}
