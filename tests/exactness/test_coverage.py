"""95 % intervals of means over examples cover the closed form in 93 to 97 % of 1,000 repetitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from ancestral.bounds.iwae import importance_curve
from ancestral.core.walk import log_joint
from ancestral.models.diffusion.schedules import Schedule
from covering import REPETITIONS, coverage, is_95_percent
from gaussian_ddpm import expected_terms, gaussian_ddpm
from linear_gaussian import LinearVAE
from toys import randn, spd

pytestmark = pytest.mark.usefixtures("float64")

EXAMPLES = 200


def bounds_by_quadrature(vae: LinearVAE) -> tuple[float, float]:
    """IWAE-1 and IWAE-2 of a VAE with one latent, in expectation over x ~ p, by Gauss–Hermite quadrature."""
    nodes, weights = (torch.tensor(part) for part in np.polynomial.hermite_e.hermegauss(60))
    weights = weights / weights.sum()
    x = vae.law.loc + nodes[:, None] * vae.law.scale_tril[:, 0]
    q = vae.q_top(vae.features(x))
    z = q.loc + q.scale * nodes  # (x, node)
    flat = z.flatten()[:, None]
    prior, likelihood = log_joint(vae, x, [flat])
    log_q = -0.5 * nodes.square() - 0.5 * np.log(2 * np.pi) - q.scale.log()
    log_w = (prior + likelihood).detach().unflatten(0, z.shape) - log_q
    pairs = torch.logaddexp(log_w[:, :, None], log_w[:, None, :]) - np.log(2.0)
    two = torch.einsum("x,i,j,xij->", weights, weights, weights, pairs)
    return float(weights @ (log_w @ weights)), float(two)


@torch.no_grad()
def test_importance_weighted_bounds_are_covered():
    vae = LinearVAE(torch.tensor([[1.3]]), 0.7, shift=0.2, width=1.3)
    one, two = bounds_by_quadrature(vae)
    entropy = float(vae.law.entropy())
    assert one == pytest.approx(-entropy - vae.gap, abs=1e-9)
    assert one < two < -entropy
    x = vae.law.sample((REPETITIONS * EXAMPLES,))
    curve = importance_curve(vae, x, samples=2)
    for column, expected in zip(curve.values.T, (one, two), strict=True):
        assert is_95_percent(coverage(column, expected))
        # And would not cover a value that is half a standard error off as often.
        assert coverage(column, expected + 0.1) < 0.93


@torch.no_grad()
def test_the_elbo_of_several_latents_is_covered():
    vae = LinearVAE(randn(4, 2, seed=1), 0.5, shift=0.1, width=1.2)
    x = vae.law.sample((REPETITIONS * EXAMPLES,))
    expected = -float(vae.law.entropy()) - vae.gap
    for samples in (1, 3):
        assert is_95_percent(coverage(vae.elbo(x, samples=samples).total, expected))


@pytest.mark.parametrize("levels", [None, 1, 4])
@torch.no_grad()
def test_sampled_and_swept_bounds_of_a_marginal_chain_are_covered(levels):
    mean, covariance = torch.tensor([0.4, -0.8]), spd(2, 2)
    ddpm = gaussian_ddpm(Schedule.linear(5, first=0.05, last=0.6), mean, covariance, off=0.8)
    # Weighting up one level in four makes long tails: intervals of 200 examples cover 92 %.
    x = MultivariateNormal(mean, covariance).sample((REPETITIONS * (1000 if levels == 1 else EXAMPLES),))
    totals = (ddpm.elbo(x) if levels is None else ddpm.elbo_sampled(x, levels=levels)).total
    assert is_95_percent(coverage(totals, expected_terms(ddpm, mean, covariance).total))
