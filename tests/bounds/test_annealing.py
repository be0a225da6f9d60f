"""Annealed importance sampling: closed forms, bounds from both sides, transitions that leave p as it is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ancestral.bounds import Annealing
from ancestral.bounds.ais import _steps, annealed, both_ways
from ancestral.bounds.hmc import Tempered, latent_shapes, transition
from ancestral.config import HVAEConfig, LikelihoodConfig
from ancestral.core.chain import Chain
from ancestral.core.spec import DataSpec
from ancestral.core.walk import log_joint
from ancestral.distributions import DiagonalNormal
from ancestral.evaluation import bidirectional, evaluate
from ancestral.evaluation.bidirectional import simulated
from ancestral.experiments.build import build_chain
from bit_vae import BitVAE, by_quadrature
from linear_gaussian import LinearVAE
from toys import Affine, BottomUpGaussian, Joint, TopDownGaussian, randn

pytestmark = pytest.mark.usefixtures("float64")


def chain() -> LinearVAE:
    """A posterior far from the prior: importance sampling from the prior is off by many nats."""
    return LinearVAE(2.0 * randn(3, 2, seed=1), 0.4)


def test_the_schedule_is_a_sigmoid_from_0_to_1():
    for M in (1, 2, 7, 1000):
        betas = torch.tensor(Annealing(M).betas())
        assert len(betas) == M + 1
        assert (betas[0], betas[-1]) == (0.0, 1.0)
        assert (betas.diff() > 0).all()
        torch.testing.assert_close(betas + betas.flip(0), torch.ones(M + 1))
    steps = torch.tensor(Annealing(100).betas()).diff()
    # The slope of σ at 0 and at 4: ¼ against 0.0177.
    assert float(steps[50] / steps[0]) == pytest.approx(0.25 / 0.0177, rel=0.06)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_a_transition_leaves_its_distribution_as_it_is(beta):
    """From exact draws of p(z) p(x|z)^β, which is Gaussian here: means and covariances stay."""
    vae = chain()
    x = vae.law.sample((1,))
    tempered = torch.eye(2) + beta * (vae.precision - torch.eye(2))
    covariance = torch.linalg.inv(tempered)
    mean = covariance @ (beta * vae.weight.detach().T @ x[0] / vae.noise**2)
    root = torch.linalg.cholesky(covariance)
    law = Tempered(vae, x)
    state = law.at([mean + torch.randn(40_000, 2) @ root.T])
    step = torch.full((40_000,), 0.8 * float(covariance.diag().min().sqrt()))
    chances = []
    for _ in range(3):
        state, chance = transition(law, state, beta=beta, step=step, leapfrog=3)
        chances.append(float(chance.mean()))
    # It must be able to fail: some moves are refused.
    assert all(0.5 < chance < 0.99 for chance in chances)
    white = torch.linalg.solve_triangular(root, (state.z - mean).T, upper=False)
    assert white.mean(dim=1).abs().max() < 4.5 / 200
    assert (torch.cov(white) - torch.eye(2)).abs().max() < 4.5 * 2**0.5 / 200
    torch.testing.assert_close(state.log_likelihood, log_joint(vae, x, [state.z])[1].detach())


def test_trajectories_that_leave_the_numbers_are_refused():
    vae = chain()
    law = Tempered(vae, vae.law.sample((5,)))
    before = law.draw(2)
    after, chance = transition(law, before, beta=1.0, step=torch.full((10,), 1e200), leapfrog=5)
    assert (chance == 0).all()
    assert torch.equal(after.z, before.z)
    assert torch.equal(after.log_likelihood, before.log_likelihood)


def test_weights_are_unbiased_and_tighten_with_more_temperatures():
    vae = chain()
    x = vae.law.sample((400,))
    exact = vae.law.log_prob(x)
    gaps = []
    for M in (1, 4, 16, 64):
        found = annealed(vae, x, chains=4, options=Annealing(M, 5))
        assert found.log_weights.shape == (400, 4)
        assert found.log_weights.dtype == torch.float64
        ratios = (found.log_weights - exact[:, None]).exp().mean(dim=1)
        if M >= 16:
            assert abs(float(ratios.mean()) - 1.0) < 4 * float(ratios.std()) / math.sqrt(len(x))
            assert float(ratios.std()) / math.sqrt(len(x)) < 0.1
        gaps.append(float((found.log_weights - exact[:, None]).mean()))
    assert gaps[0] < gaps[1] - 1.0 < gaps[2] - 1.0 < gaps[3] - 1.0
    assert -1.0 < gaps[-1] < 0.0


def test_it_agrees_with_the_closed_form_within_errors():
    vae = chain()
    x = vae.law.sample((200,))
    result = evaluate(vae, x, bound="ais", samples=8, annealing=Annealing(200, 5))
    gap = result.tighter.curve.best - vae.law.log_prob(x)
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(len(x)) + 0.01
    assert float(gap.std()) < 0.3
    assert result.tighter.curve.counts == (1, 2, 5, 8)
    report = result.json()["log_likelihood"]
    assert (report["bound"], report["samples"]) == ("ais", 8)
    assert (report["temperatures"], report["leapfrog"]) == (200, 5)
    assert 0.5 < report["acceptance"] < 0.8


def test_step_sizes_are_found_for_each_example_and_temperature():
    """They shrink from the prior to the posterior, and moves are accepted as often as is asked for."""
    vae = chain()
    x = vae.law.sample((50,))
    for wanted in (0.5, 0.8):
        found = annealed(vae, x, chains=4, options=Annealing(150, 5, wanted))
        assert float(found.acceptance.mean()) == pytest.approx(wanted, abs=0.06)
    steps = _steps(Tempered(vae, x), Annealing(150, 5), chains=4)
    assert steps.shape == (151, 50)
    # The posterior is narrower than the prior by about this.
    assert float((steps[-1] / steps[0]).mean()) < 0.6


@pytest.mark.parametrize("kind", [TopDownGaussian, BottomUpGaussian])
def test_all_latents_of_a_hierarchy_are_led_together(kind):
    middle = Affine(torch.tensor([[0.8]]), torch.tensor([0.3]), torch.tensor([[0.4]]))
    joint = Joint(2, torch.zeros(1), torch.eye(1)).extend(1, [2], middle)
    joint = joint.extend(0, [1], Affine(torch.ones(2, 1), torch.zeros(2), 0.2 * torch.eye(2)))
    model = kind(joint, 2)
    x = joint.marginal(0)(torch.zeros(30, 0)).sample()
    exact = joint.marginal(0)(torch.zeros(30, 0)).log_prob(x)
    found = annealed(model, x, chains=6, options=Annealing(40, 3))
    gap = torch.logsumexp(found.log_weights, dim=1) - math.log(6) - exact
    assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(30) + 0.05
    assert float(gap.std()) < 0.6


def test_a_ladder_in_single_precision(monkeypatch):
    """Its latents have shapes, its prior a stream; weights are summed in float64 all the same."""
    torch.set_default_dtype(torch.float32)
    config = HVAEConfig(levels=2, latent_dims=(2, 1), width=8, likelihood=LikelihoodConfig(value=1.0))
    model = build_chain(config, DataSpec((2,), 3), train=torch.randint(0, 3, (20, 2), dtype=torch.uint8))
    x = torch.tensor([[0, 0], [1, 2], [2, 1]], dtype=torch.uint8)
    result = evaluate(model, x, bound="ais", samples=40, annealing=Annealing(20, 4))
    weighed = evaluate(model, x, bound="iwae", samples=4000)
    assert result.tighter.curve.values.dtype == torch.float64
    torch.testing.assert_close(result.tighter.curve.best, weighed.tighter.curve.best, atol=0.1, rtol=0)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


def test_bits_by_quadrature():
    model = BitVAE()
    x = torch.tensor(list(itertools.product((0, 1), repeat=3)), dtype=torch.uint8)
    exact = by_quadrature(model, x)
    found = annealed(model, x, chains=300, options=Annealing(10, 4))
    best = torch.logsumexp(found.log_weights, dim=1) - math.log(300)
    torch.testing.assert_close(best, exact, atol=0.1, rtol=0)
    simulation = bidirectional(model, 300, chains=2, options=Annealing(20, 4))
    entropy = -float((exact.exp() * exact).sum())
    spread = math.sqrt(float((exact.exp() * exact.square()).sum()) - entropy**2) / math.sqrt(300)
    assert simulation.lower.mean - 4 * spread < -entropy < simulation.upper.mean + 4 * spread


def test_both_ways_bracket_the_closed_form():
    """In expectation, on the same examples; the gap closes as temperatures are added."""
    vae = chain()
    x, (z,) = simulated(vae, 500)
    exact = vae.law.log_prob(x)
    widths = []
    for M in (4, 16, 64):
        up, down = both_ways(vae, x, [z], chains=2, options=Annealing(M, 4))
        lower = torch.logsumexp(up, dim=1) - math.log(2) - exact
        upper = math.log(2) - torch.logsumexp(-down, dim=1) - exact
        for side, sign in ((lower, -1.0), (upper, 1.0)):
            assert sign * float(side.mean()) > -4 * float(side.std()) / math.sqrt(len(x))
        assert float(upper.mean()) > 0 > float(lower.mean())
        # 1/w has the mean 1/p(x).
        if M == 64:
            ratios = (exact[:, None] - down).exp().mean(dim=1)
            assert abs(float(ratios.mean()) - 1.0) < 4 * float(ratios.std()) / math.sqrt(len(x))
        widths.append(float(upper.mean() - lower.mean()))
    assert widths[0] > 2 * widths[1] > 4 * widths[2] > 0


def test_simulated_data_come_with_their_latents():
    vae = chain()
    x, (z,) = simulated(vae, 50_000)
    torch.testing.assert_close(torch.cov(x.T), vae.law.covariance_matrix, atol=0.25, rtol=0)
    residual = x - z @ vae.weight.detach().T
    assert float(residual.std()) == pytest.approx(vae.noise, rel=0.02)


def test_the_report_of_both_ways(monkeypatch):
    vae = chain()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    seen: list[tuple[int, int]] = []
    options = Annealing(8, 3)
    both = bidirectional(
        vae, 30, chains=2, options=options, batch_size=20, progress=lambda *state: seen.append(state)
    )
    assert torch.equal(torch.get_rng_state(), before)
    again = bidirectional(vae, 30, chains=2, options=options, batch_size=20)
    assert both.json() == again.json()
    assert both.gap.mean == pytest.approx(both.upper.mean - both.lower.mean)
    assert set(both.json()) == {"n", "lower", "upper", "gap"}
    assert seen[-1] == (30, 30)
    assert vae.training


class Counting(LinearVAE):
    """Notes how many paths are walked at once."""

    most = 0

    def p_step(self, state: Tensor, t: int) -> DiagonalNormal:
        self.most = max(self.most, len(state))
        return super().p_step(state, t)


@pytest.mark.parametrize("rows", [1, 5, 12, 100])
def test_memory_is_bounded_by_a_cap_on_rows(rows):
    vae = Counting(randn(3, 2, seed=1), 0.5)
    vae.looked_at = True
    shares: list[float] = []
    x = vae.law.sample((4,))
    found = annealed(vae, x, chains=9, options=Annealing(3, 2), rows=rows, done=shares.append)
    assert found.log_weights.shape == (4, 9)
    assert found.acceptance.shape == (4,)
    assert vae.most <= rows
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_one_temperature_is_importance_sampling_from_the_prior():
    vae = LinearVAE(0.5 * randn(3, 2, seed=1), 1.0)
    x = vae.law.sample((3,))
    found = annealed(vae, x, chains=20_000, options=Annealing(1))
    best = torch.logsumexp(found.log_weights, dim=1) - math.log(20_000)
    torch.testing.assert_close(best, vae.law.log_prob(x), atol=0.05, rtol=0)
    assert (found.acceptance == 1).all()


class Whole(Chain):
    """A latent that is a whole number."""

    def __init__(self) -> None:
        super().__init__(1, DataSpec((1,)))
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def q_top(self, h: Tensor):
        return self.p_top(len(h))

    def p_top(self, n: int):
        return WholeNumber(n)

    def p_step(self, state: Tensor, t: int) -> DiagonalNormal:
        return DiagonalNormal(state.double(), torch.ones(len(state), 1))


class WholeNumber(torch.distributions.Distribution):
    arg_constraints = {}  # noqa: RUF012

    def __init__(self, n: int) -> None:
        super().__init__(torch.Size([n]), torch.Size([1]), validate_args=False)

    def sample(self, sample_shape=torch.Size()):  # noqa: B008
        return torch.zeros(*self.batch_shape, 1, dtype=torch.long)


def test_mistakes():
    vae, x = chain(), torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"z_1 of this Whole is of type torch.int64; .*needs real latents"):
        annealed(Whole(), torch.zeros(2, 1))
    assert latent_shapes(vae) == [torch.Size([2])]
    for name, value in (("chains", 0), ("rows", 0)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            annealed(vae, x, **{name: value})
    for name, value in (("temperatures", 0), ("leapfrog", 0), ("acceptance", 1), ("acceptance", 0)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            Annealing(**{name: value})
    with pytest.raises(ValueError, match="the number of simulated examples, is 0"):
        bidirectional(vae, 0)
