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

from ancestral.diffusion import DDPM, LearnedSchedule
from ancestral.evaluation.flow import Solver
from ancestral.evaluation.ode import evaluate_ode
from ancestral.samplers.flow import ProbabilityFlow
from ancestral.scaling import Scaling
from ancestral.schedules import Schedule
from ancestral.spec import DataSpec
from covering import values_of_estimates
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


def bounds(monkeypatch: pytest.MonkeyPatch, chain: DDPM, x: Tensor) -> Tensor:
    """What ``evaluate_ode`` bounds the log-density of each example by."""
    values = values_of_estimates(
        monkeypatch, lambda: evaluate_ode(chain, ProbabilityFlow(chain), x, solver=TIGHT)
    )
    (found,) = [one for one in values if len(one) == len(x)]
    return found


def examples(mixture: Mixture, n: int = 12) -> Tensor:
    """Beyond what is typical, too."""
    law = mixture.noised(200.0)
    torch.manual_seed(2)
    return 1.2 * law.sample((n,))


def near(found: Tensor, exact: Tensor, D: int) -> bool:
    """Within 1e-4 nats per dimension, for every example."""
    return float((found - exact).abs().max()) < 1e-4 * D


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", MIXTURES)
def test_with_the_exact_score_it_is_log_p_of_the_data(monkeypatch, kind, name):
    mixture, schedule = MIXTURES[kind](), SCHEDULES[name]()
    assert float(schedule.log_snr[0]) > 22.0
    assert float(schedule.log_snr[-1]) <= -30.0
    x = examples(mixture)
    exact = mixture.noised(math.inf).log_prob(x)
    found = bounds(monkeypatch, exact_ddpm(mixture, schedule, prediction="velocity"), x)
    assert near(found, exact, x.shape[1])
    assert float(exact.std()) > 0.5


def test_a_learned_schedule_and_units_of_the_data_make_no_difference(monkeypatch):
    """Data in units in which they are neither centred nor of unit width."""
    schedule = LearnedSchedule(30, first=24.0, last=-30.0, knots=4)
    with torch.no_grad():
        schedule.log_slopes.copy_(torch.tensor([1.0, -1.0, 0.5, 0.0, 1.5]))
    mean, covariance, spec = randn(3, seed=1), spd(3, 2), DataSpec((3,))
    scaling = Scaling(spec)
    scaling.shift.copy_(torch.tensor([100.0, -3.0, 0.0]))
    scaling.scale.copy_(torch.tensor([50.0, 0.2, 3.0]))
    chain = DDPM(
        ExactDenoiser(schedule, mean, covariance),
        schedule=schedule,
        scaling=scaling,
        spec=spec,
        prediction="noise",
        variance="beta",
        loss="vlb",
    )
    u = examples(MIXTURES["gaussian"]())
    exact = MIXTURES["gaussian"]().noised(math.inf).log_prob(u) - scaling.scale.log().sum()
    assert near(bounds(monkeypatch, chain, scaling.inverse(u)), exact, 3)


def test_a_schedule_that_stops_short_of_the_data_tells_another_density(monkeypatch):
    """The bound can fail to be log p: where z_1 is apart from the data, and where z_T is not all noise."""
    mixture = three()
    x = examples(mixture)
    exact = mixture.noised(math.inf).log_prob(x)
    for first, last in ((6.0, -30.0), (24.0, -4.0)):
        chain = exact_ddpm(mixture, Schedule.log_linear(30, first=first, last=last), prediction="velocity")
        assert not near(bounds(monkeypatch, chain, x), exact, 2)
