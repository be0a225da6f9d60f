"""Importance-weighted objectives against closed forms; DReG's gradient against its formula and IWAE's."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ancestral.bounds import log_likelihood
from ancestral.core.chain import Chain
from ancestral.core.features import repeat_features
from ancestral.core.walk import given, infer, log_joint
from ancestral.objectives import DReG, Iwae, Loss
from ancestral.training.memory import recompute_blocks
from tiny import MODELS, images, vectors
from weighted import TINY, each_toy, gradient, tiny, toy

pytestmark = pytest.mark.usefixtures("float64")


@each_toy
def test_at_the_exact_posterior_each_draw_is_log_p_and_leaves_q_alone(name):
    chain, data = toy(name)
    x = data.sample((5,)) + 0.5
    for k in (1, 7):
        for loss in (Iwae(k)(chain, x), DReG(k)(chain, x)):
            torch.testing.assert_close(loss.value, -data.log_prob(x).mean(), atol=1e-9, rtol=0)
            torch.testing.assert_close(loss.terms["effective_draws"], torch.tensor(float(k)))
        assert gradient(chain, DReG(k)(chain, x)).abs().max() < 1e-9
        assert gradient(chain, Iwae(k)(chain, x)).abs().max() > 1e-3
    wrong, _ = toy(name, off_scale=1.1)
    assert gradient(wrong, DReG(7)(wrong, x)).abs().max() > 1e-3


@each_toy
@torch.no_grad()
def test_the_bound_rises_with_k_to_log_p(name):
    chain, data = toy(name, off_mean=0.8, off_scale=1.5)
    x = data.mean[None] + 1.0
    rows, before = 4000, (-math.inf, 0.0)
    for k in (1, 2, 5, 20, 100):
        bound = chain.log_weight(x.expand(rows, -1), samples=k).logsumexp(dim=1) - math.log(k)
        mean, error = float(bound.mean()), float(bound.std()) / math.sqrt(rows)
        assert mean - before[0] > 3 * math.hypot(error, before[1])
        assert mean < float(data.log_prob(x)) + 3 * error
        torch.manual_seed(k)
        loss = -Iwae(k)(chain, x.expand(5, -1)).value
        torch.manual_seed(k)
        torch.testing.assert_close(loss, log_likelihood(chain, x.expand(5, -1), samples=k).mean())
        before = (mean, error)
    assert abs(mean - float(data.log_prob(x))) < 0.02


@pytest.mark.parametrize("model", TINY.values(), ids=TINY.keys())
def test_both_have_the_same_value_and_terms_for_the_same_draws(model):
    chain, x = tiny(model)
    losses = []
    for objective in (Iwae(6), DReG(6)):
        torch.manual_seed(3)
        losses.append(objective(chain, x))
    ours, theirs = losses
    torch.testing.assert_close(ours.value, theirs.value)
    torch.testing.assert_close(ours.terms, theirs.terms)
    torch.manual_seed(3)
    weight = chain.log_weight(x, samples=6)
    terms = [ours.terms[name] for name in ("reconstruction", "matching", "prior")]
    torch.testing.assert_close(sum(terms), -weight.mean().detach())
    share = weight.softmax(dim=1)
    torch.testing.assert_close(ours.terms["effective_draws"], (1.0 / (share**2).sum(dim=1)).mean().detach())


def by_formula(chain: Chain, x: Tensor, *, samples: int) -> Tensor:
    """DReG's gradient as it is written, with a second chain whose parameters are fixed."""
    fixed = copy.deepcopy(chain).requires_grad_(False)
    xs, h = x.repeat_interleave(samples, dim=0), repeat_features(chain.features(x), samples)
    live = {link.t: link.value for link in infer(chain, xs, h) if link.t > 0}
    z = [live[t].detach().requires_grad_() for t in range(1, chain.T + 1)]
    log_weight = sum(log_joint(fixed, xs, z)) - sum(
        link.log_q() for link in infer(fixed, xs, choose=given(z)) if link.q is not None
    )
    share = log_weight.detach().unflatten(0, (len(x), samples)).softmax(dim=1).flatten()
    slopes = torch.autograd.grad(log_weight.sum(), z)
    of_p = (share * sum(log_joint(chain, xs, [v.detach() for v in z]))).sum()
    of_q = sum(
        (share.reshape(-1, *[1] * (slope.ndim - 1)) ** 2 * slope * live[t]).sum()
        for t, slope in enumerate(slopes, 1)
    )
    return gradient(chain, Loss(-(of_p + of_q) / len(x)))


CASES = {name: (model, vectors()) for name, model in TINY.items()} | {
    f"{name} on images": (replace(MODELS[name], dropout=0.0), images()) for name in ("bottom-up", "ladder")
}


@pytest.mark.parametrize(("model", "data"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradient_is_the_formula(model, data, recompute):
    chain, x = tiny(model, data)
    recompute_blocks(chain.train(), recompute)
    torch.manual_seed(3)
    expected = by_formula(chain, x, samples=5)
    torch.manual_seed(3)
    ours = gradient(chain, DReG(5)(chain, x))
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-10)
    # Whatever the loss is multiplied by, the gradient is too.
    torch.manual_seed(3)
    scaled = gradient(chain, Loss(DReG(5)(chain, x).value / 64))
    torch.testing.assert_close(64 * scaled, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("model", TINY.values(), ids=TINY.keys())
def test_both_gradients_have_the_same_mean(model):
    chain, x = tiny(model)
    xs = x.repeat(100, 1)
    differences = torch.stack(
        [gradient(chain, DReG(3)(chain, xs)) - gradient(chain, Iwae(3)(chain, xs)) for _ in range(120)]
    )
    z = differences.mean(dim=0) / (differences.std(dim=0) / math.sqrt(len(differences)) + 1e-12)
    assert float(z.abs().max()) < 5.0
    assert float(z.square().mean()) < 2.0


@each_toy
def test_with_many_draws_dreg_has_far_less_noise_in_q(name):
    chain, data = toy(name, off_mean=0.9, off_scale=1.2)
    x = data.sample((1,)).expand(20, -1)
    noise = []
    for objective in (DReG(100), Iwae(100)):
        draws = torch.stack([gradient(chain, objective(chain, x)) for _ in range(30)])
        noise.append(draws.std(dim=0))
    assert (20.0 * noise[0] < noise[1]).all()
