"""With the exact posterior every single draw of log p(x, z) − log q(z|x) is log p(x); else it is not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ancestral.core.chain import Chain
from ancestral.core.elbo import Elbo
from ancestral.models.diffusion.schedules import Schedule
from toys import Affine, BottomUpGaussian, Joint, NoisedGaussian, TopDownGaussian, noised, randn, spd

pytestmark = pytest.mark.usefixtures("float64")

KL_OF_SCALE = 0.5 * (1.1**2 - 1.0 - 2.0 * math.log(1.1))
"""KL( N(m, 1.1² Σ) ‖ N(m, Σ) ) per dimension: what a q that is 10 % too wide loses, whatever m and Σ."""

Toy = tuple[Chain, MultivariateNormal, int]
"""A chain, the law of its data worked out apart from it, and the number of its latent dimensions."""


def ppca(**off: float) -> Toy:
    weight, bias = randn(4, 2, seed=1), randn(4, seed=2)
    joint = Joint(1, torch.zeros(2), torch.eye(2)).extend(0, [1], Affine(weight, bias, 0.3 * torch.eye(4)))
    data = MultivariateNormal(bias, weight @ weight.T + 0.3 * torch.eye(4))
    return TopDownGaussian(joint, 1, **off), data, 2


def hierarchy(kind: type[Chain], sizes: tuple[int, ...], **off: float) -> Toy:
    """x of the first size ← z_1 ← … of the others, with full matrices everywhere."""
    mean, covariance, T = torch.zeros(sizes[-1]), torch.eye(sizes[-1]), len(sizes) - 1
    joint = Joint(T, mean, covariance)
    for t in range(T - 1, -1, -1):
        law = Affine(randn(sizes[t], sizes[t + 1], seed=t), randn(sizes[t], seed=t + 9), spd(sizes[t], t))
        joint = joint.extend(t, [t + 1], law)
        mean = law.weight @ mean + law.bias
        covariance = law.weight @ covariance @ law.weight.T + law.covariance
    return kind(joint, T, **off), MultivariateNormal(mean, covariance), sum(sizes[1:])


def latent_diffusion(kind: type[Chain], **off: float) -> Toy:
    """x ← z_1, then z_1 noised three times: T = 4."""
    prior, weight, bias = spd(2, 3), randn(3, 2, seed=4), randn(3, seed=5)
    joint = noised(Joint(1, randn(2, seed=6), prior), torch.tensor([0.1, 0.3, 0.7]), first=1)
    joint = joint.extend(0, [1], Affine(weight, bias, 0.2 * torch.eye(3)))
    data = MultivariateNormal(
        weight @ randn(2, seed=6) + bias, weight @ prior @ weight.T + 0.2 * torch.eye(3)
    )
    return kind(joint, 4, **off), data, 8


def noising(schedule: Schedule, **off: float) -> Toy:
    mean, covariance = randn(3, seed=7), spd(3, 8)
    chain = NoisedGaussian(schedule, mean, covariance, **off)
    return chain, MultivariateNormal(mean, covariance), 3 * schedule.T


TOYS: dict[str, Callable[..., Toy]] = {
    "ppca": ppca,
    "two levels, top-down": lambda **off: hierarchy(TopDownGaussian, (4, 3, 2), **off),
    "two levels, bottom-up": lambda **off: hierarchy(BottomUpGaussian, (4, 3, 2), **off),
    "three levels, top-down": lambda **off: hierarchy(TopDownGaussian, (3, 2, 3, 1), **off),
    "three levels, bottom-up": lambda **off: hierarchy(BottomUpGaussian, (3, 2, 3, 1), **off),
    "vae + noising, top-down": lambda **off: latent_diffusion(TopDownGaussian, **off),
    "vae + noising, bottom-up": lambda **off: latent_diffusion(BottomUpGaussian, **off),
    "one noising step": lambda **off: noising(Schedule(torch.tensor([0.4])), **off),
    "linear noising": lambda **off: noising(Schedule.linear(10, first=0.02, last=0.6), **off),
    "cosine noising": lambda **off: noising(Schedule.cosine(10), **off),
    "log-linear noising": lambda **off: noising(Schedule.log_linear(6, first=4.0, last=-4.0), **off),
}
each_toy = pytest.mark.parametrize("toy", TOYS.values(), ids=TOYS.keys())


def points(data: MultivariateNormal, n: int) -> Tensor:
    """Data and outliers: the identity holds for every x."""
    return data.mean + 1.5 * (data.sample((n,)) - data.mean)


def within(draws: Tensor, expected: Tensor, *, errors: float = 5.0) -> Tensor:
    """Whether the means over the last axis are as expected, within so many of their standard errors."""
    stderr = draws.std(dim=-1) / math.sqrt(draws.shape[-1])
    return (draws.mean(dim=-1) - expected).abs() <= errors * stderr + 1e-12


def bounds(chain: Chain, x: Tensor, *, draws: int, elbo: Callable[..., Elbo] | None = None) -> Tensor:
    """The ELBO of each of x from each of so many draws of its own, (n, draws)."""
    xs = x.repeat_interleave(draws, dim=0)
    return (chain.elbo(xs) if elbo is None else elbo(chain, xs)).total.unflatten(0, (len(x), draws))


@each_toy
def test_every_draw_of_the_exact_posterior_is_log_p(toy):
    chain, data, _ = toy()
    x = points(data, 6)
    weights = chain.log_weight(x, samples=7)
    assert weights.shape == (6, 7)
    torch.testing.assert_close(weights, data.log_prob(x)[:, None].expand(6, 7), atol=1e-9, rtol=0)


@each_toy
@torch.no_grad()
def test_ten_percent_off_is_seen_at_every_draw(toy):
    for off in ({"off_mean": 1.1}, {"off_scale": 1.1}, {"off_scale": 0.9}):
        chain, data, _ = toy(**off)
        x = points(data, 6)
        wrong = (chain.log_weight(x, samples=400) - data.log_prob(x)[:, None]).abs()
        assert (wrong > 1e-9).all()
        assert (wrong.mean(dim=1) > 0.005).all()


@each_toy
@torch.no_grad()
def test_the_bound_is_log_p_minus_the_kl_of_a_wide_q(toy):
    chain, data, latents = toy(off_scale=1.1)
    x = points(data, 4)
    expected = data.log_prob(x) - latents * KL_OF_SCALE
    weights = chain.log_weight(x, samples=6000)
    assert within(weights, expected).all()
    # Walked along paths: a chain with closed-form marginals sweeps, and its marginals are not these paths'.
    assert within(bounds(chain, x, draws=3000, elbo=Chain.elbo), expected).all()
    assert (weights.mean(dim=1) < data.log_prob(x)).all()


@each_toy
@torch.no_grad()
def test_the_terms_sum_to_log_p_on_average(toy):
    chain, data, _ = toy()
    x = points(data, 4)
    assert within(bounds(chain, x, draws=3000), data.log_prob(x)).all()


@each_toy
@torch.no_grad()
def test_a_wrong_q_still_weighs_right(toy):
    chain, data, _ = toy(off_mean=1.02, off_scale=1.1)
    x = data.sample((3,))
    ratio = (chain.log_weight(x, samples=20_000) - data.log_prob(x)[:, None]).exp()
    assert within(ratio, torch.ones(3)).all()
    assert (ratio.std(dim=1) > 0.02).all()


@each_toy
def test_samples_have_the_law_of_the_data(toy):
    chain, data, _ = toy()
    x = chain.sample(40_000)
    # Whitened with the law they should have: mean 0, covariance I, errors of 1/√n and √(2/n).
    white = torch.linalg.solve_triangular(data.scale_tril, (x - data.mean).T, upper=False)
    assert white.mean(dim=1).abs().max() < 5 / 200
    assert (torch.cov(white) - torch.eye(len(white))).abs().max() < 5 * math.sqrt(2) / 200
    # Means of p(x|z_1) vary by as much less as that law is wide.
    spread = chain.sample(40_000, final="mean").var(dim=0)
    expected = data.variance - chain.joint.conditional(0, [1]).covariance.diag()
    assert ((spread / expected - 1.0).abs() < 5 * math.sqrt(2) / 200).all()


@torch.no_grad()
def test_a_mean_that_is_off_costs_its_kl():
    chain, data, _ = ppca(off_mean=1.1)
    x = points(data, 4)
    exact = chain.joint.conditional(1, [0])(x)
    shift = 0.1 * exact.mean
    cost = 0.5 * (shift * torch.linalg.solve(exact.covariance_matrix, shift)).sum(dim=1)
    total = bounds(chain, x, draws=100_000)
    assert within(total, data.log_prob(x) - cost).all()
    assert not within(total, data.log_prob(x)).all()


@torch.no_grad()
def test_a_sweep_and_a_path_have_the_same_terms():
    chain, data, _ = noising(Schedule.linear(6, first=0.05, last=0.6))
    x = data.sample((3,)).repeat_interleave(3000, dim=0)
    sweep, path = chain.elbo(x), Chain.elbo(chain, x)
    for ours, theirs in (
        (sweep.reconstruction[:, None], path.reconstruction[:, None]),
        (sweep.matching, path.matching),
        (sweep.prior[:, None], path.prior[:, None]),
    ):
        difference = (ours - theirs).unflatten(0, (3, 3000)).transpose(1, 2)
        assert within(difference, torch.zeros(difference.shape[:2])).all()
    assert sweep.matching.shape == path.matching.shape == (9000, 5)
    # The errors of a sweep's levels are independent; those of a path are not, and add up.
    assert torch.equal(sweep.prior, path.prior)


def test_top_down_and_bottom_up_are_one_posterior():
    down, data, _ = hierarchy(TopDownGaussian, (4, 3, 2))
    up, _, _ = hierarchy(BottomUpGaussian, (4, 3, 2))
    x = data.sample((2,)).repeat_interleave(4000, dim=0)
    with torch.no_grad():
        a, b = down.elbo(x), up.elbo(x)
    for ours, theirs in ((a.reconstruction, b.reconstruction), (a.total, b.total)):
        assert within((ours - theirs).unflatten(0, (2, 4000)), torch.zeros(2)).all()
    # Level by level they differ: a top-down term is a KL, a bottom-up one the same in total only.
    assert (a.matching >= 0).all()
    assert (b.matching < 0).any()


@pytest.mark.parametrize("kind", [TopDownGaussian, BottomUpGaussian])
@pytest.mark.parametrize("off", [0.9, 1.0, 1.1])
def test_the_gradient_goes_through_the_path(kind, off):
    """−ELBO = −log p(x) + d ( s² − 1 − 2 log s ) / 2 for a q too wide by s, so its slope is d (s − 1/s)."""
    chain, data, latents = hierarchy(kind, (4, 3, 2), off_scale=off)
    (-chain.elbo(data.sample((40_000,))).total.mean()).backward()
    assert abs(float(chain.off_scale.grad) - latents * (off - 1.0 / off)) < 0.06
