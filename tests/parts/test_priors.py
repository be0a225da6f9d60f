"""Priors p(z_T): the mixture against torch's own, and every kind of chain with it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import MultivariateNormal

from ancestral._internal.randomness import GeneratorNoise, RowNoise
from ancestral.bounds import AisBound, Annealing, PathBound, SweepBound
from ancestral.core.chain import Chain
from ancestral.core.spec import DataSpec
from ancestral.core.walk import has_closed_kl, infer, log_weight, noise
from ancestral.distributions import DiagonalNormal
from ancestral.models import LadderHVAE, MarkovHVAE
from ancestral.models.diffusion import DataPrediction, Diffusion
from ancestral.models.diffusion.schedules import Schedule
from ancestral.models.vae import VAE
from ancestral.objectives import DReG, Few, Iwae, default_objective
from ancestral.parts.likelihoods import GaussianLikelihood
from ancestral.parts.priors import GaussianMixturePrior, NormalMixture, StandardNormalPrior
from ancestral.parts.scaling import Scaling
from ancestral.sampling import draw
from tiny import MODELS, built, images
from toys import gaussian_head, linear, randn

pytestmark = pytest.mark.usefixtures("float64")

SHAPES = [(1,), (3,), (2, 2, 3)]
NOISE = 0.6


def mixture(shape: tuple[int, ...], *, components: int = 3, seed: int = 0) -> GaussianMixturePrior:
    """Unequal weights, means and scales."""
    torch.manual_seed(seed)
    prior = GaussianMixturePrior(shape, components=components, spread=1.5)
    with torch.no_grad():
        prior.logits.copy_(torch.randn(components))
        prior.log_scales.copy_(0.4 * torch.randn(components, *shape) - 0.3)
    return prior


def peer(prior: GaussianMixturePrior, n: int) -> td.MixtureSameFamily:
    """torch's."""
    shape = prior.means.shape
    parts = td.Independent(
        td.Normal(prior.means.expand(n, *shape), prior.log_scales.exp().expand(n, *shape)), len(shape) - 1
    )
    return td.MixtureSameFamily(td.Categorical(logits=prior.logits.expand(n, shape[0])), parts)


# The distribution -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("components", [1, 4])
def test_the_mixture_is_torchs(shape, components):
    prior, z = mixture(shape, components=components), 2.0 * torch.randn(6, *shape)
    ours, theirs = prior(6), peer(prior, 6)
    assert isinstance(ours, NormalMixture)
    assert (ours.batch_shape, ours.event_shape) == ((6,), shape)
    torch.testing.assert_close(ours.log_prob(z), theirs.log_prob(z), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.variance, theirs.variance)
    parameters = list(prior.parameters())
    for a, b in zip(
        torch.autograd.grad(ours.log_prob(z).sum(), parameters),
        torch.autograd.grad(theirs.log_prob(z).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    # Far from all components, where exp of each is 0.
    far = torch.full((6, *shape), 1e3)
    torch.testing.assert_close(ours.log_prob(far), theirs.log_prob(far))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("how", ["sample", "generator", "rows"])
def test_samples_have_its_moments_and_its_density(shape, how):
    n = 20_000
    p = mixture(shape).requires_grad_(False)(n)
    if how == "sample":
        z = p.sample()
    else:
        source = GeneratorNoise(torch.Generator().manual_seed(1)) if how == "generator" else RowNoise(1, 0, n)
        z = noise(source)(1, p)
    assert z.shape == (n, *shape)
    assert not z.requires_grad
    stderr = (p.variance[0] / n).sqrt()
    assert float(((z.mean(dim=0) - p.mean[0]) / stderr).abs().max()) < 4.5
    torch.testing.assert_close(z.var(dim=0), p.variance[0], rtol=0.06, atol=0)
    # E of the density's own gradient in z is 0, and E ‖∇ log p‖² + E tr ∇² log p is too (Fisher).
    leaf = z.requires_grad_()
    (score,) = torch.autograd.grad(p.log_prob(leaf).sum(), leaf)
    assert float((score.mean(dim=0) / (score.std(dim=0) / math.sqrt(n))).abs().max()) < 4.5
    # Each component's share, where components are told apart by where they are densest.
    if shape == (3,):
        parts = DiagonalNormal(p.loc.flatten(1), p.scale.flatten(1))
        nearest = torch.stack([p.log_pi[k] + _one(parts, k).log_prob(z) for k in range(3)], dim=1)
        shares = nearest.softmax(dim=1).mean(dim=0)
        torch.testing.assert_close(shares, p.log_pi.exp(), atol=0.015, rtol=0)


def _one(parts: DiagonalNormal, k: int) -> DiagonalNormal:
    return DiagonalNormal(parts.loc[k : k + 1], parts.scale[k : k + 1])


def test_the_density_integrates_to_one_and_its_entropy_is_that_of_samples():
    with torch.no_grad():
        p = mixture((1,))(1)
        grid = torch.linspace(-25.0, 25.0, 50_001)[:, None]
        log_p = p.log_prob(grid)
        assert float(torch.trapezoid(log_p.exp(), grid[:, 0])) == pytest.approx(1.0, abs=1e-9)
        entropy = -float(torch.trapezoid(log_p.exp() * log_p, grid[:, 0]))
        found = -p.log_prob(p.sample((20_000,))[:, 0])
    assert abs(float(found.mean()) - entropy) < 4.5 * float(found.std()) / math.sqrt(20_000)


def test_noise_decides_its_samples():
    p = mixture((3,))(6)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    whole = noise(RowNoise(2, 0, 6))(1, p)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(whole, noise(RowNoise(2, 0, 6))(1, p))
    parts = [noise(RowNoise(2, first, 2))(1, mixture((3,))(2)) for first in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), whole)
    assert p.sample((4, 2)).shape == (4, 2, 6, 3)


def test_where_it_starts_and_what_it_refuses():
    prior = GaussianMixturePrior((2,), components=5, spread=3.0)
    p = prior(4)
    torch.testing.assert_close(p.log_pi.exp(), torch.full((5,), 0.2))
    torch.testing.assert_close(p.scale, torch.ones(5, 2))
    assert set(prior.state_dict()) == {"logits", "means", "log_scales"}
    with pytest.raises(ValueError, match="components is 0"):
        GaussianMixturePrior((2,), components=0)
    with pytest.raises(ValueError, match="spread is 0"):
        GaussianMixturePrior((2,), spread=0.0)
    assert not has_closed_kl(DiagonalNormal(torch.zeros(4, 2), torch.ones(4, 2)), p)
    assert not StandardNormalPrior((2,)).state_dict()


def test_one_component_is_a_normal():
    prior = mixture((3,), components=1)
    z = torch.randn(5, 3)
    plain = DiagonalNormal(prior.means, prior.log_scales.exp())
    torch.testing.assert_close(prior(5).log_prob(z), plain.log_prob(z))
    standard = GaussianMixturePrior((3,), components=1)
    nn.init.zeros_(standard.means)
    torch.testing.assert_close(standard(5).log_prob(z), StandardNormalPrior((3,))(5).log_prob(z))


# Linear chains: p(x) is a mixture of Gaussians ------------------------------------------------------------

WEIGHT, BIAS = randn(3, 2, seed=1).double(), randn(3, seed=2).double()


def evidence(prior: GaussianMixturePrior, a: Tensor, b: Tensor, rest: Tensor) -> td.MixtureSameFamily:
    """Of x = a z_T + b + N(0, rest)."""
    with torch.no_grad():
        means, variances = prior.means @ a.T + b, prior.log_scales.mul(2.0).exp()
        covariances = a @ torch.diag_embed(variances) @ a.T + rest
        return td.MixtureSameFamily(
            td.Categorical(logits=prior.logits), MultivariateNormal(means, covariances)
        )


def likelihood(dims: int) -> tuple[DataSpec, Scaling, GaussianLikelihood]:
    spec = DataSpec((dims,))
    scaling = Scaling(spec)
    return spec, scaling, GaussianLikelihood(spec, scaling, sigma="fixed", value=NOISE)


WIDE = 2.5 * torch.eye(2).double()
"""About the covariance of the mixture, for a q that is near p(z|x) and yet not it."""


def near(prior: Tensor, weight: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """Of z ~ N(0, prior) given weight z + N(0, rest): what the mean is of the latter, and somewhat wide sigmas."""
    gain = prior @ weight.T @ torch.linalg.inv(weight @ prior @ weight.T + rest)
    return gain, 1.3 * (prior - gain @ weight @ prior).diag().sqrt()


def linear_vae() -> tuple[Chain, td.MixtureSameFamily]:
    spec, scaling, last = likelihood(3)
    prior = mixture((2,))
    gain, sigma = near(WIDE, WEIGHT, NOISE**2 * torch.eye(3))
    chain = VAE(
        gaussian_head(gain, -gain @ BIAS, sigma),
        linear(WEIGHT, BIAS),
        likelihood=last,
        scaling=scaling,
        spec=spec,
        latent_dims=2,
        prior=prior,
    )
    return chain, evidence(prior, WEIGHT, BIAS, NOISE**2 * torch.eye(3))


STEP, SIGMA = randn(2, 2, seed=3).double(), torch.tensor([0.5, 0.9]).double()


def linear_markov() -> tuple[Chain, td.MixtureSameFamily]:
    """z_1 = STEP z_2 + SIGMA ε."""
    spec, scaling, last = likelihood(3)
    prior = mixture((2,))
    low = torch.diag(SIGMA.square())
    gain, sigma = near(STEP @ WIDE @ STEP.T + low, WEIGHT, NOISE**2 * torch.eye(3))
    chain = MarkovHVAE(
        gaussian_head(gain, -gain @ BIAS, sigma),
        linear(WEIGHT, BIAS),
        ups=[gaussian_head(near(WIDE, STEP, low)[0], torch.zeros(2), near(WIDE, STEP, low)[1])],
        downs=[gaussian_head(STEP, torch.zeros(2), SIGMA)],
        likelihood=last,
        scaling=scaling,
        spec=spec,
        latent_dims=[2, 2],
        prior=prior,
    )
    return chain, _two_levels(prior)


def _two_levels(prior: GaussianMixturePrior) -> td.MixtureSameFamily:
    rest = WEIGHT @ torch.diag(SIGMA.square()) @ WEIGHT.T + NOISE**2 * torch.eye(3)
    return evidence(prior, WEIGHT @ STEP, BIAS, rest)


class Twice(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, x]


class Reader(nn.Module):
    """How q departs from p, in p's units, from what of the features the stream does not explain."""

    def __init__(self, gain: Tensor, seen: Tensor, prior: Tensor, sigma: Tensor) -> None:
        super().__init__()
        self.head = gaussian_head(gain / prior[:, None], torch.zeros(2), sigma / prior)
        self.seen = seen

    def forward(self, stream: Tensor, features: Tensor) -> Tensor:
        return self.head(features - BIAS - stream @ self.seen.T)


class Replace(nn.Module):
    """The stream is the latent."""

    def forward(self, stream: Tensor, z: Tensor) -> Tensor:
        return z


def linear_ladder() -> tuple[Chain, td.MixtureSameFamily]:
    spec, scaling, last = likelihood(3)
    prior = mixture((2,))
    low, noise = torch.diag(SIGMA.square()), NOISE**2 * torch.eye(3)
    first, sigma = near(low, WEIGHT, noise)
    top, width = near(WIDE, WEIGHT @ STEP, WEIGHT @ low @ WEIGHT.T + noise)
    chain = LadderHVAE(
        Twice(),
        linear(WEIGHT, BIAS),
        posteriors=[
            Reader(first, WEIGHT @ STEP, SIGMA, sigma),
            Reader(top, 0.0 * WEIGHT, torch.ones(2), width),
        ],
        top_downs=[Replace(), Replace()],
        priors=[gaussian_head(STEP, torch.zeros(2), SIGMA)],
        likelihood=last,
        scaling=scaling,
        spec=spec,
        stream_shape=(2,),
        latent_shapes=[(2,), (2,)],
        prior=prior,
    )
    return chain, _two_levels(prior)


class Shrink(nn.Module):
    """û = gain z."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.8))

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        return self.gain * z


def linear_diffusion() -> tuple[Chain, td.MixtureSameFamily]:
    schedule, prior = Schedule.linear(3, first=0.3, last=0.7), mixture((2,))
    spec = DataSpec((2,))
    chain = Diffusion(
        Shrink(), schedule, scaling=Scaling(spec), parametrization=DataPrediction(), prior=prior
    )
    a, rest, bar = 1.0, 0.0, schedule.alpha_bar
    for t in (3, 2, 1):
        beta = 1.0 - bar[t] / bar[t - 1]
        c0 = bar[t - 1].sqrt() * beta / (1.0 - bar[t])
        ct = (1.0 - beta).sqrt() * (1.0 - bar[t - 1]) / (1.0 - bar[t])
        variance = beta * (1.0 - bar[t - 1]) / (1.0 - bar[t]) if t > 1 else beta
        step = c0 * 0.8 + ct
        a, rest = step * a, step**2 * rest + variance
    eye = torch.eye(2)
    return chain, evidence(prior, a * eye, torch.zeros(2), rest * eye)


LINEAR = {
    "vae": linear_vae,
    "markov": linear_markov,
    "ladder": linear_ladder,
    "diffusion": linear_diffusion,
}
each_linear = pytest.mark.parametrize("name", LINEAR)


@each_linear
@torch.no_grad()
def test_the_estimated_elbo_is_a_bound_and_weights_give_log_p(name):
    chain, exact = LINEAR[name]()
    torch.manual_seed(1)
    x = exact.sample((5,))
    expected = exact.log_prob(x)
    bound = SweepBound if chain.single_levels else PathBound
    found = bound(3000)(chain, x, done=lambda share: None)
    stderr = found.replicates.std(dim=1) / math.sqrt(3000)
    # Below log p(x) for every example, by the gap of a q that is not exact.
    assert (found.nats < expected + 4.0 * stderr).all()
    assert (found.nats < expected - 0.05).any()
    assert (found.nats > expected - 6.0).all()
    # The same mean as of log p − log q, level by level and so in all.
    weights = log_weight(chain, x, samples=60_000)
    spread = torch.hypot(weights.std(dim=1) / math.sqrt(60_000), stderr)
    assert ((weights.mean(dim=1) - found.nats).abs() < 4.5 * spread).all()
    # E w = p(x).
    scaled = (weights - expected[:, None]).exp()
    assert ((scaled.mean(dim=1) - 1.0).abs() < 5.0 * scaled.std(dim=1) / math.sqrt(60_000) + 1e-3).all()


@each_linear
@torch.no_grad()
def test_samples_are_of_the_model(name):
    chain, exact = LINEAR[name]()
    for x in (chain.sample(20_000), draw(chain, 20_000, seed=1, batch_size=5000)):
        stderr = (exact.variance / 20_000).sqrt()
        assert float(((x - exact.mean).mean(dim=0) / stderr).abs().max()) < 4.5
        torch.testing.assert_close(x.var(dim=0), exact.variance, rtol=0.06, atol=0)
        log_p = exact.log_prob(x)
        own = exact.log_prob(exact.sample((20_000,)))
        assert abs(float(log_p.mean() - own.mean())) < 4.5 * math.hypot(log_p.std(), own.std()) / 141.0


@each_linear
@torch.no_grad()
def test_the_prior_term_is_a_kl_by_quadrature(name):
    """KL( q(z_T|x) ‖ p(z_T) ) on a grid of the two numbers of z_T."""
    chain, exact = LINEAR[name]()
    torch.manual_seed(2)
    x = exact.sample((1,))
    torch.manual_seed(3)
    q = next(iter(infer(chain, x))).q
    axes = [
        torch.linspace(float(m - 9 * s), float(m + 9 * s), 401)
        for m, s in zip(q.mean[0], q.variance[0].sqrt(), strict=True)
    ]
    grid = torch.cartesian_prod(*axes)
    cell = float((axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
    log_q, log_p = (one.log_prob(grid) for one in (q, chain.prior(1)))
    expected = float((log_q.exp() * (log_q - log_p)).sum()) * cell
    if chain.upward:
        # q of the top is random: at this draw of z_1 the term is of a draw of z_2.
        z = q.sample((20_000,))[:, 0]
        terms = q.log_prob(z) - chain.prior(20_000).log_prob(z)
    elif chain.single_levels:
        h = chain.features(x.expand(20_000, -1))
        terms = chain.prior_term(h, 20_000)
    else:
        terms = next(iter(infer(chain, x.expand(20_000, -1)))).term()
    assert terms.shape == (20_000,)
    assert abs(float(terms.mean()) - expected) < 4.5 * float(terms.std()) / 141.0


@pytest.mark.parametrize("name", ["vae", "markov", "ladder"])
def test_other_bounds_and_objectives_take_it(name):
    chain, exact = LINEAR[name]()
    torch.manual_seed(1)
    x = exact.sample((4,))
    expected = exact.log_prob(x)
    found = AisBound(40, Annealing(60, 5))(chain, x, done=lambda share: None)
    torch.testing.assert_close(found.nats, expected, atol=0.3, rtol=0)
    values = []
    for objective in (Iwae(6), DReG(6), Few(Iwae(6), backward=2), Few(DReG(6), backward=2)):
        torch.manual_seed(4)
        loss = objective(chain, x)
        values.append(loss.value.detach())
        chain.zero_grad()
        loss.value.backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in chain.prior.parameters())
    assert all(torch.allclose(value, values[0]) for value in values)


# Chains as they are built ---------------------------------------------------------------------------------

BUILT = {"vae": "vae-mlp", "markov": "bottom-up", "ladder": "ladder", "diffusion": "ddpm"}


def with_mixture(name: str, **options: int) -> tuple[Chain, Tensor]:
    """A model of images with the mixture in the place of N(0, I)."""
    data = images()
    torch.manual_seed(0)
    chain = built(MODELS[BUILT[name]], data)
    chain.prior = GaussianMixturePrior(chain.prior.shape, **options)
    return chain.double(), data.train.x[:32]


@pytest.mark.parametrize("name", BUILT)
def test_one_component_at_the_origin_is_the_usual_prior(name):
    chain, x = with_mixture(name, components=1)
    nn.init.zeros_(chain.prior.means)
    values = []
    for prior in (chain.prior, StandardNormalPrior(chain.prior.shape)):
        chain.prior = prior
        torch.manual_seed(1)
        values.append(log_weight(chain, x, samples=2))
    torch.testing.assert_close(values[0], values[1])


@pytest.mark.parametrize("name", BUILT)
def test_a_few_steps_of_training_lower_the_loss(name):
    chain, x = with_mixture(name, components=4)
    objective = default_objective(chain)
    objective.check(chain)
    before = {key: value.clone() for key, value in chain.prior.state_dict().items()}

    @torch.no_grad()
    def loss() -> float:
        torch.manual_seed(5)
        return sum(float(objective(chain, x).value) for _ in range(40)) / 40

    start = loss()
    optimiser = torch.optim.Adam(chain.parameters(), lr=0.01)
    for step in range(30):
        torch.manual_seed(100 + step)
        optimiser.zero_grad()
        objective(chain, x).value.backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in chain.prior.parameters())
        optimiser.step()
    assert loss() < start - 0.05 * abs(start)
    # The prior has learned, too, and is among the weights.
    after = chain.state_dict()
    assert all(not torch.equal(after[f"prior.{key}"], value) for key, value in before.items())


def test_training_finds_the_mixture_that_the_data_are_of():
    """With q that can be exact, the bound comes to the data's own density: no N(0, I) could."""
    spec, scaling, last = likelihood(1)
    chain = VAE(
        nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2)),
        linear(torch.ones(1, 1), torch.zeros(1)),
        likelihood=last,
        scaling=scaling,
        spec=spec,
        latent_dims=1,
        prior=GaussianMixturePrior((1,), components=2),
    )
    chain.decoder.requires_grad_(False)
    truth = td.MixtureSameFamily(
        td.Categorical(torch.tensor([0.3, 0.7])), td.Normal(torch.tensor([-4.0, 3.0]), 1.0)
    )
    with torch.no_grad():
        chain.prior.means.copy_(torch.tensor([[-1.0], [1.0]]))
    objective = default_objective(chain)
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(chain.parameters(), lr=0.03)
    decay = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, total_iters=600)
    for _ in range(600):
        optimiser.zero_grad()
        objective(chain, truth.sample((256, 1))).value.backward()
        optimiser.step()
        decay.step()
    p = chain.prior(1)
    torch.testing.assert_close(p.log_pi.exp().detach(), torch.tensor([0.3, 0.7]), atol=0.05, rtol=0)
    torch.testing.assert_close(p.loc[:, 0].detach(), torch.tensor([-4.0, 3.0]), atol=0.2, rtol=0)
    width = math.sqrt(1.0 - NOISE**2)
    torch.testing.assert_close(p.scale[:, 0].detach(), torch.full((2,), width), atol=0.15, rtol=0)
    with torch.no_grad():
        x = truth.sample((4000, 1))
        gap = truth.log_prob(x)[:, 0] - chain.elbo(x, samples=20).total
    assert -0.02 < float(gap.mean()) < 0.1
