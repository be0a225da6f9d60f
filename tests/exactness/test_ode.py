"""The likelihood of the probability-flow ODE: with the exact score it is the data's own."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ancestral.bounds import Estimate, OdeBound, Solver
from ancestral.bounds.flow import log_density
from ancestral.core import entrance
from ancestral.evaluation.ode import evaluate_ode
from ancestral.models.diffusion.flow import ProbabilityFlow
from ancestral.models.diffusion.schedules import Schedule
from exact_score import Mixture, exact_ddpm
from gaussian_ddpm import gaussian_ddpm
from toys import NoisedGaussian, randn, spd

pytestmark = pytest.mark.usefixtures("float64")

TIGHT = Solver(rtol=1e-7, atol=1e-7)
FIRST = 3.0


def gaussian(D: int) -> Mixture:
    return Mixture(torch.ones(1), randn(1, D, seed=1), spd(D, 2)[None])


def three(D: int = 2) -> Mixture:
    """Three well separated parts, of different shapes."""
    covariances = torch.stack([0.1 * spd(D, seed) for seed in (3, 4, 5)])
    return Mixture(torch.tensor([0.5, 0.3, 0.2]), 1.5 * randn(3, D, seed=6), covariances)


def log_linear(T: int = 30) -> Schedule:
    return Schedule.log_linear(T, first=FIRST, last=-30.0)


MIXTURES = {"gaussian": lambda: gaussian(3), "mixture": three}


@pytest.mark.parametrize("kind", MIXTURES)
@pytest.mark.parametrize("prediction", ["noise", "data", "velocity"])
def test_with_the_exact_score_it_is_the_density_of_the_data(kind, prediction):
    mixture = MIXTURES[kind]()
    chain = exact_ddpm(mixture, log_linear(), prediction=prediction)
    torch.manual_seed(1)
    z = 1.3 * mixture.noised(FIRST).sample((20,))  # beyond what is typical, too
    found = log_density(ProbabilityFlow(chain), z, chain.p_top(20), solver=TIGHT)
    exact = mixture.noised(FIRST).log_prob(z)
    assert found.by_probe.shape == (20, 1)
    assert found.variance is None
    assert float((found.mean - exact).abs().max()) < 1e-4 * z.shape[1]
    # Far from what its noise alone would say.
    assert float((chain.p_top(20).log_prob(z) - exact).abs().max()) > 0.5


@pytest.mark.parametrize("schedule", [Schedule.cosine(60), Schedule.linear(60)], ids=repr)
def test_any_schedule_gives_the_same(schedule):
    """Where log-SNR does not fall in equal steps, times between levels are interpolated in it."""
    mixture = three()
    chain = exact_ddpm(mixture, schedule, prediction="velocity")
    first = float(schedule.log_snr[0])
    torch.manual_seed(1)
    z = mixture.noised(first).sample((10,))
    found = log_density(ProbabilityFlow(chain), z, chain.p_top(10), solver=TIGHT)
    # What is left of the data at T is not in p(z_T).
    left = math.exp(float(schedule.log_snr[-1]))
    exact = mixture.noised(first).log_prob(z)
    assert float((found.mean - exact).abs().max()) < 1e-4 * 2 + 20.0 * left**0.5


def test_levels_between_levels():
    schedule = Schedule.cosine(20)
    flow = ProbabilityFlow(exact_ddpm(three(), schedule))
    snr = schedule.log_snr
    assert (flow.start, flow.end) == (float(snr[0]), float(snr[-1]))
    for t in range(1, 21):
        assert float(flow.level(snr[t - 1])) == pytest.approx(t, abs=1e-9)
    assert float(flow.level(0.25 * snr[4] + 0.75 * snr[5])) == pytest.approx(5.75)
    assert (float(flow.level(snr[0] + 1.0)), float(flow.level(snr[-1] - 1.0))) == (1.0, 20.0)


def test_looser_tolerances_ask_less_and_err_more():
    mixture = three()
    chain = exact_ddpm(mixture, log_linear())
    torch.manual_seed(2)
    z = mixture.noised(FIRST).sample((10,))
    exact, errors, asked = mixture.noised(FIRST).log_prob(z), [], []
    for tolerance in (1e-2, 1e-4, 1e-6):
        found = log_density(
            ProbabilityFlow(chain), z, chain.p_top(10), solver=Solver(tolerance, tolerance, "exact")
        )
        errors.append(float((found.mean - exact).abs().max()))
        asked.append(found.evaluations)
    assert asked == sorted(asked)
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 0.01


def test_hutchinsons_trace_agrees_with_the_exact_one_within_its_error():
    mixture, n = gaussian(4), 60
    chain = exact_ddpm(mixture, log_linear())
    torch.manual_seed(3)
    z = mixture.noised(FIRST).sample((n,))
    exact = mixture.noised(FIRST).log_prob(z)
    found = log_density(
        ProbabilityFlow(chain), z, chain.p_top(n), solver=Solver(1e-5, 1e-5, "hutchinson", probes=16)
    )
    assert found.by_probe.shape == (n, 16)
    assert float(found.variance.min()) > 1e-6
    scores = (found.mean - exact) / found.variance.sqrt()
    # Student's t of 15 degrees.
    assert abs(float(scores.mean())) < 4.0 / math.sqrt(n)
    assert 0.7 < float(scores.std()) < 1.45
    torch.testing.assert_close(found.variance, found.by_probe.var(dim=1) / 16)


def closed_bound(chain, mixture: Mixture, x: Tensor, draws: int) -> Estimate:
    """The bound on log p(x) for one x, with the density of z_1 in closed form."""
    xs = x.expand(draws, -1)
    q = chain.q_marginal(chain.features(xs), torch.ones(draws, dtype=torch.long))
    z = q.sample()
    with torch.no_grad():
        last = chain.p_step(z, 1).log_prob(xs)
    return Estimate.of(last + mixture.noised(FIRST).log_prob(z) - q.log_prob(z))


def test_real_data_have_the_bound_of_ode_and_last_law():
    """Within its stated error of the same bound without an ODE, and below the model's own density."""
    mixture = gaussian(2)
    chain = exact_ddpm(mixture, log_linear())
    x = torch.tensor([[0.7, -0.4]])
    how = OdeBound(solver=Solver(1e-5, 1e-5))
    found = evaluate_ode(chain, x.expand(800, 2), how, batch_size=300)
    expected = closed_bound(chain, mixture, x, 200_000)
    assert found.json()["estimator"]["trace"] == "exact"
    assert abs(found.bound.mean - expected.mean) < 4.0 * math.hypot(found.bound.stderr, expected.stderr)
    assert found.bits_per_dim is None
    assert found.reconstruction + found.flow + found.dequantisation == pytest.approx(-found.bound.mean)
    # x is a Gaussian of known mean and covariance: z_1 is, and the last law is N(û, β_1) with û linear.
    signal = 1.0 / (1.0 + math.exp(-FIRST))
    noisy = signal * mixture.covariances[0] + (1.0 - signal) * torch.eye(2)
    gain = math.sqrt(signal) * torch.linalg.solve(noisy, mixture.covariances[0]).T
    model = MultivariateNormal(mixture.means[0], gain @ noisy @ gain.T + (1.0 - signal) * torch.eye(2))
    assert found.bound.mean < float(model.log_prob(x[0])) + 4.0 * found.bound.stderr
    assert found.bound.mean > float(model.log_prob(x[0])) - 0.3


def test_integers_have_probabilities_that_sum_to_nearly_one():
    """exp of a bound on log P(x), over all x: at most 1, and near it where the score is exact."""
    shares = torch.tensor([0.1, 0.4, 0.05, 0.25, 0.2])
    points = Mixture(shares, torch.linspace(-1.0, 1.0, 5)[:, None], torch.full((5, 1, 1), 1e-12))
    chain = exact_ddpm(points, Schedule.log_linear(30, first=4.0, last=-30.0), levels=5)
    x = torch.arange(5)[:, None]
    found = [evaluate_ode(chain, one.expand(200, 1), OdeBound(solver=Solver(1e-4, 1e-4))) for one in x]
    bounds = torch.tensor([each.bound.mean for each in found])
    assert 0.9 < float(bounds.exp().sum()) < 1.001
    assert float((bounds.exp() - shares).abs().max()) < 0.03
    assert found[0].bits_per_dim.mean == pytest.approx(-found[0].bound.mean / math.log(2.0))


def test_several_draws_tell_their_own_error(monkeypatch):
    mixture = gaussian(3)
    chain = exact_ddpm(mixture, log_linear())
    x = mixture.noised(40.0).sample((40,))
    solver = Solver(1e-3, 1e-3, "hutchinson", probes=2)
    three = OdeBound(3, solver)
    one = evaluate_ode(chain, x, OdeBound(solver=solver), seed=1)
    assert one.bound.stderr_estimator is None
    found = evaluate_ode(chain, x, three, batch_size=25, seed=1)
    assert 0 < found.bound.stderr_estimator < found.bound.stderr
    assert 0 < found.stderr_trace < found.bound.stderr_estimator
    assert found.bound == evaluate_ode(chain, x, three, batch_size=25, seed=1).bound
    assert found.network_calls_per_image == pytest.approx(3 * (found.function_evaluations + 1))
    single = OdeBound(solver=Solver(1e-3, 1e-3, "hutchinson", 1))
    assert evaluate_ode(chain, x, single).stderr_trace is None
    counted = [0]
    monkeypatch.setattr(entrance, "check_chain", lambda *_: None)
    chain.network.register_forward_hook(lambda *_: counted.__setitem__(0, counted[0] + 1))
    again = evaluate_ode(chain, x, three, seed=1)
    assert counted[0] == again.network_calls_per_image
    report = found.json()
    assert report["estimator"]["trace"] == "hutchinson"
    assert report["estimator"]["probes"] == 2
    assert "p_ODE" in report["likelihood_of"]


def test_mistakes(monkeypatch):
    chain = exact_ddpm(gaussian(2), log_linear())
    x = torch.zeros(2, 2)
    for name, value in (("rtol", 0.0), ("atol", -1.0), ("trace", "guess"), ("probes", 0)):
        with pytest.raises(ValueError, match=name):
            Solver(**{name: value})
    with pytest.raises(ValueError, match="samples is 0"):
        OdeBound(0)
    with pytest.raises(ValueError, match="no examples"):
        evaluate_ode(chain, x[:0])
    mean = gaussian_ddpm(Schedule.linear(30), torch.zeros(2), torch.eye(2), prediction="mean")
    with pytest.raises(ValueError, match="prediction is 'mean'"):
        evaluate_ode(mean, x)
    with pytest.raises(ValueError, match="T = 1"):
        evaluate_ode(gaussian_ddpm(Schedule(torch.tensor([0.5])), torch.zeros(2), torch.eye(2)), x)
    toy = NoisedGaussian(Schedule.linear(6, first=0.1, last=0.6), torch.ones(2), spd(2, 1))
    with pytest.raises(ValueError, match="NoisedGaussian: only a diffusion model has a probability-flow ODE"):
        evaluate_ode(toy, x)
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    with pytest.raises(ValueError, match=r"needs torchdiffeq, .* pip install 'ancestral\[ode\]'"):
        evaluate_ode(chain, x)


def test_progress_moves_within_a_batch():
    """With λ along each solution, and never back."""
    chain = exact_ddpm(three(), log_linear())
    seen: list[tuple[int, int]] = []
    x = three().noised(40.0).sample((20,))
    evaluate_ode(chain, x, OdeBound(2), batch_size=15, progress=lambda *state: seen.append(state))
    counts = [done for done, _ in seen]
    assert {total for _, total in seen} == {20}
    assert counts == sorted(counts)
    assert len({count for count in counts if count < 7}) >= 3
    assert len({count for count in counts if 7 < count < 15}) >= 3
    assert {15, 20} <= set(counts)
