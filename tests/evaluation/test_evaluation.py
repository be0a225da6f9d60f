"""Evaluation: every example counts once, log p(x) by pieces, and nothing of the caller's is disturbed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ancestral.bounds import (
    Annealing,
    Estimate,
    PathBound,
    SampledLevelsBound,
    SweepBound,
    default_bound,
    log_likelihood,
)
from ancestral.core.chain import Chain
from ancestral.core.spec import DataSpec
from ancestral.distributions import DiagonalNormal, DiscretizedNormal, standard_normal
from ancestral.evaluation import Evaluation, evaluate
from ancestral.models.diffusion import ContinuousDiffusion, Diffusion, LogLinear
from ancestral.models.diffusion.schedules import Schedule
from ancestral.models.vae import VAE
from ancestral.parts.likelihoods import DiscretizedLogisticLikelihood
from ancestral.parts.scaling import Scaling
from gaussian_ddpm import gaussian_ddpm
from toys import Affine, BottomUpGaussian, Joint, TopDownGaussian, randn

pytestmark = pytest.mark.usefixtures("float64")


def ppca(**off: float) -> tuple[TopDownGaussian, MultivariateNormal]:
    weight = randn(3, 2, seed=1)
    joint = Joint(1, torch.zeros(2), torch.eye(2)).extend(
        0, [1], Affine(weight, torch.zeros(3), 0.3 * torch.eye(3))
    )
    law = MultivariateNormal(torch.zeros(3), weight @ weight.T + 0.3 * torch.eye(3))
    return TopDownGaussian(joint, 1, **off), law


class Blind(Chain):
    """p(x|z) that ignores z: every term is exact for each example, so that sums can be counted."""

    def __init__(self, *, levels: int | None = None) -> None:
        super().__init__(1, DataSpec((3,), levels))
        self.mean = nn.Parameter(torch.tensor(0.2))

    def q_top(self, h: Tensor) -> DiagonalNormal:
        h = h.to(self.mean)
        return DiagonalNormal(0.5 * h, torch.full_like(h, 0.7))

    def p_top(self, n: int) -> DiagonalNormal:
        return standard_normal(n, (3,), self.mean)

    def p_step(self, state: Tensor, t: int) -> DiagonalNormal | DiscretizedNormal:
        mean, sigma = self.mean.expand(len(state), 3), torch.ones(len(state), 3)
        if self.spec.levels is None:
            return DiagonalNormal(mean, sigma)
        return DiscretizedNormal(mean, sigma, self.spec.levels)


def test_estimates():
    estimate = Estimate.of(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert estimate.mean == 3.0
    assert estimate.stderr == pytest.approx(math.sqrt((4 + 1 + 0 + 9) / 3 / 4))
    assert math.isnan(Estimate.of(torch.tensor([5.0])).stderr)
    assert estimate.scaled(-2.0) == Estimate(-6.0, 2.0 * estimate.stderr)
    assert estimate.json() == {"mean": 3.0, "stderr": estimate.stderr}
    assert Estimate(1.0, 3.0, 2.0).scaled(-2.0) == Estimate(-2.0, 6.0, 4.0)
    assert Estimate(1.0, 3.0, 2.0).json() == {"mean": 1.0, "stderr": 3.0, "stderr_estimator": 2.0}
    # Sums of many float32 numbers are taken in float64.
    many = torch.full((2**20,), 1.1, dtype=torch.float32)
    assert Estimate.of(many).mean == pytest.approx(float(many[0]), rel=1e-12)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10, 11, 500])
def test_every_example_counts_once(batch_size):
    chain, x = Blind(), 3.0 * torch.randn(10, 3)
    result = evaluate(chain, x, batch_size=batch_size)
    reconstruction = 0.5 * ((x - 0.2) ** 2 + math.log(2 * math.pi)).sum(dim=1)
    prior = 0.5 * (0.25 * x**2 + 0.49 - 1.0 - math.log(0.49)).sum(dim=1)
    total = -(reconstruction + prior)
    assert result.n == 10
    assert result.dims == 3
    assert result.elbo.mean == pytest.approx(float(total.mean()), rel=1e-12)
    assert result.elbo.stderr == pytest.approx(float(total.std()) / math.sqrt(10), rel=1e-12)
    assert result.reconstruction == pytest.approx(float(reconstruction.mean()), rel=1e-12)
    assert result.prior == pytest.approx(float(prior.mean()), rel=1e-12)
    assert (result.matching, result.matching_per_level) == (0.0, [])
    assert result.bits_per_dim is None
    assert result.log_likelihood is None
    exact, law = ppca()
    x = law.sample((10,))
    result = evaluate(exact, x, batch_size=batch_size, bound="iwae", samples=3)
    assert result.log_likelihood.mean == pytest.approx(float(law.log_prob(x).mean()), rel=1e-10)
    assert result.log_likelihood.stderr == pytest.approx(float(law.log_prob(x).std()) / 10**0.5, rel=1e-9)
    assert (result.tighter.bound, result.tighter.samples) == ("iwae", 3)


def test_bits_per_dim_are_those_of_the_bound():
    result = evaluate(Blind(levels=4), torch.randint(0, 4, (9, 3)).double())
    assert result.bits_per_dim.mean == pytest.approx(-result.elbo.mean / (3 * math.log(2.0)))
    assert result.bits_per_dim.stderr == pytest.approx(result.elbo.stderr / (3 * math.log(2.0)))


def test_terms_add_up_for_several_levels():
    mean, covariance = torch.zeros(2), torch.eye(2)
    chain = gaussian_ddpm(Schedule.linear(6, first=0.1, last=0.6), mean, covariance, off=0.8)
    x = torch.randn(50, 2)
    for levels in (None, 2):
        result = evaluate(chain, x, levels=levels, batch_size=20)
        assert len(result.matching_per_level) == 5
        assert result.matching == pytest.approx(sum(result.matching_per_level))
        assert -result.elbo.mean == pytest.approx(result.reconstruction + result.matching + result.prior)
        assert result.kl_per_latent == [*result.matching_per_level, result.prior]
    # A sweep calls the network at each level; an estimate at the random ones, and in each half at t = 1.
    assert evaluate(chain, x, samples=2).network_calls_per_image == 12
    assert evaluate(chain, x, levels=2).network_calls_per_image == 4
    assert evaluate(chain, x, samples=2).estimator == {"name": "sweep", "samples": 2}
    assert evaluate(Blind(), torch.zeros(2, 3)).estimator == {"name": "path", "samples": 1}
    report = evaluate(chain, x).json()
    assert set(report) == {
        "n",
        "dims",
        "elbo",
        "bits_per_dim",
        "terms",
        "matching_per_level",
        "log_likelihood",
        "network_calls_per_image",
        "estimator",
        "examples",
        "seed",
        "seconds",
    }
    assert report["elbo"].keys() == {"mean", "stderr"}
    assert evaluate(chain, x, levels=2).json()["elbo"].keys() == {"mean", "stderr", "stderr_estimator"}
    assert set(report["terms"]) == {"reconstruction", "matching", "prior"}
    report = evaluate(chain, x, bound="iwae", samples=2).json()
    likelihood = report["log_likelihood"]
    assert set(likelihood) == {
        "mean",
        "stderr",
        "bound",
        "samples",
        "effective_samples",
        "above_one_sample",
        "curve",
    }
    assert (likelihood["bound"], likelihood["samples"]) == ("iwae", 2)
    assert [set(point) for point in likelihood["curve"]] == [{"k", "mean", "stderr"}] * 2


def test_alive_levels():
    parts = {"n": 1, "dims": 1, "elbo": Estimate(0.0, 0.0), "bits_per_dim": None, "reconstruction": 0.0}
    result = Evaluation(
        **parts,
        matching=0.505,
        prior=0.02,
        matching_per_level=[0.5, 0.005],
        network_calls_per_image=1,
    )
    assert result.alive == 2


class Scripted:
    """log_weight by table: the next columns of the examples' rows, so that pieces can be told apart."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.taken = [0] * len(table)
        self.most = 0

    def __call__(self, chain: Chain, x: Tensor, *, samples: int, h: Tensor, condition: None) -> Tensor:
        rows = x[:, 0].long()
        assert torch.equal(h, x)
        start = self.taken[int(rows[0])]
        for row in rows.tolist():
            self.taken[row] += samples
        self.most = max(self.most, samples * len(x))
        return self.table[rows, start : start + samples]


@pytest.mark.parametrize("rows", [1, 4, 9, 12, 40, 4096])
@pytest.mark.parametrize("samples", [1, 2, 7, 23])
def test_log_likelihood_does_not_depend_on_the_pieces(rows, samples, monkeypatch):
    table = 400.0 * torch.randn(4, 23)  # far beyond what exp can hold
    scripted = Scripted(table)
    monkeypatch.setattr("ancestral.bounds.iwae.log_weight", scripted)
    x = torch.arange(4.0)[:, None].expand(4, 3)
    found = log_likelihood(Blind(), x, samples=samples, rows=rows)
    expected = torch.logsumexp(table[:, :samples], dim=1) - math.log(samples)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert scripted.taken == [samples] * 4
    assert scripted.most <= rows


@pytest.mark.parametrize("rows", [1, 10, 4096])
def test_five_thousand_draws_of_the_exact_posterior_are_log_p(rows):
    chain, law = ppca()
    x = law.sample((3,))
    for samples in (1, 13, 5000 if rows > 10 else 50):
        found = log_likelihood(chain, x, samples=samples, rows=rows)
        torch.testing.assert_close(found, law.log_prob(x), atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", [TopDownGaussian, BottomUpGaussian])
def test_importance_sampling_rises_to_log_p(kind):
    weight, middle = randn(3, 2, seed=1), randn(2, 2, seed=2)
    joint = Joint(2, torch.zeros(2), torch.eye(2))
    joint = joint.extend(1, [2], Affine(middle, torch.zeros(2), 0.5 * torch.eye(2)))
    joint = joint.extend(0, [1], Affine(weight, torch.zeros(3), 0.3 * torch.eye(3)))
    inner = middle @ middle.T + 0.5 * torch.eye(2)
    law = MultivariateNormal(torch.zeros(3), weight @ inner @ weight.T + 0.3 * torch.eye(3))
    chain = kind(joint, 2, off_mean=0.9, off_scale=1.5)
    x = law.sample((400,))
    gaps = []
    for k in (1, 4, 16, 256):
        gap = log_likelihood(chain, x, samples=k) - law.log_prob(x)
        gaps.append(float(gap.mean()))
    assert gaps[0] < gaps[1] - 0.1 < gaps[2] - 0.15
    assert gaps[0] < -0.5
    assert abs(gaps[-1]) < 0.03
    # With one draw it is the bound.
    single = evaluate(chain, x, samples=200).elbo.mean - float(law.log_prob(x).mean())
    assert gaps[0] == pytest.approx(single, abs=0.2)


def dropout_vae(dtype: torch.dtype) -> VAE:
    spec = DataSpec((2,), levels=3)
    scaling = Scaling(spec)
    return VAE(
        nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 4)),
        nn.Sequential(nn.Linear(2, 16), nn.Dropout(0.5), nn.Linear(16, 4)),
        likelihood=DiscretizedLogisticLikelihood(spec, scaling),
        scaling=scaling,
        spec=spec,
        latent_dims=2,
    ).to(dtype)


@pytest.mark.parametrize("training", [True, False])
def test_the_callers_state_is_left_as_it_was(training):
    chain = dropout_vae(torch.float64).train(training)
    x = torch.randint(0, 3, (20, 2))
    torch.manual_seed(4)
    before = torch.get_rng_state()
    first = evaluate(chain, x, bound="iwae", samples=5, batch_size=8)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training is training for module in chain.modules())
    torch.manual_seed(99)
    again = evaluate(chain, x, bound="iwae", samples=5, batch_size=8)
    assert (first.elbo, first.log_likelihood) == (again.elbo, again.log_likelihood)
    assert evaluate(chain, x, batch_size=8, seed=1).elbo != first.elbo
    # Without dropout: as with a chain that never had any.
    for module in chain.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    assert evaluate(chain, x, bound="iwae", samples=5, batch_size=8).elbo == first.elbo
    assert all(parameter.grad is None for parameter in chain.parameters())


def test_the_state_comes_back_after_an_error():
    chain, _ = ppca()
    chain.train()
    torch.manual_seed(4)
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="17"):
        evaluate(chain, torch.zeros(5, 17))
    assert chain.training
    assert torch.equal(torch.get_rng_state(), before)


def test_batches_do_not_share_their_draws():
    """Twice the same example in two batches: two paths, so that the stated error is one of two."""
    chain, _ = ppca(off_scale=1.5)
    result = evaluate(chain, torch.ones(2, 3), batch_size=1)
    assert result.elbo.stderr > 0


def test_progress_counts_the_examples():
    seen: list[tuple[int, int]] = []
    evaluate(Blind(), torch.zeros(10, 3), batch_size=4, progress=lambda done, n: seen.append((done, n)))
    assert seen == [(4, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize("bound", ["iwae", "ais"])
def test_progress_moves_within_a_batch(bound):
    """In one batch, as pieces of its examples (or temperatures of all) are done."""
    chain, law = ppca()
    seen: list[tuple[int, int]] = []
    options = {"samples": 6000} if bound == "iwae" else {"annealing": Annealing(4, 1)}
    evaluate(chain, law.sample((8,)), bound=bound, progress=lambda *state: seen.append(state), **options)
    assert {total for _, total in seen} == {8}
    counts = [done for done, _ in seen]
    assert counts == sorted(counts)
    assert len(set(counts)) >= 4
    assert counts[-1] == 8


def test_mistakes():
    chain, _ = ppca()
    x = torch.zeros(2, 3)
    for name, value in (("samples", 0), ("batch_size", 0), ("levels", 0)):
        with pytest.raises(ValueError, match=f"{name} is {value}; it must be"):
            evaluate(chain, x, **{name: value})
    with pytest.raises(ValueError, match=r"levels is 3, and TopDownGaussian has no closed-form q"):
        evaluate(chain, x, levels=3)
    with pytest.raises(ValueError, match=r"bound is 'iwea'; it must be one of elbo, iwae, ais. Did you mean"):
        evaluate(chain, x, bound="iwea")
    with pytest.raises(ValueError, match="an annealing is given and bound is iwae"):
        evaluate(chain, x, bound="iwae", samples=2, annealing=Annealing(20, 4))
    with pytest.raises(ValueError, match="there are no examples"):
        evaluate(chain, x[:0])
    for name in ("samples", "rows"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            log_likelihood(chain, x, **{name: 0})


def test_bounds_that_a_chain_of_closed_form_marginals_does_not_have(monkeypatch):
    """Refused before any work; where each path takes T calls, only their number is asked for."""
    x, schedule = torch.zeros(2, 2), Schedule.linear(6, first=0.1, last=0.6)
    ddpm = gaussian_ddpm(schedule, torch.zeros(2), torch.eye(2))
    assert evaluate(ddpm, x, bound="iwae", samples=3).tighter.samples == 3
    limit = ContinuousDiffusion(
        ddpm.network, LogLinear(6, first=5.0, last=-4.0), scaling=Scaling(DataSpec((2,)))
    )
    monkeypatch.setattr("ancestral.evaluation.loop.batches", None)
    with pytest.raises(ValueError, match=r"bound is ais for a Diffusion: each .* all T = 6 levels"):
        evaluate(ddpm, x, bound="ais", samples=1)
    with pytest.raises(ValueError, match=r"T = 6 network calls, and the usual 5000 of them 30000 an image"):
        evaluate(ddpm, x, bound="iwae")
    for bound in ("iwae", "ais"):
        with pytest.raises(
            ValueError, match=rf"bound is {bound} for a ContinuousDiffusion: .* another model"
        ):
            evaluate(limit, x, bound=bound, samples=3)


def test_default_bounds():
    def of(T: int) -> Diffusion:
        return gaussian_ddpm(Schedule(torch.full((T,), 0.01)), torch.zeros(1), torch.eye(1))

    assert [default_bound(of(T)) for T in (2, 100)] == [SweepBound(), SweepBound()]
    many = default_bound(of(101))
    assert isinstance(many, SampledLevelsBound)
    assert many.levels == 16
    assert default_bound(ppca()[0]) == PathBound()
    # It is what an evaluation takes when nothing is said, and a sweep only where it is asked for.
    x = torch.randn(3, 1)
    assert evaluate(of(2), x).estimator == {"name": "sweep", "samples": 1}
    assert evaluate(of(101), x).estimator["name"] == "sampled"
    assert evaluate(of(101), x).elbo == evaluate(of(101), x, levels=16).elbo
    assert evaluate(of(101), x, sweep=True).estimator == {"name": "sweep", "samples": 1}
    with pytest.raises(ValueError, match="the estimator is sweep and levels is 3"):
        evaluate(of(101), x, levels=3, sweep=True)
    with pytest.raises(ValueError, match="its q\\(z_t\\|x\\) has no closed form"):
        evaluate(ppca()[0], torch.zeros(3, 3), sweep=True)


def test_float32_chains_are_summed_in_float64():
    torch.set_default_dtype(torch.float32)
    chain = dropout_vae(torch.float32)
    x = torch.randint(0, 3, (50, 2))
    result = evaluate(chain, x, bound="iwae", samples=4)
    assert math.isfinite(result.elbo.mean)
    assert log_likelihood(chain, x, samples=3).dtype == torch.float64
