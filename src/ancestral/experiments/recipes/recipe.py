"""A recipe's folder: what to train, on which data, and the figure that is to come of it.

recipe.json          the data it is for, the figure it aims at and how that is measured, the command
config.json          every option, in the format of a run's config.json
result.json          what a run of it gave, written by the run itself; not there before
weights.safetensors  the averaged weights that the figure is of, written with it where they are below 3 MB

``SHELF`` holds those that come with the library. In a checkout it is a link to the folder recipes/ at the
top; in an installed package, a copy of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from ancestral._internal import checks
from ancestral.config import RunConfig
from ancestral.experiments.recipes.result import Result

SHELF = Path(__file__).parent / "shelf"

Metric = Literal["nll", "bits_per_dim"]
UNITS: dict[str, str] = {"nll": "nats", "bits_per_dim": "bits/dim"}
STRICT: dict[str, str] = {"extra": "forbid"}


@dataclass(frozen=True)
class Needs:
    """The data that a recipe is for, by what can be checked of them."""

    name: str
    """As reports call them."""
    train: int
    """Training examples, before any are held out for validation."""
    test: int
    shape: tuple[int, ...]
    """Of one example, (C, H, W)."""
    levels: int
    """Before binarisation."""
    source: str
    """What --data takes, in words."""
    not_content: dict[str, str] = field(default_factory=dict)
    """Fingerprints, as of ``Recipe.content``, of other data that fit all of this, and their names."""

    __pydantic_config__: ClassVar = STRICT


@dataclass(frozen=True)
class Figure:
    """The figure a recipe is for: smaller is better."""

    metric: Metric
    """nll: −log p(x) by importance sampling, nats. bits_per_dim: of the ELBO."""
    must: float | None
    """What it has to reach; where ``below`` is given, how far below that recipe's figure. None: a reference
    of our own."""
    aim: float | None
    """What it aims at, in the same way."""
    below: str | None
    """The recipe that it is to be better than."""
    samples: int
    """nll: importance samples for each image. bits_per_dim: paths for each image."""
    levels: int | None
    """Random levels for each image that a DDPM's matching terms are estimated from; None for all."""
    seed: int
    """Of the evaluation."""

    __pydantic_config__: ClassVar = STRICT

    @property
    def unit(self) -> str:
        """Of the figure."""
        return UNITS[self.metric]

    @property
    def digits(self) -> int:
        """After the point, where it is printed: about as many as a standard error leaves."""
        return 2 if self.metric == "nll" else 3

    def target(self, value: float | None) -> str:
        """``must`` or ``aim`` as text."""
        if value is None:
            return "–"
        below = f" below {self.below}" if self.below else ""
        return f"{value:.{self.digits}f} {self.unit}{below}"


@dataclass(frozen=True)
class Facts:
    """What recipe.json holds."""

    title: str
    table: str
    """The table of docs/results.md it belongs to."""
    data: Needs
    figure: Figure
    command: str
    minutes: float
    """What all steps and the evaluation take, about."""
    on: str
    """The machine that these minutes are of."""
    lacks: list[str]
    """Options it needs that this version does not have yet: until then it is not run."""
    note: str
    """What a reader has to know beside the figure; may be empty."""
    not_here: str = ""
    """Why it is not run on our machines, though this version can; empty for one that is, or will be."""

    __pydantic_config__: ClassVar = STRICT


@dataclass(frozen=True)
class Recipe:
    """One recipe; ``open_recipe`` reads it."""

    path: Path
    facts: Facts

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.path.name

    @property
    def config(self) -> RunConfig:
        """Its options, checked; the data's source is a name and not a place."""
        from ancestral.experiments.runs import RunFolder

        return RunFolder.open(self.path).config

    @property
    def content(self) -> str | None:
        """The fingerprint of the data, as of ``data.content_hash``; None when it is not known."""
        facts: dict[str, Any] = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        return facts["content"] or None

    @property
    def result(self) -> Result | None:
        """The recorded result; None where there is none (see ``status``)."""
        path = self.path / "result.json"
        return Result.read(path) if path.is_file() else None

    @property
    def status(self) -> str:
        """recorded, not run here, or not run yet."""
        if self.result is not None:
            return "recorded"
        return "not run here" if self.facts.not_here else "not run yet"


def open_recipes(folder: Path = SHELF) -> list[Recipe]:
    """The recipes in a folder, by name. ``ValueError`` when there are none, or one cannot be read."""
    found = sorted(path.parent for path in folder.glob("*/recipe.json"))
    if not found:
        raise ValueError(f"there are no recipes in {folder}: no folder there holds a recipe.json.")
    return [_open(path) for path in found]


def open_recipe(name: str, folder: Path = SHELF) -> Recipe:
    """The recipe of this name. ``ValueError`` with the names near it when there is none."""
    checks.one_of("the recipe", name, [recipe.name for recipe in open_recipes(folder)])
    return _open(folder / name)


def _open(path: Path) -> Recipe:
    from pydantic import TypeAdapter, ValidationError

    file = path / "recipe.json"
    try:
        facts = TypeAdapter(Facts).validate_json(file.read_text(encoding="utf-8"), strict=True)
    except (OSError, ValidationError) as error:
        raise ValueError(f"{file} is not a recipe ({error}).") from error
    return Recipe(path, facts)
