"""The likelihood of a probability-flow ODE: an independent check of a diffusion chain's bound.

``flow`` gives log p_ODE(z_1). Integers have no density, and the flow ends at level 1 and not at the data.
Variational dequantisation (Ho et al. 2019, Flow++, eq. 12) leads from one to the other with the chain's own
noising and its own last law,

    log p(x) ≥ E_{q(z_1|x)}[ log p(x|z_1) + log p_ODE(z_1) − log q(z_1|x) ],

so what is bounded is the likelihood of: z_1 by the ODE, then x ~ p(x|z_1), over integers or as a density on
real numbers. It is another p than the one the chain's ELBO is of, whose steps are random.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral.bounds.base import Bound, Bounded
from ancestral.bounds.errors import DrawError
from ancestral.bounds.flow import Density, Solver, log_density, needs_torchdiffeq
from ancestral.bounds.pieces import Done
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain
from ancestral.core.marginal import MarginalChain, marginal
from ancestral.models.diffusion.flow import ProbabilityFlow

OF = (
    "p_ODE: z_1 from the probability-flow ODE, then x from p(x|z_1); another model than the one the ELBO is "
    "of. A lower bound, by variational dequantisation with q(z_1|x)."
)


@dataclass(frozen=True, eq=False)
class OdeBounded(Bounded):
    """The bound with its three terms, which add up to −nats: (n,) each, means over the draws of z_1."""

    reconstruction: Tensor
    """−log p(x|z_1)."""
    flow: Tensor
    """−log p_ODE(z_1)."""
    dequantisation: Tensor
    """log q(z_1|x)."""
    trace_variance: Tensor | None
    """Of each example's bound, from Hutchinson's probes alone; None for an exact trace or one probe."""
    evaluations: Tensor
    """How often F was evaluated for one solution, (n,)."""


@dataclass(frozen=True)
class OdeBound(Bound):
    """log p(x) of a diffusion model's probability-flow ODE, from ``samples`` draws of z_1 for each example.

    Each draw has probes and a solution of its own; from 2 on the error of the draws alone is reported as well.
    Every example of a batch takes the batch's steps.
    """

    samples: int = 1
    solver: Solver = field(default_factory=Solver)
    name = "ode"

    def __post_init__(self) -> None:
        checks.integer("samples", self.samples, low=1)

    def check(self, chain: Chain) -> None:
        """As ``Bound``."""
        self.unconditional(chain)
        if not chain.denoises:
            raise ValueError(
                f"an ODE's likelihood of a {type(chain).__name__}: only a diffusion model has a "
                "probability-flow ODE. Leave --estimator out."
            )
        ProbabilityFlow(chain)  # type: ignore[arg-type]
        needs_torchdiffeq()

    @torch.no_grad()
    def of(self, chain: Chain, batch: Batch, *, done: Done) -> OdeBounded:
        """As ``Bound``."""
        drawn = [
            self._drawn(marginal(chain), batch.x, _part(done, index, self.samples))
            for index in range(self.samples)
        ]
        totals = torch.stack([one.total for one in drawn], dim=1).double()

        def mean(values: list[Tensor]) -> Tensor:
            return torch.stack(values).double().mean(dim=0)

        variances = [one.density.variance for one in drawn]
        known = [variance for variance in variances if variance is not None]
        return OdeBounded(
            nats=totals.mean(dim=1),
            replicates=totals if self.samples > 1 else None,
            draw_error=DrawError.of(totals, 1) if self.samples > 1 else None,
            reconstruction=mean([one.reconstruction for one in drawn]),
            flow=mean([-one.density.mean for one in drawn]),
            dequantisation=mean([one.dequantisation for one in drawn]),
            trace_variance=mean(known) / self.samples if known else None,
            evaluations=mean([torch.full((len(batch),), float(one.density.evaluations)) for one in drawn]),
        )

    def calls(self, chain: Chain) -> int:
        """As ``Bound``: one for p(x|z_1); those for F are known afterwards (``OdeBounded.evaluations``)."""
        return self.samples

    def json(self) -> dict[str, Any]:
        """As ``Bound``, but for the trace, which depends on the data's size."""
        tolerances = {name: asdict(self.solver)[name] for name in ("rtol", "atol")}
        return {"name": self.name, "samples": self.samples, "solver": "dopri5", **tolerances}

    def trace_json(self, dims: int) -> dict[str, Any]:
        """How the trace is computed for examples of so many dimensions."""
        if self.solver.exact(dims):
            return {"trace": "exact"}
        return {"trace": "hutchinson", "probes": self.solver.probes}

    @property
    def words(self) -> str:
        """As ``Bound``."""
        return "log p_ODE, a bound by variational dequantisation"

    def _drawn(self, chain: MarginalChain, x: Tensor, done: Done) -> _Drawn:
        q = chain.q_marginal(chain.features(x), torch.ones(len(x), dtype=torch.long, device=x.device))
        z = q.sample()
        flow = ProbabilityFlow(chain)  # type: ignore[arg-type]
        density = log_density(flow, z, chain.p_top(len(x)), solver=self.solver, done=done)
        return _Drawn(-chain.p_step(z, 1).log_prob(x), density, q.log_prob(z))


@dataclass(frozen=True)
class _Drawn:
    """One z_1 for each example of a batch: the three terms, (n,) each."""

    reconstruction: Tensor
    density: Density
    dequantisation: Tensor

    @property
    def total(self) -> Tensor:
        return self.density.mean - self.reconstruction - self.dequantisation


def _part(done: Done, i: int, count: int) -> Done:
    """Reports the i-th of ``count`` equal parts."""
    return lambda share: done((i + share) / count)
