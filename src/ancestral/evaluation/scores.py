"""Scores of single examples: a bound on log p(x) of each, and not their mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral.bounds import Bound, IwaeBound, PathBound, SweepBound, default_bound, elbo_bound
from ancestral.core.chain import Chain
from ancestral.data import Examples, Split, identities
from ancestral.evaluation.loop import Measurement, Progress
from ancestral.evaluation.store import Store, measure

BOUNDS = ("elbo", "iwae")
PATHS, WEIGHED = 16, 256
"""Paths per example for the ELBO and for the importance-weighted bound, by default."""


@dataclass(frozen=True, eq=False)
class Scores:
    """A lower bound on log p(x) of each example."""

    nats: Tensor
    """(n,), float64."""
    stderr: Tensor
    """(n,), of each example's own draws; NaN where they are one draw (or one importance-weighted bound)."""
    bits_per_dim: Tensor | None
    """(n,): −nats / (D log 2), smaller where x is more likely; None where p(x|z_1) is a density."""
    bound: str
    """What it is, in words."""

    @staticmethod
    def of(chain: Chain, measurement: Measurement) -> Scores:
        """From a measurement of a bound."""
        nats = measurement.found.nats.double()
        bits = -nats / (chain.spec.dims * math.log(2.0)) if chain.discrete else None
        return Scores(nats, measurement.found.stderr_each, bits, measurement.words)

    def order(self) -> Tensor:
        """The examples' numbers, from the most to the least likely; equals in their own order."""
        return self.nats.argsort(descending=True, stable=True)


def scores(
    chain: Chain,
    x: Split | Examples,
    *,
    bound: str = "elbo",
    samples: int | None = None,
    levels: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    n: int | None = None,
    store: Store | None = None,
    split: str = "test",
    progress: Progress | None = None,
) -> Scores:
    """The bound of each example of x, (N, *shape), or of ``n`` of them (``Split.some``), with its own error.

    ``bound`` "elbo" averages ``samples`` paths (16 by default) or, for chains whose q(z_t|x) is closed-form,
    sweeps (1 by default); with ``levels`` it takes that many random levels per example, drawn by importance,
    in the place of a sweep, which is the default above T = 100. "iwae" is the importance-weighted bound of
    ``samples`` (256) draws. Raises ``ValueError`` for options that do not go together.
    """
    how = score_bound(chain, bound, samples=samples, levels=levels)
    (found,) = measure(
        chain,
        x,
        [how],
        store=store,
        n=n,
        split=split,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    return Scores.of(chain, found)


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of single examples, from the most to the least likely."""

    rows: list[dict[str, Any]]
    """For each example its identity (``data.identities``), split and class where there are such, and its score."""
    nats: Tensor
    """(n,), in the same order."""
    bound: str
    """What it is, in words."""
    parts: tuple[Split, ...]
    """The examples of each part."""
    places: list[tuple[int, int]]
    """The part and the place in it of each example."""

    @staticmethod
    def of(found: Scores, split: Split, name: str) -> Scored:
        """Of the examples of a split, in their own order."""
        rows = []
        for place, one in enumerate(identities(split)):
            row: dict[str, Any] = {**one, "split": name}
            if split.labels is not None:
                row["class"] = int(split.labels[place])
            row |= {"nats": float(found.nats[place]), "stderr": float(found.stderr[place])}
            if found.bits_per_dim is not None:
                row["bits_per_dim"] = float(found.bits_per_dim[place])
            rows.append(row)
        places = [(0, place) for place in range(len(split))]
        return Scored(rows, found.nats, found.bound, (split,), places)

    @staticmethod
    def joined(parts: Sequence[Scored], *, class_names: tuple[str, ...] | None = None) -> Scored:
        """All examples of the parts, sorted; equals in their own order. Classes have their names."""
        rows = [row for part in parts for row in part.rows]
        nats = torch.cat([part.nats for part in parts])
        places = [(number, place) for number, part in enumerate(parts) for _, place in part.places]
        order = nats.argsort(descending=True, stable=True)
        names = {name: None for row in rows for name in row if name != "split" or len(parts) > 1}

        def shown(row: dict[str, Any]) -> dict[str, Any]:
            found = {name: row.get(name, "") for name in names}
            if class_names is not None and "class" in row:
                found["class"] = class_names[row["class"]]
            return found

        numbers = order.tolist()
        return Scored(
            [shown(rows[number]) for number in numbers],
            nats[order],
            parts[0].bound,
            tuple(split for part in parts for split in part.parts),
            [places[number] for number in numbers],
        )

    def x(self, order: Iterable[int]) -> Tensor:
        """The examples with these numbers, (k, *shape), on the CPU."""
        found = []
        for number in order:
            part, place = self.places[number]
            found.append(self.parts[part].take(np.array([place])).to("cpu").x)
        return torch.cat(found)  # type: ignore[arg-type]


def scored(chain: Chain, x: Split, *, split: str = "test", n: int | None = None, **options: Any) -> Scored:
    """``scores`` of a split, with the identity of each example; ``options`` are those of ``scores``."""
    found = scores(chain, x, split=split, n=n, **options)
    return Scored.of(found, x.some(n), split)


def score_bound(chain: Chain, bound: str, *, samples: int | None = None, levels: int | None = None) -> Bound:
    """The bound that options name, as ``scores`` takes it."""
    checks.one_of("bound", bound, BOUNDS)
    if samples is not None:
        checks.integer("samples", samples, low=1)
    if levels is not None and samples is not None:
        raise ValueError(f"samples is {samples} and levels is {levels}; give one of them.")
    if bound == "iwae":
        if levels is not None:
            raise ValueError(
                f"levels is {levels} and bound is 'iwae', which has none. Leave one of them out."
            )
        if chain.single_levels:
            raise ValueError(
                f"bound is 'iwae': importance weights over all levels of a {type(chain).__name__} are useless. "
                "Use bound 'elbo'."
            )
        return IwaeBound(samples or WEIGHED)
    if levels is None and samples is None:
        return default_bound(chain) if chain.single_levels else PathBound(PATHS)
    if samples is not None and chain.single_levels:
        found: Bound = SweepBound(samples)
        found.check(chain)
        return found
    return elbo_bound(chain, samples=samples, levels=levels)
