"""A learned schedule trained whole, its ends by the bound and its interior by the variance, in one run.

With the exact denoiser of Gaussian data both are known: the best bound over the end points, found by
minimising its closed form, and the least variance of its estimate, (∫ √E[e²] dγ)².
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.optimize import minimize
from torch.distributions import MultivariateNormal

from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import (
    ContinuousDiffusion,
    Diffusion,
    FixedVariance,
    GaussianDiffusion,
    LearnedSchedule,
)
from ancestral.objectives import OneLevel
from ancestral.parts.scaling import Scaling
from gaussian_ddpm import ExactDenoiser
from gaussian_limit import cost, cost_of_levels, least_second_moment, second_moment_at
from toys import spd

pytestmark = pytest.mark.usefixtures("float64")

START = 1.0
"""Log-SNR begins by falling from this to minus this: far too short a way."""


def data() -> MultivariateNormal:
    return MultivariateNormal(torch.tensor([0.4, -0.8]), spd(2, 2))


def chain(T: int, *, continuous: bool) -> GaussianDiffusion:
    schedule = LearnedSchedule(T, first=START, last=-START, knots=8)
    network = ExactDenoiser(schedule, data().loc, data().covariance_matrix)
    kind = ContinuousDiffusion if continuous else Diffusion
    return kind(network, schedule, scaling=Scaling(DataSpec((2,))), variance=FixedVariance("beta"))


def train(chain: GaussianDiffusion, *, steps: int = 500) -> None:
    """Ends and interior together: one loss, one backward pass, one optimiser."""
    torch.manual_seed(0)
    objective = OneLevel(chain)
    optimiser = torch.optim.Adam(chain.noising.parameters(), lr=0.03)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, total_iters=steps)
    for _ in range(steps):
        optimiser.zero_grad()
        objective(chain, data().sample((256,))).value.backward()
        optimiser.step()
        decay.step()


def best_over_ends(value: Callable[[torch.Tensor], float]) -> float:
    """The least of a function of γ_0 and γ_1, within what a bound could still tell."""
    found = minimize(
        lambda ends: value(torch.tensor(ends)),
        [-START, START],
        method="Nelder-Mead",
        bounds=[(-12.0, -0.1), (0.1, 12.0)],
        options={"xatol": 1e-3, "fatol": 1e-7},
    )
    assert found.success
    return float(found.fun)


def second_moment(schedule: LearnedSchedule, ends: torch.Tensor, *, even: bool = False) -> float:
    """E[L²] of L = γ′ e(γ) at a uniform u, between these ends; ``even``: as γ rises evenly."""
    u = (torch.arange(20_000) + 0.5) / 20_000
    with torch.no_grad():
        slope, gamma = schedule.slope(u), schedule.gamma(u)
    if even:
        gamma, slope = torch.lerp(ends[0], ends[1], u), (ends[1] - ends[0]).expand_as(u)
    return float((slope.square() * second_moment_at(gamma, data().covariance_matrix)).mean())


def assert_variance_is_least(schedule: LearnedSchedule, ends: torch.Tensor) -> None:
    """Within 5 %; of an interior that is even it is far."""
    least = least_second_moment(ends, data().covariance_matrix)
    assert least <= second_moment(schedule, ends) < 1.05 * least
    assert second_moment(schedule, ends, even=True) > 1.5 * least


def ends_of(schedule: LearnedSchedule) -> torch.Tensor:
    return schedule.gamma(torch.tensor([0.0, 1.0])).detach()


def test_continuous_time_comes_to_the_best_bound_and_the_least_variance():
    model = chain(20, continuous=True)
    mean, covariance = data().loc, data().covariance_matrix
    best = best_over_ends(lambda ends: float(cost(ends, mean, covariance)))
    # The bound is exact in the limit of wide ends: there is no better one than the entropy.
    assert best == pytest.approx(float(data().entropy()), abs=1e-4)
    assert float(cost(ends_of(model.noising), mean, covariance)) > best + 0.1
    train(model)
    ends = ends_of(model.noising)
    assert best < float(cost(ends, mean, covariance)) < best + 0.006
    assert_variance_is_least(model.noising, ends)


def test_levels_come_to_the_best_bound_and_the_least_variance():
    """Of T levels the bound depends on what is between the ends as well, by terms of order 1 / T."""
    T = 40
    model = chain(T, continuous=False)
    mean, covariance = data().loc, data().covariance_matrix
    u = torch.linspace(0.0, 1.0, T)

    def bound(ends: torch.Tensor, shape: torch.Tensor) -> float:
        return cost_of_levels(ends[0] + (ends[1] - ends[0]) * shape, mean, covariance)

    even = best_over_ends(lambda ends: bound(ends, u))
    assert bound(ends_of(model.noising), u) > even + 0.1
    train(model)
    ends, shape = ends_of(model.noising), model.noising.shape(u).value.detach()
    reached = bound(ends, shape)
    # The best ends there are for the interior that was learned, and for the even one.
    assert reached < best_over_ends(lambda ends: bound(ends, shape)) + 0.005
    assert reached < even + 0.005
    assert_variance_is_least(model.noising, ends)
    # What was written down here is the chain's own bound.
    with torch.no_grad():
        own = -model.elbo(data().sample((20_000,))).total
    assert abs(float(own.mean()) - reached) < 4.0 * float(own.std()) / len(own) ** 0.5
