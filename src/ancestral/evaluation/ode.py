"""The likelihood of a probability-flow ODE: an independent check of a diffusion chain's bound.

``flow`` gives log p_ODE(z_1). Integers have no density, and the flow ends at level 1 and not at the data.
Variational dequantisation (Ho et al. 2019, Flow++, eq. 12) leads from one to the other with the chain's own
noising and its own last law,

    log p(x) ≥ E_{q(z_1|x)}[ log p(x|z_1) + log p_ODE(z_1) − log q(z_1|x) ],

so what is bounded is the likelihood of: z_1 by the ODE, then x ~ p(x|z_1), over integers or as a density on
real numbers. It is another p than the one the chain's ELBO is of, whose steps are random.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ancestral import checks
from ancestral.data import Examples, feed
from ancestral.evaluation.bounds import Progress, evaluation_mode, within
from ancestral.evaluation.errors import DrawError
from ancestral.evaluation.estimate import Estimate
from ancestral.evaluation.flow import Density, Flow, Solver, log_density, needs_torchdiffeq
from ancestral.evaluation.pieces import Done
from ancestral.marginal import MarginalChain
from ancestral.randomness import own_randomness, reseed

OF = (
    "p_ODE: z_1 from the probability-flow ODE, then x from p(x|z_1); another model than the one the ELBO is "
    "of. A lower bound, by variational dequantisation with q(z_1|x)."
)


@dataclass(frozen=True)
class OdeEvaluation:
    """What ``evaluate_ode`` measured: a bound on log p(x) of the ODE's model, in nats per example."""

    n: int
    dims: int
    bound: Estimate
    bits_per_dim: Estimate | None
    """None where p(x|z_1) is a density: it has no code length."""
    reconstruction: float
    """E −log p(x|z_1)."""
    flow: float
    """E −log p_ODE(z_1)."""
    dequantisation: float
    """E log q(z_1|x), what z_1 costs less; the three add up to −bound."""
    stderr_trace: float | None
    """Of the bound, from Hutchinson's probes alone, nats; None for an exact trace or one probe."""
    solver: Solver
    samples: int
    exact: bool
    function_evaluations: float
    """Of F, for one solution; the mean over batches."""
    seconds: float

    @property
    def network_calls_per_image(self) -> float:
        """With the one for p(x|z_1) of each sample. Those for F have backward passes as well."""
        return self.samples * (self.function_evaluations + 1.0)

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON, without what names the run."""
        trace = {"trace": "exact"} if self.exact else {"trace": "hutchinson", "probes": self.solver.probes}
        tolerances = {name: asdict(self.solver)[name] for name in ("rtol", "atol")}
        return {
            "n": self.n,
            "dims": self.dims,
            "likelihood_of": OF,
            "log_likelihood_bound": self.bound.json(),
            "bits_per_dim": None if self.bits_per_dim is None else self.bits_per_dim.json(),
            "terms": {
                "reconstruction": self.reconstruction,
                "flow": self.flow,
                "dequantisation": self.dequantisation,
            },
            "stderr_trace": self.stderr_trace,
            "function_evaluations": self.function_evaluations,
            "network_calls_per_image": self.network_calls_per_image,
            "estimator": {"name": "ode", "samples": self.samples, "solver": "dopri5", **tolerances, **trace},
            "seconds": self.seconds,
        }


@torch.no_grad()
def evaluate_ode(
    chain: MarginalChain,
    flow: Flow,
    x: Examples,
    *,
    solver: Solver = Solver(),  # noqa: B008
    samples: int = 1,
    batch_size: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> OdeEvaluation:
    """Bound log p(x) of the model that ends with ``flow``, on all of x, (n, *shape), in the data's values.

    ``samples`` z_1 are drawn from q(z_1|x) for each example, each with probes and a solution of its own; from
    2 on the error of the draws alone is told as well. Every image of a batch takes the batch's steps.
    """
    checks.integer("samples", samples, low=1)
    checks.integer("batch_size", batch_size, low=1)
    if len(x) == 0:
        raise ValueError("there are no examples to evaluate; give at least one.")
    needs_torchdiffeq()
    device, start = next(chain.parameters()).device, time.perf_counter()
    drawn: list[list[_Drawn]] = []
    firsts = range(0, len(x), batch_size)
    batches = feed(x, (torch.arange(i, min(i + batch_size, len(x))) for i in firsts), device)
    with own_randomness(device), evaluation_mode(chain), contextlib.closing(batches):
        for first, batch in zip(firsts, batches, strict=True):
            reseed(device, seed, first)
            told = within(progress, first, len(batch), len(x))
            drawn.append(
                [_drawn(chain, flow, batch, solver, _part(told, i, samples)) for i in range(samples)]
            )
            if progress is not None:
                progress(min(first + batch_size, len(x)), len(x))
    return _summary(chain, drawn, solver, time.perf_counter() - start)


@dataclass(frozen=True)
class _Drawn:
    """One z_1 for each image of a batch: the three terms, (n,) costs each."""

    reconstruction: Tensor
    density: Density
    dequantisation: Tensor

    @property
    def total(self) -> Tensor:
        return self.density.mean - self.reconstruction - self.dequantisation


def _part(done: Done, i: int, count: int) -> Done:
    """Tells of the i-th of ``count`` equal parts."""
    return lambda share: done((i + share) / count)


def _drawn(chain: MarginalChain, flow: Flow, x: Tensor, solver: Solver, done: Done) -> _Drawn:
    q = chain.q_marginal(chain.features(x), torch.ones(len(x), dtype=torch.long, device=x.device))
    z = q.sample()
    density = log_density(flow, z, chain.p_top(len(x)), solver=solver, done=done)
    return _Drawn(-chain.p_step(z, 1).log_prob(x), density, q.log_prob(z))


def _summary(
    chain: MarginalChain, drawn: list[list[_Drawn]], solver: Solver, seconds: float
) -> OdeEvaluation:
    every = [[one.total for one in batch] for batch in drawn]
    totals = torch.cat([torch.stack(batch, dim=1) for batch in every]).double()
    n, samples = totals.shape
    bound = Estimate.of(totals.mean(dim=1))
    if samples > 1:
        bound = Estimate(bound.mean, *DrawError.of(totals, 1).stderrs(totals.mean(dim=1)))

    def mean(values: Callable[[_Drawn], Tensor]) -> float:
        return float(torch.cat([values(one) for batch in drawn for one in batch]).double().mean())

    variances = [one.density.variance for batch in drawn for one in batch]
    known = [variance for variance in variances if variance is not None]
    added = math.sqrt(float(torch.cat(known).double().sum())) / (n * samples) if known else None
    evaluations = sum(len(one.dequantisation) * one.density.evaluations for batch in drawn for one in batch)
    return OdeEvaluation(
        n=n,
        dims=chain.spec.dims,
        bound=bound,
        bits_per_dim=bound.scaled(-1.0 / (chain.spec.dims * math.log(2.0))) if chain.discrete else None,
        reconstruction=mean(lambda one: one.reconstruction),
        flow=mean(lambda one: -one.density.mean),
        dequantisation=mean(lambda one: one.dequantisation),
        stderr_trace=added,
        solver=solver,
        samples=samples,
        exact=solver.exact(chain.spec.dims),
        function_evaluations=evaluations / (n * samples),
        seconds=seconds,
    )
