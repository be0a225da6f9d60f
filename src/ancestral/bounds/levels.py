"""How the levels of a chain are drawn when its bound is estimated from a few of them, and the error of that.

    Σ_{t=2..T} c_t(x)  =  (T − 1) E_{s ~ q} [ c_{t(s)}(x) / q(s) ],     s in [0, 1),   t(s) = 2 + ⌊(T − 1) s⌋

for any density q > 0 on [0, 1). Three ways to draw s, all unbiased for every image and every level:

* "uniform": q = 1, each s by itself;
* "low-discrepancy": q = 1, one s in each of k equal strata for an image, and where in a stratum spread evenly
  over the images of a group (Kingma et al. 2021, appendix I.1, in each stratum);
* "importance": the same strata of the distribution function of a q in proportion to the root mean square of
  the terms, which a pilot of a few images measures with draws of its own.

A bound is the mean of R ≥ 2 independent such estimates, each with its own z_1 and strata, from which its
error is told (``errors``). What each way costs is measured in ``benchmarks/cost_of_knowing.py``. Tried and
left: antithetic noise (worse where it matters, as a term is nearly even in ε), and the surprise of each z_t
as a control variate (it takes away less than a third of what z_t adds to the variance).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral._internal.block import of_block
from ancestral._internal.randomness import reseed
from ancestral.bounds.base import Bound
from ancestral.bounds.errors import DrawError
from ancestral.bounds.path import ElboBounded
from ancestral.bounds.pieces import Done
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain
from ancestral.core.elbo import Elbo
from ancestral.core.marginal import MarginalChain, marginal
from ancestral.core.walk import features_of
from ancestral.data import Examples, Split, feed_batches

DRAWS = ("uniform", "low-discrepancy", "importance")
LEVELS = 16
"""How many random levels stand for all by default: they add some 5 % to the standard error of digits."""
_PER_REPLICATE = 4
"""Levels that a replicate has beside its one z_1: the reconstruction's error is the smaller one."""
_GROUPS = 64
"""Independent groups of images there should be at least: so many differences the error is told from."""
_LARGEST_GROUP = 16
_BINS = 32
_EVEN = 0.2
"""The share of a proposal that is uniform: it bounds a weight by 5 where the pilot has seen nothing."""
PILOT = 512
"""The most network calls of a pilot, which is kept below an eighth of all calls."""
_LEAST_PILOT = 64
_PILOT_SEED = 1 << 40
"""Where the pilot's random numbers are, beyond those of every batch."""


@dataclass(frozen=True)
class Proposal:
    """A density on [0, 1), constant in each of B equal bins."""

    density: Tensor
    """float64, (B,), > 0, with mean 1."""

    @staticmethod
    def uniform() -> Proposal:
        """The density 1."""
        return Proposal(torch.ones(1, dtype=torch.float64))

    @staticmethod
    def of(place: Tensor, cost: Tensor, bins: int) -> Proposal:
        """In proportion to the root mean square of ``cost``, (n,), by bins of ``place``, (n,) in [0, 1).

        A share of it is uniform; where nothing was seen, and where all costs are 0, it is all there is.
        """
        where = (place * bins).long().clamp(max=bins - 1).cpu()
        squares = torch.zeros(bins, dtype=torch.float64).scatter_add(0, where, cost.double().square().cpu())
        root = (squares / torch.bincount(where, minlength=bins).clamp(min=1)).sqrt()
        mean = float(root.mean())
        if not 0.0 < mean < math.inf:
            return Proposal.uniform()
        return Proposal(_EVEN + (1.0 - _EVEN) * root / mean)

    def at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Where its distribution function is u in [0, 1), and its density there; float64, of u's shape."""
        density = self.density.to(u.device)
        mass = density / len(density)
        end = mass.cumsum(0)
        index = torch.searchsorted(end, u, right=True).clamp(max=len(mass) - 1)
        inside = ((u - (end - mass)[index]) / mass[index]).clamp(0.0, 1.0)
        return (index + inside) / len(mass), density[index]


@dataclass(frozen=True)
class SampledLevelsBound(Bound):
    """The ELBO from ``levels`` random levels of each example, drawn as ``draws`` says (see above)."""

    levels: int = LEVELS
    draws: str = DRAWS[-1]
    group: int = 1
    """How many successive examples share the strata that their draws are spread over; ``planned`` sets it."""
    proposal: Proposal = Proposal.uniform()  # noqa: RUF009
    """Where importance draws levels; ``planned`` measures it."""
    pilot_calls: int = 0
    """Network calls that this measurement took."""
    name = "sampled"

    def __post_init__(self) -> None:
        checks.one_of("draws", self.draws, DRAWS)
        checks.integer("levels", self.levels, low=1)

    def check(self, chain: Chain) -> None:
        """As ``Bound``."""
        if not chain.single_levels:
            raise ValueError(
                f"levels is {self.levels}, and {type(chain).__name__} has no closed-form q(z_t|x) to estimate "
                "from random levels; leave it out."
            )

    @property
    def replicates(self) -> int:
        """R, how many independent estimates are averaged for an example; each has a z_1 of its own."""
        return min(self.levels, max(2, self.levels // _PER_REPLICATE))

    def calls(self, chain: Chain) -> int:
        """As ``Bound``, without the pilot's. With one latent level there is none to draw at random."""
        drawn = self.levels if chain.T > 1 or chain.continuous else 0
        return self.replicates + drawn

    def json(self) -> dict[str, Any]:
        """As ``Bound``."""
        return {
            "name": self.name,
            "draws": self.draws,
            "levels": self.levels,
            "replicates": self.replicates,
            "pilot_calls": self.pilot_calls,
        }

    @property
    def words(self) -> str:
        """As ``Bound``."""
        return f"ELBO, {self.levels} random levels"

    def pilot_size(self, n: int) -> int:
        """Network calls for the pilot of n examples."""
        if self.draws != "importance":
            return 0
        return max(_LEAST_PILOT, min(PILOT, n * (self.replicates + self.levels) // 8))

    def planned(self, chain: Chain, x: Split | Examples, *, seed: int) -> SampledLevelsBound:
        """As ``Bound``: how strata are shared, and for importance the proposal, measured on some of x, evenly
        spread. Seeds the generators."""
        plan = self.grouped(len(x))
        size = plan.pilot_size(len(x))
        if size == 0 or chain.T <= 2:
            return plan
        device = next(chain.parameters()).device
        with contextlib.closing(feed_batches(x, [torch.arange(size) * len(x) // size], device)) as pilot:
            reseed(device, seed, _PILOT_SEED)
            return plan.piloted(marginal(chain), next(pilot))

    def grouped(self, n: int) -> SampledLevelsBound:
        """For n examples."""
        # One draw has no replicate to tell its error from: only the spread over examples, which must then be
        # independent.
        shared = self.draws != "uniform" and self.levels > 1
        return replace(self, group=max(1, min(n // _GROUPS, _LARGEST_GROUP)) if shared else 1)

    @torch.no_grad()
    def piloted(self, chain: MarginalChain, pilot: Batch | Tensor) -> SampledLevelsBound:
        """With the proposal that terms of a pilot suggest: one draw each, spread over all levels."""
        pilot = Batch.of(pilot)
        x, condition = pilot.x, chain.condition(pilot)
        place = _strata(len(x), 1, x.device)[:, 0]
        term = chain.matching_at(features_of(chain, x, condition), chain.level_at(place), condition)
        proposal = Proposal.of(place, term, min(_BINS, chain.T - 1))
        return replace(self, proposal=proposal, pilot_calls=self.pilot_calls + len(x))

    def of(self, chain: Chain, batch: Batch, *, done: Done) -> ElboBounded:
        """As ``Bound``."""
        elbos = []
        for index, count in enumerate(self._counts(), 1):
            elbos.append(self._replicate(marginal(chain), batch, count))
            done(index / self.replicates)
        found = ElboBounded.of(elbos)
        if found.replicates is None:
            return found
        return replace(found, draw_error=DrawError.of(found.replicates, self.group))

    def of_block(self, parts: list[Any]) -> Any:
        """As ``Bound``: the error of the draws is that of groups, which may lie in two parts."""
        found = super().of_block(parts)
        if found.replicates is None or len(parts) == 1:
            return found
        return replace(found, draw_error=DrawError.of(found.replicates, self.group))

    def _counts(self) -> list[int]:
        """The levels of each replicate, differing by at most one."""
        R = self.replicates
        return [self.levels // R + (r < self.levels % R) for r in range(R)]

    def _replicate(self, chain: MarginalChain, batch: Batch, count: int) -> Elbo:
        x = batch.x
        if self.draws == "uniform":
            u = torch.rand(len(x), count, dtype=torch.float64, device=x.device)
        else:
            u = of_block(
                lambda n: torch.cat([_strata(size, count, x.device) for size in self._sizes(n)]), len(x)
            )
        place, density = self.proposal.at(u)
        return chain.elbo_at(x, place, 1.0 / (count * density), condition=chain.condition(batch))

    def _sizes(self, n: int) -> Iterator[int]:
        """The groups of a batch of n."""
        return (min(self.group, n - first) for first in range(0, n, self.group))


def _strata(n: int, strata: int, device: torch.device) -> Tensor:
    """(n, strata) numbers: in a row one in each of equal strata; those of a column evenly spread in it."""
    order = torch.rand(strata, n, device=device).argsort(dim=1)
    within = (order + torch.rand(strata, n, dtype=torch.float64, device=device)) / n
    return ((torch.arange(strata, device=device)[:, None] + within) / strata).T
