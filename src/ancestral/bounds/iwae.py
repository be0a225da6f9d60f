"""log p(x) by importance sampling, and the whole curve of bounds that one set of log-weights gives.

With log-weights log w_i = log p(x, z_i) − log q(z_i|x) of K draws,

    IWAE-k = E log (1/k) Σ_{i≤k} w_i,     ELBO = IWAE-1 ≤ IWAE-2 ≤ … ≤ IWAE-K ≤ log p(x)

(Burda et al. 2016, theorem 1). The K draws fall into ⌊K/k⌋ groups of k, each of which is an unbiased estimate
of IWAE-k; their mean is taken, so that the cost of the curve is that of its last point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral.bounds.base import Bounded, DrawnBound
from ancestral.bounds.code import code_length
from ancestral.bounds.estimate import Estimate
from ancestral.bounds.pieces import Done, rows_at_once, slices
from ancestral.core import entrance
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain
from ancestral.core.features import Features, map_features
from ancestral.core.walk import features_of, log_weight

IWAE_SAMPLES = 5000
"""Samples for each example by default."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Bounds on log p(x) of n examples from 1, 2, 5, 10, … up to K weights each, in nats."""

    counts: tuple[int, ...]
    """The numbers of weights, k; the last is K."""
    values: Tensor
    """(n, len(counts)), float64: for each example, the mean over its groups of k weights."""
    effective: Tensor
    """(n,): the effective sample size (Σ w)² / Σ w² of each example's K weights, from 1 to K."""

    @staticmethod
    def of(log_weights: Tensor) -> Curve:
        """From log-weights, (n, K)."""
        log_weights = log_weights.double()
        counts = curve_counts(log_weights.shape[1])
        values = torch.stack([_grouped(log_weights, k) for k in counts], dim=1)
        first, second = torch.logsumexp(log_weights, dim=1), torch.logsumexp(2.0 * log_weights, dim=1)
        return Curve(counts, values, (2.0 * first - second).exp())

    @staticmethod
    def joined(parts: list[Curve]) -> Curve:
        """Of all the parts' examples, in their order."""
        values, effective = ([part.values for part in parts], [part.effective for part in parts])
        return Curve(parts[0].counts, torch.cat(values).cpu(), torch.cat(effective).cpu())

    @property
    def best(self) -> Tensor:
        """The bound from all K weights, (n,)."""
        return self.values[:, -1]

    def estimates(self) -> dict[int, Estimate]:
        """The mean over examples for each k, with its standard error."""
        return {k: Estimate.of(column) for k, column in zip(self.counts, self.values.T, strict=True)}

    def json(self) -> list[dict[str, Any]]:
        """As in the commands' JSON."""
        return [{"k": k, **estimate.json()} for k, estimate in self.estimates().items()]


def curve_counts(samples: int) -> tuple[int, ...]:
    """1, 2, 5, 10, 20, 50, … below ``samples``, and ``samples``."""
    decades = (m * 10**e for e in range(len(str(samples))) for m in (1, 2, 5))
    return (*(k for k in decades if k < samples), samples)


@torch.no_grad()
def importance_curve(
    chain: Chain,
    x: Tensor,
    *,
    samples: int = IWAE_SAMPLES,
    rows: int | None = None,
    condition: Any = None,
    done: Done = lambda share: None,
) -> Curve:
    """The bounds from ``samples`` draws of q for each example of x, (n, *shape).

    At most ``rows`` latent paths are in memory at once (by default as many as suit the device and the
    data), and the weights of one such piece of examples, whatever ``samples`` is.
    """
    checks.integer("samples", samples, low=1)
    rows = rows_at_once(chain, x, rows)
    h = features_of(chain, x, condition)
    parts: list[Curve] = []
    for some in slices(len(x), rows // samples):
        given = None if condition is None else _sliced(condition, some)
        weights = _weights(chain, x[some], _sliced(h, some), samples=samples, rows=rows, condition=given)
        parts.append(Curve.of(weights))
        done(some.stop / len(x))
    values, effective = [part.values for part in parts], [part.effective for part in parts]
    return Curve(parts[0].counts, torch.cat(values), torch.cat(effective))


def log_likelihood(
    chain: Chain, x: Batch | entrance.Given, *, samples: int = IWAE_SAMPLES, rows: int | None = None
) -> Tensor:
    """log p(x) by importance sampling, (n,): log mean_k p(x, z_k) / q(z_k|x)  (Burda et al. 2016, eq. 8).

    ``x`` are examples, (n, *shape), or a ``Batch`` with the labels that the chain is conditioned on.
    ``ValueError`` or ``TypeError`` for examples that do not match the chain's spec.

    A lower bound in expectation that rises with ``samples``. Draws are taken in pieces of ``rows`` latent
    paths, so that 5,000 of them need no more memory than some hundreds.
    """
    batch = entrance.batch(chain, x)
    condition = chain.condition(batch)
    found = importance_curve(chain, batch.x, samples=samples, rows=rows, condition=condition).best
    code_length(chain, Estimate.of(found))
    return found


def _weights(chain: Chain, x: Tensor, h: Features, *, samples: int, rows: int, condition: Any) -> Tensor:
    """The log-weights of ``samples`` paths for each of a few examples, (n, samples), float64."""
    sizes = [part.stop - part.start for part in slices(samples, rows // len(x))]
    return torch.cat(
        [log_weight(chain, x, samples=size, h=h, condition=condition).double() for size in sizes], dim=1
    )


def _grouped(log_weights: Tensor, k: int) -> Tensor:
    """The mean of the log-mean-exp of groups of k weights, (n,)."""
    groups = log_weights.shape[1] // k
    parts = log_weights[:, : groups * k].unflatten(1, (groups, k))
    return (torch.logsumexp(parts, dim=2) - math.log(k)).mean(dim=1)


def _sliced(h: Features, some: slice) -> Features:
    return map_features(h, lambda part: part[some])


@dataclass(frozen=True, eq=False)
class WeightedBounded(Bounded):
    """A bound from weights, with those from fewer of them."""

    curve: Curve
    """From 1, 2, 5, … samples up to all."""

    @property
    def samples(self) -> int:
        """From how many samples per example it is."""
        return self.curve.counts[-1]

    @property
    def above_one(self) -> Estimate:
        """By how much it is above the bound of one sample (of importance sampling: the ELBO), on the same
        draws. Its error is far smaller than either's own."""
        return Estimate.of(self.curve.best - self.curve.values[:, 0])

    def at(self, places: Tensor) -> Self:
        """Of the examples at these places alone, (k,) whole numbers, in that order."""
        curve = Curve(self.curve.counts, self.curve.values[places], self.curve.effective[places])
        return replace(self, nats=self.nats[places], curve=curve)


@dataclass(frozen=True)
class IwaeBound(DrawnBound):
    """log p(x) from the weights of ``samples`` paths drawn from q for each example: IWAE-k."""

    samples: int = IWAE_SAMPLES
    name = "iwae"
    in_blocks = True

    def check(self, chain: Chain) -> None:
        """As ``Bound``."""
        if chain.continuous:
            raise ValueError(continuous_has_none(self.name, chain))

    def of(self, chain: Chain, batch: Batch, *, done: Done) -> WeightedBounded:
        """As ``Bound``."""
        curve = importance_curve(
            chain, batch.x, samples=self.samples, condition=chain.condition(batch), done=done
        )
        return WeightedBounded(curve.best, None, None, curve)

    @property
    def words(self) -> str:
        """As ``Bound``."""
        return f"IWAE-{self.samples}, {self.samples} samples of q"


def continuous_has_none(name: str, chain: Chain) -> str:
    """Why continuous time has no bound of weights."""
    return (
        f"bound is {name} for a {type(chain).__name__}: its weights would be of the T = {chain.T} levels that "
        "it is sampled at, and its ELBO is of continuous time, another model. Use bound elbo, which is of the "
        "limit."
    )
