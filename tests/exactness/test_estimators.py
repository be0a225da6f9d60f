"""Estimates agree with exact values within the standard errors they state, and these are calibrated."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ancestral.bounds import Estimate
from ancestral.evaluation import evaluate
from ancestral.models.diffusion import PARAMETRIZATIONS, Diffusion
from ancestral.models.diffusion.schedules import Schedule
from ancestral.objectives import Hybrid, OneLevel, Simple
from gaussian_ddpm import expected_terms, gaussian_ddpm
from toys import Affine, Joint, TopDownGaussian, randn, spd

pytestmark = pytest.mark.usefixtures("float64")

MEAN = [0.4, -0.8]


def ddpm(*, T: int = 5, **options) -> tuple[Diffusion, Tensor, Tensor]:
    """A DDPM of few levels with a network that is off, and the mean and covariance of its data."""
    mean, covariance = torch.tensor(MEAN), spd(2, 2)
    schedule = Schedule.linear(T, first=0.05, last=0.6)
    return gaussian_ddpm(schedule, mean, covariance, off=0.8, **options), mean, covariance


def looks_standard_normal(z: Tensor) -> bool:
    """Mean and spread of m z-scores, within about four of their own errors 1/√m and 1/√(2m)."""
    m = len(z)
    return abs(float(z.mean())) < 4 / math.sqrt(m) and abs(float(z.std()) - 1.0) < 4 / math.sqrt(2 * m) + 0.03


@pytest.mark.parametrize("levels", [1, 4])
@torch.no_grad()
def test_random_levels_state_their_error_for_one_example(levels):
    chain, _, _ = ddpm()
    x = torch.tensor([[1.5, -0.2]])
    expected = expected_terms(chain, x[0], torch.zeros(2, 2)).total
    scores = []
    for _ in range(200):
        estimate = Estimate.of(chain.elbo_sampled(x.expand(400, 2), levels=levels).total)
        scores.append((estimate.mean - expected) / estimate.stderr)
    assert looks_standard_normal(torch.tensor(scores))


@torch.no_grad()
def test_random_levels_agree_with_the_sweep_level_by_level_on_fixed_examples():
    chain, mean, covariance = ddpm()
    x = MultivariateNormal(mean, covariance).sample((16,))
    expected = torch.stack([expected_terms(chain, u, torch.zeros(2, 2)).matching for u in x])
    for levels in (1, 3):
        draws = torch.stack([chain.elbo_sampled(x, levels=levels).matching for _ in range(400)])
        stderr = draws.std(dim=0) / math.sqrt(400)
        scores = ((draws.mean(dim=0) - expected) / stderr).flatten()
        assert scores.abs().max() < 4.5
        assert looks_standard_normal(scores)
        # A level that no t has fallen on costs 0; the others are weighted up.
        share = (draws == 0).double().mean()
        assert abs(float(share) - (3 / 4) ** levels) < 0.01


@torch.no_grad()
def test_more_random_levels_have_smaller_errors():
    chain, mean, covariance = ddpm()
    x = MultivariateNormal(mean, covariance).sample((1,)).expand(20_000, 2)
    spread = [float(chain.elbo_sampled(x, levels=n).matching.sum(dim=1).var()) for n in (1, 4, 16)]
    assert spread[0] / spread[1] == pytest.approx(4.0, rel=0.15)
    assert spread[1] / spread[2] == pytest.approx(4.0, rel=0.15)


@pytest.mark.parametrize("variance", ["posterior", "learned"])
@pytest.mark.parametrize(("n", "T"), [(1, 5), (5, 5), (7, 16)])
@torch.no_grad()
def test_the_vlb_loss_is_minus_the_bound_on_a_fixed_batch(n, T, variance):
    """On one and the same batch, whatever the order of its examples: no example has levels of its own."""
    chain, mean, _ = ddpm(T=T, variance=variance)
    x = torch.linspace(-4.0, 4.0, n)[:, None] + mean
    each = [expected_terms(chain, u, torch.zeros(2, 2)) for u in x]
    objective = OneLevel(chain)
    losses = [objective(chain, x) for _ in range(800)]
    for name, expected in (
        ("value", -sum(terms.total for terms in each) / n),
        ("reconstruction", float(sum(terms.reconstruction for terms in each)) / n),
        ("matching", float(sum(terms.matching.sum() for terms in each)) / n),
        ("prior", float(sum(terms.prior for terms in each)) / n),
    ):
        draws = torch.stack([loss.value if name == "value" else loss.terms[name] for loss in losses])
        stderr = float(draws.std()) / math.sqrt(len(draws))
        assert abs(float(draws.mean()) - expected) < 4 * stderr + 1e-9


@torch.no_grad()
def test_the_vlb_loss_scores_look_standard_normal_on_fresh_data():
    chain, mean, covariance = ddpm()
    data, objective = MultivariateNormal(mean, covariance), OneLevel(chain)
    expected = expected_terms(chain, mean, covariance).total
    draws = torch.stack([-objective(chain, data.sample((64,))).value for _ in range(2000)])
    groups = draws.unflatten(0, (100, 20))
    scores = (groups.mean(dim=1) - expected) / (groups.std(dim=1) / math.sqrt(20))
    # 20 values a group: Student's t, a little wider than normal.
    assert abs(float(scores.mean())) < 4 / math.sqrt(100)
    assert 0.8 < float(scores.std()) < 1.25


@pytest.mark.parametrize("prediction", PARAMETRIZATIONS)
@pytest.mark.parametrize("n", [1, 4])
@torch.no_grad()
def test_the_simple_and_min_snr_losses_have_their_closed_forms(n, prediction):
    x = torch.linspace(-3.0, 3.0, n)[:, None] + torch.tensor(MEAN)
    chain, _, _ = ddpm(prediction=prediction)
    for objective in (Simple(chain), Simple(chain, min_snr=5.0)):
        levels = chain.network.levels
        bar = levels.bar[1:]
        c0 = torch.stack([levels.mean_weights(t)[0] for t in range(1, 6)])
        of_noise = torch.stack(
            [expected_terms(chain, u, torch.zeros(2, 2)).squared_noise_errors for u in x]
        ).mean(dim=0)
        snr = bar / (1.0 - bar)
        of_data = of_noise / snr
        if objective.min_snr is not None:
            per_level = snr.clamp(max=5.0) * of_data
        else:
            per_level = {
                "noise": of_noise,
                "data": of_data,
                "mean": c0**2 * of_data,
                "velocity": of_data / (1.0 - bar),
            }[prediction]
        draws = torch.stack([objective(chain, x).value for _ in range(500)])
        stderr = float(draws.std()) / math.sqrt(500)
        assert abs(float(draws.mean() - per_level.mean())) < 4.5 * stderr


def test_the_hybrid_loss_is_simple_plus_its_share_of_the_vlb():
    x = torch.tensor([[1.0, 2.0], [0.3, -0.4], [-2.0, 0.1]])

    def of(kind: type[OneLevel], **options):
        chain, _, _ = ddpm(**options)
        torch.manual_seed(5)
        return chain, kind(chain)(chain, x)

    chain, hybrid = of(Hybrid, variance="learned")
    _, vlb = of(OneLevel, variance="learned")
    torch.testing.assert_close(
        hybrid.value.detach(), hybrid.terms["simple"] + 0.001 * vlb.value.detach(), rtol=1e-12, atol=0
    )
    assert hybrid.terms["matching"] == vlb.terms["matching"]
    # The mean is held fixed in the second part: the gradient of the gains is that of the simple loss.
    hybrid.value.backward()
    plain, simple = of(Simple)
    simple.value.backward()
    torch.testing.assert_close(chain.network.K.grad, plain.network.K.grad)
    assert plain.network.K.grad.abs().max() > 0.1


def ppca() -> tuple[TopDownGaussian, MultivariateNormal, float]:
    """A linear-Gaussian VAE whose q is 30 % too wide, its data, and its exact expected bound."""
    weight, bias = randn(4, 2, seed=1), randn(4, seed=2)
    joint = Joint(1, torch.zeros(2), torch.eye(2)).extend(0, [1], Affine(weight, bias, 0.3 * torch.eye(4)))
    law = MultivariateNormal(bias, weight @ weight.T + 0.3 * torch.eye(4))
    cost = 1.3**2 - 1.0 - 2.0 * math.log(1.3)  # ½ (s² − 1 − log s²) for each of two dimensions
    return TopDownGaussian(joint, 1, off_scale=1.3), law, -float(law.entropy()) - cost


def calibrated(estimates: list[Estimate], expected: float) -> None:
    means = torch.tensor([estimate.mean for estimate in estimates])
    stderrs = torch.tensor([estimate.stderr for estimate in estimates])
    scores = (means - expected) / stderrs
    assert looks_standard_normal(scores)
    covered = float((scores.abs() < 1.96).double().mean())
    assert abs(covered - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / len(scores))
    # And the stated errors are the spread there is.
    assert float(means.std() / stderrs.mean()) == pytest.approx(
        1.0, abs=4 / math.sqrt(2 * len(scores)) + 0.02
    )


@pytest.mark.parametrize("samples", [1, 3])
def test_the_stated_errors_of_evaluate_are_calibrated_for_a_vae(samples):
    chain, law, expected = ppca()
    calibrated(
        [
            evaluate(chain, law.sample((200,)), samples=samples, seed=i, batch_size=77).elbo
            for i in range(150)
        ],
        expected,
    )


@pytest.mark.parametrize("levels", [None, 1, 5])
def test_the_stated_errors_of_evaluate_are_calibrated_for_a_ddpm(levels):
    chain, mean, covariance = ddpm()
    law = MultivariateNormal(mean, covariance)
    expected = expected_terms(chain, mean, covariance)
    results = [evaluate(chain, law.sample((300,)), levels=levels, seed=i, batch_size=128) for i in range(150)]
    calibrated([result.elbo for result in results], expected.total)
    for part, exact in (
        (torch.tensor([r.reconstruction for r in results]), float(expected.reconstruction)),
        (torch.tensor([r.matching for r in results]), float(expected.matching.sum())),
        (torch.tensor([r.prior for r in results]), float(expected.prior)),
    ):
        assert abs(float(part.mean()) - exact) < 4.5 * float(part.std()) / math.sqrt(150)
    per_level = torch.tensor([r.matching_per_level for r in results])
    stderr = per_level.std(dim=0) / math.sqrt(150)
    assert ((per_level.mean(dim=0) - expected.matching).abs() < 4.5 * stderr).all()
