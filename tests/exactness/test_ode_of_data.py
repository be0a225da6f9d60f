"""The ODE's bound is the density of the data, where the schedule goes from all but the data to all but noise.

At a first log-SNR of 22 or more q(z_1|x) is so narrow that p(x|z_1) / q(z_1|x) is 1 and z_1 is x, up to terms
of the order of its width, 1e-5: nothing is left of the dequantisation, and what is told of single examples
from single draws is log p(x).
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ancestral.bounds import OdeBound, Solver
from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import Diffusion, FixedVariance, LearnedSchedule
from ancestral.models.diffusion.schedules import Schedule
from ancestral.parts.scaling import Scaling
from exact_score import Mixture, exact_ddpm
from gaussian_ddpm import ExactDenoiser
from toys import randn, spd

pytestmark = pytest.mark.usefixtures("float64")

TIGHT = Solver(rtol=1e-6, atol=1e-6)

SCHEDULES = {
    "log-linear": lambda: Schedule.log_linear(30, first=24.0, last=-30.0),
    "linear": lambda: Schedule.linear(60, first=1e-10, last=1.0 - 1e-6),
    # Its first step is (π / 2T)² wide, so that only many reach the data.
    "cosine": lambda: Schedule.cosine(100_000, offset=0.0, beta_max=1.0 - 1e-12),
    "sigmoid": lambda: Schedule.sigmoid(60, start=-25.0, end=25.0, beta_max=1.0 - 1e-9),
}


def three() -> Mixture:
    """Well separated parts, of different shapes."""
    covariances = torch.stack([0.1 * spd(2, seed) for seed in (3, 4, 5)])
    return Mixture(torch.tensor([0.5, 0.3, 0.2]), 1.5 * randn(3, 2, seed=6), covariances)


MIXTURES = {
    "gaussian": lambda: Mixture(torch.ones(1), randn(1, 3, seed=1), spd(3, 2)[None]),
    "mixture": three,
}


def bounds(chain: Diffusion, x: Tensor) -> Tensor:
    """What the log-density of each example is bounded by."""
    return OdeBound(solver=TIGHT)(chain, x, done=lambda share: None).nats


def examples(mixture: Mixture, n: int = 12) -> Tensor:
    """Beyond what is typical, too."""
    torch.manual_seed(2)
    return 1.2 * mixture.noised(200.0).sample((n,))


def near(found: Tensor, exact: Tensor, D: int) -> bool:
    """Within 1e-4 nats per dimension, for every example."""
    return float((found - exact).abs().max()) < 1e-4 * D


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", MIXTURES)
def test_with_the_exact_score_it_is_log_p_of_the_data(kind, name):
    mixture, schedule = MIXTURES[kind](), SCHEDULES[name]()
    assert float(schedule.log_snr[0]) > 22.0
    assert float(schedule.log_snr[-1]) <= -30.0
    x = examples(mixture)
    exact = mixture.noised(math.inf).log_prob(x)
    found = bounds(exact_ddpm(mixture, schedule, prediction="velocity"), x)
    assert near(found, exact, x.shape[1])
    assert float(exact.std()) > 0.5


def test_a_learned_schedule_and_units_of_the_data_make_no_difference():
    """Data in units in which they are neither centred nor of unit width."""
    schedule = LearnedSchedule(30, first=24.0, last=-30.0, knots=4)
    with torch.no_grad():
        schedule.log_slopes.copy_(torch.tensor([1.0, -1.0, 0.5, 0.0, 1.5]))
    mean, covariance, spec = randn(3, seed=1), spd(3, 2), DataSpec((3,))
    scaling = Scaling(spec)
    scaling.shift.copy_(torch.tensor([100.0, -3.0, 0.0]))
    scaling.scale.copy_(torch.tensor([50.0, 0.2, 3.0]))
    chain = Diffusion(
        ExactDenoiser(schedule, mean, covariance),
        schedule,
        scaling=scaling,
        variance=FixedVariance("beta"),
    )
    u = examples(MIXTURES["gaussian"]())
    exact = MIXTURES["gaussian"]().noised(math.inf).log_prob(u) - scaling.scale.log().sum()
    assert near(bounds(chain, scaling.inverse(u)), exact, 3)


def test_a_schedule_that_stops_short_of_the_data_tells_another_density():
    """The bound can fail to be log p: where z_1 is apart from the data, and where z_T is not all noise."""
    mixture = three()
    x = examples(mixture)
    exact = mixture.noised(math.inf).log_prob(x)
    for first, last in ((6.0, -30.0), (24.0, -4.0)):
        chain = exact_ddpm(mixture, Schedule.log_linear(30, first=first, last=last), prediction="velocity")
        assert not near(bounds(chain, x), exact, 2)
