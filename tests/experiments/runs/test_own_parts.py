"""A sampler, a likelihood and a prior of the user's own, made from public names, go through all of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Laplace

import ancestral
from ancestral import (
    VAE,
    Chain,
    DataDistribution,
    Diffusion,
    FewSteps,
    Prior,
    ScaleLikelihood,
    TrainingConfig,
)
from ancestral.distributions import DiagonalNormal
from ancestral.networks import MLP, TimeMLP
from ancestral.sampling import Ddim
from tiny import vectors

DATA = vectors(400)
TRAIN = TrainingConfig(steps=60, batch_size=64, learning_rate=0.01, compile="off")


class LaplaceData(DataDistribution):
    name = "Laplace"
    discrete = False

    def __init__(self, scaling: ancestral.Scaling) -> None:
        self.scaling = scaling

    def __call__(self, mean: Tensor, sigma: Tensor) -> Independent:
        return Independent(Laplace(self.scaling.inverse(mean), sigma * self.scaling.scale), mean.ndim - 1)


class WidePrior(Prior):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.log_scale = nn.Parameter(torch.zeros(self.shape))

    def forward(self, n: int) -> DiagonalNormal:
        scale = self.log_scale.exp().expand(n, *self.shape)
        return DiagonalNormal(torch.zeros_like(scale), scale)


@dataclass(frozen=True)
class HalfNoisy(FewSteps):
    """DDIM with η = 1/2, written from Song et al. 2021, eq. 12 and 16."""

    name = "half-noisy"

    def step(self, denoise, z, t, s, noise):
        at, below = math.exp(t.log_alpha_bar), math.exp(s.log_alpha_bar)
        variance = 0.25 * (1 - at / below) * (1 - below) / (1 - at)
        data = denoise(z, t).data
        eps = (z - math.sqrt(at) * data) / math.sqrt(1 - at)
        mean = math.sqrt(below) * data + math.sqrt(1 - below - variance) * eps
        return mean + math.sqrt(variance) * noise.normal(z.shape, z)


def vae(prior: Prior | None = None) -> VAE:
    torch.manual_seed(0)
    scaling = ancestral.Scaling(DATA.spec).fit(DATA.seen())
    likelihood = ScaleLikelihood(LaplaceData(scaling), DATA.spec, scaling, sigma="predicted", value=0.3)
    return VAE(
        MLP(2, 4, hidden=(16,)),
        MLP(2, 2 * likelihood.per_entry, hidden=(16,)),
        likelihood=likelihood,
        scaling=scaling,
        spec=DATA.spec,
        latent_dims=2,
        prior=prior,
    )


def diffusion(prior: Prior | None = None) -> Diffusion:
    torch.manual_seed(0)
    scaling = ancestral.Scaling(DATA.spec).fit(DATA.seen())
    return Diffusion(
        TimeMLP(2, 2, hidden=16, depth=1),
        ancestral.Schedule.cosine(20),
        scaling=scaling,
        likelihood=LaplaceData(scaling),
        prior=prior,
    )


@pytest.mark.parametrize("made", [vae, diffusion])
def test_an_own_likelihood_and_prior_are_trained_and_measured(made):
    prior = WidePrior((2,))
    before = ancestral.evaluate(made(WidePrior((2,))), DATA.test).elbo.mean
    chain: Chain = ancestral.fit(made(prior), DATA, TRAIN, device="cpu").chain
    assert chain.summary.likelihood == "Laplace"
    assert float(prior.log_scale.detach().abs().max()) > 0
    result = ancestral.evaluate(chain, DATA.test, bound="iwae", samples=10)
    assert result.elbo.mean > before
    # On the same draws, the mean of logarithms is below the logarithm of the mean.
    assert result.tighter is not None
    assert result.tighter.above_one.mean > 0
    assert ancestral.draw(chain, 3, seed=0).shape == (3, 2)


@pytest.mark.parametrize("made", [vae, diffusion])
def test_a_prior_has_the_shape_of_the_top_latent(made):
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        made(WidePrior((1,)))


def test_an_own_sampler_draws():
    chain = diffusion().eval()
    found = ancestral.draw(chain, 5, sampler=HalfNoisy(10), final="mean", seed=1)
    expected = ancestral.draw(chain, 5, sampler=Ddim(10, eta=0.5), final="mean", seed=1)
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="half-noisy"):
        ancestral.draw(vae(), 5, sampler=HalfNoisy(10))
