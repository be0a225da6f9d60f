"""Posteriors beyond the diagonal: exact where they can be, and nearer than the last where they cannot."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ancestral.core.spec import DataSpec
from ancestral.distributions.flow import FLOWS, NormalizingFlow
from ancestral.evaluation import posterior_grids
from ancestral.models import LadderHVAE
from ancestral.models.vae import VAE
from ancestral.parts.likelihoods import GaussianLikelihood
from ancestral.parts.posteriors import DiagonalPosterior, FlowPosterior, FullPosterior, Posterior
from ancestral.parts.scaling import Scaling
from toys import linear, randn

pytestmark = pytest.mark.usefixtures("float64")


def gaussian(spec: DataSpec, scaling: Scaling, noise: float) -> GaussianLikelihood:
    return GaussianLikelihood(spec, scaling, sigma="fixed", value=noise)


def unscaled(dims: int) -> tuple[DataSpec, Scaling]:
    spec = DataSpec((dims,))
    return spec, Scaling(spec)


# A linear decoder: the posterior is a Gaussian with a full covariance ---------------------------------------

WEIGHT, MEAN, NOISE = randn(4, 3, seed=1).double(), randn(4, seed=2).double(), 0.6


def outputs_of(factor: Tensor, *, within: Tensor | None = None) -> Tensor:
    """What a FullPosterior reads for this factor: raw log sigma, then N row by row. Biases only."""
    factor = factor if within is None else factor / within[:, None]
    sigma = factor.diag()
    rows, columns = torch.tril_indices(len(sigma), len(sigma), -1)
    raw = 7.0 * torch.atanh(sigma.log() / 7.0)
    return torch.cat([raw, (factor / sigma[:, None])[rows, columns]])


def posterior_of_linear() -> tuple[Tensor, Tensor]:
    """The gain, (3, 4), and the covariance of z given x."""
    covariance = torch.linalg.inv(torch.eye(3) + WEIGHT.T @ WEIGHT / NOISE**2)
    return covariance @ WEIGHT.T / NOISE**2, covariance


def evidence() -> MultivariateNormal:
    return MultivariateNormal(MEAN, WEIGHT @ WEIGHT.T + NOISE**2 * torch.eye(4))


def linear_vae(posterior: Posterior) -> VAE:
    spec, scaling = unscaled(4)
    gain, covariance = posterior_of_linear()
    beside = outputs_of(torch.linalg.cholesky(covariance))[: posterior.outputs - 3]
    encoder = linear(torch.cat([gain, torch.zeros(len(beside), 4)]), torch.cat([-gain @ MEAN, beside]))
    return VAE(
        encoder,
        linear(WEIGHT, MEAN),
        likelihood=gaussian(spec, scaling, NOISE),
        scaling=scaling,
        spec=spec,
        latent_dims=3,
        posterior=posterior,
    )


def test_a_full_covariance_is_exact_on_a_linear_model():
    chain, x = linear_vae(FullPosterior(3)), evidence().sample((6,)) + 0.5
    expected = evidence().log_prob(x)
    weights = chain.log_weight(x, samples=7)
    torch.testing.assert_close(weights, expected[:, None].expand(6, 7), atol=1e-9, rtol=0)
    # The KL is in closed form and the rest is averaged.
    torch.testing.assert_close(chain.elbo(x, samples=4000).total, expected, atol=0.15, rtol=0)
    with torch.no_grad():
        chain.encoder.bias[-1] *= 1.1
    assert ((chain.log_weight(x, samples=7) - expected[:, None]).abs().mean(dim=1) > 1e-3).all()


def test_the_diagonal_is_not_exact_there():
    chain, x = linear_vae(DiagonalPosterior(3)), evidence().sample((6,))
    gaps = evidence().log_prob(x) - chain.elbo(x, samples=4000).total
    assert (gaps > 0.2).all()


def test_a_full_covariance_is_exact_in_a_ladder():
    """x = W_2 z_2 + W_1 z_1 + noise with z_1 = A z_2 + s ε, two numbers each; q in the priors' units."""
    w1, w2, a, s = randn(5, 2, seed=3), randn(5, 2, seed=4), randn(2, 2, seed=5), torch.tensor([0.5, 1.3])
    w1, w2, a = w1.double(), w2.double(), a.double()
    spec, scaling = unscaled(5)
    noise = NOISE**2 * torch.eye(5)
    top = torch.eye(2), w2 + w1 @ a, noise + w1 @ torch.diag(s**2) @ w1.T
    low = torch.diag(s**2), w1, noise

    def conditional(prior: Tensor, weight: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        gain = prior @ weight.T @ torch.linalg.inv(weight @ prior @ weight.T + rest)
        return gain, torch.linalg.cholesky(prior - gain @ weight @ prior)

    class Reader(nn.Module):
        """Reads stream, (n, 4): z_2 and z_1, and features, x."""

        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, stream: Tensor, features: Tensor) -> Tensor:
            out: Tensor = self.layer(torch.cat([stream, features], dim=1))
            return out

    class Writer(nn.Module):
        def __init__(self, where: int) -> None:
            super().__init__()
            self.register_buffer("where", torch.eye(4)[where : where + 2])

        def forward(self, stream: Tensor, z: Tensor) -> Tensor:
            return stream + z @ self.where

    class Twice(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [x, x]

    def reader(law: tuple[Tensor, Tensor, Tensor], seen: Tensor, width: Tensor) -> Reader:
        """``seen`` is what of x the prior explains, (5, 4) on the stream; ``width``, the prior's, (2,)."""
        gain, root = conditional(*law)
        beside = outputs_of(root, within=width)
        weight = torch.cat([-gain @ seen, gain], dim=1) / width[:, None]
        return Reader(
            linear(torch.cat([weight, torch.zeros(len(beside), 9)]), torch.cat([torch.zeros(2), beside]))
        )

    nothing = torch.zeros(5, 4)
    above = torch.cat([w2 + w1 @ a, torch.zeros(5, 2)], dim=1)
    prior = linear(
        torch.cat([torch.cat([a, torch.zeros(2, 2)], dim=1), torch.zeros(2, 4)]),
        torch.cat([torch.zeros(2), 7.0 * torch.atanh(s.log() / 7.0)]),
    )
    chain = LadderHVAE(
        Twice(),
        linear(torch.cat([w2, w1], dim=1), torch.zeros(5)),
        posteriors=[reader(low, above, s), reader(top, nothing, torch.ones(2))],
        top_downs=[Writer(2), Writer(0)],
        priors=[prior],
        likelihood=gaussian(spec, scaling, NOISE),
        scaling=scaling,
        spec=spec,
        stream_shape=(4,),
        latent_shapes=[(2,), (2,)],
        laws=[FullPosterior(2), FullPosterior(2)],
    )
    truth = MultivariateNormal(torch.zeros(5), top[1] @ top[1].T + top[2])
    x = truth.sample((6,))
    expected = truth.log_prob(x)
    torch.testing.assert_close(
        chain.log_weight(x, samples=5), expected[:, None].expand(6, 5), atol=1e-9, rtol=0
    )
    with torch.no_grad():
        chain.posteriors[0].layer.bias[-1] += 0.1
    assert (chain.log_weight(x, samples=20) - expected[:, None]).abs().mean() > 1e-3


# A bent decoder: the posterior of two numbers is a crescent ----------------------------------------


STEPS = 300


class Bend(nn.Module):
    """z to x = 2 s − s'², s and s' being z along the diagonals: what is known of z is a line that leans."""

    def forward(self, z: Tensor) -> Tensor:
        return (z[:, 1:] - z[:, :1]) * 2.0**0.5 - 0.5 * (z[:, :1] + z[:, 1:]).square()


def bent_vae(posterior: Posterior) -> VAE:
    spec, scaling = unscaled(1)
    return VAE(
        nn.Linear(1, posterior.outputs),
        Bend(),
        likelihood=gaussian(spec, scaling, 0.4),
        scaling=scaling,
        spec=spec,
        latent_dims=2,
        posterior=posterior,
    )


def families() -> dict[str, Posterior]:
    flows = {kind: FlowPosterior(2, NormalizingFlow(kind, 2, 4, hidden=(16,))) for kind in FLOWS}
    return {"diagonal": DiagonalPosterior(2), "full": FullPosterior(2), **flows}


@cache
def gap(name: str) -> tuple[float, float]:
    """Of a q trained for the one x = 0.5 by ``STEPS``: the gap by quadrature, and that of sampled bounds."""
    torch.manual_seed(0)
    chain, x = bent_vae(families()[name]), torch.full((1, 1), 0.5)
    nn.init.zeros_(chain.encoder.weight)
    nn.init.zeros_(chain.encoder.bias)
    optimizer = torch.optim.Adam(chain.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        loss = -chain.elbo(x, samples=48).total.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    (grid,) = posterior_grids(chain, x, cells=201)
    assert grid.share == pytest.approx(1.0, abs=5e-3)
    with torch.no_grad():
        sampled = float(chain.elbo(x, samples=20_000).total)
    return grid.gap, grid.log_likelihood - sampled


@pytest.mark.slow
def test_each_family_narrows_the_gap():
    diagonal, full = gap("diagonal")[0], gap("full")[0]
    assert diagonal > full + 0.2 > 0.4
    for kind in FLOWS:
        assert 0.0 <= gap(kind)[0] < 0.7 * full, kind


@pytest.mark.parametrize("name", ["diagonal", "full", *FLOWS])
def test_the_gap_by_quadrature_is_that_of_sampled_bounds(name):
    by_quadrature, sampled = gap(name)
    assert sampled == pytest.approx(by_quadrature, abs=0.05)
