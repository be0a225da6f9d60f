"""Which checkpoint of a run is read: the one with the best held-out ELBO, the last one, or that of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ancestral._internal import checks
from ancestral.bounds import Estimate
from ancestral.training.checkpoint import CheckpointError, step_of

CHOICES = ("best", "last")


@dataclass(frozen=True)
class Best:
    """The evaluation of a run with the best held-out ELBO so far."""

    step: int
    elbo: dict[str, Any]
    """In nats per example, as in the commands' JSON."""
    bits_per_dim: dict[str, Any] | None

    @property
    def words(self) -> str:
        """The figure for a person."""
        if self.bits_per_dim is not None:
            return f"{Estimate.from_json(self.bits_per_dim):.4f} bits/dim"
        return f"ELBO {Estimate.from_json(self.elbo)} nats"

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        return {"step": self.step, "elbo": self.elbo, "bits_per_dim": self.bits_per_dim}


@dataclass(frozen=True)
class Chosen:
    """A checkpoint, and how it was chosen."""

    path: Path
    name: str
    """best, last or step."""
    best: Best | None
    """The run's best evaluation, where it has one."""
    last: int
    """The step of the last checkpoint."""

    @property
    def step(self) -> int:
        """The step that it is of."""
        return step_of(self.path)

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        return {
            "name": self.name,
            "step": self.step,
            "best": None if self.best is None else self.best.step,
            "last": self.last,
        }

    @property
    def words(self) -> str:
        """The same for a person."""
        others = {"best": None if self.best is None else self.best.step, "last": self.last}
        rest = [f"{name}: step {step}" for name, step in others.items() if step not in (None, self.step)]
        name = "checkpoint of" if self.name == "step" else f"{self.name} checkpoint,"
        return f"{name} step {self.step}" + (f" ({', '.join(rest)})" if rest else "")


def best_of(records: Sequence[dict[str, Any]], steps: Sequence[int]) -> Best | None:
    """The best evaluation that ``records`` of metrics.jsonl name and whose checkpoint is among ``steps``.

    None where the run has no validation part, evaluated only at its end, or was made by a version whose
    evaluations could not be compared.
    """
    held_out = {record["step"]: record for record in records if record["kind"] == "validation"}
    for record in reversed(held_out.values()):
        best = record.get("best")
        if best is not None and best["step"] in steps and best["step"] in held_out:
            found = held_out[best["step"]]
            return Best(best["step"], found["elbo"], found["bits_per_dim"])
    return None


def check_choice(asked: object) -> int | str | None:
    """``asked`` as "best", "last", a step or None; ``ValueError`` for anything else."""
    if asked is None or asked in CHOICES:
        return asked
    if isinstance(asked, str) and asked.isascii() and asked.isdecimal():
        return int(asked)
    if isinstance(asked, int) and not isinstance(asked, bool) and asked >= 0:
        return asked
    near = checks.suggest(asked, CHOICES) if isinstance(asked, str) else ""
    raise ValueError(f"checkpoint is {asked!r}; it must be best, last, or the number of a step.{near}")


def choose(
    run: Path, points: Sequence[Path], records: Sequence[dict[str, Any]], asked: int | str | None
) -> Chosen:
    """The checkpoint among ``points``, oldest first, that ``asked`` names: by default the best, else the last.

    ``CheckpointError`` where the run has none, or not this one.
    """
    if not points:
        raise CheckpointError(
            f"{run} has no checkpoint yet. Continue training: ancestral train --resume {run}"
        )
    by_step = {step_of(path): path for path in points}
    best, last = best_of(records, list(by_step)), step_of(points[-1])
    if asked == "best" and best is None:
        raise CheckpointError(
            f"checkpoint is best, and {run} has no best checkpoint: held-out ELBOs choose it, which need a "
            "validation part and --evaluate-every above 0. Use --checkpoint last, or a step: "
            f"{_listed(by_step)}."
        )
    if isinstance(asked, int):
        if asked not in by_step:
            raise CheckpointError(
                f"checkpoint is {asked}, and {run} has no checkpoint of that step. Those stored are of step "
                f"{_listed(by_step)}."
            )
        return Chosen(by_step[asked], "step", best, last)
    if asked != "last" and best is not None:
        return Chosen(by_step[best.step], "best", best, last)
    return Chosen(points[-1], "last", best, last)


def _listed(steps: dict[int, Path]) -> str:
    return ", ".join(map(str, steps))
