"""The likelihood of a run's probability-flow ODE."""

from __future__ import annotations

from ancestral.chain import Chain
from ancestral.data import Examples
from ancestral.diffusion import DDPM
from ancestral.evaluation.bounds import Progress
from ancestral.evaluation.flow import Solver
from ancestral.evaluation.ode import OdeEvaluation, evaluate_ode
from ancestral.samplers.flow import ProbabilityFlow


def measure_ode(
    chain: Chain,
    x: Examples,
    *,
    solver: Solver = Solver(),  # noqa: B008
    samples: int = 1,
    batch_size: int = 500,
    seed: int = 0,
    progress: Progress | None = None,
) -> OdeEvaluation:
    """``evaluation.ode.evaluate_ode`` of a DDPM with its own flow; ``ValueError`` for another chain."""
    if not isinstance(chain, DDPM):
        raise ValueError(
            f"an ODE's likelihood of a {type(chain).__name__}: only a DDPM has a probability-flow ODE. "
            "Leave --estimator out."
        )
    return evaluate_ode(
        chain,
        ProbabilityFlow(chain),
        x,
        solver=solver,
        samples=samples,
        batch_size=batch_size,
        seed=seed,
        progress=progress,
    )
