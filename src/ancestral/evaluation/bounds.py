"""The ELBO of a data set, split into its terms, with error bars; and tighter bounds on log p(x)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ancestral import checks
from ancestral.allocator import keep_freed_memory
from ancestral.chain import Chain
from ancestral.data import Examples, feed
from ancestral.elbo import Elbo
from ancestral.evaluation.annealing import Annealing
from ancestral.evaluation.estimate import Estimate
from ancestral.evaluation.pieces import Done, averaged_elbo, rows_at_once
from ancestral.evaluation.tighter import SAMPLES, Tighter
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
    annealing: Annealing = Annealing(),  # noqa: B008
    batch_size: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate ``chain`` on all of x, (n, *shape), in the data's own values: a tensor, or rows of a file.

    The ELBO and its terms are always there. ``bound`` is "elbo", with ``samples`` paths (or sweeps) averaged
    per example; "iwae", which adds the bound on log p(x) from the weights of ``samples`` paths; or "ais",
    which adds the one from ``samples`` annealed Markov chains, led as ``annealing`` says (``SAMPLES`` has the
    default numbers). ``levels`` estimates the sum of matching terms from that many random t per example
    instead of sweeping over all, for chains whose q(z_t|x) is closed-form. The last batch counts like the
    others; the caller's random state is left as it was.
    """
    checks.one_of("bound", bound, SAMPLES)
    samples = SAMPLES[bound] if samples is None else samples
    checks.integer("samples", samples, low=1)
    checks.integer("batch_size", batch_size, low=1)
    _check_levels(chain, levels)
    if len(x) == 0:
        raise ValueError("there are no examples to evaluate; give at least one.")
    device = next(chain.parameters()).device
    start = time.perf_counter()
    paths = samples if bound == "elbo" else 1
    parts: list[_Part] = []
    tighter: list[Tighter] = []
    with own_randomness(device), evaluation_mode(chain), batches(x, batch_size, device) as numbered:
        for first, batch in numbered:
            reseed(device, seed, first)
            parts.append(_Part.of(_elbo(chain, batch, samples=paths, levels=levels)))
            if bound != "elbo":
                done = within(progress, first, len(batch), len(x))
                led = annealing if bound == "ais" else None
                tighter.append(Tighter.of(chain, batch, samples=samples, annealing=led, done=done))
            if progress is not None:
                progress(first + len(batch), len(x))
    return replace(
        _summary(parts, calls=_calls(chain, samples=paths, levels=levels)),
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
    """How many random levels stand for all by default: None (a sweep) up to T = 100, else 50."""
    return 50 if isinstance(chain, MarginalChain) and chain.T > 100 else None


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

    @staticmethod
    def of(elbo: Elbo) -> _Part:
        return _Part(
            elbo.total,
            elbo.reconstruction,
            elbo.prior,
            elbo.matching.double().sum(dim=0),
            elbo.dims,
            elbo.discrete,
        )


def _check_levels(chain: Chain, levels: int | None) -> None:
    if levels is None:
        return
    checks.integer("levels", levels, low=1)
    if not isinstance(chain, MarginalChain):
        raise ValueError(
            f"levels is {levels}, and {type(chain).__name__} has no closed-form q(z_t|x) to estimate "
            "from random levels; leave it out to sweep over all."
        )


def within(progress: Progress | None, first: int, count: int, total: int) -> Done:
    """Tells of a share of a batch of ``count`` examples, from ``first`` on, as of so many whole examples."""

    def done(share: float) -> None:
        if progress is not None:
            progress(first + int(share * count), total)

    return done


def _elbo(chain: Chain, x: Tensor, *, samples: int, levels: int | None) -> Elbo:
    if levels is None:
        return averaged_elbo(chain, x, chain.features(x), samples=samples, rows=rows_at_once(chain, x))
    assert isinstance(chain, MarginalChain)
    return chain.elbo_sampled(x, levels=levels)


def _calls(chain: Chain, *, samples: int, levels: int | None) -> int:
    """Generative steps p(z_{t−1}|z_t) computed for one example's ELBO."""
    return chain.T * samples if levels is None else 1 + levels


def _summary(parts: list[_Part], *, calls: int) -> Evaluation:
    """The ELBO and its terms over all examples."""
    total = torch.cat([part.total for part in parts])
    n, dims = len(total), parts[0].dims
    elbo = Estimate.of(total)
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
