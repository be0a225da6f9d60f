"""Models of integers small enough to enumerate: p sums to 1 over all x, and quadrature gives log p(x)."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from ancestral.bounds import log_likelihood
from ancestral.config import DDPMConfig, HVAEConfig, LikelihoodConfig, VAEConfig
from ancestral.core.chain import Chain
from ancestral.core.spec import DataSpec
from ancestral.distributions import DiagonalNormal
from ancestral.experiments.build import build_chain
from ancestral.models import MarkovHVAE
from ancestral.models.vae import VAE

pytestmark = pytest.mark.usefixtures("float64")


def everything(levels: int) -> Tensor:
    """All x of two entries."""
    return torch.tensor(list(itertools.product(range(levels), repeat=2)), dtype=torch.uint8)


def stirred(chain: Chain) -> Chain:
    """The chain with all its weights moved, so that no law is where it started."""
    with torch.no_grad():
        for parameter in chain.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return chain.eval()


def chain_of(name: str, levels: int) -> Chain:
    # Wide likelihoods, so that an untrained q is near enough to the posterior to weigh with.
    small, wide = {"hidden": (8,)}, {"value": 1.0} if levels > 2 or name.startswith("vae") else {}
    config = {
        "vae, logistic": lambda: VAEConfig(
            latent_dims=2, likelihood=LikelihoodConfig("discretized-logistic", **wide), **small
        ),
        "vae, gaussian": lambda: VAEConfig(
            latent_dims=2, likelihood=LikelihoodConfig("discretized-gaussian", "shared", **wide), **small
        ),
        "bottom-up": lambda: HVAEConfig(
            levels=2, posterior="bottom-up", latent_dims=(2, 1), likelihood=LikelihoodConfig(**wide), **small
        ),
        "ladder": lambda: HVAEConfig(
            levels=3, latent_dims=(1,), width=8, likelihood=LikelihoodConfig(**wide)
        ),
        "ddpm": lambda: DDPMConfig(T=3, schedule="cosine", width=8, blocks=1),
        "ddpm, data": lambda: DDPMConfig(
            T=2, schedule="cosine", prediction="data", variance="posterior", loss="simple", width=8, blocks=1
        ),
    }[name]()
    data = torch.randint(0, levels, (50, 2), dtype=torch.uint8)
    chain = stirred(build_chain(config, DataSpec((2,), levels=levels), train=data))
    if isinstance(chain, VAE | MarkovHVAE):
        widen(chain.encoder[-1].last)
    if isinstance(chain, MarkovHVAE):
        widen(chain.ups[0].last)
    return chain


def widen(layer: nn.Linear) -> None:
    """Make a law of q wide: importance weights have a variance only where q is not much narrower than p."""
    with torch.no_grad():
        layer.bias[len(layer.bias) // 2 :] += 0.5


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize(
    "name", ["vae, logistic", "vae, gaussian", "bottom-up", "ladder", "ddpm", "ddpm, data"]
)
@torch.no_grad()
def test_the_probabilities_of_all_data_sum_to_one(name, levels):
    """Σ_x E_q[ p(x, z) / q(z|x) ] = Σ_x p(x) = 1, and the samples have these probabilities."""
    chain = chain_of(name, levels)
    x = everything(levels)
    ratios = chain.log_weight(x, samples=20_000).exp()
    p = ratios.mean(dim=1)
    error = ratios.std(dim=1) / math.sqrt(20_000)
    assert float(p.sum()) == pytest.approx(1.0, abs=5 * float(error.square().sum().sqrt()))
    assert float(error.max()) < 0.02
    drawn = chain.sample(20_000).long()
    counts = torch.bincount(drawn[:, 0] * levels + drawn[:, 1], minlength=len(x)) / 20_000
    spread = (error.square() + p * (1 - p) / 20_000).sqrt()
    assert ((counts - p).abs() < 5 * spread).all()
    # And the bound is what Jensen's inequality leaves of it, term by term as in one piece.
    repeated = x.repeat_interleave(2000, dim=0)
    totals = chain.elbo(repeated).total.unflatten(0, (len(x), 2000))
    weights = chain.log_weight(x, samples=2000)
    difference = totals.mean(dim=1) - weights.mean(dim=1)
    spread = ((totals.var(dim=1) + weights.var(dim=1)) / 2000).sqrt()
    assert (difference.abs() < 5 * spread + 1e-9).all()
    assert (totals.mean(dim=1) < p.log() + 5 * error / p).all()


@torch.no_grad()
def test_the_probabilities_of_all_images_sum_to_one():
    """A deep ladder on 2×2 bits, with levels at both sizes: Σ_x p(x) = 1, and samples are as frequent."""
    spec, draws = DataSpec((1, 2, 2), levels=2), 4000
    x = torch.tensor(list(itertools.product(range(2), repeat=4)), dtype=torch.uint8).reshape(-1, 1, 2, 2)
    config = HVAEConfig(levels=3, levels_per_size=(2, 1), block="bottleneck", width=16, latent_dims=(1,))
    chain = stirred(build_chain(config, spec, train=x))
    ratios = chain.log_weight(x, samples=draws).exp()
    p, error = ratios.mean(dim=1), ratios.std(dim=1) / math.sqrt(draws)
    assert float(error.max()) < 0.02
    assert float(p.sum()) == pytest.approx(1.0, abs=5 * float(error.square().sum().sqrt()))
    places = chain.sample(draws).long().flatten(1) @ torch.tensor([8, 4, 2, 1])
    counts = torch.bincount(places, minlength=16) / draws
    assert ((counts - p).abs() < 5 * (error.square() + p * (1 - p) / draws).sqrt()).all()


class Decoder(nn.Module):
    """A bent map of one latent to two means and two scales."""

    def forward(self, z: Tensor) -> Tensor:
        return torch.cat([torch.sin(2 * z), 0.5 * z, 0.3 * z, -0.2 * z], dim=1)


class Encoder(nn.Module):
    def forward(self, u: Tensor) -> Tensor:
        return torch.stack([0.3 * u[:, 0] + 0.2, 0.9 + 0.1 * u[:, 1]], dim=1)


@pytest.mark.parametrize("kind", ["discretized-logistic", "discretized-gaussian", "bernoulli"])
@torch.no_grad()
def test_a_vae_with_one_latent_by_quadrature(kind):
    levels = 2 if kind == "bernoulli" else 5
    spec = DataSpec((2,), levels=levels)
    law = LikelihoodConfig(kind) if kind == "bernoulli" else LikelihoodConfig(kind, "predicted", 0.6)
    chain = build_chain(VAEConfig(latent_dims=1, likelihood=law), spec)
    assert isinstance(chain, VAE)
    chain.encoder = Encoder()
    chain.decoder = nn.Sequential(Decoder(), nn.Identity())
    if kind == "bernoulli":
        chain.decoder = nn.Sequential(Decoder(), _FirstHalf())
    x = everything(levels)
    z = torch.linspace(-30.0, 30.0, 6001)[:, None]
    log_prior = -0.5 * z[:, 0] ** 2 - 0.5 * math.log(2 * math.pi)
    log_decoder = torch.stack([chain.decode(z).log_prob(row.expand(6001, 2)) for row in x])
    p = torch.trapezoid((log_decoder + log_prior).exp(), z[:, 0], dim=1)
    assert float(p.sum()) == pytest.approx(1.0, abs=1e-9)
    # The bound, as an integral over q.
    q = chain.encode(x)
    assert isinstance(q, DiagonalNormal)
    log_q = -0.5 * ((z.T - q.loc) / q.scale) ** 2 - q.scale.log() - 0.5 * math.log(2 * math.pi)
    bound = torch.trapezoid(log_q.exp() * (log_decoder + log_prior - log_q), z[:, 0], dim=1)
    reconstruction = -torch.trapezoid(log_q.exp() * log_decoder, z[:, 0], dim=1)
    draws = chain.elbo(x.repeat_interleave(4000, dim=0))
    for found, expected in ((draws.total, bound), (draws.reconstruction, reconstruction)):
        values = found.unflatten(0, (len(x), 4000))
        assert ((values.mean(dim=1) - expected).abs() < 5 * values.std(dim=1) / math.sqrt(4000)).all()
    torch.testing.assert_close(draws.prior[::4000], bound.neg() - reconstruction, rtol=1e-8, atol=1e-8)
    assert (bound < p.log()).all()
    estimated = log_likelihood(chain, x, samples=5000)
    torch.testing.assert_close(estimated, p.log(), atol=0.1, rtol=0)
    # Bits per dimension are −log₂ p per entry: no less than the entropy of the model's own samples.
    code_length = draws.bits_per_dim.unflatten(0, (len(x), 4000)).mean(dim=1)
    entropy = -(p * p.log2()).sum() / 2
    assert float((p * code_length).sum()) > float(entropy)


class _FirstHalf(nn.Module):
    def forward(self, out: Tensor) -> Tensor:
        return out[:, :2]
