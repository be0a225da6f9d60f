"""What a user's own chain gets from stating its laws, and what it is told when they are not right."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from ancestral.bounds import log_likelihood
from ancestral.core import entrance
from ancestral.core.chain import BottomUpChain, Chain
from ancestral.core.marginal import MarginalChain
from ancestral.core.spec import DataSpec
from ancestral.core.walk import final_value, generate, infer, sample
from ancestral.distributions import DiagonalNormal
from ancestral.distributions.discretized import DiscretizedNormal
from ancestral.evaluation import evaluate
from ancestral.objectives import NegativeElbo, default_objective
from ancestral.sampling import preview

pytestmark = pytest.mark.usefixtures("float64")


def normal(loc: Tensor, scale: float = 1.0) -> Independent:
    """A plain torch law: a user need not know the library's own."""
    return Independent(Normal(loc, torch.full_like(loc, scale)), 1)


class Mine(Chain):
    """Three levels of a user's own, in torch's own laws, with features of any container."""

    def __init__(self, *, container=lambda x: x, T: int = 3) -> None:
        super().__init__(T, DataSpec((2,)))
        self.gain = nn.Parameter(torch.tensor(0.6))
        self.container = container
        self.calls = 0

    def features(self, x: Tensor):
        self.calls += 1
        return self.container(self.gain * x)

    def read(self, h) -> Tensor:
        while not isinstance(h, Tensor):
            h = h["u"] if isinstance(h, dict) else h[0]
        return h

    def q_top(self, h) -> Independent:
        return normal(self.read(h), 0.8)

    def q_step(self, state: Tensor, h, t: int) -> Independent:
        return normal(0.5 * self.read(h) + 0.1 * t * state, 0.7)

    def p_top(self, n: int) -> Independent:
        return normal(torch.zeros(n, 2))

    def p_step(self, state: Tensor, t: int) -> Independent:
        return normal(self.gain * state + t, 0.9)


class WithoutSteps(Mine):
    q_step = Chain.q_step


class Climbing(BottomUpChain):
    """The same, from the data upwards."""

    def __init__(self, T: int) -> None:
        super().__init__(T, DataSpec((2,)))

    def q_first(self, h: Tensor) -> Independent:
        return normal(0.4 * h)

    def q_up(self, z: Tensor, t: int) -> Independent:
        return normal(0.3 * t * z)

    p_top, p_step = Mine.p_top, lambda self, state, t: normal(state)


@pytest.mark.parametrize("T", [0, -1, 1.0, True, "3"])
def test_a_chain_has_at_least_one_level(T):
    with pytest.raises(ValueError, match=r"T, the number of latent levels, is .*at least 1"):
        Mine(T=T)


def test_a_chain_must_state_its_laws():
    with pytest.raises(TypeError, match="abstract"):
        Chain(1, DataSpec((2,)))
    with pytest.raises(TypeError, match=r"WithoutSteps has T = 3 levels and no q_step.*must define q_step"):
        WithoutSteps().elbo(torch.zeros(4, 2))
    # With one level there is no step to state.
    assert WithoutSteps(T=1).elbo(torch.zeros(4, 2)).matching.shape == (4, 0)


def test_a_bottom_up_chain_has_no_closed_top():
    with pytest.raises(TypeError, match="a bottom-up q has no closed-form q"):
        Climbing(2).q_top(torch.zeros(1, 2))
    x = torch.randn(3, 2)
    torch.testing.assert_close(Climbing(1).q_top(x).mean, 0.4 * x)


@pytest.mark.parametrize(
    "container",
    [lambda u: [u, u], lambda u: (u,), lambda u: {"u": u}, lambda u: [({"u": u}, u), u]],
    ids=["list", "tuple", "dict", "nested"],
)
def test_features_may_be_kept_in_any_container(container):
    x = torch.randn(5, 2)
    for samples in (1, 3):
        chains = Mine(), Mine(container=container)
        values = []
        for chain in chains:
            torch.manual_seed(2)
            values.append(chain.log_weight(x, samples=samples))
        torch.testing.assert_close(values[0], values[1])


def test_features_of_another_type_are_refused_when_they_would_have_to_be_repeated():
    with pytest.raises(TypeError, match=r"features\(\) returned set; it must return a tensor, or a list"):
        Mine(container=lambda u: {u}).log_weight(torch.zeros(5, 2), samples=2)


def test_features_are_computed_once_a_batch():
    chain = Mine()
    entrance.check_chain(chain, torch.zeros(5, 2))
    before = chain.calls
    chain.log_weight(torch.zeros(5, 2), samples=50)
    assert chain.calls == before + 1
    chain.elbo(torch.zeros(5, 2), samples=3)
    assert chain.calls == before + 2


def test_several_samples_are_averages_of_paths_of_the_same_example():
    chain, x = Mine(), torch.tensor([[0.0, 0.0], [50.0, -50.0]])
    for samples in (1, 4):
        torch.manual_seed(0)
        mean = chain.elbo(x, samples=samples)
        torch.manual_seed(0)
        each = chain.elbo(x.repeat_interleave(samples, dim=0))
        for name in ("reconstruction", "matching", "prior"):
            expected = getattr(each, name).unflatten(0, (2, samples)).mean(dim=1)
            torch.testing.assert_close(getattr(mean, name), expected)
    assert chain.log_weight(x, samples=6).shape == (2, 6)
    for method in (chain.elbo, chain.log_weight):
        with pytest.raises(ValueError, match="samples is 0; it must be at least 1"):
            method(x, samples=0)


def test_a_path_by_hand():
    """The terms of one path, from its own links: KLs with both laws given the level above."""
    chain, x = Mine(), torch.randn(4, 2)
    torch.manual_seed(3)
    links = {link.t: link for link in infer(chain, x)}
    assert list(links) == [3, 2, 1, 0]
    z = {t: link.value for t, link in links.items()}
    assert torch.equal(z[0], x)
    h = 0.6 * x
    prior = kl_divergence(normal(h, 0.8), normal(torch.zeros(4, 2)))
    matching = [
        kl_divergence(normal(0.5 * h + 0.1 * t * z[t], 0.7), normal(0.6 * z[t] + t, 0.9)) for t in (2, 3)
    ]
    reconstruction = -normal(0.6 * z[1] + 1, 0.9).log_prob(x)
    torch.manual_seed(3)
    elbo = chain.elbo(x)
    torch.testing.assert_close(elbo.prior, prior)
    torch.testing.assert_close(elbo.matching, torch.stack(matching, dim=1))
    torch.testing.assert_close(elbo.reconstruction, reconstruction)
    assert (elbo.dims, elbo.discrete) == (2, False)
    ratio = normal(torch.zeros(4, 2)).log_prob(z[3]) - normal(h, 0.8).log_prob(z[3]) - reconstruction
    for t in (2, 3):
        ratio = ratio + normal(0.6 * z[t] + t, 0.9).log_prob(z[t - 1])
        ratio = ratio - normal(0.5 * h + 0.1 * t * z[t], 0.7).log_prob(z[t - 1])
    torch.manual_seed(3)
    torch.testing.assert_close(chain.log_weight(x)[:, 0], ratio)


def test_a_bottom_up_path_by_hand():
    chain, x = Climbing(3), torch.randn(4, 2)
    torch.manual_seed(3)
    links = {link.t: link for link in infer(chain, x)}
    assert list(links) == [3, 2, 1, 0]
    z = {t: link.value for t, link in links.items()}
    torch.manual_seed(3)
    elbo = chain.elbo(x)
    means = {1: 0.4 * x, 2: 0.6 * z[1], 3: 0.9 * z[2]}
    for t in (1, 2):
        cost = normal(means[t]).log_prob(z[t]) - normal(z[t + 1]).log_prob(z[t])
        torch.testing.assert_close(elbo.matching[:, t - 1], cost)
    torch.testing.assert_close(elbo.prior, kl_divergence(normal(means[3]), normal(torch.zeros(4, 2))))
    torch.testing.assert_close(elbo.reconstruction, -normal(z[1]).log_prob(x))


def test_the_training_loss_is_the_reweighted_bound_of_its_samples():
    x = torch.randn(6, 2)
    for samples, weights in itertools.product((1, 5), ({}, {"beta": 3.0, "free_bits": 4.0})):
        chain, objective = Mine(), NegativeElbo(samples, **weights)
        torch.manual_seed(1)
        loss = objective(chain, x)
        torch.manual_seed(1)
        elbo = chain.elbo(x, samples=samples)
        torch.testing.assert_close(loss.value, objective.weighted(elbo).value)
        # The bound that is reported knows nothing of the weights.
        torch.testing.assert_close(sum(loss.terms.values()), -elbo.total.mean().detach())
    with pytest.raises(ValueError, match="samples is 0"):
        NegativeElbo(0)


@torch.no_grad()
def test_more_training_samples_leave_the_mean_and_lower_the_spread():
    x = torch.randn(1, 2).expand(4000, 2)
    one, many = Mine().elbo(x).total, Mine().elbo(x, samples=16).total
    assert float(one.var() / many.var()) == pytest.approx(16.0, rel=0.2)
    assert abs(float(one.mean() - many.mean())) < 5 * float(one.std()) / 60


def test_ancestral_sampling():
    chain = Mine()
    torch.manual_seed(0)
    states = list(generate(chain, 5, sample))
    assert [t for t, _ in states] == [3, 2, 1, 0]
    z1 = states[-2][1]
    torch.manual_seed(0)
    torch.testing.assert_close(chain.sample(5, final="mean"), (0.6 * z1 + 1).detach())
    drawn = chain.sample(20_000)
    assert drawn.shape == (20_000, 2)
    assert not drawn.requires_grad
    mean, variance = 0.0, 1.0
    for t in (3, 2, 1):
        mean, variance = 0.6 * mean + t, 0.36 * variance + 0.81
    torch.testing.assert_close(drawn.mean(dim=0), torch.full((2,), mean), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.var(dim=0), torch.full((2,), variance), atol=0.08, rtol=0)
    torch.manual_seed(0)
    # A preview is the mean of p(x|z_1) for chains that take no few steps.
    torch.testing.assert_close(preview(chain, 5, seed=3), preview(chain, 5, seed=3), rtol=0, atol=0)
    wide = preview(chain, 20_000, seed=3)
    assert wide.shape == (20_000, 2)
    torch.testing.assert_close(wide.var(dim=0), torch.full((2,), variance - 0.81), atol=0.08, rtol=0)
    with pytest.raises(ValueError, match=r"final is 'means'.*must be one of draw, mean.*Did you mean 'mean'"):
        chain.sample(5, final="means")
    for n in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"n is {n}"):
            chain.sample(n)


def test_final_value():
    law = DiscretizedNormal(torch.zeros(2, 3), torch.full((2, 3), 0.5), 8)
    assert final_value(law, "draw").dtype == torch.uint8
    torch.testing.assert_close(final_value(law, "mean"), torch.full((2, 3), 3.5))


def test_a_users_chain_is_evaluated_like_any_other():
    for chain in (Mine(), Mine(T=1)):
        x = chain.sample(300)
        result = evaluate(chain, x, bound="iwae", samples=50)
        assert result.elbo.mean < result.log_likelihood.mean
        assert len(result.matching_per_level) == chain.T - 1
        # The tighter the more draws, and the truth above: here p(x) is Gaussian.
        assert log_likelihood(chain, x, samples=400).mean() > result.elbo.mean


def test_a_density_is_not_discrete_whatever_the_data_are():
    assert not Mine().discrete
    chain = Mine()
    chain.spec = DataSpec((2,), levels=4)
    assert not chain.discrete


def test_a_marginal_chain_with_one_level():
    class One(MarginalChain):
        def q_marginal(self, h: Tensor, t: Tensor) -> DiagonalNormal:
            return DiagonalNormal(h, torch.ones_like(h))

        def q_top(self, h: Tensor) -> DiagonalNormal:
            return DiagonalNormal(h, torch.ones_like(h))

        def p_top(self, n: int) -> DiagonalNormal:
            return DiagonalNormal(torch.zeros(n, 2), torch.ones(n, 2))

        def p_step(self, state: Tensor, t) -> DiagonalNormal:
            return DiagonalNormal(state, torch.ones_like(state))

    chain, x = One(1, DataSpec((2,))), torch.randn(4, 2)
    for elbo in (chain.elbo(x), chain.elbo_sampled(x), chain.elbo_sampled(x, levels=5)):
        assert elbo.matching.shape == (4, 0)
        torch.testing.assert_close(elbo.prior, 0.5 * x.square().sum(dim=1))
    torch.manual_seed(0)
    loss = default_objective(chain)(chain, x)
    torch.manual_seed(0)
    assert float(loss.value) == pytest.approx(-float(chain.elbo(x).total.mean()))
    for levels in (0, 1.5):
        with pytest.raises(ValueError, match=f"levels is {levels}"):
            chain.elbo_sampled(x, levels=levels)
