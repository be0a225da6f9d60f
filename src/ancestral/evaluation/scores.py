"""Scores of single examples: a bound on log p(x) of each, and not their mean.

A DDPM's score from random levels has an error that few replicates tell: its interval has Student's factor. The
ends of the ranking, where errors collect, are estimated again from more levels (``scores``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

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
from ancestral.data import Examples, Split
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
    store: Store | None = None,
    split: str = "test",
    progress: Progress | None = None,
) -> Scores:
    """The bound of each example of x, (n, *shape), with the error of its own draws.

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
    x = entered(chain, x)
    (found,) = measure(chain, x, [how], split=split, seed=seed, **rest)
    all_of_them = Scores.of(chain, found)
    if not isinstance(how, SampledLevelsBound) or not (levels is None if refine is None else refine):
        return all_of_them
    return _refined(
        chain, x, all_of_them, replace(how, levels=FINER * how.levels), split=split, seed=seed, **rest
    )


def _refined(
    chain: Chain,
    x: Split | Examples,
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
            chain, _at(x, index), [finer], split=f"{split}, ends", seed=mixed(seed, _AGAIN, number), **rest
        )
        words = f"{coarse}, {finer.levels} for the {len(refined)} at the ends"
        found = found.with_some(chain, index, Scores.of(chain, again), bound=words)
    return found


def _at(x: Split | Examples, index: Tensor) -> Split | Examples:
    """The examples at ``index``."""
    if not isinstance(x, Split):
        return x.index_select(0, index.to(x.device))
    labels = None if x.labels is None else x.labels[index.to(x.labels.device)]
    return Split(x.x.index_select(0, index.to(x.x.device)), labels)


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
