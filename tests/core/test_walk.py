"""The two walks along a chain: how values are chosen, what is carried from level to level, and what follows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import Independent, Normal, kl_divergence

from ancestral._internal.randomness import GeneratorNoise, RowNoise
from ancestral.bounds import PathBound
from ancestral.core.batch import Batch
from ancestral.core.chain import BottomUpChain, Chain
from ancestral.core.spec import DataSpec
from ancestral.core.walk import (
    Choose,
    State,
    can_redraw,
    condition_of,
    draw,
    elbo_terms,
    final_value,
    generate,
    generated,
    given,
    has_closed_kl,
    infer,
    latent_of,
    log_joint,
    log_weight,
    noise,
    redraw,
    sample,
    temperature,
)
from ancestral.distributions import Bernoulli, DiagonalNormal, FullNormal, standard_normal
from ancestral.distributions.flow import FlowNormal, NormalizingFlow
from ancestral.models import LadderHVAE
from ancestral.models.diffusion import Diffusion
from ancestral.models.diffusion.schedules import Schedule
from ancestral.objectives import DReG, Few, Iwae, NegativeElbo, OneLevel
from ancestral.parts.priors import GaussianMixturePrior
from ancestral.parts.scaling import Scaling
from tiny import MODELS, built, images
from weighted import TINY, tiny, toy

pytestmark = pytest.mark.usefixtures("float64")


def normal(loc: Tensor, scale: float = 1.0) -> DiagonalNormal:
    return DiagonalNormal(loc, torch.full_like(loc, scale))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Down(Chain):
    """Three levels, drawn from the top."""

    def __init__(self, T: int = 3) -> None:
        super().__init__(T, DataSpec((2,)))
        self.gain = nn.Parameter(torch.tensor(0.6))

    def q_top(self, h: Tensor) -> DiagonalNormal:
        return normal(self.gain * h, 0.8)

    def q_step(self, state: Tensor, h: Tensor, t: int) -> DiagonalNormal:
        return normal(0.5 * h + 0.1 * t * self.gain * state, 0.7)

    def p_top(self, n: int) -> DiagonalNormal:
        return normal(torch.zeros(n, 2), 2.0)

    def p_step(self, state: Tensor, t: int) -> DiagonalNormal:
        return normal(self.gain * state + t, 0.9)


class Up(BottomUpChain):
    """Three levels, drawn from the data."""

    def __init__(self, T: int = 3) -> None:
        super().__init__(T, DataSpec((2,)))
        self.gain = nn.Parameter(torch.tensor(0.6))

    def q_first(self, h: Tensor) -> DiagonalNormal:
        return normal(self.gain * h, 0.8)

    def q_up(self, z: Tensor, t: int) -> DiagonalNormal:
        return normal(0.3 * t * self.gain * z, 0.7)

    p_top, p_step = Down.p_top, Down.p_step


CHAINS = {"down": Down, "up": Up}
each_chain = pytest.mark.parametrize("kind", CHAINS.values(), ids=CHAINS.keys())


def latents(chain: Chain, x: Tensor, choose: Choose) -> list[Tensor]:
    """z_1 … z_T."""
    return [link.value for link in infer(chain, x, choose=choose)][:-1][::-1]


# Ways to choose -------------------------------------------------------------------------------------------


@each_chain
def test_draw_has_gradients_and_sample_has_none(kind):
    chain, x = kind(), torch.randn(4, 2)
    torch.manual_seed(1)
    drawn = latents(chain, x, draw)
    torch.manual_seed(1)
    sampled = latents(chain, x, sample)
    assert len(drawn) == 3
    for a, b in zip(drawn, sampled, strict=True):
        assert torch.equal(a, b)
        assert a.requires_grad
        assert not b.requires_grad


@each_chain
def test_given_latents_are_taken_as_they_are(kind):
    chain, x = kind(), torch.randn(4, 2)
    z = [torch.randn(4, 2) for _ in range(3)]
    links = list(infer(chain, x, choose=given(z)))
    assert [link.t for link in links] == [3, 2, 1, 0]
    assert all(link.value is value for link, value in zip(links, [*z[::-1], x], strict=True))
    # Both distributions are those at these latents.
    for link in links[1:]:
        torch.testing.assert_close(link.p.mean, chain.gain * z[link.t] + link.t + 1)
    if kind is Down:
        torch.testing.assert_close(links[1].q.mean, 0.5 * x + 0.3 * chain.gain * z[2])
    else:
        torch.testing.assert_close(links[0].q.mean, 0.9 * chain.gain * z[1])


@each_chain
def test_a_redrawn_path_is_the_path_with_its_gradient(kind):
    chain, x = kind(), torch.randn(4, 2)
    torch.manual_seed(1)
    path = latents(chain, x, draw)
    again = latents(chain, x, redraw([z.detach() for z in path]))
    for a, b in zip(path, again, strict=True):
        torch.testing.assert_close(a, b)
        ours, theirs = (torch.autograd.grad(z.square().sum(), chain.gain, retain_graph=True) for z in (b, a))
        torch.testing.assert_close(ours, theirs)


def test_what_can_be_redrawn():
    around = standard_normal(2, (3,), torch.zeros(1))
    assert can_redraw(around)
    assert can_redraw(FullNormal(torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3)))
    assert not can_redraw(FlowNormal(around, NormalizingFlow("iaf", 3, 1), torch.zeros(2, 1)))
    assert not can_redraw(Independent(Normal(torch.zeros(2, 3), 1.0), 1))


SOURCES: dict[str, Callable[[int], Any]] = {
    "generator": lambda seed: GeneratorNoise(generator(seed)),
    "rows": lambda seed: RowNoise(seed, 0, 4),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
@each_chain
def test_noise_decides_all_draws(kind, source):
    chain, x = kind(), torch.randn(4, 2)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    first, again, other = (latents(chain, x, noise(source(seed))) for seed in (5, 5, 6))
    walked, same = (generated(chain, 4, noise(source(5)))[0] for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert not a.requires_grad
        assert a.dtype == torch.float64
    assert all(torch.equal(a, b) for a, b in zip(walked, same, strict=True))


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_noise_draws_from_other_peoples_distributions_too(source):
    """From torch's generators, which are given back."""
    gumbel = Independent(td.Gumbel(torch.zeros(4, 2), torch.ones(4, 2)), 1)
    torch.manual_seed(9)
    before = torch.get_rng_state()
    first, again, other = (noise(source(seed))(1, gumbel) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_rows_noise_does_not_depend_on_the_other_rows():
    chain = Down()
    whole, _ = generated(chain, 6, noise(RowNoise(3, 0, 6)))
    parts = [generated(chain, n, noise(RowNoise(3, first, n)))[0] for first, n in ((0, 1), (1, 3), (4, 2))]
    for t in range(3):
        assert torch.equal(torch.cat([part[t] for part in parts]), whole[t])
    # The rows differ, and so do the levels.
    assert len(whole[0][:, 0].unique()) == 6
    assert not torch.allclose(whole[2] / 2.0, (whole[1] - 0.6 * whole[2] - 3.0) / 0.9)


@pytest.mark.parametrize("source", [*SOURCES.values(), None], ids=[*SOURCES.keys(), "global"])
def test_noise_has_the_distribution_that_is_sampled(source):
    n = 4000
    choose = sample if source is None else noise(RowNoise(1, 0, n))
    if source is SOURCES["generator"]:
        choose = noise(source(1))
    normals = choose(1, DiagonalNormal(torch.tensor([[1.0, -2.0]]).expand(n, 2), torch.tensor([[0.5, 3.0]])))
    torch.testing.assert_close(normals.mean(dim=0), torch.tensor([1.0, -2.0]), atol=0.2, rtol=0)
    torch.testing.assert_close(normals.std(dim=0), torch.tensor([0.5, 3.0]), atol=0, rtol=0.05)
    factor = torch.tensor([[1.0, 0.0], [0.8, 0.5]])
    full = choose(1, FullNormal(torch.zeros(n, 2), factor.expand(n, 2, 2)))
    torch.testing.assert_close(torch.cov(full.T), factor @ factor.T, atol=0.08, rtol=0)
    bits = choose(0, Bernoulli(torch.tensor([[0.0, 1.5]]).expand(n, 2)))
    assert bits.dtype == torch.uint8
    share = torch.sigmoid(torch.tensor([0.0, 1.5]))
    torch.testing.assert_close(bits.double().mean(dim=0), share, atol=0.03, rtol=0)


@each_chain
def test_temperature(kind):
    chain, x = kind(), torch.randn(4, 2)
    paths = {}
    for scale in (0.0, 0.5, 1.0):
        torch.manual_seed(2)
        paths[scale] = latents(chain, x, temperature(scale, draw))
    torch.manual_seed(2)
    plain = latents(chain, x, draw)
    for a, b in zip(paths[1.0], plain, strict=True):
        torch.testing.assert_close(a, b)
    # At 0 each latent is its mean, and by halves half as far from it; in z drawn first that is plain to see.
    first = 0 if kind is Up else -1
    mean = chain.gain * x
    torch.testing.assert_close(paths[0.0][first], mean)
    torch.testing.assert_close(paths[0.5][first] - mean, 0.5 * (plain[first] - mean))
    links = list(infer(chain, x, choose=temperature(0.0)))
    assert all(torch.equal(link.value, link.q.mean) for link in links[:-1])
    with pytest.raises(ValueError, match="the temperature is -1"):
        temperature(-1.0)


def test_temperature_of_generated_samples():
    torch.manual_seed(0)
    z = generated(Down(), 20_000, temperature(0.5))[0]
    torch.testing.assert_close(z[2].std(dim=0), torch.ones(2), atol=0.02, rtol=0)
    variance = 0.36 * 1.0 + 0.25 * 0.81
    torch.testing.assert_close(z[1].var(dim=0), torch.full((2,), variance), atol=0.02, rtol=0)


# What is carried ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sum:
    z: Tensor
    above: Tensor
    """Of all latents from here up."""


class Carrying(Up):
    """A bottom-up chain whose p conditions on all latents above."""

    def __init__(self) -> None:
        super().__init__()
        self.carried: list[int] = []

    def carry(self, state: Sum | None, z: Tensor, t: int) -> Sum:
        self.carried.append(t)
        assert (state is None) == (t == self.T)
        return Sum(z, z if state is None else state.above + z)

    def p_step(self, state: Sum, t: int) -> DiagonalNormal:
        return normal(state.z + 0.5 * state.above, 0.9)


def test_bottom_up_chains_carry_too():
    chain, x = Carrying(), torch.randn(4, 2)
    links = {link.t: link for link in infer(chain, x)}
    assert chain.carried == [3, 2, 1]
    z = {t: link.value for t, link in links.items()}
    above = {3: z[3], 2: z[3] + z[2], 1: z[3] + z[2] + z[1]}
    for t in (0, 1, 2):
        torch.testing.assert_close(links[t].p.mean, z[t + 1] + 0.5 * above[t + 1])
    chain.carried.clear()
    torch.manual_seed(4)
    walked = dict(generate(chain, 5))
    assert chain.carried == [3, 2, 1]
    last = walked[0]
    torch.testing.assert_close(last.mean, walked[1] + 0.5 * (walked[1] + walked[2] + walked[3]))
    # log p of a path by both walks, from the sums by hand.
    prior = normal(torch.zeros(4, 2), 2.0).log_prob(z[3])
    for t in (1, 2):
        prior = prior + normal(z[t + 1] + 0.5 * above[t + 1], 0.9).log_prob(z[t])
    found = log_joint(chain, x, [z[1], z[2], z[3]])
    torch.testing.assert_close(found[0], prior)
    torch.testing.assert_close(found[1], normal(z[1] + 0.5 * above[1], 0.9).log_prob(x))


ALL: dict[str, Callable[[], tuple[Chain, Tensor]]] = {
    "down": lambda: (Down(), torch.randn(5, 2)),
    "up": lambda: (Up(), torch.randn(5, 2)),
    "carrying": lambda: (Carrying(), torch.randn(5, 2)),
    "gaussian": lambda: (toy("TopDownGaussian", off_scale=1.2)[0], torch.randn(5, 4)),
    "gaussian, bottom-up": lambda: (toy("BottomUpGaussian", off_scale=1.2)[0], torch.randn(5, 4)),
    **{f"a tiny {name}": partial(tiny, config) for name, config in TINY.items()},
}


@pytest.mark.parametrize("name", ALL)
def test_log_joint_is_the_sum_over_links(name):
    chain, x = ALL[name]()
    # Without dropout, as the chain is walked twice.
    links = list(infer(chain.eval(), x))
    z = [link.value for link in links[:-1]][::-1]
    prior, likelihood = log_joint(chain, x, z)
    torch.testing.assert_close(prior, sum(link.p.log_prob(link.value) for link in links[:-1]))
    torch.testing.assert_close(likelihood, links[-1].log_ratio())
    log_q = sum(link.log_q() for link in links[:-1])
    torch.testing.assert_close(prior + likelihood - log_q, sum(link.log_ratio() for link in links))
    # The same path once more by its latents, and each example's row by itself.
    again = sum(link.log_ratio() for link in infer(chain, x, choose=given(z)))
    torch.testing.assert_close(again, prior + likelihood - log_q)
    alone = log_joint(chain, x[2:3], [v[2:3] for v in z])
    torch.testing.assert_close(torch.cat(alone), torch.stack([prior[2], likelihood[2]]))
    # Several latents for each example stand one after another.
    doubled = [v.repeat_interleave(2, dim=0) for v in z]
    torch.testing.assert_close(log_joint(chain, x, doubled)[1], likelihood.repeat_interleave(2))


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_terms_of_the_bound_have_the_mean_of_the_log_ratios(name):
    """Closed-form KLs and log-ratios agree on average, level by level."""
    chain, x = ALL[name]()
    x = x[:1]
    n, sums = 4000, []
    for link in infer(chain, x.expand(n, *x.shape[1:])):
        difference = link.term() + link.log_ratio()
        if link.t == 0:
            torch.testing.assert_close(link.term(), -link.log_ratio())
            continue
        spread = float(difference.std()) / math.sqrt(n)
        assert abs(float(difference.mean())) < 4.5 * spread + 1e-9
        sums.append(spread)
    assert len(sums) == chain.T
    assert log_weight(chain, x, samples=7).shape == (1, 7)
    terms = elbo_terms(chain, x, samples=3)
    assert set(terms) == set(range(chain.T + 1))
    assert all(term.shape == (1, 3) for term in terms.values())


# Generation -----------------------------------------------------------------------------------------------


@each_chain
def test_generation_may_start_below_the_top(kind):
    chain, z = kind(), torch.randn(4, 2)
    torch.manual_seed(3)
    walked = list(generate(chain, 4, start=(2, z)))
    assert [t for t, _ in walked] == [2, 1, 0]
    assert walked[0][1] is z
    torch.manual_seed(3)
    z1 = chain.p_step(z, 2).sample()
    assert torch.equal(walked[1][1], z1)
    torch.testing.assert_close(walked[2][1].mean, chain.p_step(z1, 1).mean)
    bottom = list(generate(chain, 4, start=(1, z)))
    assert [t for t, _ in bottom] == [1, 0]
    torch.testing.assert_close(bottom[1][1].mean, chain.p_step(z, 1).mean)
    # From the top it is the walk that was begun there.
    torch.manual_seed(3)
    whole = list(generate(chain, 4))
    torch.manual_seed(3)
    top = chain.p_top(4).sample()
    rest = list(generate(chain, 4, start=(3, top)))
    assert all(torch.equal(a[1], b[1]) for a, b in zip(whole[:-1], rest[:-1], strict=True))


def test_generated_latents_are_in_rising_order_and_the_end_is_left_to_the_caller():
    chain = Down()
    torch.manual_seed(3)
    walked = dict(generate(chain, 4))
    torch.manual_seed(3)
    z, last = generated(chain, 4)
    assert all(torch.equal(z[t - 1], walked[t]) for t in (1, 2, 3))
    assert torch.equal(final_value(last, "mean"), last.mean)
    assert torch.equal(final_value(last, "draw", noise(RowNoise(1, 0, 4))), RowNoise(1, 0, 4).sample(last))
    with pytest.raises(ValueError, match="final is 'means'"):
        final_value(last, "means")


def test_sampling_does_not_evaluate_p_of_inference():
    class Costly(Down):
        asked = 0

        def p_step(self, state: Tensor, t: int) -> DiagonalNormal:
            self.asked += 1
            return super().p_step(state, t)

    chain = Costly()
    links = list(infer(chain, torch.randn(4, 2)))
    assert chain.asked == 0
    links[1].log_ratio()
    assert chain.asked == 1


# Conditions -----------------------------------------------------------------------------------------------


class Conditional(Down):
    """Every distribution is moved by the class of its example."""

    conditional = True

    def features(self, x: Tensor, condition: Tensor) -> Tensor:
        return x + condition[:, None]

    def p_top(self, n: int, condition: Tensor) -> DiagonalNormal:
        assert len(condition) == n
        return normal(condition[:, None].expand(n, 2), 2.0)

    def q_step(self, state: State, h: Tensor, t: int) -> DiagonalNormal:
        return normal(0.5 * h + 0.1 * t * self.gain * latent_of(state) - condition_of(state)[:, None], 0.7)

    def p_step(self, state: State, t: int) -> DiagonalNormal:
        return normal(self.gain * latent_of(state) + t * condition_of(state)[:, None], 0.9)


class ConditionalUp(Up):
    """The same for p of a bottom-up chain; q knows the class by its features."""

    conditional = True
    features, p_top, p_step = Conditional.features, Conditional.p_top, Conditional.p_step


@pytest.mark.parametrize("kind", [Conditional, ConditionalUp])
def test_conditions_reach_every_distribution(kind):
    chain, x, y = kind(), torch.randn(4, 2), torch.tensor([0.0, 1.0, 5.0, -2.0])
    links = {link.t: link for link in infer(chain, x, condition=y)}
    z, moved = {t: link.value for t, link in links.items()}, y[:, None]
    torch.testing.assert_close(links[3].p.mean, moved.expand(4, 2))
    for t in (0, 1, 2):
        torch.testing.assert_close(links[t].p.mean, chain.gain * z[t + 1] + (t + 1) * moved)
    if kind is Conditional:
        torch.testing.assert_close(links[3].q.mean, chain.gain * (x + moved))
        for t in (1, 2):
            torch.testing.assert_close(
                links[t].q.mean, 0.5 * (x + moved) + 0.1 * (t + 1) * chain.gain * z[t + 1] - moved
            )
    else:
        torch.testing.assert_close(links[1].q.mean, chain.gain * (x + moved))
    prior, likelihood = log_joint(chain, x, [z[1], z[2], z[3]], condition=y)
    torch.testing.assert_close(prior, sum(links[t].p.log_prob(z[t]) for t in (1, 2, 3)))
    torch.testing.assert_close(likelihood, links[0].log_ratio())
    walked = dict(generate(chain, 4, condition=y))
    torch.testing.assert_close(walked[0].mean, chain.gain * walked[1] + moved)
    begun = dict(generate(chain, 4, condition=y, start=(2, z[2])))
    assert begun.keys() == {2, 1, 0}
    torch.testing.assert_close(begun[0].mean, chain.gain * begun[1] + moved)


@pytest.mark.parametrize("kind", [Conditional, ConditionalUp])
def test_each_path_of_an_example_has_its_condition(kind):
    chain, x, y = kind(), torch.randn(3, 2), torch.tensor([0.0, 1.0, 5.0])
    xs, ys = x.repeat_interleave(4, dim=0), y.repeat_interleave(4)
    torch.manual_seed(1)
    several = log_weight(chain, x, samples=4, condition=y)
    torch.manual_seed(1)
    torch.testing.assert_close(several.flatten(), log_weight(chain, xs, condition=ys)[:, 0])
    torch.manual_seed(1)
    terms = elbo_terms(chain, x, samples=4, condition=y)
    torch.manual_seed(1)
    torch.testing.assert_close(chain.elbo(x, samples=4, condition=y).total, -sum(terms.values()).mean(dim=1))
    # Objectives and bounds take it from the batch.
    batch = Batch(x, y)
    torch.manual_seed(1)
    found = PathBound(4)(chain, batch)
    torch.testing.assert_close(found.nats, -sum(terms.values()).mean(dim=1))
    torch.manual_seed(1)
    torch.testing.assert_close(NegativeElbo(4)(chain, batch).value, sum(terms.values()).mean())
    expected = -(several.logsumexp(dim=1) - math.log(4)).mean()
    for objective in (Iwae(4), DReG(4), Few(Iwae(4), backward=2), Few(DReG(4), backward=2)):
        torch.manual_seed(1)
        loss = objective(chain, batch)
        torch.testing.assert_close(loss.value, expected)
        loss.value.backward()


def test_a_ladder_keeps_the_condition_beside_its_stream():
    class Named(LadderHVAE):
        def features(self, x: Tensor, condition: Tensor) -> list[Tensor]:
            return super().features(x)

        def p_top(self, n: int, condition: Tensor) -> DiagonalNormal:
            return super().p_top(n)

        def carry(self, state: State | None, z: Tensor, t: int) -> State:
            seen.append(condition_of(state))
            below = super().carry(state, z, t)
            assert condition_of(below) is y
            return below

    data = images()
    chain, x, y, seen = built(MODELS["ladder"], data).double(), data.train.x[:3], torch.arange(3), []
    plain = [link.log_ratio() for link in infer(chain, x, choose=noise(RowNoise(0, 0, 3)))]
    chain.__class__ = Named
    found = [link.log_ratio() for link in infer(chain, x, choose=noise(RowNoise(0, 0, 3)), condition=y)]
    assert all(one is y for one in seen)
    assert len(seen) == chain.T
    torch.testing.assert_close(found, plain)


def test_a_diffusion_model_tells_its_network_the_condition():
    class Told(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, z: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
            told.append(condition)
            return self.scale * z * (0.1 if condition is None else condition[:, None])

    class Classes(Diffusion):
        conditional = True

    told: list[Tensor | None] = []
    schedule = Schedule.linear(4, first=0.1, last=0.6)
    chain, y = Classes(Told(), schedule, scaling=Scaling(DataSpec((2,)))), torch.tensor([0.5, 1.0, 2.0])
    x = torch.randn(3, 2)
    for link in infer(chain, x, condition=y):
        link.log_ratio()
    assert len(told) == 4
    assert all(torch.equal(one, y) for one in told)
    told.clear()
    walked = dict(generate(chain, 3, condition=y))
    assert all(torch.equal(one, y) for one in told)
    torch.testing.assert_close(walked[0].mean, chain.p_step(State(walked[1], y), 1).mean)
    assert not torch.allclose(walked[0].mean, chain.p_step(walked[1], 1).mean)
    told.clear()
    OneLevel(chain).loss(chain, Batch(x, y)).value.backward()
    assert [one is y or torch.equal(one, y) for one in told] == [True]
    told.clear()
    chain.elbo_of(x, samples=2, condition=y)
    assert all(torch.equal(one, y.repeat_interleave(2)) for one in told)


# Closed-form KLs ------------------------------------------------------------------------------------------


def test_a_closed_kl_depends_on_both_distributions():
    diagonal = standard_normal(2, (3,), torch.zeros(1))
    full = FullNormal(torch.zeros(2, 3), torch.eye(3).expand(2, 3, 3))
    flow = FlowNormal(diagonal, NormalizingFlow("iaf", 3, 1), torch.zeros(2, 1))
    mixture = GaussianMixturePrior((3,), components=2)(2)
    theirs = Independent(Normal(torch.zeros(2, 3), 1.0), 1)
    peer = td.MultivariateNormal(torch.zeros(2, 3), torch.eye(3))
    mixed = td.MixtureSameFamily(
        td.Categorical(torch.ones(2, 2)), Independent(Normal(torch.zeros(2, 2, 3), 1.0), 1)
    )
    everything = [diagonal, full, flow, mixture, theirs, peer, mixed]
    closed = {(diagonal, diagonal), (full, diagonal), (theirs, theirs), (peer, peer)}
    for q in everything:
        for p in everything:
            assert has_closed_kl(q, p) == ((q, p) in closed), (q, p)
            if (q, p) in closed:
                assert kl_divergence(q, p).shape == (2,)


def test_a_kl_of_torchs_that_is_registered_and_not_there():
    """torch's general rules for exponential families and transformed distributions do not hold for all pairs."""
    gamma, beta = td.Gamma(torch.ones(2), torch.ones(2)), td.Beta(torch.ones(2), torch.ones(2))
    bernoulli, gaussian = td.Bernoulli(0.5 * torch.ones(2)), Normal(torch.zeros(2), 1.0)
    logarithmic = td.LogNormal(torch.zeros(2), torch.ones(2))
    moved = td.TransformedDistribution(gaussian, [td.AffineTransform(1.0, 2.0)])
    bent = td.TransformedDistribution(gaussian, [td.TanhTransform()])
    ones = [gamma, beta, bernoulli, gaussian, logarithmic, moved, bent]
    for q in ones:
        for p in ones:
            try:
                kl_divergence(q, p)
            except NotImplementedError:
                assert not has_closed_kl(q, p), (q, p)
            else:
                assert has_closed_kl(q, p), (q, p)


def test_a_term_without_a_closed_kl_is_the_log_ratio():
    class Mixed(Down):
        def __init__(self) -> None:
            super().__init__(T=1)
            self.prior = GaussianMixturePrior((2,), components=3)

        def p_top(self, n: int):
            return self.prior(n)

    chain, x = Mixed(), torch.randn(4, 2)
    top = next(iter(infer(chain, x)))
    torch.testing.assert_close(top.term(), -top.log_ratio())
    torch.testing.assert_close(top.term(), top.q.log_prob(top.value) - chain.prior(4).log_prob(top.value))
    plain = next(iter(infer(Down(T=1), x)))
    torch.testing.assert_close(plain.term(), kl_divergence(plain.q, plain.p))
    # And an upward q has none but at the top, whatever its distributions are.
    above, *between, _ = infer(Up(), x)
    torch.testing.assert_close(above.term(), kl_divergence(above.q, above.p))
    for link in between:
        torch.testing.assert_close(link.term(), -link.log_ratio())


# Levels as integers and as tensors -----------------------------------------------------------------------


class Linear(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 2 * outputs)

    def forward(self, z: Tensor, time: Tensor) -> Tensor:
        return self.inner(torch.cat([z, time[:, None]], dim=1))


@pytest.mark.parametrize("levels", [None, 4])
def test_a_step_takes_a_level_or_one_for_each_example(levels):
    chain = Diffusion(Linear(1), Schedule.cosine(6), scaling=Scaling(DataSpec((2,), levels)))
    z = torch.randn(3, 2)
    x = torch.randint(0, levels, (3, 2)) if levels else torch.randn(3, 2)
    for t in range(1, 7):
        one, each = chain.p_step(z, t), chain.p_step(z, torch.full((3,), t))
        assert type(one) is type(each)
        value = x if t == 1 else z
        torch.testing.assert_close(one.log_prob(value), each.log_prob(value), rtol=1e-12, atol=1e-12)
    mixed = chain.p_step(z, torch.tensor([2, 6, 3]))
    for i, t in enumerate((2, 6, 3)):
        torch.testing.assert_close(mixed.mean[i], chain.p_step(z[i : i + 1], t).mean[0])
    with pytest.raises(ValueError, match=r"a tensor of 3 levels of which 1 are 1: .* the two separately"):
        chain.p_step(z, torch.tensor([2, 1, 3]))
