"""log p(x) by annealed importance sampling (Neal 2001; for decoders, Wu et al. 2017).

From a draw of the prior p(z_1 … z_T), Markov chains are led through p(z) p(x|z)^β, 0 = β_0 < … < β_M = 1, by
Hamiltonian Monte Carlo on all latents at once. The weight of one is

    log w = Σ_{t=1..M} (β_t − β_{t−1}) log p(x|z^{(t−1)}),     E w = p(x),

whatever the transitions are, as long as the one at β_t leaves p(z) p(x|z)^β_t as it is. So the log of a mean
of weights is a lower bound in expectation. A chain led down from an exact draw of the posterior has
E 1/w = 1/p(x) and gives an upper one (Grosse et al. 2015; ``evaluation.bidirectional``).

Step sizes are found in a run of their own before, for each example, and stand still afterwards as functions
of β: steps that followed the run that they serve (Wu et al. 2017) would depend on its states, and E w = p(x)
would be lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from ancestral._internal import checks
from ancestral.bounds.base import Bound
from ancestral.bounds.hmc import MarkovChains, Tempered, frozen, transition
from ancestral.bounds.iwae import Curve, WeightedBounded, continuous_has_none
from ancestral.bounds.pieces import Done, rows_at_once, slices, within_slice
from ancestral.core import entrance
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain

_SPREAD = 4.0
"""How far the sigmoid of the schedule reaches to each side."""
_GAIN, _WARM_UP, _KNOTS, _LEAST, _SMOOTH = 0.3, 20, 100, 60, 5
"""Finding step sizes: the gain of a change in their logarithm, the transitions at β =
0, the most values of β, the fewest transitions in all, and over how many values of β their logarithms are
averaged."""


@dataclass(frozen=True)
class Annealing:
    """How log p(x) is annealed. ``ValueError`` for numbers that are not allowed."""

    temperatures: int = 1000
    """M, the steps of β from 0 to 1; one is importance sampling from the prior."""
    leapfrog: int = 10
    """Leapfrog steps of a transition."""
    acceptance: float = 0.65
    """The share of accepted transitions that step sizes are found for."""

    def __post_init__(self) -> None:
        checks.integer("temperatures", self.temperatures, low=1)
        checks.integer("leapfrog", self.leapfrog, low=1)
        checks.number("acceptance", self.acceptance, above=0.0, below=1.0)

    def betas(self) -> list[float]:
        """β_0 = 0 … β_M = 1, slow at both ends: a sigmoid, scaled (Grosse et al. 2015)."""
        inner = torch.sigmoid(torch.linspace(-_SPREAD, _SPREAD, self.temperatures + 1, dtype=torch.float64))
        scaled: list[float] = ((inner - inner[0]) / (inner[-1] - inner[0])).tolist()
        return scaled


@dataclass(frozen=True)
class Annealed:
    """Weights of annealed Markov chains."""

    log_weights: Tensor
    """(n, chains), float64."""
    acceptance: Tensor
    """(n,): the mean chance of a transition to be accepted; 1 where there was none."""


def annealed(
    chain: Chain,
    x: Tensor,
    *,
    chains: int = 1,
    options: Annealing = Annealing(),
    rows: int | None = None,
    done: Done = lambda share: None,
) -> Annealed:
    """Weights of ``chains`` annealed Markov chains for each example of x, (n, *shape).

    The cost is about ``temperatures`` · (``leapfrog`` + 1) gradients of log p(x, z) for each; at most
    ``rows`` of them are followed at once. ``ValueError`` for a chain whose latents are not real numbers.
    """
    checks.integer("chains", chains, low=1)
    x = entrance.entered(chain, x)
    rows = rows_at_once(chain, x, rows)
    parts = []
    with frozen(chain):
        for some in slices(len(x), rows // chains):
            within = within_slice(done, some, len(x))
            parts.append(_annealed(Tempered(chain, x[some]), chains, options, rows=rows, done=within))
    return Annealed(
        torch.cat([part.log_weights for part in parts]), torch.cat([part.acceptance for part in parts])
    )


def both_ways(
    chain: Chain,
    x: Tensor,
    z: list[Tensor],
    *,
    chains: int = 1,
    options: Annealing = Annealing(),
    rows: int | None = None,
    done: Done = lambda share: None,
) -> tuple[Tensor, Tensor]:
    """log-weights of chains led up from the prior, and down from z_1 … z_T: (n, chains) each.

    z, (n, …) each, must be a draw of p(z|x), as it is where z and x were drawn from p together. The step
    sizes are the same both ways. At most ``rows`` Markov chains are followed at once, or all of one example.
    """
    checks.integer("chains", chains, low=1)
    rows = rows_at_once(chain, x, rows)
    ups, downs = [], []
    with frozen(chain):
        for some in slices(len(x), rows // chains):
            law = Tempered(chain, x[some])
            steps = _steps(law, options, chains=chains)
            start = law.at([part[some].repeat_interleave(chains, dim=0) for part in z])
            ups.append(_led(law, law.draw(chains), steps, options)[0])
            downs.append(_led(law, start, steps, options, down=True)[0])
            done(some.stop / len(x))
    return torch.cat(ups), torch.cat(downs)


def _annealed(law: Tempered, chains: int, options: Annealing, *, rows: int, done: Done) -> Annealed:
    """Of a few examples, in pieces of at most ``rows`` Markov chains."""
    size = max(1, rows // len(law.x))
    steps = _steps(law, options, chains=min(chains, size))
    weights, chances = [], []
    for some in slices(chains, size):
        count = some.stop - some.start
        found, chance = _led(law, law.draw(count), steps, options, done=within_slice(done, some, chains))
        weights.append(found)
        chances.append(chance * count)
    return Annealed(torch.cat(weights, dim=1), torch.stack(chances).sum(dim=0) / chains)


def _led(
    law: Tempered,
    state: MarkovChains,
    steps: Tensor,
    options: Annealing,
    *,
    down: bool = False,
    done: Done = lambda share: None,
) -> tuple[Tensor, Tensor]:
    """Log-weights of Markov chains led up (or down) from ``state``, (n, k), and the acceptance, (n,)."""
    n, betas, M = len(law.x), options.betas(), options.temperatures
    k = len(state.z) // n
    total = torch.zeros(n * k, dtype=torch.float64, device=state.z.device)
    chances = torch.zeros_like(total)
    for i, t in enumerate(range(M, 0, -1) if down else range(1, M + 1)):
        total += (betas[t] - betas[t - 1]) * state.log_likelihood.double()
        if i < M - 1:
            at = t - 1 if down else t
            step = steps[at].repeat_interleave(k)
            state, chance = transition(law, state, beta=betas[at], step=step, leapfrog=options.leapfrog)
            chances += chance
        done((i + 1) / M)
    mean = chances / (M - 1) if M > 1 else torch.ones_like(chances)
    return total.unflatten(0, (n, k)), mean.unflatten(0, (n, k)).mean(dim=1)


def _steps(law: Tempered, options: Annealing, *, chains: int) -> Tensor:
    """Step sizes for each β and example, (M + 1, n), from a run over some of the β that adapts them.

    Stochastic approximation towards the acceptance wanted (Robbins & Monro 1951), in the logarithm.
    """
    n, betas = len(law.x), options.betas()
    count = min(_KNOTS, len(betas))
    knots = [round(i * (len(betas) - 1) / max(1, count - 1)) for i in range(count)]
    state = law.draw(chains)
    log_step = torch.full((n,), -0.25 * float(torch.tensor(state.z.shape[1]).log()) - 0.7).to(state.z)

    def follow(beta: float, times: int) -> None:
        nonlocal state, log_step
        for _ in range(times):
            step = log_step.exp().repeat_interleave(chains)
            state, chance = transition(law, state, beta=beta, step=step, leapfrog=options.leapfrog)
            seen = chance.unflatten(0, (n, chains)).mean(dim=1)
            log_step = log_step + _GAIN * (seen - options.acceptance).to(log_step)

    follow(0.0, _WARM_UP if options.temperatures > 1 else 0)
    found = []
    for knot in knots:
        follow(betas[knot], max(1, _LEAST // count) if options.temperatures > 1 else 0)
        found.append(log_step)
    return _between(torch.stack(found), len(betas)).exp()


def _between(found: Tensor, count: int) -> Tensor:
    """(knots, n), averaged over a few neighbours and interpolated to ``count`` values: (count, n)."""
    lines = functional.pad(found.T[:, None], (_SMOOTH // 2, _SMOOTH // 2), mode="replicate")
    lines = functional.avg_pool1d(lines, _SMOOTH, stride=1)
    return functional.interpolate(lines, size=count, mode="linear", align_corners=True)[:, 0].T


@dataclass(frozen=True, eq=False)
class AisBounded(WeightedBounded):
    """A bound from the weights of annealed Markov chains."""

    acceptance: Tensor
    """(n,): the share of their moves that were accepted."""

    def at(self, places: Tensor) -> Self:
        """Of the examples at these places alone, (k,) whole numbers, in that order."""
        return replace(super().at(places), acceptance=self.acceptance[places])


@dataclass(frozen=True)
class AisBound(Bound):
    """log p(x) from the weights of ``samples`` annealed Markov chains for each example."""

    samples: int = 1
    annealing: Annealing = field(default_factory=Annealing)
    name = "ais"
    in_blocks = True

    def __post_init__(self) -> None:
        checks.integer("samples", self.samples, low=1)

    def check(self, chain: Chain) -> None:
        """As ``Bound``."""
        self.unconditional(chain)
        if chain.continuous:
            raise ValueError(continuous_has_none(self.name, chain))
        if chain.single_levels:
            raise ValueError(
                f"bound is ais for a {type(chain).__name__}: each of its gradients would take all T = {chain.T} "
                "levels. Use bound elbo."
            )

    def of(self, chain: Chain, batch: Batch, *, done: Done) -> AisBounded:
        """As ``Bound``. ``ValueError`` for a chain whose latents are not real numbers."""
        found = annealed(chain, batch.x, chains=self.samples, options=self.annealing, done=done)
        curve = Curve.of(found.log_weights)
        return AisBounded(curve.best, None, None, curve, found.acceptance)

    def calls(self, chain: Chain) -> int:
        """As ``Bound``."""
        return chain.T * self.samples * self.annealing.temperatures * (self.annealing.leapfrog + 1)

    def json(self) -> dict[str, Any]:
        """As ``Bound``."""
        led = {"temperatures": self.annealing.temperatures, "leapfrog": self.annealing.leapfrog}
        return {"name": self.name, "samples": self.samples, **led}

    @property
    def words(self) -> str:
        """As ``Bound``."""
        over = f"annealed over {self.annealing.temperatures} temperatures"
        return f"AIS-{self.samples}, {self.samples} chains {over}"
