"""Mixtures of discretised logistics: a probability on the levels, its mean and draws, and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ancestral.core.spec import DataSpec
from ancestral.distributions.discretized import DiscretizedLogistic
from ancestral.distributions.mixture import DiscretizedLogisticMixture
from ancestral.parts.likelihoods import DiscretizedLogisticMixtureLikelihood
from ancestral.parts.scaling import Scaling

IMAGE = DataSpec((2, 3, 4), levels=17)


def law(levels: int, *, components: int = 3) -> DiscretizedLogisticMixture:
    torch.manual_seed(0)
    logits, loc = torch.randn(2, 4, components, 3, 5)
    return DiscretizedLogisticMixture(logits, loc, 10.0 ** (2 * torch.rand_like(loc) - 2.5), levels)


def everything(p: DiscretizedLogisticMixture) -> tuple[Tensor, Tensor]:
    """The probabilities of all levels, (levels, n, …), and the levels."""
    levels = p.parts.levels
    values = torch.arange(levels).reshape(-1, 1, 1, 1).expand(levels, 4, 3, 5)
    return torch.stack([p.log_prob_entries(value).exp() for value in values]), values


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_probabilities_sum_to_one_and_give_the_mean(levels):
    p = law(levels)
    probabilities, values = everything(p)
    torch.testing.assert_close(probabilities.sum(dim=0), torch.ones(4, 3, 5))
    mean = (probabilities * values).sum(dim=0)
    # The parts' own means are to 1e-5 of a level.
    torch.testing.assert_close(p.mean, mean, rtol=0, atol=2e-5)


@pytest.mark.usefixtures("float64")
def test_it_is_the_weighted_sum_of_its_parts():
    p = law(17)
    pi, parts = p.log_pi.exp(), p.parts
    x = torch.randint(0, 17, (4, 3, 5))
    terms = [
        pi[:, k] * DiscretizedLogistic(parts.loc[:, k], parts.scale[:, k], 17).log_prob_entries(x).exp()
        for k in range(3)
    ]
    torch.testing.assert_close(p.log_prob_entries(x), torch.stack(terms).sum(dim=0).log())
    torch.testing.assert_close(p.log_prob(x), p.log_prob_entries(x).sum(dim=(1, 2)))
    assert p.batch_shape == (4,)
    assert p.event_shape == (3, 5)


def test_draws_are_of_the_law():
    p = law(5)
    torch.manual_seed(1)
    draws = p.sample((20_000,))
    assert draws.dtype == torch.uint8
    assert draws.shape == (20_000, 4, 3, 5)
    assert p.sample().shape == (4, 3, 5)
    probabilities, _ = everything(p)
    found = torch.stack([(draws == level).float().mean(dim=0) for level in range(5)])
    error = (probabilities * (1 - probabilities) / 20_000).sqrt() + 1e-6
    z = ((found - probabilities) / error)[probabilities > 1e-3]
    assert z.abs().max() < 4.5
    assert 0.8 < float(z.square().mean().sqrt()) < 1.2


def test_far_from_every_part_the_gradient_is_finite():
    logits = torch.zeros(1, 2, 1, requires_grad=True)
    loc = torch.tensor([[[-300.0], [200.0]]], requires_grad=True)
    scale = torch.tensor([[[1e-3], [1e-2]]], requires_grad=True)
    p = DiscretizedLogisticMixture(logits, loc, scale, 256)
    p.log_prob(torch.tensor([[128]])).sum().backward()
    for leaf in (logits, loc, scale):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
    assert float(loc.grad.abs().sum()) > 0


def test_the_likelihood_reads_the_output_in_blocks():
    scaling = Scaling(IMAGE)
    likelihood = DiscretizedLogisticMixtureLikelihood(IMAGE, scaling, components=3, value=0.4)
    out = torch.randn(5, 2 * likelihood.per_entry, 3, 4)
    logits, means, log_scales = out.unflatten(1, (3, 3, 2)).unbind(dim=1)
    spread = torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1, 1)
    scale = 0.4 * torch.exp(8.0 * torch.tanh(log_scales / 8.0))
    expected = DiscretizedLogisticMixture(logits, means + spread, scale, 17)
    x = torch.randint(0, 17, (5, 2, 3, 4), dtype=torch.uint8)
    torch.testing.assert_close(likelihood(out).log_prob(x), expected.log_prob(x))
    torch.testing.assert_close(likelihood(out.flatten(1)).log_prob(x), expected.log_prob(x))
    assert likelihood.discrete
    assert likelihood(out).sample().shape == x.shape
    assert likelihood(out.bfloat16()).log_prob(x).dtype == torch.float32


def test_it_fits_two_modes_that_one_logistic_cannot():
    """Half of the pixels 0 and half 253: the entropy is ln 2, and one logistic stays far above it."""
    spec = DataSpec((1, 1, 1), levels=256)
    x = torch.tensor([0, 253]).reshape(2, 1, 1, 1)
    torch.manual_seed(0)
    likelihood = DiscretizedLogisticMixtureLikelihood(spec, Scaling(spec), components=2)
    out = torch.zeros(1, 6, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([out], lr=0.05)
    for _ in range(1500):
        loss = -likelihood(out.expand(2, -1, -1, -1)).log_prob(x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) == pytest.approx(0.6931, abs=0.01)


def test_wrong_options_are_refused():
    vectors = DataSpec((3,))
    with pytest.raises(ValueError, match="a logistic-mixture likelihood on real-valued data"):
        DiscretizedLogisticMixtureLikelihood(vectors, Scaling(vectors))
    with pytest.raises(ValueError, match="components is 1; it must be"):
        DiscretizedLogisticMixtureLikelihood(IMAGE, Scaling(IMAGE), components=1)
