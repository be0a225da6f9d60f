"""Bounds on log p(x) that are tighter than the ELBO: importance-weighted, or annealed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ancestral import checks
from ancestral.chain import Chain
from ancestral.evaluation.annealing import Annealing, annealed
from ancestral.evaluation.estimate import Estimate
from ancestral.evaluation.importance import Curve, importance_curve
from ancestral.evaluation.pieces import Done
from ancestral.marginal import MarginalChain

SAMPLES = {"elbo": 1, "iwae": 5000, "ais": 1}
"""The bounds, and from how many samples an example they are by default: paths of q whose log-weights are
averaged, paths of q whose weights are averaged, and annealed Markov chains whose weights are averaged."""


def check_bound(chain: Chain, bound: str, *, samples: int | None = None) -> None:
    """Refuse a bound that ``chain`` does not have, or that is out of reach by default, before any work."""
    checks.one_of("bound", bound, SAMPLES)
    if samples is not None:
        checks.integer("samples", samples, low=1)
    if bound == "elbo" or not isinstance(chain, MarginalChain):
        return
    name = type(chain).__name__
    if chain.continuous:
        raise ValueError(
            f"bound is {bound} for a {name}: its weights would be of the T = {chain.T} levels that it is "
            "sampled at, and its ELBO is of continuous time, another model. Use bound elbo, which is of the "
            "limit."
        )
    if bound == "ais":
        raise ValueError(
            f"bound is ais for a {name}: each of its gradients would take all T = {chain.T} levels. Use "
            "bound elbo."
        )
    if samples is None:
        usual = SAMPLES[bound]
        raise ValueError(
            f"bound is iwae for a {name} and samples is not given: each path takes T = {chain.T} network "
            f"calls, and the usual {usual} of them {usual * chain.T} an image. Say how many samples, or use "
            "bound elbo."
        )


@dataclass(frozen=True, eq=False)
class Tighter:
    """A bound on log p(x) of n examples, and how it was had."""

    curve: Curve
    """From 1, 2, 5, … samples up to all."""
    annealing: Annealing | None = None
    """How Markov chains were led; None for importance sampling."""
    acceptance: Tensor | None = None
    """(n,): the share of their moves that were accepted."""

    @staticmethod
    def of(
        chain: Chain, x: Tensor, *, samples: int, annealing: Annealing | None = None, done: Done
    ) -> Tighter:
        """From ``samples`` paths of q for each example of x, (n, *shape), or as many annealed chains."""
        if annealing is None:
            return Tighter(importance_curve(chain, x, samples=samples, done=done))
        found = annealed(chain, x, chains=samples, options=annealing, done=done)
        return Tighter(Curve.of(found.log_weights), annealing, found.acceptance)

    @staticmethod
    def joined(parts: list[Tighter]) -> Tighter:
        """Of all the parts' examples, in their order."""
        accepted = [part.acceptance for part in parts if part.acceptance is not None]
        curve = Curve.joined([part.curve for part in parts]).cpu()
        return Tighter(curve, parts[0].annealing, torch.cat(accepted) if accepted else None)

    @property
    def bound(self) -> str:
        """Its name, "iwae" or "ais"."""
        return "iwae" if self.annealing is None else "ais"

    @property
    def samples(self) -> int:
        """From how many samples an example it is."""
        return self.curve.counts[-1]

    @property
    def estimate(self) -> Estimate:
        """The mean over examples of the bound from all samples."""
        return Estimate.of(self.curve.best)

    @property
    def words(self) -> str:
        """From what it is, for a person."""
        effective = float(self.curve.effective.mean())
        if self.annealing is None or self.acceptance is None:
            return f"{self.samples} importance samples, worth {effective:.3g}"
        return (
            f"{self.samples} annealed over {self.annealing.temperatures} temperatures, "
            f"{float(self.acceptance.mean()):.0%} of moves accepted"
        )

    @property
    def above_one(self) -> Estimate:
        """By how much it is above the bound of one sample (of importance sampling: the ELBO), on the same
        draws. Its error is far smaller than either's own."""
        return Estimate.of(self.curve.best - self.curve.values[:, 0])

    def first(self, n: int) -> Tighter:
        """Of the first n examples alone."""
        curve = Curve(self.curve.counts, self.curve.values[:n], self.curve.effective[:n])
        accepted = None if self.acceptance is None else self.acceptance[:n]
        return Tighter(curve, self.annealing, accepted)

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        found = {
            **self.estimate.json(),
            "bound": self.bound,
            "samples": self.samples,
            "effective_samples": Estimate.of(self.curve.effective).mean,
            "above_one_sample": self.above_one.json(),
            "curve": self.curve.json(),
        }
        if self.annealing is not None and self.acceptance is not None:
            found |= {
                "temperatures": self.annealing.temperatures,
                "leapfrog": self.annealing.leapfrog,
                "acceptance": Estimate.of(self.acceptance).mean,
            }
        return found
