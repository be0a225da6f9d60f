"""Continuous time: the limit of many levels, and log p(x) itself where everything is exact."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ancestral.core.elbo import Elbo
from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import (
    PARAMETRIZATIONS,
    SAMPLINGS,
    ContinuousDiffusion,
    Diffusion,
    FixedVariance,
    Gamma,
    LearnedSchedule,
    LogLinear,
    variance_of,
)
from ancestral.models.diffusion.schedules import Schedule
from ancestral.objectives import OneLevel
from ancestral.parts.scaling import Scaling
from ancestral.sampling import SAMPLERS, Sampler, draw
from gaussian_ddpm import ExactDenoiser
from toys import spd

pytestmark = pytest.mark.usefixtures("float64")

FIRST, LAST = 5.0, -4.0


class Asked(nn.Module):
    """The exact denoiser's answer as another target, a little off, and a word on the variance."""

    def __init__(self, exact: ExactDenoiser, prediction: str, *, off: float = 1.0, share: bool = False):
        super().__init__()
        self.exact, self.prediction, self.off, self.share = exact, prediction, off, share

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        bar = torch.sigmoid(-self.exact.gamma(time))[:, None]
        eps = self.off * self.exact(z, time)
        data = (z - (1.0 - bar).sqrt() * eps) / bar.sqrt()
        velocity = bar.sqrt() * eps - (1.0 - bar).sqrt() * data
        out = {"noise": eps, "data": data, "velocity": velocity}[self.prediction]
        return torch.cat([out, torch.zeros_like(out)], dim=1) if self.share else out


def schedules(T: int = 20) -> dict[str, Gamma]:
    bent = LearnedSchedule(T, first=FIRST, last=LAST, knots=4)
    with torch.no_grad():
        bent.ends.copy_(torch.tensor([0.06, -0.3]))
        bent.log_slopes.copy_(torch.tensor([1.0, -1.0, 0.5, 0.0, 1.5]))
    return {"log-linear": LogLinear(T, first=FIRST, last=LAST), "learned": bent}


def chain_of(
    schedule: Gamma, *, D: int = 2, off: float = 1.0, prediction: str = "noise", variance: str = "beta"
) -> tuple[ContinuousDiffusion, Tensor, Tensor]:
    mean, covariance = torch.linspace(0.4, -0.8, D), spd(D, 2) if D > 1 else torch.tensor([[0.7]])
    exact = ExactDenoiser(schedule, mean, covariance)
    chain = ContinuousDiffusion(
        Asked(exact, prediction, off=off, share=variance == "learned"),
        schedule,
        scaling=Scaling(DataSpec((D,))),
        parametrization=PARAMETRIZATIONS[prediction],
        variance=variance_of(variance),
    )
    return chain, mean, covariance


def closed_form(
    chain: ContinuousDiffusion, mean: Tensor, covariance: Tensor, *, off: float = 1.0
) -> dict[str, float]:
    """The expected terms on N(mean, covariance), from γ alone; the matching term by quadrature over γ."""
    ends = chain.noising.gamma(torch.tensor([0.0, 1.0])).detach()
    values = torch.linalg.eigvalsh(covariance)
    D = len(mean)

    def noise_errors(gamma: Tensor) -> Tensor:
        """E‖ε − off E[ε|z]‖² per γ: ε̂ = c σ (z − α mean) with c = 1 / (α² v + σ²) along each axis."""
        bar = torch.sigmoid(-gamma)[:, None]
        known = (1.0 - bar) / (bar * values + 1.0 - bar)
        return (1.0 - known + (1.0 - off) ** 2 * known).sum(dim=1)

    grid = torch.linspace(float(ends[0]), float(ends[1]), 20_001)
    matching = 0.5 * torch.trapezoid(noise_errors(grid), grid)
    bar = torch.sigmoid(-ends)
    beta = 1.0 - bar[0]
    # û − u = −(σ/α) (ε̂ − ε)
    data_error = beta / bar[0] * noise_errors(ends[:1])[0]
    reconstruction = 0.5 * D * torch.log(2.0 * math.pi * beta) + 0.5 * data_error / beta
    square = mean.square().sum() + values.sum()
    prior = 0.5 * (bar[1] * square - D * (bar[1] + torch.log1p(-bar[1])))
    return {
        "reconstruction": float(reconstruction),
        "matching": float(matching),
        "prior": float(prior),
        "value": float(reconstruction + matching + prior),
    }


def near(draws: Tensor, expected: float) -> bool:
    stderr = float(draws.std()) / math.sqrt(len(draws))
    return abs(float(draws.mean()) - expected) < 4.5 * stderr + 1e-9


@pytest.mark.parametrize("prediction", ["noise", "data", "velocity"])
@pytest.mark.parametrize("name", ["log-linear", "learned"])
@torch.no_grad()
def test_every_term_has_its_closed_form(name, prediction):
    chain, mean, covariance = chain_of(schedules()[name], off=0.8, prediction=prediction)
    expected = closed_form(chain, mean, covariance, off=0.8)
    x = MultivariateNormal(mean, covariance).sample((40_000,))
    place = torch.rand(len(x), 2).square()
    for elbo in (chain.elbo_sampled(x, levels=3), chain.elbo(x), chain.elbo_at(x, place, place.sqrt())):
        assert elbo.matching.shape == (len(x), 1)
        assert near(elbo.matching[:, 0], expected["matching"])
        assert near(elbo.reconstruction, expected["reconstruction"])
        assert near(elbo.prior, expected["prior"])
        assert near(-elbo.total, expected["value"])


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("name", ["log-linear", "learned"])
@torch.no_grad()
def test_the_loss_is_minus_the_bound(name, sampling):
    chain, mean, covariance = chain_of(schedules()[name], off=0.8)
    objective = OneLevel(chain, sampling=sampling)
    expected = closed_form(chain, mean, covariance, off=0.8)
    data, losses = MultivariateNormal(mean, covariance), []
    for _ in range(500):
        losses.append(objective(chain, data.sample((60,))))
        objective.observe(losses[-1].seen)
    assert near(torch.stack([loss.value for loss in losses]), expected["value"])
    for name in ("reconstruction", "matching", "prior"):
        assert near(torch.stack([loss.terms[name] for loss in losses]), expected[name])


def test_the_ends_have_the_gradient_of_the_bound():
    chain, mean, _ = chain_of(schedules()["learned"], variance="learned")
    x, ends, objective = mean + torch.randn(40, 2), chain.noising.ends, OneLevel(chain)
    # Times take no gradient.
    chain.noising.time_at = schedules()["learned"].time_at

    def value() -> Tensor:
        torch.manual_seed(1)
        return objective(chain, x).value

    (gradient,) = torch.autograd.grad(value(), ends)
    for i in range(2):
        around = []
        with torch.no_grad():
            for step in (1e-5, -2e-5):
                ends[i] += step
                around.append(float(value()))
            ends[i] += 1e-5
        assert float(gradient[i]) == pytest.approx((around[0] - around[1]) / 2e-5, rel=1e-6)
    assert chain.noising.log_slopes.grad is None
    (interior,) = torch.autograd.grad(value(), chain.noising.log_slopes)
    assert interior.all()


# Exact expectations: in one dimension costs are quadratic in ε, so that ε = ±1 gives their mean. ----------


@pytest.fixture
def exact_noise(monkeypatch):
    """Noise is 1 for the first half of a batch and −1 for the second."""

    def signs(n: int) -> Tensor:
        return torch.cat([torch.ones(n // 2), -torch.ones(n - n // 2)])

    monkeypatch.setattr(torch, "randn_like", lambda x: signs(len(x))[:, None].expand_as(x).clone())
    monkeypatch.setattr(torch, "randn", lambda shape, **_: signs(shape[0])[:, None].expand(shape).clone())


X = torch.tensor([-2.0, 0.1, 1.7], dtype=torch.float64)


def averaged(elbo: Elbo) -> Tensor:
    """The bound of each of X, from the two halves of a batch."""
    return elbo.total.unflatten(0, (2, 3)).mean(dim=0)


def continuous_bound(chain: ContinuousDiffusion, points: int = 4000) -> Tensor:
    """The midpoint rule over t in place of random t."""
    place = ((torch.arange(points) + 0.5) / points).expand(6, points)
    return averaged(chain.elbo_at(X.repeat(2)[:, None], place, torch.full_like(place, 1.0 / points)))


@torch.no_grad()
def test_the_bound_of_many_levels_tends_to_it_at_first_order(exact_noise):
    chain, mean, covariance = chain_of(LogLinear(20, first=FIRST, last=LAST), D=1, off=0.9)
    limit = continuous_bound(chain)
    errors = []
    for T in (50, 100, 200, 400):
        schedule = Schedule.log_linear(T, first=FIRST, last=LAST)
        network = Asked(ExactDenoiser(schedule, mean, covariance), "noise", off=0.9)
        levels = Diffusion(network, schedule, scaling=chain.scaling, variance=FixedVariance("beta"))
        errors.append(limit - averaged(levels.elbo(X.repeat(2)[:, None])))
    for coarse, fine in pairwise(errors):
        torch.testing.assert_close(coarse / fine, torch.full((3,), 2.0), rtol=0.1, atol=0)
    assert (errors[-1].abs() < 0.02).all()


@pytest.mark.slow
@torch.no_grad()
def test_it_does_not_depend_on_what_lies_between_the_ends(exact_noise):
    bounds = []
    for slopes in ([0.0] * 5, [1.0, -1.0, 0.5, 0.0, 1.5]):
        schedule = LearnedSchedule(20, first=FIRST, last=LAST, knots=4)
        schedule.log_slopes.copy_(torch.tensor(slopes))
        bounds.append(continuous_bound(chain_of(schedule, D=1, off=0.8)[0]))
    torch.testing.assert_close(bounds[0], bounds[1], rtol=0, atol=1e-5)


@torch.no_grad()
def test_with_the_exact_denoiser_it_is_log_p_for_every_example(exact_noise):
    gaps = []
    for reach in (3.0, 6.0, 12.0):
        chain, mean, covariance = chain_of(LogLinear(20, first=reach, last=-reach), D=1)
        log_p = MultivariateNormal(mean, covariance).log_prob(X[:, None])
        gaps.append((log_p - continuous_bound(chain)).abs().max())
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-4


# Steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("variance", ["posterior", "learned"])
@torch.no_grad()
def test_samplers_take_the_levels_of_its_schedule(sampler, variance):
    chain, mean, covariance = chain_of(schedules(60)["learned"], variance=variance, prediction="velocity")
    exact = ExactDenoiser(chain.schedule, mean, covariance)
    fixed = Diffusion(
        Asked(exact, "velocity"),
        chain.schedule,
        scaling=chain.scaling,
        parametrization=PARAMETRIZATIONS["velocity"],
        variance=FixedVariance("posterior"),
    )
    for steps in (12, 60):
        drawn = [
            draw(one, 50, sampler=Sampler.named(sampler, steps), final="mean", seed=0, precision="fp32")
            for one in (chain, fixed)
        ]
        torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_only_the_last_variance_is_learned():
    chain, _, _ = chain_of(schedules()["log-linear"], variance="learned")
    bar = chain.schedule.alpha_bar
    z = torch.randn(3, 2)
    beta, second = 1 - bar[1], (1 - bar[2] / bar[1]) * (1 - bar[1]) / (1 - bar[2])
    torch.testing.assert_close(chain.p_step(z, 1).variance, (beta * second).sqrt().expand(3, 2))
    tilde = (1 - bar[9] / bar[8]) * (1 - bar[8]) / (1 - bar[9])
    torch.testing.assert_close(chain.p_step(z, 9).variance, tilde.expand(3, 2))
    torch.testing.assert_close(chain.p_step(z, torch.tensor([9, 9, 9])).variance, tilde.expand(3, 2))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="continuous time has none"):
        chain_of(LogLinear(20), prediction="mean")
