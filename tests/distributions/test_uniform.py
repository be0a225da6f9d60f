"""A share of the uniform distribution: a probability on the grey levels with a floor, its mean and its draws."""

from __future__ import annotations

import math

import pytest
import torch

from ancestral.core.spec import DataSpec
from ancestral.distributions.discretized import (
    DiscretizedLogistic,
    DiscretizedNormal,
    WithUniform,
    with_uniform,
)
from ancestral.distributions.mixture import DiscretizedLogisticMixture
from ancestral.parts.likelihoods import (
    DiscretizedGaussianLikelihood,
    DiscretizedLogisticLikelihood,
    DiscretizedLogisticMixtureLikelihood,
)
from ancestral.parts.scaling import Scaling

LEVELS = 17


def sharp(kind: str) -> DiscretizedLogistic | DiscretizedNormal | DiscretizedLogisticMixture:
    """Narrow distributions, (5, 3)."""
    torch.manual_seed(0)
    loc, scale = torch.rand(5, 3) * 2 - 1, torch.full((5, 3), 1e-3)
    if kind == "mixture":
        return DiscretizedLogisticMixture(
            torch.zeros(5, 2, 3), loc[:, None].expand(5, 2, 3), scale[:, None], LEVELS
        )
    return (DiscretizedNormal if kind == "normal" else DiscretizedLogistic)(loc, scale, LEVELS)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", ["logistic", "normal", "mixture"])
def test_a_probability_with_a_floor(kind):
    p = WithUniform(sharp(kind), 0.1, LEVELS)
    assert (p.batch_shape, p.event_shape) == ((5,), (3,))
    values = torch.arange(LEVELS).reshape(-1, 1, 1).expand(LEVELS, 5, 3)
    probabilities = torch.stack([p.log_prob_entries(value).exp() for value in values])
    torch.testing.assert_close(probabilities.sum(dim=0), torch.ones(5, 3))
    assert float(probabilities.min()) == pytest.approx(0.1 / LEVELS)
    torch.testing.assert_close(p.mean, (probabilities * values).sum(dim=0), rtol=0, atol=3e-5)
    assert float(p.log_prob(values[0])[0]) == pytest.approx(float(probabilities[0, 0].log().sum()))


def test_draws_have_the_probabilities():
    p = WithUniform(DiscretizedLogistic(torch.full((1, 1), -0.25), torch.full((1, 1), 0.05), 5), 0.3, 5)
    torch.manual_seed(1)
    draws = p.sample((40_000,)).flatten()
    assert draws.dtype == torch.uint8
    found = torch.bincount(draws.long(), minlength=5) / len(draws)
    values = torch.arange(5).reshape(-1, 1, 1)
    expected = torch.stack([p.log_prob_entries(value).exp() for value in values]).flatten()
    assert float((found - expected).abs().max()) < 4 * math.sqrt(0.25 / len(draws))


def test_no_share_is_no_mixture():
    part = sharp("logistic")
    assert with_uniform(part, 0.0, LEVELS) is part


@pytest.mark.parametrize(
    "kind",
    [DiscretizedGaussianLikelihood, DiscretizedLogisticLikelihood, DiscretizedLogisticMixtureLikelihood],
)
def test_likelihoods_take_a_share(kind):
    spec = DataSpec((1, 2, 2), levels=LEVELS)
    likelihood = kind(spec, Scaling(spec), uniform=0.01)
    out = 50.0 * torch.randn(6, likelihood.per_entry, 2, 2)
    x = torch.randint(0, LEVELS, (6, 1, 2, 2))
    assert float(likelihood(out).log_prob(x).min()) >= 4 * math.log(0.01 / LEVELS)
    with pytest.raises(ValueError, match="uniform is 1"):
        kind(spec, Scaling(spec), uniform=1.0)
