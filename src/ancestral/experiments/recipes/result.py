"""What a run of a recipe gave: result.json."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ancestral.bounds import Estimate


@dataclass(frozen=True)
class Planned:
    """How many of something the recipe asks for, and how many there were."""

    planned: int
    taken: int

    __pydantic_config__: ClassVar = {"extra": "forbid"}


@dataclass(frozen=True)
class Extended:
    """Where a run was made longer. Up to there the learning rate was that of the shorter plan."""

    step: int
    steps: int
    """Planned until then."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}


@dataclass(frozen=True)
class Result:
    """A figure and all that it depends on."""

    recipe: str
    metric: str
    """nll or bits_per_dim; smaller is better."""
    value: float
    stderr: float
    """Standard error of the mean over examples, which includes that of random draws."""
    unit: str
    n: int
    """Test examples."""
    data: str
    binarization: str
    """none, or how bits were drawn in training and for the test."""
    estimator: str
    """In words, with the number of samples."""
    seed: int
    """Of training."""
    evaluation_seed: int
    seconds: float
    """Of training steps alone."""
    evaluation_seconds: float
    machine: str
    """Where it was trained, and evaluated last."""
    parameters: int
    version: str
    shortened: bool
    """Whether it had fewer steps or samples than the recipe asks for."""
    steps: Planned
    samples: Planned
    elbo: float
    """Nats per example, larger is better: beside an nll, what importance sampling gained."""
    extended: list[Extended] = field(default_factory=list)
    """Where a shorter run was gone on with; empty for one run from start to end."""
    content: str | None = None
    """Fingerprint of the data, as of ``data.content_hash``; None in results from before it was written."""

    weights: str | None = None
    """Fingerprint (SHA-256) of weights.safetensors beside the recorded result; None where none are kept."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    @property
    def figure(self) -> Estimate:
        """The value with its standard error."""
        return Estimate(self.value, self.stderr)

    @property
    def parts(self) -> int:
        """In how many parts the run was taken; 1 from start to end."""
        return len(self.extended) + 1

    @staticmethod
    def read(path: Path) -> Result:
        """The result in a file. ``ValueError`` names what does not fit."""
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(Result).validate_json(path.read_text(encoding="utf-8"), strict=True)
        except (OSError, ValidationError) as error:
            raise ValueError(f"{path} is not a recipe's result ({error}).") from error

    def json(self) -> dict[str, Any]:
        """As in the file."""
        return dataclasses.asdict(self)

    def write(self, path: Path) -> None:
        """Replace the file as a whole."""
        from ancestral._internal.atomic import write_text_atomically

        write_text_atomically(path, json.dumps(self.json(), indent=1) + "\n")
