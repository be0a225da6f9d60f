"""Bounds from levels drawn in different ways: unbiased against the sweep, with calibrated standard errors."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torch.distributions import MultivariateNormal

from ancestral.bounds import SampledLevelsBound
from ancestral.bounds.errors import DrawError
from ancestral.bounds.levels import DRAWS, Proposal
from ancestral.core import entrance
from ancestral.evaluation import Evaluation, evaluate
from ancestral.models.diffusion import Diffusion
from ancestral.models.diffusion.schedules import Schedule
from gaussian_ddpm import expected_terms, gaussian_ddpm
from toys import NoisedGaussian, randn, spd

pytestmark = pytest.mark.usefixtures("float64")

T, N = 40, 256
"""More levels than a proposal has bins, so that a level's part of [0, 1) may lie in two of them."""


D = 4


def data() -> MultivariateNormal:
    return MultivariateNormal(randn(D, seed=1), spd(D, 2))


def ddpm() -> Diffusion:
    """The best linear network: the first levels cost a hundred times what the last ones do."""
    return gaussian_ddpm(Schedule.log_linear(T, first=4.0, last=-8.0), data().loc, data().covariance_matrix)


def images() -> Tensor:
    return data().loc + randn(N, D, seed=3) @ data().scale_tril.T


def exactly(chain: Diffusion, x: Tensor) -> tuple[float, Tensor]:
    """What infinitely many sweeps give for these images: the mean bound, and the mean matching terms."""
    terms = [expected_terms(chain, u, torch.zeros(D, D)) for u in x]
    return sum(t.total for t in terms) / len(x), torch.stack([t.matching for t in terms]).mean(dim=0)


def repeated(chain: Diffusion, x: Tensor, *, draws: str, levels: int, times: int) -> list[Evaluation]:
    return [evaluate(chain, x, levels=levels, draws=draws, seed=seed) for seed in range(times)]


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("levels", [4, 7])
def test_given_the_images_scores_against_the_sweep_are_standard_normal(draws, levels):
    chain, x = ddpm(), images()
    expected, _ = exactly(chain, x)
    results = repeated(chain, x, draws=draws, levels=levels, times=200)
    scores = torch.tensor([(r.elbo.mean - expected) / r.elbo.stderr_estimator for r in results])
    assert kstest(scores.numpy(), "norm").pvalue > 0.02
    assert abs(float(scores.mean())) < 3.0 / math.sqrt(200)
    assert 0.85 < float(scores.var()) < 1.25


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("levels", [1, 3])
def test_every_level_of_the_sweep_is_met(draws, levels):
    chain, x = ddpm(), images()[:50]
    expected, matching = exactly(chain, x)
    results = repeated(chain, x, draws=draws, levels=levels, times=400)
    means = torch.tensor([r.elbo.mean for r in results])
    assert abs(float(means.mean()) - expected) < 3.0 * float(means.std()) / math.sqrt(400)
    columns = torch.tensor([r.matching_per_level for r in results])
    z = (columns.mean(dim=0) - matching) / (columns.std(dim=0) / math.sqrt(400))
    assert z.abs().max() < 4.2
    assert 0.5 < float(z.var()) < 1.9


@pytest.mark.slow
@pytest.mark.parametrize("draws", DRAWS)
def test_intervals_given_the_images_cover(draws):
    chain, x = ddpm(), images()[:128]
    expected, _ = exactly(chain, x)
    results = repeated(chain, x, draws=draws, levels=4, times=1000)
    hits = [abs(r.elbo.mean - expected) < 1.96 * r.elbo.stderr_estimator for r in results]
    assert 0.93 <= sum(hits) / 1000 <= 0.97
    # Without bias: the mean of the stated variances is the variance there is.
    stated = sum(r.elbo.stderr_estimator**2 for r in results) / 1000
    found = sum((r.elbo.mean - expected) ** 2 for r in results) / 1000
    assert stated / found == pytest.approx(1.0, abs=4.0 * math.sqrt(2.0 / 1000))


@pytest.mark.slow
@pytest.mark.parametrize(("draws", "levels"), [(DRAWS[0], 4), (DRAWS[1], 4), (DRAWS[2], 4), (DRAWS[2], 1)])
def test_intervals_over_the_population_cover(draws, levels):
    chain = ddpm()
    expected = expected_terms(chain, data().loc, data().covariance_matrix).total
    torch.manual_seed(8)
    hits = 0
    for seed in range(1000):
        found = evaluate(chain, data().sample((128,)), levels=levels, draws=draws, seed=seed).elbo
        assert (found.stderr_estimator is None) == (levels == 1)
        hits += abs(found.mean - expected) < 1.96 * found.stderr
    assert 0.93 <= hits / 1000 <= 0.97


@pytest.mark.slow
def test_strata_and_importance_have_smaller_errors_for_the_same_calls():
    chain, x = ddpm(), images()
    expected, _ = exactly(chain, x)
    squares = {
        draws: sum(
            (r.elbo.mean - expected) ** 2 for r in repeated(chain, x, draws=draws, levels=4, times=100)
        )
        for draws in DRAWS
    }
    assert squares["low-discrepancy"] < 0.7 * squares["uniform"]
    assert squares["importance"] < 0.7 * squares["low-discrepancy"]


def test_chains_with_other_laws_than_normal_ones_along_the_axes():
    """A chain of one's own, with full covariances."""
    chain = NoisedGaussian(Schedule.linear(6, first=0.1, last=0.6), torch.ones(2), spd(2, 1), off_scale=1.1)
    x = randn(40, 2, seed=5)
    swept = chain.elbo(x, samples=400).total.detach().mean()
    for draws in DRAWS:
        means = torch.tensor([evaluate(chain, x, levels=4, draws=draws, seed=i).elbo.mean for i in range(60)])
        assert abs(float(means.mean() - swept)) < 4.0 * float(means.std()) / math.sqrt(60) + 0.01


@pytest.mark.parametrize("levels", [1, 3, 8, 17])
def test_calls_and_what_is_told(levels, monkeypatch):
    # What is made beside the calls of the bound: two, for two examples.
    monkeypatch.setattr(entrance, "check_chain", lambda *_: None)
    chain, x = ddpm(), images()
    result = evaluate(chain, x, levels=levels)
    replicates = {1: 1, 3: 2, 8: 2, 17: 4}[levels]
    assert result.network_calls_per_image == replicates + levels
    calls = [0]
    chain.network.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    evaluate(chain, x, levels=levels, batch_size=N)
    assert calls[0] == replicates + levels + 1  # the pilot's, in one batch
    assert result.estimator == {
        "name": "sampled",
        "draws": "importance",
        "levels": levels,
        "replicates": replicates,
        "pilot_calls": max(64, min(512, N * (replicates + levels) // 8)),
    }
    assert evaluate(chain, x, levels=levels, draws="uniform").estimator["pilot_calls"] == 0
    assert evaluate(chain, x, levels=levels).elbo == result.elbo


def test_draws_of_a_replicate_are_one_in_each_stratum():
    plan = SampledLevelsBound(6, "low-discrepancy").grouped(64 * 16)
    assert (plan.group, plan.replicates) == (16, 2)

    class Places(NoisedGaussian):
        def elbo_at(self, x, place, weight, **options):
            self.place, self.weight = place, weight
            raise StopIteration

    chain = Places(Schedule.linear(6, first=0.1, last=0.6), torch.ones(1), spd(1, 1))
    with pytest.raises(StopIteration):
        plan(chain, torch.zeros(40, 1))
    assert chain.place.shape == (40, 3)
    assert torch.equal((3 * chain.place).long(), torch.arange(3).expand(40, 3))
    # The offsets within a stratum are spread over groups of 16, 16 and the 8 that are left.
    for part in chain.place.split(16):
        for column in (3 * part).frac().T:
            assert torch.equal((column * len(part)).long().sort().values, torch.arange(len(part)))
    torch.testing.assert_close(chain.weight, torch.full((40, 3), 1.0 / 3.0))


def test_proposals():
    place, cost = (torch.arange(8000) + 0.5) / 8000, torch.zeros(8000)
    cost[:1000] = 3.0
    cost[1000:2000:2] = 4.0
    proposal = Proposal.of(place, cost, 8)
    shape = torch.tensor([3.0, 4.0 / math.sqrt(2.0), 0, 0, 0, 0, 0, 0])
    torch.testing.assert_close(proposal.density, 0.2 + 0.8 * shape / shape.mean())
    u = (torch.arange(100_000) + 0.5) / 100_000
    found, density = proposal.at(u)
    assert (found.diff() > 0).all()
    assert 0 <= float(found[0]) < float(found[-1]) < 1
    # ∫ f(s) ds, whatever f is, is the mean of f / density at places drawn from the density.
    for f in (torch.ones_like, torch.square, lambda s: (s > 0.3).double()):
        assert float((f(found) / density).mean()) == pytest.approx(float(f(u).mean()), abs=1e-4)
    for nothing in (torch.zeros(8000), torch.full((8000,), math.inf)):
        assert Proposal.of(place, nothing, 8).density.tolist() == [1.0]


def test_the_error_of_shared_draws_is_told_without_bias():
    """Errors that cancel within groups of 4, as stratified draws' do: each alone would tell too much."""
    torch.manual_seed(1)
    stated, naive, means = [], [], []
    truth = randn(20, seed=9)
    for _ in range(4000):
        noise = torch.randn(5, 4, 3)
        noise = noise - 0.9 * noise.mean(dim=1, keepdim=True)
        totals = truth[:, None] + noise.reshape(20, 3)
        error = DrawError.of(totals, 4)
        stated.append(error.of_sum / 400)
        naive.append(error.of_each / 400)
        means.append(float(totals.mean()))
    exact = 0.1**2 / 3 / 20
    assert sum(stated) / 4000 == pytest.approx(exact, rel=0.03)
    assert float(torch.tensor(means).var()) == pytest.approx(exact, rel=0.1)
    assert sum(naive) / 4000 > 50 * exact
    # Over the population: the spread of what is true, without what the draws add to the single ones.
    over, given = DrawError(error.of_sum, error.of_each).stderrs(totals.mean(dim=1))
    assert given == pytest.approx(math.sqrt(stated[-1]))
    assert over == pytest.approx(float(truth.std()) / math.sqrt(20), rel=0.2)
    one = DrawError.of(totals[:1], 4)
    over, given = one.stderrs(totals[:1].mean(dim=1))
    assert math.isnan(over)
    assert given == math.sqrt(one.of_sum)


def test_mistakes():
    chain, x = ddpm(), images()
    with pytest.raises(ValueError, match="draws is 'sobol'; it must be"):
        evaluate(chain, x, levels=2, draws="sobol")
    with pytest.raises(ValueError, match=r"samples is 2 and levels is 3: .* Leave samples out"):
        evaluate(chain, x, levels=3, samples=2)
    for other in ({"samples": 2}, {"sweep": True}):
        with pytest.raises(ValueError, match=r"draws is uniform and .* Leave draws out"):
            evaluate(chain, x, draws="uniform", **other)
    with pytest.raises(ValueError, match="levels is 0"):
        SampledLevelsBound(0, "uniform").planned(chain, x, seed=0)
