"""The likelihood of a diffusion model's probability-flow ODE over a data set, with error bars."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ancestral.bounds import Estimate, OdeBound, code_length
from ancestral.bounds.ode import OF, OdeBounded
from ancestral.core.chain import Chain
from ancestral.core.entrance import Given
from ancestral.data import Examples, Split
from ancestral.evaluation.loop import Progress, bounded


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
    how: OdeBound
    function_evaluations: float
    """Of F, for one solution; the mean over examples."""
    seconds: float

    @property
    def network_calls_per_image(self) -> float:
        """With the one for p(x|z_1) of each sample. Those for F have backward passes as well."""
        return self.how.samples * (self.function_evaluations + 1.0)

    def json(self) -> dict[str, Any]:
        """As in the commands' JSON, without what names the run."""
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
            "estimator": {**self.how.json(), **self.how.trace_json(self.dims)},
            "seconds": self.seconds,
        }


def evaluate_ode(
    chain: Chain,
    x: Split | Examples | Given,
    bound: OdeBound = OdeBound(),  # noqa: B008
    *,
    batch_size: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> OdeEvaluation:
    """Bound log p(x) of the model that ends with the chain's ODE, on all of x, (n, *shape).

    ``ValueError`` for a chain that is no diffusion model, and as ``evaluate``.
    """
    (measured,) = bounded(chain, x, [bound], batch_size=batch_size, seed=seed, progress=progress)
    found = measured.found
    assert isinstance(found, OdeBounded)
    n, dims, estimate = len(found.nats), chain.spec.dims, found.estimate
    variance = found.trace_variance
    return OdeEvaluation(
        n=n,
        dims=dims,
        bound=estimate,
        bits_per_dim=code_length(chain, estimate),
        reconstruction=float(found.reconstruction.mean()),
        flow=float(found.flow.mean()),
        dequantisation=float(found.dequantisation.mean()),
        stderr_trace=None if variance is None else math.sqrt(float(variance.double().sum())) / n,
        how=bound,
        function_evaluations=float(found.evaluations.mean()),
        seconds=measured.seconds,
    )
