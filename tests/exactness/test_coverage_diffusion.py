"""Coverage of what is known of diffusion on Gaussian data: the ODE's errors, and continuous time's."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ancestral.bounds import DRAWS, OdeBound, SampledLevelsBound, Solver
from ancestral.bounds.errors import DrawError
from ancestral.bounds.ode import OdeBounded
from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import ContinuousDiffusion, Diffusion, FixedVariance, LearnedSchedule
from ancestral.models.diffusion.schedules import Schedule
from ancestral.parts.scaling import Scaling
from covering import REPETITIONS, coverage, covered, is_95_percent
from gaussian_ddpm import ExactDenoiser
from gaussian_limit import cost
from toys import randn, spd

pytestmark = pytest.mark.usefixtures("float64")

D = 4


def data() -> MultivariateNormal:
    return MultivariateNormal(randn(D, seed=1), spd(D, 2))


# The ODE ----------------------------------------------------------------------------------------------------

FIRST = 3.0


def ode_chain() -> Diffusion:
    schedule = Schedule.log_linear(30, first=FIRST, last=-20.0)
    network = ExactDenoiser(schedule, data().loc, data().covariance_matrix)
    return Diffusion(network, schedule, scaling=Scaling(DataSpec((D,))), variance=FixedVariance("beta"))


def ode_bound(u: Tensor | None = None) -> Tensor:
    """The expected bound: of each u, (n, D), or () over all data. All its parts are quadratic in z_1.

    With z_1 = α u + σ ε, which over the data is N(α m, N), and û = m + α C N⁻¹ (z_1 − α m).
    """
    m, C, eye = data().loc, data().covariance_matrix, torch.eye(D)
    bar = 1.0 / (1.0 + math.exp(-FIRST))
    beta = 1.0 - bar
    N = bar * C + beta * eye
    gain = math.sqrt(bar) * torch.linalg.solve(N, C).T
    left = eye - math.sqrt(bar) * gain
    # u − û = left (u − m) − σ gain ε, and z_1 − α m = α (u − m) + σ ε.
    error = beta * gain.square().sum()
    whitened = beta * torch.linalg.inv(N).trace()
    if u is None:
        error = error + (left @ C @ left.T).trace()
        whitened = whitened + bar * torch.linalg.solve(N, C).trace()
    else:
        off = u - m
        error = error + (off @ left.T).square().sum(dim=1)
        whitened = whitened + bar * (off * torch.linalg.solve(N, off.T).T).sum(dim=1)
    last = -0.5 * D * math.log(2.0 * math.pi * beta) - 0.5 * error / beta
    density = -0.5 * (D * math.log(2.0 * math.pi) + torch.logdet(N) + whitened)
    return last + density + 0.5 * D * (math.log(2.0 * math.pi * beta) + 1.0)


def bounds(x: Tensor, *, solver: Solver, samples: int, each: int) -> list[OdeBounded]:
    """The bound of ``each`` examples of x in turn, from one batch: they share the solver's steps."""
    found = OdeBound(samples, solver)(ode_chain(), x, done=lambda share: None)
    return [examples_of(found, slice(first, first + each)) for first in range(0, len(x), each)]


def examples_of(found: OdeBounded, some: slice) -> OdeBounded:
    """What was found for many examples, as if it were for these alone."""
    rows = {
        field.name: value[some]
        for field in fields(found)
        if isinstance(value := getattr(found, field.name), Tensor)
    }
    replicates = rows.get("replicates")
    return replace(found, **rows, draw_error=None if replicates is None else DrawError.of(replicates, 1))


@pytest.mark.slow
def test_the_odes_error_over_the_population():
    x = data().sample((REPETITIONS * 60,))
    found = bounds(x, solver=Solver(1e-3, 1e-3), samples=1, each=60)
    expected = float(ode_bound())
    assert is_95_percent(covered((one.estimate.mean, one.estimate.stderr, expected) for one in found))


@pytest.mark.slow
def test_the_odes_errors_with_several_draws():
    """Given the examples, each with z_1 and probes of its own, and over the population."""
    x = data().sample((REPETITIONS * 60,))
    found = bounds(x, solver=Solver(1e-3, 1e-3, "hutchinson", 2), samples=2, each=60)
    expected = float(ode_bound())
    assert is_95_percent(covered((one.estimate.mean, one.estimate.stderr, expected) for one in found))
    given = ode_bound(x).split(60)
    assert is_95_percent(
        covered(
            (one.estimate.mean, one.estimate.stderr_estimator, float(own.mean()))
            for one, own in zip(found, given, strict=True)
        )
    )


@pytest.mark.slow
def test_the_error_of_hutchinsons_trace_alone():
    """Against the density that the same z_1 have: drawn first, so the seed gives them again."""
    x, chain = data().sample((REPETITIONS * 60,)), ode_chain()
    torch.manual_seed(5)
    z = chain.q_marginal(x, torch.ones(len(x), dtype=torch.long)).sample()
    bar = 1.0 / (1.0 + math.exp(-FIRST))
    noised = bar * data().covariance_matrix + (1.0 - bar) * torch.eye(D)
    exact = MultivariateNormal(math.sqrt(bar) * data().loc, noised).log_prob(z).split(60)
    torch.manual_seed(5)
    found = bounds(x, solver=Solver(1e-5, 1e-5, "hutchinson", 3), samples=1, each=60)
    errors = [float(one.trace_variance.sum()) ** 0.5 / 60 for one in found]
    results = [
        (-float(one.flow.mean()), stderr, float(own.mean()))
        for one, stderr, own in zip(found, errors, exact, strict=True)
    ]
    assert is_95_percent(covered(results))
    assert all(stderr < one.estimate.stderr for one, stderr in zip(found, errors, strict=True))


# Continuous time --------------------------------------------------------------------------------------------

ENDS = (-4.0, 5.0)
WIDE = MultivariateNormal(randn(8, seed=1).double(), spd(8, 2).double())
"""In more dimensions, as a bound's distribution over data is skewed in few."""


def limit() -> ContinuousDiffusion:
    """Uneven between its ends, so that importance has something to do."""
    schedule = LearnedSchedule(20, first=-ENDS[0], last=-ENDS[1], knots=4)
    with torch.no_grad():
        schedule.log_slopes.copy_(torch.tensor([1.0, -1.0, 0.5, 0.0, 1.5]))
    network = ExactDenoiser(schedule, WIDE.loc, WIDE.covariance_matrix)
    scaling = Scaling(DataSpec((8,)))
    return ContinuousDiffusion(network, schedule, scaling=scaling, variance=FixedVariance("beta"))


def bound(u: Tensor | None = None) -> Tensor:
    """Of each u, (n, 8), or () over all data."""
    return -cost(torch.tensor(ENDS), WIDE.loc, WIDE.covariance_matrix, u)


@pytest.mark.slow
@torch.no_grad()
def test_the_sampled_bound_of_continuous_time():
    x = WIDE.sample((REPETITIONS * 100,))
    totals = limit().elbo_sampled(x, levels=4).total
    assert is_95_percent(coverage(totals, float(bound())))
    # Each example's expectation is its own closed form.
    off = totals - bound(x)
    assert abs(float(off.mean())) < 4.0 * float(off.std()) / math.sqrt(len(off))


@pytest.mark.slow
@torch.no_grad()
def test_errors_of_replicated_bounds_of_continuous_time():
    """As ``evaluate`` puts them together by default: over the population, and given the examples."""
    chain, each = limit(), 64
    x = WIDE.sample((REPETITIONS * each,))
    plan = SampledLevelsBound(8, DRAWS[-1]).planned(chain, x[:each], seed=0)
    torch.manual_seed(7)
    totals = plan(chain, x).replicates
    over, given, expected = [], [], float(bound())
    for own, exact in zip(totals.split(each), bound(x).split(each), strict=True):
        mean = own.mean(dim=1)
        population, alone = DrawError.of(own, plan.group).stderrs(mean)
        over.append((float(mean.mean()), population, expected))
        given.append((float(mean.mean()), alone, float(exact.mean())))
    assert is_95_percent(covered(over))
    assert is_95_percent(covered(given))
