"""The ELBO of a data set, split into its terms, with error bars; and tighter bounds on log p(x)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ancestral import checks
from ancestral.allocator import keep_freed_memory
from ancestral.chain import Chain
from ancestral.data import Examples, feed
from ancestral.elbo import Elbo
from ancestral.evaluation.annealing import Annealing
from ancestral.evaluation.errors import DrawError
from ancestral.evaluation.estimate import Estimate
from ancestral.evaluation.levels import DRAWS, LEVELS, LevelDraws, Replicated, plan_draws
from ancestral.evaluation.pieces import Done, averaged_elbo, rows_at_once
from ancestral.evaluation.tighter import SAMPLES, Tighter, check_bound
from ancestral.marginal import MarginalChain
from ancestral.randomness import own_randomness, reseed

Progress = Callable[[int, int], None]
"""Called with (examples done, examples in all)."""

ALIVE = 0.01
"""Nats of KL per example from which a latent level counts as alive, i.e. as used."""


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
    network_calls_per_image: int
    """Generative steps p(z_{t−1}|z_t) computed for one example's ELBO: T for a path or a sweep."""
    tighter: Tighter | None = None
    """The bound on log p(x) that was asked for beside the ELBO."""
    seconds: float = 0.0
    estimator: dict[str, Any] = field(default_factory=dict)
    """How the ELBO was estimated, as in the commands' JSON: its ``name`` is "path", "sweep" or "sampled"."""

    @property
    def log_likelihood(self) -> Estimate | None:
        """The tighter bound on log p(x); None where only the ELBO was asked for."""
        return None if self.tighter is None else self.tighter.estimate

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
            "log_likelihood": None if self.tighter is None else self.tighter.json(),
            "network_calls_per_image": self.network_calls_per_image,
            "estimator": self.estimator,
            "seconds": self.seconds,
        }


@torch.no_grad()
def evaluate(
    chain: Chain,
    x: Examples,
    *,
    bound: str = "elbo",
    samples: int | None = None,
    levels: int | None = None,
    draws: str = DRAWS[-1],
    annealing: Annealing = Annealing(),  # noqa: B008
    batch_size: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate ``chain`` on all of x, (n, *shape), in the data's own values: a tensor, or rows of a file.

    The ELBO and its terms are always there. ``bound`` is "elbo", with ``samples`` paths (or sweeps) averaged
    per example; "iwae", which adds the bound on log p(x) from the weights of ``samples`` paths; or "ais",
    which adds the one from ``samples`` annealed Markov chains, led as ``annealing`` says (``SAMPLES`` has the
    default numbers). A chain whose q(z_t|x) is closed-form has no "ais", and "iwae" only with ``samples``
    given, as each path takes T network calls; in continuous time it has neither (``check_bound``).

    ``levels`` estimates the sum of matching terms from that many random t per example instead of sweeping
    over all, for chains whose q(z_t|x) is closed-form; ``draws`` says how these are drawn: "uniform",
    "low-discrepancy" or "importance" (see ``levels``). Continuous time has no sweep, and ``LEVELS`` by
    default. From 2 levels on the error of the draws alone is told as well. The last batch counts like the
    others; the caller's random state is left as it was.
    """
    check_bound(chain, bound, samples=samples)
    samples = SAMPLES[bound] if samples is None else samples
    checks.integer("batch_size", batch_size, low=1)
    checks.one_of("draws", draws, DRAWS)
    if levels is None and isinstance(chain, MarginalChain) and chain.continuous:
        levels = LEVELS
    paths = samples if bound == "elbo" else 1
    if levels is not None and paths > 1:
        raise ValueError(
            f"samples is {samples} and levels is {levels}: an estimate from random levels has no sweeps to "
            "average. Leave samples out and give more levels, or sweep over all."
        )
    if len(x) == 0:
        raise ValueError("there are no examples to evaluate; give at least one.")
    device = next(chain.parameters()).device
    start = time.perf_counter()
    parts: list[_Part] = []
    tighter: list[Tighter] = []
    with own_randomness(device), evaluation_mode(chain), batches(x, batch_size, device) as numbered:
        plan = None
        if levels is not None:
            plan = plan_draws(chain, x, levels=levels, draws=draws, seed=seed)
        for first, batch in numbered:
            reseed(device, seed, first)
            parts.append(_Part.of(_elbo(chain, batch, paths, plan)))
            if bound != "elbo":
                done = within(progress, first, len(batch), len(x))
                led = annealing if bound == "ais" else None
                tighter.append(Tighter.of(chain, batch, samples=samples, annealing=led, done=done))
            if progress is not None:
                progress(first + len(batch), len(x))
    return replace(
        _summary(parts, calls=chain.T * paths if plan is None else plan.calls),
        estimator=_named(chain, paths) if plan is None else plan.json(),
        tighter=Tighter.joined(tighter) if tighter else None,
        seconds=time.perf_counter() - start,
    )


@contextlib.contextmanager
def batches(x: Examples, size: int, device: torch.device) -> Iterator[Iterator[tuple[int, Tensor]]]:
    """All of x, on the device, in batches of at most ``size``: (number of the first example, batch)."""
    firsts = range(0, len(x), size)
    found = feed(x, (torch.arange(i, min(i + size, len(x))) for i in firsts), device)
    if device.type == "cpu":
        keep_freed_memory()
    with contextlib.closing(found):
        yield zip(firsts, found, strict=True)


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


def within(progress: Progress | None, first: int, count: int, total: int) -> Done:
    """Tells of a share of a batch of ``count`` examples, from ``first`` on, as of so many whole examples."""

    def done(share: float) -> None:
        if progress is not None:
            progress(first + int(share * count), total)

    return done


def _elbo(chain: Chain, x: Tensor, samples: int, plan: LevelDraws | None) -> Elbo | Replicated:
    if plan is None:
        return averaged_elbo(chain, x, chain.features(x), samples=samples, rows=rows_at_once(chain, x))
    assert isinstance(chain, MarginalChain)
    return plan(chain, x)


def _estimate(parts: list[_Part]) -> Estimate:
    """The mean of all bounds, with the error of the draws where it is known."""
    total = torch.cat([part.total for part in parts])
    errors = [part.error for part in parts if part.error is not None]
    if not errors:
        return Estimate.of(total)
    return Estimate(float(total.double().mean()), *DrawError.together(errors).stderrs(total))


def _summary(parts: list[_Part], *, calls: int) -> Evaluation:
    """The ELBO and its terms over all examples."""
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
        network_calls_per_image=calls,
    )
