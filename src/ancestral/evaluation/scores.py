"""Scores of single examples: a bound on log p(x) of each, and not their mean.

A DDPM's score from random levels has an error that few replicates tell: its interval has Student's factor. The
ends of the ranking, where errors collect, are estimated again from more levels (``scores``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral._internal.randomness import mixed
from ancestral.bounds import (
    Bound,
    Estimate,
    IwaeBound,
    PathBound,
    SampledLevelsBound,
    SweepBound,
    code_length,
    default_bound,
    elbo_bound,
)
from ancestral.bounds.student import student_factor
from ancestral.core.chain import Chain
from ancestral.core.entrance import Given
from ancestral.data import Examples, Split, identities
from ancestral.evaluation.loop import Measurement, Progress, entered
from ancestral.evaluation.store import Store, measure

BOUNDS = ("elbo", "iwae")
PATHS, WEIGHED = 16, 256
"""Paths per example for the ELBO and for the importance-weighted bound, by default."""
FINER = 8
"""How many times the levels of all examples those at the ends of the ranking get."""
_ENDS, _SHARE = (5, 50), 40
"""The fewest and the most examples of an end, which is one ``_SHARE``-th of all."""
_ROUNDS = 3
"""How often the ends are looked for: after a round, other examples may be there."""
_AGAIN = 11
"""Keeps the seed of the ends apart from others."""


@dataclass(frozen=True, eq=False)
class Scores:
    """A lower bound on log p(x) of each example."""

    nats: Tensor
    """(n,), float64."""
    stderr: Tensor
    """(n,), of each example's own draws; NaN where they are one draw (or one importance-weighted bound)."""
    degrees: Tensor
    """(n,): the degrees of freedom of each standard error, one less than the independent estimates; 0 for NaN."""
    bits_per_dim: Tensor | None
    """(n,): −nats / (D log 2), smaller where x is more likely; None where p(x|z_1) is a density."""
    bound: str
    """What it is, in words."""

    @staticmethod
    def of(chain: Chain, measurement: Measurement) -> Scores:
        """From a measurement of a bound. ``ValueError`` as ``code_length``."""
        found = measurement.found
        replicates = 1 if found.replicates is None else found.replicates.shape[1]
        degrees = torch.full((measurement.n,), replicates - 1, dtype=torch.long)
        return Scores._of(chain, found.nats.double(), found.stderr_each, degrees, measurement.words)

    @staticmethod
    def _of(chain: Chain, nats: Tensor, stderr: Tensor, degrees: Tensor, bound: str) -> Scores:
        code_length(chain, Estimate.of(nats))
        bits = -nats / (chain.spec.dims * math.log(2.0)) if chain.discrete else None
        return Scores(nats, stderr, degrees, bits, bound)

    @staticmethod
    def joined(parts: Sequence[Scores]) -> Scores:
        """Of all the parts' examples, which were scored by one bound."""
        bits = [part.bits_per_dim for part in parts if part.bits_per_dim is not None]
        return Scores(
            torch.cat([part.nats for part in parts]),
            torch.cat([part.stderr for part in parts]),
            torch.cat([part.degrees for part in parts]),
            torch.cat(bits) if bits else None,
            parts[0].bound,
        )

    def with_some(self, chain: Chain, index: Tensor, some: Scores, *, bound: str) -> Scores:
        """With the scores ``some`` in the place of those at ``index``, (k,)."""
        nats = self.nats.index_copy(0, index, some.nats)
        stderr = self.stderr.index_copy(0, index, some.stderr)
        return Scores._of(chain, nats, stderr, self.degrees.index_copy(0, index, some.degrees), bound)

    def order(self) -> Tensor:
        """The examples' numbers, from the most to the least likely; equals in their own order."""
        return self.nats.argsort(descending=True, stable=True)

    @property
    def interval(self) -> Tensor:
        """(n,): half the width of each score's 95 % interval: its stderr with Student's factor; else NaN."""
        factors = {int(d): student_factor(int(d)) if d > 0 else math.nan for d in self.degrees.unique()}
        factor = torch.tensor([factors[int(d)] for d in self.degrees], dtype=torch.float64)
        return factor * self.stderr

    @property
    def error(self) -> dict[str, Any] | None:
        """The error of the scores, as in the commands' JSON; None where there is one draw of each.

        ``interval`` is the median over examples, ``spread`` the standard deviation of the scores, and
        ``large`` whether the former is as large as the latter.
        """
        if len(self.nats) < 2 or not bool((self.degrees > 0).all()):
            return None
        interval, spread = float(self.interval.median()), float(self.nats.std())
        degrees = int(self.degrees.min())
        return {
            "interval": interval,
            "confidence": 0.95,
            "degrees_of_freedom": degrees,
            "student_factor": student_factor(degrees),
            "spread": spread,
            "large": interval >= spread,
        }

    @property
    def remark(self) -> str | None:
        """``error`` for a person, with what narrows it where it is large."""
        found = self.error
        if found is None:
            return None
        told = (
            f"a score's 95 % interval is ± {found['interval']:.3g} nats at the median (Student's factor "
            f"{found['student_factor']:.3g} for {found['degrees_of_freedom']} degrees of freedom), and the "
            f"scores' standard deviation is {found['spread']:.3g} nats"
        )
        if not found["large"]:
            return told
        return (
            told
            + ": errors are as large as the differences that are ranked; give more --levels (or --samples)"
        )


def scores(
    chain: Chain,
    x: Split | Examples | Given,
    *,
    bound: str = "elbo",
    samples: int | None = None,
    levels: int | None = None,
    refine: bool | None = None,
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
    ``samples`` (256) draws. ``refine`` estimates the examples at both ends of the ranking again, from ``FINER``
    times the random levels, until those at the ends are refined ones; by default where ``levels`` is not given.
    ``ValueError`` for options that do not go together, and ``ValueError`` or ``TypeError`` for examples that do
    not match the chain.
    """
    how = score_bound(chain, bound, samples=samples, levels=levels)
    rest: dict[str, Any] = {"store": store, "batch_size": batch_size, "progress": progress}
    if refine and not isinstance(how, SampledLevelsBound):
        raise ValueError(
            "refine is on, and no levels are drawn at random: all examples are exact in them. Leave it out."
        )
    entire = entered(chain, x)
    some = (entire if isinstance(entire, Split) else Split(entire)).some(n)
    (found,) = measure(chain, some, [how], split=split, seed=seed, **rest)
    all_of_them = Scores.of(chain, found)
    if not isinstance(how, SampledLevelsBound) or not (levels is None if refine is None else refine):
        return all_of_them
    return _refined(
        chain, some, all_of_them, replace(how, levels=FINER * how.levels), split=split, seed=seed, **rest
    )


def _refined(
    chain: Chain,
    x: Split,
    found: Scores,
    finer: SampledLevelsBound,
    *,
    split: str,
    seed: int,
    **rest: Any,
) -> Scores:
    """With the examples at the ends of the ranking estimated afresh, which takes away what luck brought there."""
    least, most = _ENDS
    count = min(max(least, len(x) // _SHARE), most, -(-len(x) // 2))
    refined: set[int] = set()
    coarse = found.bound
    for number in range(_ROUNDS):
        order = found.order().tolist()
        new = sorted({*order[:count], *order[-count:]} - refined)
        if not new:
            break
        refined |= set(new)
        index = torch.tensor(new)
        (again,) = measure(
            chain,
            x.take(index.numpy()),
            [finer],
            split=f"{split}, ends",
            seed=mixed(seed, _AGAIN, number),
            **rest,
        )
        words = f"{coarse}, {finer.levels} for the {len(refined)} at the ends"
        found = found.with_some(chain, index, Scores.of(chain, again), bound=words)
    return found


@dataclass(frozen=True, eq=False)
class Scored:
    """Scores of single examples, from the most to the least likely."""

    rows: list[dict[str, Any]]
    """For each example its identity (``data.identities``), split and class where there are such, and its score."""
    nats: Tensor
    """(n,), in the same order."""
    scores: Scores
    """The scores themselves, part by part, each in its own order."""
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
        return Scored(rows, found.nats, found, (split,), places)

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
            Scores.joined([part.scores for part in parts]),
            tuple(split for part in parts for split in part.parts),
            [places[number] for number in numbers],
        )

    @property
    def bound(self) -> str:
        """What the scores are, in words."""
        return self.scores.bound

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
