"""How far annealed importance sampling is from log p(x): bounds from both sides on data drawn from the model.

Where x and z are drawn from p together, z is an exact draw of p(z|x), from which Markov chains can be led
down to the prior. Their weights bound log p(x) from above, in expectation, as those of chains led up do
from below (bidirectional Monte Carlo: Grosse, Ghahramani & Adams 2015). Between the two lies the mean of
log p(x) over the model's own data, and neither is farther from it than they are from one another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral._internal.randomness import own_randomness, reseed
from ancestral.bounds.ais import Annealing, both_ways
from ancestral.bounds.estimate import Estimate
from ancestral.bounds.hmc import latent_shapes
from ancestral.core.chain import Chain
from ancestral.core.walk import generated
from ancestral.evaluation.loop import BLOCK, Progress, evaluation_mode, parts_of, within

_SIMULATED = 9
"""Keeps the seed of simulated data apart from others."""


@dataclass(frozen=True)
class Bidirectional:
    """Bounds on the mean of log p(x) over n examples drawn from the model, in nats."""

    n: int
    lower: Estimate
    upper: Estimate
    gap: Estimate
    """Of the two on the same examples."""

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON."""
        return {
            "n": self.n,
            "lower": self.lower.json(),
            "upper": self.upper.json(),
            "gap": self.gap.json(),
        }


def bidirectional(
    chain: Chain,
    n: int,
    *,
    chains: int = 1,
    options: Annealing = Annealing(),  # noqa: B008
    batch_size: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> Bidirectional:
    """Bounds from both sides on n examples drawn from ``chain``, by ``chains`` Markov chains each way.

    At most ``batch_size`` examples are drawn at once, which changes no draws. The caller's random state is left as
    it was. ``ValueError`` where latents are not real numbers.
    """
    checks.integer("n, the number of simulated examples,", n, low=1)
    checks.integer("batch_size", batch_size, low=1)
    device = next(chain.parameters()).device
    lower, upper = [], []
    with own_randomness(device), evaluation_mode(chain):
        latent_shapes(chain)
        for first in range(0, n, BLOCK):
            x, z = _block(chain, min(BLOCK, n - first), seeds=(seed, _SIMULATED, first), size=batch_size)
            done = within(progress, first, len(x), n)
            up, down = both_ways(chain, x, z, chains=chains, options=options, done=done)
            lower.append(torch.logsumexp(up, dim=1) - math.log(chains))
            upper.append(math.log(chains) - torch.logsumexp(-down, dim=1))
    below, above = torch.cat(lower), torch.cat(upper)
    return Bidirectional(n, Estimate.of(below), Estimate.of(above), Estimate.of(above - below))


def _block(chain: Chain, n: int, *, seeds: tuple[int, ...], size: int) -> tuple[Tensor, list[Tensor]]:
    """As ``simulated``, at most ``size`` examples at once."""
    device = next(chain.parameters()).device
    found = []
    for part in parts_of(n, size):
        reseed(device, *seeds)
        with part.drawing():
            found.append(simulated(chain, part.count))
    xs, zs = zip(*found, strict=True)
    return torch.cat(xs), [torch.cat(levels) for levels in zip(*zs, strict=True)]


@torch.no_grad()
def simulated(chain: Chain, n: int) -> tuple[Tensor, list[Tensor]]:
    """n examples drawn from the model, (n, *shape), and the latents z_1 … z_T that they came from."""
    z, last = generated(chain, n)
    return last.sample(), z
