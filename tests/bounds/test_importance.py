"""Importance-weighted bounds: the whole curve from one set of weights, in bounded memory."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from ancestral.bounds import Curve, PathBound, log_likelihood, path
from ancestral.bounds.iwae import curve_counts, importance_curve
from ancestral.bounds.pieces import slices
from ancestral.core.walk import elbo_terms, log_prob_of
from ancestral.distributions import Bernoulli, DiagonalNormal
from ancestral.evaluation import evaluate
from bit_vae import BitVAE, by_quadrature
from linear_gaussian import LinearVAE
from toys import randn

pytestmark = pytest.mark.usefixtures("float64")


def chain(**off: float) -> LinearVAE:
    return LinearVAE(randn(3, 2, seed=1), 0.5, **off)


def test_counts():
    assert curve_counts(1) == (1,)
    assert curve_counts(2) == (1, 2)
    assert curve_counts(7) == (1, 2, 5, 7)
    assert curve_counts(100) == (1, 2, 5, 10, 20, 50, 100)
    assert curve_counts(5000)[-4:] == (500, 1000, 2000, 5000)


@pytest.mark.parametrize("samples", [1, 2, 12, 23])
def test_the_curve_is_the_mean_over_groups(samples):
    weights = 300.0 * torch.randn(4, samples)
    curve = Curve.of(weights)
    assert curve.counts == curve_counts(samples)
    for k, column in zip(curve.counts, curve.values.T, strict=True):
        groups = [weights[:, i * k : (i + 1) * k] for i in range(samples // k)]
        each = [torch.logsumexp(group, dim=1) - math.log(k) for group in groups]
        torch.testing.assert_close(column, torch.stack(each).mean(dim=0), rtol=1e-12, atol=1e-12)
    assert torch.equal(curve.best, curve.values[:, -1])
    assert [point["k"] for point in curve.json()] == list(curve.counts)
    assert curve.json()[0]["mean"] == pytest.approx(float(weights.mean()), rel=1e-12)


def test_the_curve_rises_for_every_example_where_groups_are_nested():
    """By Jensen's inequality, and not in expectation only."""
    curve = Curve.of(10.0 * torch.randn(50, 1000))
    nested = [i for i, k in enumerate(curve.counts) if k in (1, 2, 10, 20, 100, 200, 1000)]
    for low, high in itertools.pairwise(nested):
        assert (curve.values[:, low] < curve.values[:, high]).all()


def test_effective_samples():
    weights = torch.tensor([[0.0, 0.0, 0.0, 0.0], [900.0, 0.0, 0.0, 0.0], [-800.0, -800.0, -2000.0, -2000.0]])
    torch.testing.assert_close(Curve.of(weights).effective, torch.tensor([4.0, 1.0, 2.0]))


def test_the_curve_rises_in_expectation_from_the_elbo_to_log_p():
    """The means over many examples are those of separate draws for each k, and the ends are closed-form."""
    vae = chain(shift=0.3, width=1.2)
    x = vae.law.sample((4000,))
    exact = vae.law.log_prob(x)
    curve = importance_curve(vae, x, samples=500)
    gaps = (curve.values - exact[:, None]).mean(dim=0)
    errors = (curve.values - exact[:, None]).std(dim=0) / math.sqrt(len(x))
    assert (gaps.diff() > 0).all()
    assert float(gaps[0]) == pytest.approx(-vae.gap, abs=5 * float(errors[0]))
    assert vae.gap > 0.3
    assert -0.02 < float(gaps[-1]) < 4 * float(errors[-1])
    for k in (2, 10):
        apart = log_likelihood(vae, x, samples=k) - exact
        i = curve.counts.index(k)
        error = math.hypot(float(apart.std()) / math.sqrt(len(x)), float(errors[i]))
        assert abs(float(apart.mean()) - float(gaps[i])) < 4 * error


def test_with_the_exact_posterior_every_point_is_log_p():
    vae = LinearVAE(randn(3, 1, seed=1), 0.5)  # with one latent the diagonal family has the posterior
    x = vae.law.sample((7,))
    assert vae.gap == pytest.approx(0.0, abs=1e-12)
    curve = importance_curve(vae, x, samples=20)
    torch.testing.assert_close(curve.values, vae.law.log_prob(x)[:, None].expand_as(curve.values))
    torch.testing.assert_close(curve.effective, torch.full((7,), 20.0))


class Counting(LinearVAE):
    """Notes how many paths are walked at once, and how often x is read."""

    most = 0
    readings = 0

    def features(self, x: Tensor):
        self.readings += 1
        return super().features(x)

    def p_step(self, state: Tensor, t: int) -> DiagonalNormal:
        self.most = max(self.most, len(state))
        return super().p_step(state, t)


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_memory_is_bounded_by_a_cap_on_rows(rows, monkeypatch):
    vae = Counting(randn(3, 2, seed=1), 0.5)
    vae.looked_at = True
    x = vae.law.sample((11,))
    curve = importance_curve(vae, x, samples=150, rows=rows)
    assert curve.values.shape == (11, len(curve_counts(150)))
    assert vae.most <= rows
    assert vae.readings == 1
    vae.most = 0
    monkeypatch.setattr(path, "rows_at_once", lambda chain, x: max(rows, 11))
    found = PathBound(150)(vae, x)
    assert vae.most <= max(rows, 11)
    assert vae.readings == 2
    assert found.nats.shape == (11,)
    assert found.replicates.shape == (11, 150)


def test_the_default_cap_bounds_five_thousand_samples_and_many_paths():
    vae = Counting(randn(784, 2, seed=1), 0.5)
    evaluate(vae, vae.law.sample((3,)), bound="iwae", samples=5000)
    assert vae.most <= 2**20 // 784
    vae.most = 0
    evaluate(vae, vae.law.sample((3,)), samples=1000)
    assert vae.most <= 2**20 // 784


def test_an_elbo_in_pieces_is_the_mean_over_all_paths(monkeypatch):
    vae = chain(width=1.4)
    x = vae.law.sample((5,))
    torch.manual_seed(1)
    monkeypatch.setattr(path, "rows_at_once", lambda chain, x: 11)
    found = PathBound(7)(vae, x)
    sizes = [part.stop - part.start for part in slices(7, 2)]
    torch.manual_seed(1)
    parts = [vae.elbo(x, samples=size) for size in sizes]
    expected = sum(size * part.total for size, part in zip(sizes, parts, strict=True)) / 7
    torch.testing.assert_close(found.nats, expected, rtol=1e-12, atol=1e-12)
    terms = found.reconstruction + found.prior
    torch.testing.assert_close(-terms, expected, rtol=1e-12, atol=1e-12)
    assert found.matching.mean.shape == (0,)
    # The same paths one by one.
    torch.manual_seed(1)
    single = [elbo_terms(vae, x, samples=size) for size in sizes]
    each = -torch.cat([part[0] + part[1] for part in single], dim=1)
    torch.testing.assert_close(found.replicates, each, rtol=1e-12, atol=1e-12)


def test_slices():
    for n, size in ((1, 1), (10, 3), (10, 0), (5, 99), (5000, 1337)):
        cut = list(slices(n, size))
        assert [i for part in cut for i in range(n)[part]] == list(range(n))
        widths = [part.stop - part.start for part in cut]
        assert max(widths) <= max(1, size)
        assert max(widths) - min(widths) <= 1


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.float64])
@pytest.mark.parametrize("gradient", [True, False])
def test_bernoulli_of_repeated_values_needs_no_copies(kind, gradient):
    logits = (30.0 * torch.randn(12, 1, 3, 4)).requires_grad_(gradient)
    x = (torch.rand(4, 1, 3, 4) > 0.5).to(kind)
    found = log_prob_of(Bernoulli(logits), x)
    expected = Bernoulli(logits).log_prob(x.repeat_interleave(3, dim=0))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)
    if gradient:
        torch.testing.assert_close(
            torch.autograd.grad(found.sum(), logits), torch.autograd.grad(expected.sum(), logits)
        )


def test_bits_by_quadrature():
    """All eight x: importance sampling reaches log p(x) by quadrature over both latents."""
    vae = BitVAE()
    x = torch.tensor(list(itertools.product((0, 1), repeat=3)), dtype=torch.uint8)
    exact = by_quadrature(vae, x)
    assert float(exact.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    torch.manual_seed(5)
    curve = importance_curve(vae, x, samples=20_000)
    torch.testing.assert_close(curve.best, exact, atol=0.02, rtol=0)
    assert (curve.values[:, 0] < exact - 0.01).all()


def test_mistakes():
    vae, x = chain(), torch.zeros(2, 3)
    for name, value in (("samples", 0), ("samples", 1.5), ("rows", 0), ("rows", -3)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            importance_curve(vae, x, **{name: value})
