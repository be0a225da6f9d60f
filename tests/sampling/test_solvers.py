"""The samplers on Gaussian data with the best network, where every solution is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from ancestral._internal.randomness import GeneratorNoise, Noise
from ancestral.distributions import DiagonalNormal
from ancestral.models.diffusion import PARAMETRIZATIONS, Diffusion
from ancestral.models.diffusion.schedules import Schedule
from ancestral.parts.priors import Prior
from ancestral.sampling import Ddim, DpmSolver, Heun, Sampler
from gaussian_ddpm import gaussian_ddpm
from toys import randn, spd

pytestmark = pytest.mark.usefixtures("float64")
ODES = {"ddim": 1, "dpm++2m": 2, "heun": 2}
"""The samplers without noise, and their orders."""


def problem() -> tuple[Tensor, Tensor]:
    return 0.5 * randn(3, seed=1), spd(3, 2)


def fine(prediction: str = "velocity") -> Diffusion:
    """Levels so many that any number of steps is as even as it should be."""
    schedule = Schedule.log_linear(4000, first=6.0, last=-6.0)
    return gaussian_ddpm(schedule, *problem(), prediction=prediction)


def flow(z: Tensor, bar_t: Tensor, bar_s: Tensor) -> Tensor:
    """Where the ODE takes z: Gaussians to Gaussians, along the principal axes, standard scores kept."""
    mean, covariance = problem()
    values, axes = torch.linalg.eigh(covariance)

    def width(bar: Tensor) -> Tensor:
        return (bar * values + 1.0 - bar).sqrt()

    score = (z - bar_t.sqrt() * mean) @ axes / width(bar_t)
    return bar_s.sqrt() * mean + (score * width(bar_s)) @ axes.T


def noise(seed: int = 0) -> GeneratorNoise:
    return GeneratorNoise(torch.Generator().manual_seed(seed))


def states(chain: Diffusion, sampler: Sampler, n: int) -> list[Tensor]:
    """z at each level visited, from the top."""
    return [z for _, z in sampler.states(chain, n, noise())][:-1]


@pytest.mark.parametrize(("name", "order"), ODES.items())
@torch.no_grad()
def test_the_order_in_which_the_exact_solution_is_reached(name, order):
    chain = fine()
    bar = chain.schedule.alpha_bar
    errors = []
    for steps in (20, 40, 80, 160):
        first, *_, last = states(chain, Sampler.named(name, steps), 20)
        errors.append(float((last - flow(first, bar[-1], bar[1])).square().mean().sqrt()))
    ratios = [coarse / fine for coarse, fine in pairwise(errors)]
    assert all(0.85 * 2**order < ratio < 1.2 * 2**order for ratio in ratios[1:]), ratios
    assert errors[-1] < (0.02 if order == 1 else 0.0005)


@pytest.mark.parametrize("prediction", PARAMETRIZATIONS)
@pytest.mark.parametrize("name", [*ODES, "dpm++2m-sde"])
@torch.no_grad()
def test_the_samples_do_not_depend_on_what_is_predicted(name, prediction):
    ends = []
    for kind in (prediction, "data"):
        chain = gaussian_ddpm(Schedule.cosine(50), *problem(), prediction=kind)
        *_, (_, last) = Sampler.named(name, 9).states(chain, 5, noise())
        ends.append(last.prediction)
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)


class Impulses(Noise):
    """One drawn number is 1 for one example of the batch and 0 for all others; the last meets none."""

    def __init__(self, n: int) -> None:
        self.rows = iter(torch.eye(n))

    def normal(self, shape, like):
        return next(self.rows)[:, None].expand(shape)

    def uniform(self, shape, like):
        raise AssertionError

    def seed(self):
        raise AssertionError


class Start(Prior):
    """N(mean, variance), for one-dimensional data."""

    def __init__(self, mean: Tensor, variance: Tensor) -> None:
        super().__init__((1,))
        self.mean, self.scale = mean, variance.sqrt()

    def forward(self, n: int) -> DiagonalNormal:
        return DiagonalNormal(self.mean.expand(n, 1), self.scale.expand(n, 1))


def mean_and_variance(
    chain: Diffusion, sampler: Sampler, start: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean and variance of z at the last level, for one-dimensional data, from those at the first: exactly.

    All is affine: one example of the batch has no noise at all, and each other one of the drawn numbers.
    """
    assert sampler.steps is not None
    n = sampler.steps + 1
    chain.prior = Start(*start)
    *_, (_, last), _ = sampler.states(chain, n, Impulses(n))
    # The last example met no impulse but that of a step which is not there.
    response = last[:-1] - last[-1]
    return last[-1], response.square().sum()


@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (lambda steps: Ddim(steps), 1),
        (lambda steps: Ddim(steps, eta=0.5), 1),
        (lambda steps: Ddim(steps, eta=1.0), 1),
        (lambda steps: DpmSolver(steps), 2),
        (lambda steps: DpmSolver(steps, stochastic=True), 2),
        (lambda steps: Heun(steps), 2),
    ],
    ids=["ddim", "ddim 0.5", "ddim 1", "2m", "2m-sde", "heun"],
)
@torch.no_grad()
def test_mean_and_variance_become_those_of_the_data(sampler: Callable[[int], Sampler], order):
    mean, variance = torch.tensor([0.7]), torch.tensor([[0.3]])
    chain = gaussian_ddpm(Schedule.log_linear(8000, first=5.0, last=-9.9), mean, variance)
    ends = chain.schedule.alpha_bar[[-1, 1]]
    top, end = [(bar.sqrt() * mean, bar * variance + 1.0 - bar) for bar in ends]
    errors = []
    for steps in (50, 100, 200):
        found, spread = mean_and_variance(chain, sampler(steps), top)
        errors.append(max(abs(float(found - end[0])), abs(float(spread - end[1]))))
    assert errors[-1] < (0.01 if order == 1 else 0.0005), errors
    assert all(coarse / fine > 0.85 * 2**order for coarse, fine in pairwise(errors)), errors


@pytest.mark.parametrize("steps", [50, 9, 1])
@torch.no_grad()
def test_ddim_with_eta_1_is_the_ancestral_sampler_on_its_levels(steps):
    chain = gaussian_ddpm(Schedule.cosine(50), *problem(), prediction="velocity")
    *found, (end, last) = Ddim(steps, eta=1.0).states(chain, 4, noise(5))
    levels, draws = [t for t, _ in found], noise(5)
    z, denoise = draws.sample(chain.p_top(4)), chain.denoiser()
    for (t, state), (s, _) in pairwise([*found, (end, None)]):
        torch.testing.assert_close(state, z, rtol=1e-9, atol=1e-9)
        denoised = denoise(z, denoise.level(t))
        z = denoise.last(denoised, z, t).mean if s == 0 else draws.sample(denoise.step(denoised, z, t, s))
    torch.testing.assert_close(last.distribution.mean, z, rtol=1e-9, atol=1e-9)
    if steps == chain.T:
        assert levels == list(range(50, 0, -1))


@torch.no_grad()
def test_the_first_steps_of_dpm_solver_are_ddim():
    chain = fine()
    for stochastic in (False, True):
        plain = states(chain, Ddim(7, eta=float(stochastic)), 4)
        second = states(chain, DpmSolver(7, stochastic=stochastic), 4)
        torch.testing.assert_close(plain[:2], second[:2], rtol=1e-12, atol=1e-12)
        assert (plain[2] - second[2]).abs().max() > 1e-3


@torch.no_grad()
def test_heun_is_the_trapezoidal_rule_of_karras():
    """Algorithm 1 of Karras et al. 2022, in their own variables."""
    chain = gaussian_ddpm(Schedule.linear(60, first=0.01, last=0.3), *problem(), prediction="data")
    found = list(Heun(8).states(chain, 4, noise(2)))
    bar = chain.schedule.alpha_bar

    def slope(x: Tensor, t: int) -> tuple[Tensor, float]:
        sigma = math.sqrt(1.0 / float(bar[t]) - 1.0)
        z = x * bar[t].sqrt()
        return (x - chain.network(z, torch.full((4,), t / chain.T))) / sigma, sigma

    x = found[0][1] / bar[found[0][0]].sqrt()
    for (t, state), (s, _) in pairwise(found[:-1]):
        torch.testing.assert_close(state / bar[t].sqrt(), x, rtol=1e-9, atol=1e-9)
        (d, sigma), below = slope(x, t), math.sqrt(1.0 / float(bar[s]) - 1.0)
        guess = x + (below - sigma) * d
        x = x + (below - sigma) * 0.5 * (d + slope(guess, s)[0])
    torch.testing.assert_close(found[-2][1] / bar[1].sqrt(), x, rtol=1e-9, atol=1e-9)
