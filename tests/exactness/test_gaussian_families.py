"""The families themselves, with linear networks set to the exact posterior: every draw is log p(x)."""

from __future__ import annotations

import pytest
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ancestral.core.spec import DataSpec
from ancestral.models import LadderHVAE, MarkovHVAE
from ancestral.models.vae import VAE
from ancestral.parts.likelihoods import SIGMAS, GaussianLikelihood
from ancestral.parts.scaling import Scaling
from toys import Affine, Joint, gaussian_head, linear, randn

pytestmark = pytest.mark.usefixtures("float64")


def data(n: int = 80) -> Tensor:
    """Correlated vectors (n, 5), off the origin, of unequal widths."""
    mix = randn(5, 5, seed=1) * torch.tensor([3.0, 1.0, 0.3, 2.0, 0.7])
    return randn(n, 5, seed=2) @ mix + 4.0 * randn(5, seed=3)


def likelihood(scaling: Scaling, noise: Tensor, *, sigma: str = "per-pixel") -> GaussianLikelihood:
    """N(·, noise²) in the data's units, (D,), whatever the scaling is."""
    law = GaussianLikelihood(DataSpec(tuple(noise.shape)), scaling, sigma=sigma)
    with torch.no_grad():
        own = (noise / scaling.scale).log()
        law.log_sigma.copy_(own if sigma == "per-pixel" else own[0])
    return law


def linear_vae(weight: Tensor, mean: Tensor, noise: Tensor, x: Tensor, *, sigma: str = "per-pixel") -> VAE:
    """The VAE with x = weight z + mean + noise ε and its exact posterior, which must be diagonal."""
    scaling = Scaling(DataSpec((len(mean),)))
    scaling.fit(x)
    if sigma in ("fixed", "shared"):
        scaling.scale.fill_(2.5)  # one sigma in the network's units is one in the data's only so
    precision = torch.eye(weight.shape[1]) + weight.T @ (weight / noise[:, None] ** 2)
    covariance = torch.linalg.inv(precision)
    gain = covariance @ (weight / noise[:, None] ** 2).T
    assert (covariance - torch.diag(covariance.diag())).abs().max() < 1e-12
    decoder = linear(weight / scaling.scale[:, None], (mean - scaling.shift) / scaling.scale)
    law = likelihood(scaling, noise, sigma=sigma)
    if sigma == "predicted":
        with torch.no_grad():
            law.log_sigma.fill_(-0.4)  # where the decoder's second output starts from
            raw = 8.0 * torch.atanh(((noise / scaling.scale).log() + 0.4) / 8.0)
        decoder = linear(
            torch.cat([decoder.weight, 0.0 * decoder.weight]).detach(),
            torch.cat([decoder.bias, raw]).detach(),
        )
    return VAE(
        gaussian_head(gain * scaling.scale, gain @ (scaling.shift - mean), covariance.diag().sqrt()),
        decoder,
        likelihood=law,
        scaling=scaling,
        spec=DataSpec((len(mean),)),
        latent_dims=weight.shape[1],
    )


@pytest.mark.parametrize("sigma", SIGMAS)
def test_vae_is_probabilistic_pca(sigma):
    x = data()
    pca = PCA(n_components=2).fit(x.numpy())
    gains = pca.explained_variance_ - pca.noise_variance_
    weight = torch.tensor((pca.components_.T * gains**0.5).copy())
    noise = torch.full((5,), float(pca.noise_variance_) ** 0.5)
    chain = linear_vae(weight, torch.tensor(pca.mean_), noise, x, sigma=sigma)
    expected = torch.tensor(pca.score_samples(x.numpy()))
    by_torch = MultivariateNormal(torch.tensor(pca.mean_), weight @ weight.T + torch.diag(noise**2))
    torch.testing.assert_close(expected, by_torch.log_prob(x), atol=1e-9, rtol=0)
    weights = chain.log_weight(x, samples=5)
    torch.testing.assert_close(weights, expected[:, None].expand(80, 5), atol=1e-9, rtol=0)
    # The posterior mean is scikit-learn's projection, shrunk as probabilistic PCA shrinks it.
    shrink = torch.tensor(gains**0.5 / pca.explained_variance_)
    torch.testing.assert_close(chain.encode(x).mean, torch.tensor(pca.transform(x.numpy())) * shrink)
    with torch.no_grad():
        chain.encoder.weight[:2] *= 1.1
    assert ((chain.log_weight(x, samples=5) - expected[:, None]).abs().mean() > 0.05).all()


def test_vae_with_a_sigma_per_entry_is_factor_analysis():
    x = data()
    fa = FactorAnalysis(n_components=1, tol=0.1, svd_method="lapack").fit(x.numpy())
    weight, mean = torch.tensor(fa.components_.T.copy()), torch.tensor(fa.mean_)
    chain = linear_vae(weight, mean, torch.tensor(fa.noise_variance_) ** 0.5, x)
    expected = torch.tensor(fa.score_samples(x.numpy()))
    torch.testing.assert_close(
        chain.log_weight(x, samples=3), expected[:, None].expand(80, 3), atol=1e-9, rtol=0
    )
    torch.testing.assert_close(chain.encode(x).mean, torch.tensor(fa.transform(x.numpy())))
    torch.testing.assert_close(chain.reconstruct(x), chain.encode(x).mean @ weight.T + mean)


def markov_hvae(T: int) -> tuple[MarkovHVAE, MultivariateNormal]:
    """x ← z_1 ← … ← z_T, all z of size 2 and with diagonal laws between them; q is exact."""
    x = data()
    scaling = Scaling(DataSpec((5,))).fit(x)
    orthogonal = torch.linalg.qr(randn(5, 2, seed=4))[0] * torch.tensor([2.0, 0.7])
    mean, noise = randn(5, seed=5), 0.6
    gains, shifts, widths = (
        randn(T - 1, 2, seed=6),
        randn(T - 1, 2, seed=7),
        0.3 + randn(T - 1, 2, seed=8) ** 2,
    )
    ups, downs = [], []
    centre, variance = torch.zeros(2), torch.ones(2)  # of z_T, then of each level below
    for a, b, s in reversed(list(zip(gains, shifts, widths.sqrt(), strict=True))):
        below, spread = a * centre + b, a**2 * variance + s**2
        back = variance * a / spread  # the regression of z_t on z_{t−1}
        rest = (variance - back * a * variance).sqrt()
        ups.insert(0, gaussian_head(torch.diag(back), centre - back * below, rest))
        downs.insert(0, gaussian_head(torch.diag(a), b, s))
        centre, variance = below, spread
    covariance = 1.0 / ((orthogonal.T @ orthogonal).diag() / noise**2 + 1.0 / variance)
    gain = covariance[:, None] * orthogonal.T / noise**2
    start = covariance * centre / variance - gain @ mean
    chain = MarkovHVAE(
        gaussian_head(gain * scaling.scale, gain @ scaling.shift + start, covariance.sqrt()),
        linear(orthogonal / scaling.scale[:, None], (mean - scaling.shift) / scaling.scale),
        ups=ups,
        downs=downs,
        likelihood=likelihood(scaling, torch.full((5,), noise)),
        scaling=scaling,
        spec=DataSpec((5,)),
        latent_dims=(2,) * T,
    )
    law = orthogonal @ torch.diag(variance) @ orthogonal.T + noise**2 * torch.eye(5)
    return chain, MultivariateNormal(orthogonal @ centre + mean, law)


@pytest.mark.parametrize("T", [2, 3, 5])
def test_markov_hvae_is_exact(T):
    chain, law = markov_hvae(T)
    x = law.sample((6,)) + 0.5
    expected = law.log_prob(x)
    torch.testing.assert_close(
        chain.log_weight(x, samples=5), expected[:, None].expand(6, 5), atol=1e-9, rtol=0
    )
    total = chain.elbo(x, samples=20_000)
    torch.testing.assert_close(total.total, expected, atol=0.08, rtol=0)
    assert total.matching.shape == (6, T - 1)
    for part in (chain.encoder, chain.ups[-1]):
        with torch.no_grad():
            part.weight *= 1.1
            assert (chain.log_weight(x, samples=50) - expected[:, None]).abs().mean() > 0.01
            part.weight /= 1.1


class Multiples(nn.Module):
    """The data as the features of every level, times its number, so that no level's are another's."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.T = T

    def forward(self, x: Tensor) -> list[Tensor]:
        return [t * x for t in range(1, self.T + 1)]


class Reader(nn.Module):
    """A linear layer that reads the stream and a level's features side by side."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, stream: Tensor, feature: Tensor) -> Tensor:
        out: Tensor = self.layer(torch.cat([stream, feature], dim=1))
        return out


class Writer(nn.Module):
    """Writes a scalar latent into one entry of the stream."""

    def __init__(self, index: int, T: int) -> None:
        super().__init__()
        self.register_buffer("unit", torch.eye(T)[index])

    def forward(self, stream: Tensor, z: Tensor) -> Tensor:
        return stream + z * self.unit


def ladder_hvae(T: int) -> tuple[LadderHVAE, MultivariateNormal]:
    """Scalar latents, each depending on all above it, and x on all of them: not a Markov chain in z."""
    scaling = Scaling(DataSpec((5,))).fit(data())
    weight, mean, noise = randn(5, T, seed=11), randn(5, seed=12), 0.5
    rows = torch.triu(randn(T, T, seed=13), diagonal=1)  # z_t = Σ_{s>t} rows[t, s] z_s + …
    shifts, widths = randn(T, seed=14), 0.4 + randn(T, seed=15) ** 2
    rows[-1], shifts[-1], widths[-1] = 0.0, 0.0, 1.0
    joint = Joint(T, torch.zeros(1), torch.eye(1))
    for t in range(T - 1, 0, -1):
        law = Affine(rows[t - 1 : t, t:], shifts[t - 1 : t], widths[t - 1].reshape(1, 1) ** 2)
        joint = joint.extend(t, range(t + 1, T + 1), law)
    joint = joint.extend(0, range(1, T + 1), Affine(weight, mean, noise**2 * torch.eye(5)))

    def posterior(t: int) -> Reader:
        exact = joint.conditional(t, [*range(t + 1, T + 1), 0])
        stream = torch.cat([torch.zeros(1, t), exact.weight[:, : T - t]], dim=1) - rows[t - 1]
        feature = exact.weight[:, T - t :]
        bias = exact.bias + feature @ scaling.shift - shifts[t - 1]
        change = torch.cat([stream, feature * scaling.scale / t], dim=1) / widths[t - 1]
        ratio = exact.covariance.sqrt().flatten() / widths[t - 1]
        return Reader(gaussian_head(change, bias / widths[t - 1], ratio))

    chain = LadderHVAE(
        Multiples(T),
        linear(weight / scaling.scale[:, None], (mean - scaling.shift) / scaling.scale),
        posteriors=[posterior(t) for t in range(1, T + 1)],
        top_downs=[Writer(t - 1, T) for t in range(1, T + 1)],
        priors=[gaussian_head(rows[t - 1 : t], shifts[t - 1 : t], widths[t - 1 : t]) for t in range(1, T)],
        likelihood=likelihood(scaling, torch.full((5,), noise)),
        scaling=scaling,
        spec=DataSpec((5,)),
        stream_shape=(T,),
        latent_shapes=[(1,)] * T,
    )
    # z = rows z + shifts + widths ε, so z is Gaussian with (1 − rows)⁻¹ in front of the noise.
    inverse = torch.linalg.inv(torch.eye(T) - rows)
    root = weight @ inverse * widths
    return chain, MultivariateNormal(
        weight @ inverse @ shifts + mean, root @ root.T + noise**2 * torch.eye(5)
    )


@pytest.mark.parametrize("T", [2, 3, 4])
def test_ladder_hvae_is_exact(T):
    chain, law = ladder_hvae(T)
    x = law.sample((6,)) + 0.5
    expected = law.log_prob(x)
    torch.testing.assert_close(
        chain.log_weight(x, samples=5), expected[:, None].expand(6, 5), atol=1e-9, rtol=0
    )
    torch.testing.assert_close(chain.elbo(x, samples=20_000).total, expected, atol=0.08, rtol=0)
    for reader in chain.posteriors:
        with torch.no_grad():
            reader.layer.weight *= 1.1
            assert (chain.log_weight(x, samples=50) - expected[:, None]).abs().mean() > 0.01
            reader.layer.weight /= 1.1


@pytest.mark.parametrize(("build", "T"), [(markov_hvae, 3), (ladder_hvae, 3)])
def test_hierarchies_sample_what_they_model(build, T):
    chain, law = build(T)
    white = torch.linalg.solve_triangular(law.scale_tril, (chain.sample(40_000) - law.mean).T, upper=False)
    assert white.mean(dim=1).abs().max() < 5 / 200
    assert (torch.cov(white) - torch.eye(5)).abs().max() < 5 * 2**0.5 / 200


def test_a_ladder_level_that_moves_nothing_is_dead():
    chain, law = ladder_hvae(3)
    with torch.no_grad():
        for parameter in chain.posteriors[1].parameters():
            parameter.zero_()
    elbo = chain.elbo(law.sample((10,)))
    assert (elbo.matching[:, 1] == 0).all()  # the column of z_2, whose p is conditioned on z_3
    assert (elbo.matching[:, 0] > 0).all()
