"""The DDPM itself on Gaussian data, against the expectation of each of its terms in closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ancestral.core.chain import Chain
from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import PARAMETRIZATIONS
from ancestral.models.diffusion.schedules import Schedule
from ancestral.parts.scaling import Scaling
from ancestral.sampling import Ancestral, draw, trajectory
from gaussian_ddpm import expected_terms, gaussian_ddpm, model_distribution
from toys import randn, spd

pytestmark = pytest.mark.usefixtures("float64")

SCHEDULES = {
    "linear": lambda: Schedule.linear(8, first=0.01, last=0.6),
    "cosine": lambda: Schedule.cosine(6),
    "log-linear": lambda: Schedule.log_linear(7, first=5.0, last=-5.0),
    "two levels": lambda: Schedule(torch.tensor([0.2, 0.6])),
}


def problem() -> tuple[Scaling, MultivariateNormal, Tensor, Tensor]:
    """A scaling, Gaussian data in their own units, and their mean and covariance in the network's."""
    scaling = Scaling(DataSpec((3,)))
    scaling.shift.copy_(torch.tensor([5.0, -1.0, 0.0]))
    scaling.scale.copy_(torch.tensor([2.0, 0.5, 7.0]))
    mean, covariance = 0.5 * randn(3, seed=1), spd(3, 2)
    outer = scaling.scale[:, None] * covariance * scaling.scale
    return scaling, MultivariateNormal(scaling.inverse(mean), outer), mean, covariance


def close(draws: Tensor, expected: Tensor) -> bool:
    """Whether the means over the first axis are within five of their standard errors."""
    stderr = draws.std(dim=0) / math.sqrt(len(draws))
    return bool(((draws.mean(dim=0) - expected).abs() <= 5 * stderr + 1e-9 * expected.abs()).all())


@pytest.mark.parametrize("variance", ["beta", "posterior", "learned"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
@torch.no_grad()
def test_every_term_has_its_closed_form(schedule, variance):
    scaling, data, mean, covariance = problem()
    for off in (1.0, 0.8):
        chain = gaussian_ddpm(schedule(), mean, covariance, off=off, variance=variance, scaling=scaling)
        expected = expected_terms(chain, mean, covariance)
        x = data.sample((20_000,))
        estimates = [
            chain.elbo(x),
            Chain.elbo(chain, x),
            chain.elbo_sampled(x),
            chain.elbo_sampled(x, levels=3),
        ]
        for elbo in estimates:
            assert close(elbo.reconstruction, expected.reconstruction)
            assert close(elbo.matching, expected.matching)
            assert close(elbo.prior, expected.prior)
            assert close(elbo.total, torch.tensor(expected.total))
        assert close(chain.log_weight(x)[:, 0], torch.tensor(expected.total))
        assert expected.total < -float(data.entropy()) - 1e-3


@torch.no_grad()
def test_the_terms_of_one_example_have_their_closed_form():
    scaling, _, mean, covariance = problem()
    chain = gaussian_ddpm(SCHEDULES["linear"](), mean, covariance, off=0.9, scaling=scaling)
    x = torch.tensor([[9.0, -0.5, 3.0]])
    expected = expected_terms(chain, scaling(x)[0], torch.zeros(3, 3))
    for elbo in (chain.elbo(x.expand(20_000, 3)), chain.elbo_sampled(x.expand(20_000, 3))):
        assert close(elbo.reconstruction, expected.reconstruction)
        assert close(elbo.matching, expected.matching)
        torch.testing.assert_close(elbo.prior, expected.prior.expand(20_000))
    total = chain.elbo(x.expand(50, 3), samples=400).total
    assert close(total, torch.tensor(expected.total))


@pytest.mark.parametrize("prediction", PARAMETRIZATIONS)
@torch.no_grad()
def test_the_bound_does_not_depend_on_what_is_predicted(prediction):
    scaling, data, mean, covariance = problem()
    chains = [
        gaussian_ddpm(
            SCHEDULES["linear"](),
            mean,
            covariance,
            off=0.8,
            prediction=p,
            scaling=scaling,
            variance="learned",
        )
        for p in (prediction, "data")
    ]
    x = data.sample((5,))
    totals = []
    for chain in chains:
        torch.manual_seed(3)
        totals.append(chain.log_weight(x, samples=4))
    torch.testing.assert_close(totals[0], totals[1], atol=1e-9, rtol=1e-9)


@torch.no_grad()
def test_the_best_network_gives_the_best_bound_and_more_levels_a_better_one():
    scaling, data, mean, covariance = problem()

    def gap(T: int, off: float) -> float:
        schedule = Schedule.log_linear(T, first=8.0, last=-8.0)
        chain = gaussian_ddpm(schedule, mean, covariance, off=off, variance="beta", scaling=scaling)
        expected = expected_terms(chain, mean, covariance).total
        bound = chain.elbo(data.sample((400,))).total
        assert close(bound, torch.tensor(expected))
        return -float(data.entropy()) - expected

    assert min(gap(20, 0.97), gap(20, 1.03)) > gap(20, 1.0)
    gaps = [gap(T, 1.0) for T in (20, 80, 320)]
    assert 0.0 < gaps[-1] < 0.01
    # The gap of a fine grid is of first order in the step.
    assert all(3.5 < coarse / fine < 4.5 for coarse, fine in pairwise(gaps))


def steps_kept(T: int, steps: int) -> list[int]:
    """Evenly spread levels from T to 1, worked out apart from the library."""
    return [T] if steps == 1 else [int(t) for t in torch.linspace(T, 1, steps).round()]


@pytest.mark.parametrize("variance", ["beta", "posterior"])
@torch.no_grad()
def test_the_bound_lies_below_log_p_of_the_model_and_importance_sampling_reaches_it(variance):
    scaling, data, mean, covariance = problem()
    schedule = Schedule.log_linear(12, first=3.0, last=-3.0)
    chain = gaussian_ddpm(schedule, mean, covariance, off=0.9, variance=variance, scaling=scaling)
    x = data.sample((6,))
    log_p = model_distribution(chain, steps_kept(12, 12)).log_prob(x)
    weights = chain.log_weight(x, samples=20_000)
    ratio = (weights - log_p[:, None]).exp()
    assert close(ratio.T, torch.ones(6))
    expected = torch.tensor([expected_terms(chain, u, torch.zeros(3, 3)).total for u in scaling(x)])
    assert close(weights.T, expected)
    assert (expected < log_p - 0.01).all()


@pytest.mark.parametrize("variance", ["beta", "posterior"])
@pytest.mark.parametrize("steps", [None, 5, 2, 1])
@torch.no_grad()
def test_samples_have_the_law_that_the_steps_compose(steps, variance):
    scaling, _, mean, covariance = problem()
    chain = gaussian_ddpm(
        Schedule.linear(8, first=0.01, last=0.6), mean, covariance, variance=variance, scaling=scaling
    )
    model = model_distribution(chain, steps_kept(8, steps or 8))
    draws = [draw(chain, 40_000, sampler=Ancestral(steps), seed=1, batch_size=5000)]
    if steps is None:
        draws.append(chain.sample(40_000))
    for x in draws:
        white = torch.linalg.solve_triangular(model.scale_tril, (x - model.mean).T, upper=False)
        assert white.mean(dim=1).abs().max() < 5 / 200
        assert (torch.cov(white) - torch.eye(3)).abs().max() < 5 * math.sqrt(2) / 200
    found = trajectory(chain, 7, sampler=Ancestral(steps), frames=100)
    assert found.levels == [*steps_kept(8, steps or 8), 0]
    assert all(state.shape == (7, 3) for state in found.states)


@torch.no_grad()
def test_a_trajectory_is_in_the_units_of_the_data():
    scaling, _, mean, covariance = problem()
    chain = gaussian_ddpm(SCHEDULES["cosine"](), mean, covariance, scaling=scaling)
    found = trajectory(chain, 40_000, frames=3, seed=1, batch_size=5000)
    assert found.levels == [6, 3, 0]
    # At the top z_T ~ N(0, I) in the network's units.
    assert (found.states[0].mean(dim=0) - scaling.shift).div(scaling.scale).abs().max() < 5 / 200
    assert (found.states[0].std(dim=0) / scaling.scale - 1.0).abs().max() < 5 / 200
