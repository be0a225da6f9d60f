"""Coverage of what is known of diffusion on Gaussian data: the ODE's errors, and continuous time's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ancestral.diffusion import DDPM, ContinuousDDPM, LearnedSchedule
from ancestral.evaluation.errors import DrawError
from ancestral.evaluation.flow import Solver
from ancestral.evaluation.levels import DRAWS, plan_draws
from ancestral.evaluation.ode import OdeEvaluation, _drawn, _summary
from ancestral.samplers.flow import ProbabilityFlow
from ancestral.scaling import Scaling
from ancestral.schedules import Schedule
from ancestral.spec import DataSpec
from covering import REPETITIONS, coverage, covered, is_95_percent
from gaussian_ddpm import ExactDenoiser
from gaussian_limit import cost
from toys import randn, spd

pytestmark = pytest.mark.usefixtures("float64")

D = 4


def law() -> MultivariateNormal:
    return MultivariateNormal(randn(D, seed=1), spd(D, 2))


# The ODE ----------------------------------------------------------------------------------------------------

FIRST = 3.0


def ode_chain() -> DDPM:
    schedule = Schedule.log_linear(30, first=FIRST, last=-20.0)
    spec = DataSpec((D,))
    network = ExactDenoiser(schedule, law().loc, law().covariance_matrix)
    return DDPM(network, schedule=schedule, scaling=Scaling(spec), spec=spec, variance="beta")


def ode_bound(u: Tensor | None = None) -> Tensor:
    """The expected bound: of each u, (n, D), or () over all data. All its parts are quadratic in z_1.

    With z_1 = α u + σ ε, whose law over the data is N(α m, N), and û = m + α C N⁻¹ (z_1 − α m).
    """
    m, C, eye = law().loc, law().covariance_matrix, torch.eye(D)
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


def evaluations(x: Tensor, *, solver: Solver, samples: int, each: int) -> list[OdeEvaluation]:
    """``evaluate_ode`` of ``each`` examples of x in turn, as one batch: they share the solver's steps."""
    chain = ode_chain()
    with torch.no_grad():
        drawn = [_drawn(chain, ProbabilityFlow(chain), x, solver, lambda share: None) for _ in range(samples)]
    split = [split_examples(one, each) for one in drawn]
    return [_summary(chain, [list(own)], solver, 0.0) for own in zip(*split, strict=True)]


def split_examples(drawn, each: int) -> list:
    """What was drawn for many examples, as if it were for so many each."""
    kind, density = type(drawn), drawn.density
    columns = (drawn.reconstruction, density.by_probe, drawn.dequantisation)
    return [
        kind(reconstruction, type(density)(by_probe, density.evaluations), dequantisation)
        for reconstruction, by_probe, dequantisation in zip(
            *(one.split(each) for one in columns), strict=True
        )
    ]


def test_the_odes_error_over_the_population():
    x = law().sample((REPETITIONS * 60,))
    found = evaluations(x, solver=Solver(1e-3, 1e-3), samples=1, each=60)
    expected = float(ode_bound())
    assert is_95_percent(covered((one.bound.mean, one.bound.stderr, expected) for one in found))


def test_the_odes_errors_with_several_draws():
    """Given the examples, each with z_1 and probes of its own, and over the population."""
    x = law().sample((REPETITIONS * 60,))
    found = evaluations(x, solver=Solver(1e-3, 1e-3, "hutchinson", 2), samples=2, each=60)
    expected = float(ode_bound())
    assert is_95_percent(covered((one.bound.mean, one.bound.stderr, expected) for one in found))
    given = ode_bound(x).split(60)
    assert is_95_percent(
        covered(
            (one.bound.mean, one.bound.stderr_estimator, float(own.mean()))
            for one, own in zip(found, given, strict=True)
        )
    )


def test_the_error_of_hutchinsons_trace_alone():
    """Against the density that the same z_1 have: drawn first, so the seed gives them again."""
    x, chain = law().sample((REPETITIONS * 60,)), ode_chain()
    torch.manual_seed(5)
    z = chain.q_marginal(x, torch.ones(len(x), dtype=torch.long)).sample()
    bar = 1.0 / (1.0 + math.exp(-FIRST))
    noised = bar * law().covariance_matrix + (1.0 - bar) * torch.eye(D)
    exact = MultivariateNormal(math.sqrt(bar) * law().loc, noised).log_prob(z).split(60)
    torch.manual_seed(5)
    found = evaluations(x, solver=Solver(1e-5, 1e-5, "hutchinson", 3), samples=1, each=60)
    results = [
        (-one.flow, one.stderr_trace, float(own.mean())) for one, own in zip(found, exact, strict=True)
    ]
    assert is_95_percent(covered(results))
    assert all(one.stderr_trace < one.bound.stderr for one in found)


# Continuous time --------------------------------------------------------------------------------------------

ENDS = (-4.0, 5.0)
WIDE = MultivariateNormal(randn(8, seed=1).double(), spd(8, 2).double())
"""In more dimensions, as a bound's distribution over data is skewed in few."""


def limit() -> ContinuousDDPM:
    """Uneven between its ends, so that importance has something to do."""
    schedule = LearnedSchedule(20, first=-ENDS[0], last=-ENDS[1], knots=4)
    with torch.no_grad():
        schedule.log_slopes.copy_(torch.tensor([1.0, -1.0, 0.5, 0.0, 1.5]))
    spec = DataSpec((8,))
    network = ExactDenoiser(schedule, WIDE.loc, WIDE.covariance_matrix)
    return ContinuousDDPM(network, schedule=schedule, scaling=Scaling(spec), spec=spec, variance="beta")


def bound(u: Tensor | None = None) -> Tensor:
    """Of each u, (n, 8), or () over all data."""
    return -cost(torch.tensor(ENDS), WIDE.loc, WIDE.covariance_matrix, u)


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
    plan = plan_draws(chain, x[:each], levels=8, draws=DRAWS[-1], seed=0)
    torch.manual_seed(7)
    totals = plan(chain, x).totals
    over, given, expected = [], [], float(bound())
    for own, exact in zip(totals.split(each), bound(x).split(each), strict=True):
        mean = own.mean(dim=1)
        population, alone = DrawError.of(own, plan.group).stderrs(mean)
        over.append((float(mean.mean()), population, expected))
        given.append((float(mean.mean()), alone, float(exact.mean())))
    assert is_95_percent(covered(over))
    assert is_95_percent(covered(given))
