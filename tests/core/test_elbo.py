"""The bound's terms and units, and how the losses re-weight them: openly, and never the bound itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ancestral.core.elbo import Elbo
from ancestral.objectives import NegativeElbo

pytestmark = pytest.mark.usefixtures("float64")


def elbo(*, discrete: bool = True, grad: bool = False) -> Elbo:
    """Three examples of a chain with T = 3; level means 0.4, 3.0 (matching) and 1.0 (prior)."""
    return Elbo(
        reconstruction=torch.tensor([10.0, 20.0, 33.0], requires_grad=grad),
        matching=torch.tensor([[0.2, 1.0], [0.4, 3.0], [0.6, 5.0]], requires_grad=grad),
        prior=torch.tensor([2.0, -1.0, 2.0], requires_grad=grad),
        dims=5,
        discrete=discrete,
    )


def test_the_total_is_minus_the_sum_of_the_costs():
    torch.testing.assert_close(elbo().total, torch.tensor([-13.2, -22.4, -40.6]))


def test_bits_per_dim():
    torch.testing.assert_close(
        elbo().bits_per_dim, torch.tensor([13.2, 22.4, 40.6]) / (5 * math.log(2.0)), rtol=1e-15, atol=0
    )
    # 8 bits for each of the 5 entries of uniform bytes.
    uniform = Elbo(torch.tensor([5 * math.log(256.0)]), torch.zeros(1, 0), torch.zeros(1), 5, True)
    assert float(uniform.bits_per_dim) == pytest.approx(8.0)
    with pytest.raises(ValueError, match=r"bits_per_dim of a density.*Use `total`"):
        _ = elbo(discrete=False).bits_per_dim


def test_detach():
    kept = elbo(grad=True)
    assert kept.total.requires_grad
    free = kept.detach()
    assert not free.total.requires_grad
    assert torch.equal(free.total, kept.total)
    assert (free.dims, free.discrete) == (5, True)


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        (NegativeElbo(), 21.0 + 0.4 + 3.0 + 1.0),
        (NegativeElbo(beta=0.0), 21.0),
        (NegativeElbo(beta=2.5), 21.0 + 2.5 * 4.4),
        (NegativeElbo(free_bits=0.5), 21.0 + 0.5 + 3.0 + 1.0),
        (NegativeElbo(free_bits=2.0), 21.0 + 2.0 + 3.0 + 2.0),
        (NegativeElbo(beta=0.1, free_bits=2.0), 21.0 + 0.1 * (2.0 + 3.0 + 2.0)),
        (NegativeElbo(free_bits=100.0), 21.0 + 300.0),
    ],
)
def test_loss_values(objective, value):
    loss = objective.weighted(elbo())
    assert float(loss.value) == pytest.approx(value)
    # What is reported is the terms themselves, whatever their weights.
    reported = {name: float(term) for name, term in loss.terms.items()}
    assert reported == pytest.approx({"reconstruction": 21.0, "matching": 3.4, "prior": 1.0})


@pytest.mark.parametrize(
    ("weight", "balance", "value"),
    [
        (1.0, False, 21.0 + 4.4),
        (0.25, False, 21.0 + 0.25 * 4.4),
        (1.0, True, 21.0 + 4.4),
        # Each level's mean, times its share of them all: KL_t (KL_t + 0.01) / mean(KL + 0.01).
        (0.25, True, 21.0 + 0.25 * (0.4 * 0.41 + 3.0 * 3.01 + 1.0 * 1.01) / ((4.4 + 0.03) / 3)),
    ],
)
def test_loss_values_in_a_warm_up(weight, balance, value):
    objective = NegativeElbo(kl_warmup=20, kl_balance=balance)
    objective.at_step(round(20 * weight) - 1)
    loss = objective.weighted(elbo())
    assert float(loss.value) == pytest.approx(value)
    reported = {name: float(term) for name, term in loss.terms.items()}
    assert reported == pytest.approx({"reconstruction": 21.0, "matching": 3.4, "prior": 1.0})


def test_weights_of_a_warm_up():
    objective, found = NegativeElbo(kl_warmup=4), []
    # Before the first step it is as after the warm-up.
    assert float(objective.weighted(elbo()).value) == pytest.approx(25.4)
    step_of = objective.step
    for step in range(6):
        objective.at_step(step)
        found.append((float(objective.weighted(elbo()).value) - 21.0) / 4.4)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0], rel=1e-5)
    # It is changed in place, so that a compiled step sees it.
    assert objective.step is step_of
    plain = NegativeElbo()
    plain.at_step(0)
    assert plain.step is None


def test_no_gradient_goes_through_the_balance():
    bound = elbo(grad=True)
    objective = NegativeElbo(kl_warmup=4, kl_balance=True)
    objective.at_step(1)
    objective.weighted(bound).value.backward()
    share = 0.5 * torch.tensor([0.41, 3.01]) / (4.43 / 3) / 3
    torch.testing.assert_close(bound.matching.grad, share.expand(3, 2))


def test_balancing_needs_a_warm_up():
    with pytest.raises(ValueError, match="balancing ends with the warm-up"):
        NegativeElbo(kl_balance=True)


def gradients(objective: NegativeElbo) -> tuple[Tensor, ...]:
    bound = elbo(grad=True)
    objective.weighted(bound).value.backward()
    return bound.reconstruction.grad, bound.matching.grad, bound.prior.grad


def test_a_level_below_its_free_bits_has_no_gradient():
    """Of the batch mean of a level (Kingma et al. 2016, eq. 15), not of each example."""
    reconstruction, matching, prior = gradients(NegativeElbo(beta=2.0, free_bits=1.5))
    third = torch.full((3,), 1 / 3)
    torch.testing.assert_close(reconstruction, third)
    torch.testing.assert_close(matching, torch.stack([0 * third, 2 * third], dim=1))
    torch.testing.assert_close(prior, 0 * third)


def test_the_plain_loss_is_minus_the_mean_bound():
    bound = elbo()
    assert float(NegativeElbo().weighted(bound).value) == pytest.approx(-float(bound.total.mean()))
    assert not any(term.requires_grad for term in NegativeElbo().weighted(elbo(grad=True)).terms.values())


def test_names():
    assert NegativeElbo().name == "negative ELBO"
    assert NegativeElbo(kl_warmup=9).name == "negative ELBO, re-weighted (KL warm-up over 9 steps)"
    assert "balanced KL warm-up" in NegativeElbo(kl_warmup=9, kl_balance=True).name
    assert NegativeElbo(beta=0.5).name == "negative ELBO, re-weighted (beta = 0.5)"
    assert (
        NegativeElbo(beta=2.0, free_bits=0.1).name
        == "negative ELBO, re-weighted (beta = 2, free bits = 0.1 nats)"
    )


def test_negative_weights_are_refused():
    with pytest.raises(ValueError, match="beta is -1; it must be"):
        NegativeElbo(beta=-1.0)
    with pytest.raises(ValueError, match=r"free_bits is -0\.1"):
        NegativeElbo(free_bits=-0.1)
    with pytest.raises(ValueError, match="beta is nan"):
        NegativeElbo(beta=math.nan)
