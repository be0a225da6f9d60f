"""Coverage of what is known of a linear-Gaussian VAE: bounds, annealed ones from both sides, and gaps.

Data are drawn from the model itself, so that the mean of log p(x) is −H(x).
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ancestral import evaluate
from ancestral.bounds import Annealing, Curve, Fitting, WeightedBounded
from ancestral.bounds.fitted import fitted_elbo
from ancestral.evaluation import Tighter, bidirectional
from ancestral.evaluation.gap import Gaps, Rung
from covering import REPETITIONS, coverage, covered, is_95_percent, values_of_estimates
from linear_gaussian import LinearVAE
from toys import randn

pytestmark = pytest.mark.usefixtures("float64")

EXAMPLES = 50
D = 8
"""Dimensions of x: with few, log p(x) is so skewed that 50 examples are not enough for a normal interval."""
AT_ONCE = 10_000


def model(size: float = 0.2, **off: float) -> LinearVAE:
    return LinearVAE(size * randn(D, 2, seed=1), 1.0, **off)


def drawn(vae: LinearVAE, n: int = REPETITIONS * EXAMPLES) -> Tensor:
    """x = weight z + noise ε, written down for itself."""
    weight = vae.weight.detach()
    return torch.randn(n, weight.shape[1]) @ weight.T + vae.noise * torch.randn(n, D)


def entropy(vae: LinearVAE) -> float:
    """Of N(0, weight weightᵀ + noise² I), from singular values."""
    values = torch.linalg.svdvals(vae.weight.detach())
    logs = torch.log1p((values / vae.noise).square()).sum()
    return 0.5 * float(D * math.log(2.0 * math.pi * math.e * vae.noise**2) + logs)


@pytest.mark.slow
def test_the_elbo_and_a_weighted_bound_as_evaluate_tells_them():
    """1,000 calls on as many data sets; so many weights are all but exact."""
    vae = model(0.6, shift=0.2, width=1.2)
    elbos, weighted = [], []
    for seed in range(REPETITIONS):
        found = evaluate(vae, drawn(vae, 100), bound="iwae", samples=20, seed=seed)
        for results, one, gap in ((elbos, found.elbo, vae.gap), (weighted, found.log_likelihood, 0.0)):
            results.append((one.mean, one.stderr, -entropy(vae) - gap))
    assert is_95_percent(covered(elbos))
    assert is_95_percent(covered(weighted))
    # And would not cover what is a standard error off as often.
    assert not is_95_percent(covered((m, s, e + s) for m, s, e in elbos))


def matched(vae: LinearVAE) -> tuple[float, float]:
    """E log p(x|z) with z from the prior, apart from x, and with the z that x came from."""
    with_own = -0.5 * D * (math.log(2.0 * math.pi * vae.noise**2) + 1.0)
    return with_own - float(vae.weight.detach().square().sum()) / vae.noise**2, with_own


@pytest.mark.slow
def test_annealed_bounds_as_evaluate_tells_them():
    vae = model()
    found = evaluate(vae, drawn(vae), bound="ais", annealing=Annealing(12, 1), batch_size=AT_ONCE)
    assert is_95_percent(coverage(found.tighter.curve.best, -entropy(vae)))


@pytest.mark.slow
def test_one_temperature_as_evaluate_tells_it():
    """log w is log p(x|z) at a z of the prior then, whose mean is far from log p(x)'s: all is known."""
    vae = model()
    found = evaluate(vae, drawn(vae), bound="ais", annealing=Annealing(1), batch_size=AT_ONCE)
    expected = matched(vae)[0]
    assert expected < -entropy(vae) - 0.1
    assert is_95_percent(coverage(found.tighter.curve.best, expected))


def both_sides(monkeypatch: pytest.MonkeyPatch, vae: LinearVAE, **options) -> list[Tensor]:
    """The examples' lower and upper bounds and gaps."""
    n = REPETITIONS * EXAMPLES
    return values_of_estimates(monkeypatch, lambda: bidirectional(vae, n, batch_size=AT_ONCE, **options))


@pytest.mark.slow
def test_bounds_from_both_sides(monkeypatch):
    vae = model()
    lower, upper, gap = both_sides(monkeypatch, vae, options=Annealing(12, 1))
    assert is_95_percent(coverage(lower, -entropy(vae)))
    assert is_95_percent(coverage(upper, -entropy(vae)))
    # Of the gap's expectation nothing is known but its sign; that of all repetitions stands for it.
    assert float(gap.mean()) > 0
    assert is_95_percent(coverage(gap, float(gap.mean())))


@pytest.mark.slow
def test_bounds_from_both_sides_of_one_temperature(monkeypatch):
    """Down from z's own x there is no transition: the upper bound is log p(x|z)."""
    vae = model()
    below, above = matched(vae)
    lower, upper, gap = both_sides(monkeypatch, vae, options=Annealing(1))
    assert is_95_percent(coverage(lower, below))
    assert is_95_percent(coverage(upper, above))
    assert is_95_percent(coverage(gap, above - below))


def gaps_of(vae: LinearVAE) -> list[Gaps]:
    """Of each repetition, from one fit of all examples, which are fitted each by itself."""
    examples = 60
    x = drawn(vae, REPETITIONS * examples)
    fitting = Fitting(steps=70, samples=1, test_samples=6)
    fitted = fitted_elbo(vae, x, fitting=fitting)
    tighter = evaluate(vae, x, bound="iwae", samples=20, batch_size=AT_ONCE).tighter
    curve, gaps = tighter.curve, []
    columns = (fitted, curve.values, curve.effective)
    for own, values, effective in zip(*(one.split(examples) for one in columns), strict=True):
        part = Curve(curve.counts, values, effective)
        measurement = replace(tighter.measurement, found=WeightedBounded(part.best, None, None, part))
        gaps.append(Gaps.of(own, [Tighter(measurement)], fitting=fitting))
    return gaps


def _weighted(gaps: Gaps) -> Rung:
    (rung,) = (rung for rung in gaps.rungs if rung.name == "IWAE-20")
    return rung


@pytest.mark.slow
def test_the_gaps_of_amortisation_and_of_the_family():
    """What few steps leave to gain is no part of an error bar: the mean of all repetitions has it, too."""
    vae = model(0.6, shift=0.2, width=1.2)
    gaps = gaps_of(vae)
    closed = {"amortisation": vae.gap - vae.family_gap, "approximation": vae.family_gap}
    for name, exact in closed.items():
        found = [getattr(one, name) for one in gaps]
        mean = sum(one.mean for one in found) / REPETITIONS
        assert mean == pytest.approx(exact, abs=0.03)
        assert is_95_percent(covered((one.mean, one.stderr, mean) for one in found))
        assert not is_95_percent(covered((one.mean, one.stderr, 2.0 * exact) for one in found))
    # The weighted bound above the ELBO on the same examples is far better known.
    assert max(_weighted(one).above_elbo.stderr for one in gaps) < 0.06
