"""Scores of single examples: a bound on log p(x) of each, and not their mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral import checks
from ancestral.chain import Chain
from ancestral.data import Examples
from ancestral.evaluation.bounds import Progress, batches, evaluation_mode, within
from ancestral.evaluation.importance import importance_curve
from ancestral.evaluation.levels import DRAWS, LEVELS, plan_draws
from ancestral.evaluation.pieces import averaged_elbo, rows_at_once
from ancestral.marginal import MarginalChain
from ancestral.randomness import own_randomness, reseed

BOUNDS = ("elbo", "iwae")


@dataclass(frozen=True, eq=False)
class Scores:
    """A lower bound on log p(x) of each example."""

    nats: Tensor
    """(n,), float64."""
    stderr: Tensor
    """(n,), of each example's own draws; NaN where they are one draw (or one importance-weighted bound)."""
    bits_per_dim: Tensor | None
    """(n,): −nats / (D log 2), smaller where x is more likely; None where p(x|z_1) is a density."""
    bound: str
    """What it is, in words."""

    def order(self) -> Tensor:
        """The examples' numbers, from the most to the least likely; equals in their own order."""
        return self.nats.argsort(descending=True, stable=True)


@torch.no_grad()
def scores(
    chain: Chain,
    x: Examples,
    *,
    bound: str = "elbo",
    samples: int | None = None,
    levels: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """The bound of each example of x, (n, *shape), from draws of its own.

    ``bound`` "elbo" averages ``samples`` paths (16 by default) or, for chains whose q(z_t|x) is closed-form,
    sweeps (1 by default); with ``levels`` it takes that many random levels per example, drawn by importance,
    in the place of a sweep, which is the default above T = 100 (``LEVELS`` of them). "iwae" is the
    importance-weighted bound of ``samples`` (256) draws. Raises ``ValueError`` for options that do not go
    together.
    """
    checks.one_of("bound", bound, BOUNDS)
    checks.integer("batch_size", batch_size, low=1)
    marginal = isinstance(chain, MarginalChain)
    if levels is not None and not marginal:
        raise ValueError(f"levels is {levels}; a {type(chain).__name__} has no random levels. Leave it out.")
    if bound == "iwae" and marginal:
        raise ValueError(
            f"bound is 'iwae': importance weights over all levels of a {type(chain).__name__} are useless. "
            "Use bound 'elbo'."
        )
    if isinstance(chain, MarginalChain) and levels is None and (chain.continuous or chain.T > 100):
        levels = LEVELS if samples is None else None
        if levels is None and chain.continuous:
            raise ValueError("samples is given, and continuous time has no sweep to average; give levels.")
    if levels is not None and samples is not None:
        raise ValueError(f"samples is {samples} and levels is {levels}; give one of them.")
    default = 256 if bound == "iwae" else 1 if marginal else 16
    count = default if samples is None else samples
    checks.integer("samples", count, low=1)
    if len(x) == 0:
        raise ValueError("there are no examples to score; give at least one.")
    device = next(chain.parameters()).device
    found: list[tuple[Tensor, Tensor]] = []
    with own_randomness(device), evaluation_mode(chain), batches(x, batch_size, device) as numbered:
        plan = None
        if levels is not None:
            plan = plan_draws(chain, x, levels=levels, draws=DRAWS[-1], seed=seed)
        for first, batch in numbered:
            reseed(device, seed, first)
            if plan is not None:
                assert isinstance(chain, MarginalChain)
                found.append(_averaged(plan(chain, batch).totals))
            elif bound == "iwae":
                done = within(progress, first, len(batch), len(x))
                best = importance_curve(chain, batch, samples=count, done=done).best
                found.append((best, torch.full_like(best, math.nan)))
            else:
                found.append(_paths(chain, batch, count, marginal=marginal))
            if progress is not None:
                progress(first + len(batch), len(x))
    nats, stderr = (torch.cat(list(parts)).double().cpu() for parts in zip(*found, strict=True))
    named = {
        "iwae": f"IWAE-{count}, {count} draws of q",
        "elbo": f"ELBO, {count} {'sweeps' if marginal else 'paths'}",
    }[bound]
    bits = -nats / (chain.spec.dims * math.log(2.0)) if chain.discrete else None
    return Scores(nats, stderr, bits, named if plan is None else f"ELBO, {levels} random levels")


def _paths(chain: Chain, x: Tensor, count: int, *, marginal: bool) -> tuple[Tensor, Tensor]:
    """The mean of ``count`` paths' bounds of each example, and its standard error."""
    h, rows = chain.features(x), rows_at_once(chain, x)
    size = max(1, rows // len(x))
    if marginal or count == 1:
        # A sweep is many calls: they are averaged where they are made.
        values = [
            averaged_elbo(chain, x, h, samples=1, rows=max(rows, len(x))).total.double() for _ in range(count)
        ]
        each = torch.stack(values, dim=1)
    else:
        parts = [
            chain.log_weight(x, samples=min(size, count - done), h=h).double()
            for done in range(0, count, size)
        ]
        each = torch.cat(parts, dim=1)
    return _averaged(each)


def _averaged(each: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of (n, K) bounds over K, and its standard error: NaN for K = 1."""
    each, count = each.double(), each.shape[1]
    error = each.std(dim=1) / math.sqrt(count) if count > 1 else torch.full_like(each[:, 0], math.nan)
    return each.mean(dim=1), error
