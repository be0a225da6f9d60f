"""The ELBO of a data set, split into its terms, with error bars; and log p(x) by importance sampling."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ancestral import checks
from ancestral.chain import Chain
from ancestral.data import Examples, feed
from ancestral.elbo import Elbo
from ancestral.evaluation.errors import DrawError
from ancestral.evaluation.levels import DRAWS, LEVELS, LevelDraws, Replicated, plan_draws
from ancestral.marginal import MarginalChain
from ancestral.randomness import own_randomness, reseed

Progress = Callable[[int, int], None]
"""Called with (examples done, examples in all)."""

_ROWS = 4096
"""Latent paths in memory at once, while importance sampling."""
ALIVE = 0.01
"""Nats of KL per example from which a latent level counts as alive, i.e. as used."""


@dataclass(frozen=True)
class Estimate:
    """A mean over examples and its standard error, which includes that of any random t or z."""

    mean: float
    stderr: float
    stderr_estimator: float | None = None
    """That of the random t and z alone, given these examples; None where it was not told apart."""

    @staticmethod
    def of(values: Tensor) -> Estimate:
        """The mean of (n,) values and their standard deviation / √n (0 for a single value)."""
        values = values.double()
        spread = float(values.std()) if len(values) > 1 else 0.0
        return Estimate(float(values.mean()), spread / math.sqrt(len(values)))

    def scaled(self, factor: float) -> Estimate:
        """The same in other units."""
        alone = self.stderr_estimator
        return Estimate(
            self.mean * factor, self.stderr * abs(factor), None if alone is None else alone * abs(factor)
        )

    def json(self) -> dict[str, float]:
        """As in the commands' JSON."""
        alone = {} if self.stderr_estimator is None else {"stderr_estimator": self.stderr_estimator}
        return {"mean": self.mean, "stderr": self.stderr, **alone}


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` measured, in nats per example unless said otherwise."""

    n: int
    dims: int
    elbo: Estimate
    bits_per_dim: Estimate | None
    """None where p(x|z_1) is a density: it has no code length."""
    reconstruction: float
    matching: float
    prior: float
    matching_per_level: list[float]
    """For t = 2 … T, the KL (or its estimate) of z_{t−1} given z_t."""
    log_likelihood: Estimate | None
    importance_samples: int
    network_calls_per_image: int
    """Generative steps p(z_{t−1}|z_t) computed for one example's ELBO: T for a path or a sweep."""
    seconds: float
    estimator: dict[str, Any] = field(default_factory=dict)
    """How the ELBO was estimated, as in the commands' JSON: its ``name`` is "path", "sweep" or "sampled"."""

    @property
    def kl_per_latent(self) -> list[float]:
        """The cost of z_1 … z_T, nats: matching terms, then prior matching."""
        return [*self.matching_per_level, self.prior]

    @property
    def alive(self) -> int:
        """How many latent levels cost more than ``ALIVE`` nats, so are used."""
        return sum(cost > ALIVE for cost in self.kl_per_latent)

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON, without what names the run."""
        likelihood = self.log_likelihood
        return {
            "n": self.n,
            "dims": self.dims,
            "elbo": self.elbo.json(),
            "bits_per_dim": None if self.bits_per_dim is None else self.bits_per_dim.json(),
            "terms": {
                "reconstruction": self.reconstruction,
                "matching": self.matching,
                "prior": self.prior,
            },
            "matching_per_level": self.matching_per_level,
            "log_likelihood": None
            if likelihood is None
            else {**likelihood.json(), "samples": self.importance_samples},
            "network_calls_per_image": self.network_calls_per_image,
            "estimator": self.estimator,
            "seconds": self.seconds,
        }


@torch.no_grad()
def evaluate(
    chain: Chain,
    x: Examples,
    *,
    samples: int = 1,
    levels: int | None = None,
    draws: str = DRAWS[-1],
    importance_samples: int = 0,
    batch_size: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate ``chain`` on all of x, (n, *shape), in the data's own values: a tensor, or rows of a file.

    ``samples`` is the number of paths (or sweeps) averaged per example. ``levels`` estimates the sum of
    matching terms from that many random t per example instead of sweeping over all, for chains whose
    q(z_t|x) is closed-form; ``draws`` says how these are drawn: "uniform", "low-discrepancy" or "importance"
    (see ``levels``). From 2 levels on the error of the draws alone is told as well. ``importance_samples``
    > 0 adds log p(x) from that many draws. The last batch counts like the others; the caller's random state
    is left as it was.
    """
    checks.integer("samples", samples, low=1)
    checks.integer("importance_samples", importance_samples, low=0)
    checks.integer("batch_size", batch_size, low=1)
    checks.one_of("draws", draws, DRAWS)
    if levels is not None and samples > 1:
        raise ValueError(
            f"samples is {samples} and levels is {levels}: an estimate from random levels has no sweeps to "
            "average. Leave samples out and give more levels, or sweep over all."
        )
    if len(x) == 0:
        raise ValueError("there are no examples to evaluate; give at least one.")
    device = next(chain.parameters()).device
    start = time.perf_counter()
    parts: list[_Part] = []
    likelihoods: list[Tensor] = []
    firsts = range(0, len(x), batch_size)
    batches = feed(x, (torch.arange(i, min(i + batch_size, len(x))) for i in firsts), device)
    with own_randomness(device), evaluation_mode(chain), contextlib.closing(batches):
        plan = None
        if levels is not None:
            plan = plan_draws(chain, x, levels=levels, draws=draws, seed=seed)
        for first, batch in zip(firsts, batches, strict=True):
            reseed(device, seed, first)
            parts.append(_Part.of(_elbo(chain, batch, samples, plan)))
            if importance_samples:
                likelihoods.append(log_likelihood(chain, batch, samples=importance_samples))
            if progress is not None:
                progress(min(first + batch_size, len(x)), len(x))
    return _summary(
        parts,
        likelihoods,
        calls=chain.T * samples if plan is None else plan.calls,
        estimator=_named(chain, samples) if plan is None else plan.json(),
        importance_samples=importance_samples,
        seconds=time.perf_counter() - start,
    )


@torch.no_grad()
def log_likelihood(chain: Chain, x: Tensor, *, samples: int = 5000) -> Tensor:
    """log p(x) by importance sampling, (n,): log mean_k p(x, z_k) / q(z_k|x)  (Burda et al. 2016, eq. 8).

    A lower bound in expectation that rises with ``samples``. Draws are taken in pieces, so that 5,000
    of them need no more memory than a few thousand latent paths.
    """
    checks.integer("samples", samples, low=1)
    piece = max(1, min(samples, _ROWS // len(x))) if len(x) <= _ROWS else 1
    total: Tensor | None = None
    for first in range(0, samples, piece):
        count = min(piece, samples - first)
        part = torch.logsumexp(chain.log_weight(x, samples=count).double(), dim=1)
        total = part if total is None else torch.logaddexp(total, part)
    assert total is not None
    return total - math.log(samples)


@contextlib.contextmanager
def evaluation_mode(chain: Chain) -> Iterator[None]:
    """The chain without dropout, and back to what it was."""
    was_training = chain.training
    chain.eval()
    try:
        yield
    finally:
        chain.train(was_training)


def default_levels(chain: Chain) -> int | None:
    """How many random levels stand for all by default: None (a sweep) up to T = 100, else ``LEVELS``."""
    return LEVELS if isinstance(chain, MarginalChain) and chain.T > 100 else None


def _named(chain: Chain, samples: int) -> dict[str, Any]:
    return {"name": "sweep" if isinstance(chain, MarginalChain) else "path", "samples": samples}


@dataclass(frozen=True)
class _Part:
    """What is kept of a batch's ELBO: the matching terms, (n, T − 1), of many examples are too many."""

    total: Tensor
    reconstruction: Tensor
    prior: Tensor
    matching: Tensor
    """Summed over the batch's examples, (T − 1,)."""
    dims: int
    discrete: bool
    error: DrawError | None

    @staticmethod
    def of(given: Elbo | Replicated) -> _Part:
        elbo, error = (given.elbo, given.error) if isinstance(given, Replicated) else (given, None)
        return _Part(
            elbo.total,
            elbo.reconstruction,
            elbo.prior,
            elbo.matching.double().sum(dim=0),
            elbo.dims,
            elbo.discrete,
            error,
        )


def _elbo(chain: Chain, x: Tensor, samples: int, plan: LevelDraws | None) -> Elbo | Replicated:
    if plan is None:
        return chain.elbo(x, samples=samples)
    assert isinstance(chain, MarginalChain)
    return plan(chain, x)


def _estimate(parts: list[_Part]) -> Estimate:
    """The mean of all bounds, with the error of the draws where it is known."""
    total = torch.cat([part.total for part in parts])
    errors = [part.error for part in parts if part.error is not None]
    if not errors:
        return Estimate.of(total)
    return Estimate(float(total.double().mean()), *DrawError.together(errors).stderrs(total))


def _summary(
    parts: list[_Part],
    likelihoods: list[Tensor],
    *,
    calls: int,
    estimator: dict[str, Any],
    importance_samples: int,
    seconds: float,
) -> Evaluation:
    n, dims = sum(len(part.total) for part in parts), parts[0].dims
    elbo = _estimate(parts)
    per_level = torch.stack([part.matching for part in parts]).sum(dim=0) / n
    return Evaluation(
        n=n,
        dims=dims,
        elbo=elbo,
        bits_per_dim=elbo.scaled(-1.0 / (dims * math.log(2.0))) if parts[0].discrete else None,
        reconstruction=Estimate.of(torch.cat([part.reconstruction for part in parts])).mean,
        matching=float(per_level.sum()),
        prior=Estimate.of(torch.cat([part.prior for part in parts])).mean,
        matching_per_level=per_level.tolist(),
        log_likelihood=Estimate.of(torch.cat(likelihoods)) if likelihoods else None,
        importance_samples=importance_samples,
        network_calls_per_image=calls,
        estimator=estimator,
        seconds=seconds,
    )
