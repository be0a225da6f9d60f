"""The learned schedule: rising, differentiable, and trained by the gradients that it is said to be."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import Diffusion, LearnedSchedule, LearnedVariance, variance_of
from ancestral.models.diffusion.schedules import Schedule, posterior
from ancestral.objectives import Hybrid, OneLevel, Simple
from ancestral.parts.scaling import Scaling
from ancestral.sampling import SAMPLERS, Sampler, draw
from gaussian_ddpm import ExactDenoiser
from toys import spd

pytestmark = pytest.mark.usefixtures("float64")


def bent(T: int = 9, *, knots: int = 5, **options) -> LearnedSchedule:
    """A schedule away from where it starts."""
    torch.manual_seed(0)
    schedule = LearnedSchedule(T, knots=knots, **options)
    with torch.no_grad():
        schedule.ends.copy_(torch.tensor([0.07, -0.2]))
        schedule.log_slopes.copy_(torch.randn(knots + 1))
    return schedule


def gaussian(schedule, *, D: int = 2, variance: str = "beta") -> tuple[Diffusion, Tensor, Tensor]:
    """A chain with the exact denoiser of N(mean, covariance), whatever the schedule; mean and covariance."""
    mean, covariance = torch.linspace(0.4, -0.8, D), spd(D, 2)
    network = ExactDenoiser(schedule, mean, covariance, share=0.3 if variance == "learned" else None)
    chain = Diffusion(network, schedule, scaling=Scaling(DataSpec((D,))), variance=variance_of(variance))
    return chain, mean, covariance


def numeric(f: Callable[[], float], parameter: nn.Parameter, i: int, step: float = 1e-5) -> float:
    """The central difference of f in one number of a parameter."""
    values = []
    with torch.no_grad():
        for sign in (1.0, -2.0):
            parameter[i] += sign * step
            values.append(f())
        parameter[i] += step
    return (values[0] - values[1]) / (2.0 * step)


# The function -----------------------------------------------------------------------------------------------


def test_it_starts_as_the_log_linear_schedule():
    ours, theirs = LearnedSchedule(37, first=8.0, last=-5.0), Schedule.log_linear(37, first=8.0, last=-5.0)
    torch.testing.assert_close(ours.schedule.log_alpha_bar, theirs.log_alpha_bar, rtol=1e-12, atol=1e-15)
    u = torch.linspace(0.0, 1.0, 11)
    torch.testing.assert_close(ours.time_at(u), u, rtol=0, atol=1e-14)


def test_it_rises_between_its_ends_and_its_slopes_are_its_derivatives():
    schedule = bent(first=6.0, last=-7.0)
    u = torch.linspace(0.0, 1.0, 4001)
    gamma = schedule.gamma(u).detach()
    assert (gamma.diff() > 0).all()
    low, width = -6.0 + 0.07 * 13.0, 13.0 * math.exp(-0.2)
    assert gamma[[0, -1]].tolist() == pytest.approx([low, low + width], abs=1e-12)
    shape = schedule.shape(u)
    inner, h = u[1:-1], float(u[1])
    torch.testing.assert_close(schedule.slope(u).detach(), width * shape.slope.detach())
    central = (shape.value[2:] - shape.value[:-2]) / (2 * h)
    torch.testing.assert_close(shape.slope[1:-1], central, rtol=0, atol=1e-3)
    # Away from knots, where s″ jumps.
    between = ((inner * 5) % 1.0 - 0.5).abs() < 0.49
    twice = (shape.slope[2:] - shape.slope[:-2]) / (2 * h)
    torch.testing.assert_close(shape.curve[1:-1][between], twice[between], rtol=1e-8, atol=1e-8)


def test_levels_are_the_function_at_even_places():
    schedule = bent(first=6.0, last=-7.0)
    gamma = schedule.gamma(torch.linspace(0.0, 1.0, 9)).detach()
    snapshot = schedule.schedule
    torch.testing.assert_close(snapshot.log_snr, -gamma, rtol=1e-9, atol=1e-9)
    levels = torch.arange(10)
    torch.testing.assert_close(schedule.log_alpha_bar(levels).detach(), snapshot.log_alpha_bar)
    torch.testing.assert_close(schedule.time(levels[1:]).detach(), (gamma + 6.0) / 13.0)
    half = schedule.time(torch.tensor([1.5, 9.0])).detach()
    torch.testing.assert_close(half, (torch.stack([gamma[:2].mean(), gamma[8]]) + 6.0) / 13.0)


def test_closed_forms_keep_their_precision_and_have_gradients_in_gamma():
    """1 − ᾱ_t / ᾱ_s is VDM's −expm1(softplus(γ_s) − softplus(γ_t)), also for steps of 1e−9 at either end."""
    for gamma in (-30.0, -2.0, 15.0):
        low, high = torch.tensor(gamma), torch.tensor(gamma + 1e-9)
        law = posterior(nn.functional.logsigmoid(-low), nn.functional.logsigmoid(-high))
        # dlog ᾱ = −σ² dγ
        rate = float(torch.sigmoid(low))
        assert float(law.step_variance) == pytest.approx(rate * (float(high) - float(low)), rel=1e-6)

    def forms(low: Tensor, step: Tensor) -> tuple[Tensor, ...]:
        bars = [nn.functional.logsigmoid(-g) for g in (low, low + step.exp())]
        law = posterior(bars[0], bars[1])
        return law.c0, law.ct, law.variance.log(), law.step_variance.log(), (-torch.expm1(bars[1])).sqrt()

    low = torch.linspace(-8.0, 8.0, 9).requires_grad_()
    assert torch.autograd.gradcheck(forms, (low, torch.linspace(-7.0, 1.0, 9).requires_grad_()))


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="log-SNR must fall"):
        LearnedSchedule(10, first=-1.0, last=1.0)
    with pytest.raises(ValueError, match="knots is 0"):
        LearnedSchedule(10, knots=0)
    fixed, free = (
        Diffusion(
            nn.Identity(),
            LearnedSchedule(5),
            scaling=Scaling(DataSpec((2,))),
            variance=variance_of(variance),
        )
        for variance in ("posterior", "learned")
    )
    for make in (lambda: Simple(fixed), lambda: Simple(fixed, min_snr=5.0), lambda: Hybrid(free)):
        with pytest.raises(ValueError, match=r"the schedule is learned and the loss is .*Use loss 'vlb'"):
            make()


# Its gradients --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["beta", "posterior", "learned"])
@pytest.mark.parametrize("T", [1, 2, 6])
def test_the_ends_have_the_gradient_of_the_bound(T, variance):
    """Of one draw of the loss, by finite differences, with the times that the network is told held fixed."""
    chain, mean, _ = gaussian(bent(T, first=5.0, last=-4.0), variance=variance)
    x, ends, objective = mean + torch.randn(40, 2), chain.noising.ends, OneLevel(chain)
    held = bent(T, first=5.0, last=-4.0)
    chain.noising.time = held.time

    def value() -> Tensor:
        torch.manual_seed(1)
        return objective(chain, x).value

    (gradient,) = torch.autograd.grad(value(), ends)
    for i in range(2):
        expected = numeric(lambda: float(value().detach()), ends, i)
        assert float(gradient[i]) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    if T > 1:
        assert gradient.all()


@pytest.mark.parametrize("T", [2, 6])
def test_with_the_best_network_they_have_it_on_average(T):
    """The network follows γ in ``plain_vlb``; that its time takes no gradient makes no difference."""
    chain, mean, covariance = gaussian(bent(T, first=2.0, last=-2.0))
    data, ends, objective = MultivariateNormal(mean, covariance), chain.noising.ends, OneLevel(chain)
    draws = torch.stack(
        [torch.autograd.grad(objective(chain, data.sample((500,))).value, ends)[0] for _ in range(300)]
    )
    stderr = draws.std(dim=0) / math.sqrt(300)
    for i in range(2):
        expected = numeric(lambda: plain_vlb(chain, mean, covariance), ends, i)
        assert abs(float(draws[:, i].mean()) - expected) < 4.5 * float(stderr[i])
        assert float(stderr[i]) < 0.1 * abs(expected)


def second_moment(schedule: LearnedSchedule, error: Callable[[Tensor], Tensor]) -> float:
    """E[L²] of L = γ′ e(γ) at a uniform u, by the midpoint rule."""
    u = (torch.arange(200_000) + 0.5) / 200_000
    with torch.no_grad():
        full = schedule.shape(u)
        gamma = schedule.gamma(u)
        width = schedule.slope(u) / full.slope
        return float((width * full.slope * error(gamma)).square().mean())


def error(gamma: Tensor) -> Tensor:
    """Some e(γ), uneven."""
    return torch.sigmoid(gamma) * (1.5 + torch.sin(gamma)) + 0.1


def test_the_interior_has_the_gradient_of_the_variance():
    schedule = bent(first=6.0, last=-7.0)
    u = (torch.arange(200_000) + 0.5) / 200_000
    squares = (schedule.slope(u) * error(schedule.gamma(u))).square()
    loss = schedule.variance_loss(u, squares)
    assert float(loss.detach()) == 0.0
    gradient, ends = torch.autograd.grad(loss, (schedule.log_slopes, schedule.ends), allow_unused=True)
    assert ends is None
    for i in range(6):
        expected = numeric(lambda: math.log(second_moment(schedule, error)), schedule.log_slopes, i)
        assert float(gradient[i]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_the_interior_has_that_gradient_also_from_places_drawn_unevenly():
    schedule, n = bent(first=6.0, last=-7.0), 400_000
    u = torch.rand(n).square()
    squares = (schedule.slope(u) * error(schedule.gamma(u))).square() * 2.0 * u.sqrt()
    (gradient,) = torch.autograd.grad(schedule.variance_loss(u, squares), schedule.log_slopes)
    for i in range(6):
        expected = numeric(lambda: math.log(second_moment(schedule, error)), schedule.log_slopes, i)
        assert float(gradient[i]) == pytest.approx(expected, abs=0.02)


def test_a_chain_trains_its_interior_by_the_variance_and_nothing_else():
    """One batch of a DDPM: the gradient is that of its terms' squares, times 1 where none other comes in."""
    chain, mean, _ = gaussian(bent(200, first=5.0, last=-4.0))
    x = mean + torch.randn(3000, 2)
    torch.manual_seed(3)
    objective = OneLevel(chain)
    loss = objective(chain, x)
    (gradient,) = torch.autograd.grad(loss.value, chain.noising.log_slopes)
    torch.manual_seed(3)
    drawn = objective.draws(3000, first=objective.first_share(chain), device=x.device)
    t = torch.where(drawn.first, 1, drawn.cell + 2)
    k = chain.closed_forms(x, t)
    z = k.signal * x + k.noise * torch.randn_like(x)
    costs = torch.distributions.kl_divergence(
        chain.q_step(z, x, t.clamp(min=2)), chain.p_step(z, t.clamp(min=2))
    )
    squares = torch.where(drawn.first, 0.0, costs.square())
    expected = chain.noising.variance_loss((drawn.cell + 0.5) / 199, squares)
    torch.testing.assert_close(
        gradient, torch.autograd.grad(expected, chain.noising.log_slopes)[0], rtol=1e-9, atol=1e-12
    )
    assert gradient.all()


# What it comes to -------------------------------------------------------------------------------------------


def plain_vlb(chain: Diffusion, mean: Tensor, covariance: Tensor) -> float:
    """The expected −ELBO on N(mean, covariance) with the exact denoiser, variance "beta", from ᾱ alone.

    Written down apart from the library: E‖u − E[u|z]‖² is the trace of a Gaussian posterior's covariance.
    """
    with torch.no_grad():
        gamma = chain.noising.gamma(torch.linspace(0.0, 1.0, chain.T)).tolist()
    D, values = len(mean), torch.linalg.eigvalsh(covariance)
    bars = [1.0] + [1.0 / (1.0 + math.exp(g)) for g in gamma]
    total = 0.0
    for t in range(1, chain.T + 1):
        bar, before = bars[t], bars[t - 1]
        remains = float((values * (1.0 - bar) / (bar * values + 1.0 - bar)).sum())
        beta = 1.0 - bar / before
        c0 = math.sqrt(before) * beta / (1.0 - bar)
        fit = 0.5 * c0**2 * remains / beta
        if t == 1:
            total += 0.5 * D * math.log(2.0 * math.pi * beta) + fit
        else:
            ratio = (1.0 - before) / (1.0 - bar)
            total += 0.5 * D * (ratio - 1.0 - math.log(ratio)) + fit
    last = bars[-1]
    square = float(mean.square().sum() + values.sum())
    return total + 0.5 * (last * square - D * (last + math.log1p(-last)))


@pytest.mark.parametrize("T", [2, 7, 40])
@torch.no_grad()
def test_the_bound_is_an_independent_one(T):
    chain, mean, covariance = gaussian(bent(T, first=5.0, last=-4.0))
    x = MultivariateNormal(mean, covariance).sample((20_000,))
    expected = plain_vlb(chain, mean, covariance)
    objective = OneLevel(chain)
    losses = torch.stack([objective(chain, x[i::200]).value for i in range(200)])
    for draws in (-chain.elbo(x).total, losses):
        assert abs(float(draws.mean()) - expected) < 4.5 * float(draws.std()) / math.sqrt(len(draws))


class OneVariancePerLevel(ExactDenoiser):
    """The exact denoiser beside a free word on the variance of each level."""

    def __init__(self, schedule: Schedule, mean: Tensor, covariance: Tensor) -> None:
        super().__init__(schedule, mean, covariance)
        self.raw = nn.Parameter(torch.zeros(schedule.T))

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        raw = self.raw[(time * len(self.raw)).round().long() - 1]
        return torch.cat([super().forward(z, time), raw[:, None].expand_as(z)], dim=1)


def test_a_learned_variance_reaches_the_optimum_of_the_bound():
    """In one dimension p can be exact: the bound is then −H(x) − KL(q(z_T) ‖ p(z_T)), the best there is."""
    mean, variance = torch.tensor([0.3]), 0.5
    schedule = Schedule.log_linear(6, first=2.0, last=-2.0)
    network = OneVariancePerLevel(schedule, mean, torch.tensor([[variance]]))
    chain = Diffusion(network, schedule, scaling=Scaling(DataSpec((1,))), variance=LearnedVariance())
    objective = OneLevel(chain)
    data = MultivariateNormal(mean, torch.tensor([[variance]]))
    torch.manual_seed(0)
    optimiser = torch.optim.Adam([network.raw], lr=0.1)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, total_iters=400)
    for _ in range(400):
        optimiser.zero_grad()
        objective(chain, data.sample((256,))).value.backward()
        optimiser.step()
        decay.step()
    bars = schedule.alpha_bar
    for t in range(1, 7):
        # Var(z_{t−1}|z_t) of the joint law of data and noise.
        above, below = bars[t] * variance + 1 - bars[t], bars[t - 1] * variance + 1 - bars[t - 1]
        exact = below - (bars[t] / bars[t - 1]) * below**2 / above
        learned = chain.p_step(mean[None], t).variance.detach()
        assert float(learned) == pytest.approx(float(exact), rel=0.03)
    top = float(bars[6] * variance + 1 - bars[6])
    square = float(bars[6] * mean.square().sum())
    best = -float(data.entropy()) - 0.5 * (top - 1.0 - math.log(top) + square)
    with torch.no_grad():
        bound = chain.elbo(data.sample((400_000,))).total
    stderr = float(bound.std()) / math.sqrt(len(bound))
    assert abs(float(bound.mean()) - best) < 4.0 * stderr + 1e-4
    assert stderr < 0.003


def test_learned_ends_reach_the_optimum_of_the_bound():
    """With few levels the best ends are a compromise between range and step; they are found from draws."""
    T = 8
    chain, mean, covariance = gaussian(LearnedSchedule(T, first=1.0, last=-1.0, knots=1))
    data, ends = MultivariateNormal(mean, covariance), chain.noising.ends
    objective = OneLevel(chain)
    chain.noising.log_slopes.requires_grad_(False)
    torch.manual_seed(0)
    optimiser = torch.optim.Adam([ends], lr=0.05)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, total_iters=600)
    for _ in range(600):
        optimiser.zero_grad()
        objective(chain, data.sample((256,))).value.backward()
        optimiser.step()
        decay.step()
    reached = plain_vlb(chain, mean, covariance)
    start = plain_vlb(gaussian(LearnedSchedule(T, first=1.0, last=-1.0))[0], mean, covariance)
    best = min(
        plain_vlb(gaussian(LearnedSchedule(T, first=0.25 * first, last=-0.25 * last))[0], mean, covariance)
        for first in range(2, 24)
        for last in range(2, 24)
    )
    assert start > best + 0.1
    assert reached < best + 0.01
    for i in range(2):
        assert abs(numeric(lambda: plain_vlb(chain, mean, covariance), ends, i)) < 0.1


def test_a_learned_interior_makes_the_variance_least():
    """At its least √E[e²] / p(γ) is the same everywhere, and the second moment (∫ √E[e²] dγ)²."""
    schedule = LearnedSchedule(2, first=6.0, last=-7.0)
    gamma = torch.linspace(-6.0, 7.0, 100_001)
    least = float(torch.trapezoid(error(gamma), gamma)) ** 2
    start = second_moment(schedule, error)
    optimiser = torch.optim.Adam([schedule.log_slopes], lr=0.02)
    torch.manual_seed(0)
    for _ in range(500):
        optimiser.zero_grad()
        u = (torch.arange(128) / 128 + torch.rand(())) % 1.0
        squares = (schedule.slope(u) * error(schedule.gamma(u))).square()
        schedule.variance_loss(u, squares).backward()
        optimiser.step()
    assert start > 1.3 * least
    assert least <= second_moment(schedule, error) < 1.01 * least


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("spacing", ["snr", "diffusers"])
@torch.no_grad()
def test_every_sampler_draws_from_it(sampler, spacing):
    """As it does from a chain with the same levels as a fixed table."""
    if (sampler, spacing) == ("ancestral", "diffusers"):
        pytest.skip("the ancestral sampler has no spacing")
    chain, mean, covariance = gaussian(bent(60, first=7.0, last=-7.0), variance="posterior")
    fixed = Diffusion(ExactDenoiser(chain.schedule, mean, covariance), chain.schedule, scaling=chain.scaling)
    choice = Sampler.named(sampler, 12, spacing=None if sampler == "ancestral" else spacing)
    drawn = [draw(one, 50, sampler=choice, precision="fp32", seed=0) for one in (chain, fixed)]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=1e-6, atol=1e-6)
