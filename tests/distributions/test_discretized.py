"""Discretised laws: a probability on the levels, at the edges too and for any sigma, with gradients."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from scipy import stats
from torch import Tensor

from ancestral.distributions.discretized import Discretized, DiscretizedLogistic, DiscretizedNormal, log1mexp

LAWS = [DiscretizedNormal, DiscretizedLogistic]
LOCS = [-30.0, -1.3, -1.0, -0.4, 0.0, 1 / 16, 0.123, 0.9999, 1.0, 2.5, 100.0]
SIGMAS = [1e-6, 1e-4, 1e-3, 0.01, 0.05, 0.3, 1.0, 20.0, 1e4]
each_law = pytest.mark.parametrize("law", LAWS)


def grid(law: type[Discretized], levels: int, dtype: torch.dtype) -> tuple[Discretized, Tensor]:
    """The law at every loc and sigma, one per example, and every level as an entry of each example."""
    loc, sigma = torch.cartesian_prod(torch.tensor(LOCS, dtype=dtype), torch.tensor(SIGMAS, dtype=dtype)).T
    shape = (len(loc), levels)
    value = torch.arange(levels).expand(shape)
    return law(loc[:, None].expand(shape), sigma[:, None].expand(shape), levels), value


def exact_log_prob(law: type[Discretized], loc: float, sigma: float, level: int, levels: int) -> float:
    """In 60 digits; from the nearer tail, so that even they do not cancel."""
    with mpmath.workdps(60):
        width = mpmath.mpf(2) / (levels - 1)
        edges = [-1 + (level + half) * width for half in (mpmath.mpf(-1) / 2, mpmath.mpf(1) / 2)]
        lower, upper = ((edge - mpmath.mpf(loc)) / mpmath.mpf(sigma) for edge in edges)
        lower = -mpmath.inf if level == 0 else lower
        upper = mpmath.inf if level == levels - 1 else upper
        if lower + upper > 0:
            lower, upper = -upper, -lower

        def cdf(z):
            if law is DiscretizedLogistic:
                return 1 / (1 + mpmath.exp(-z))
            return mpmath.erfc(-z / mpmath.sqrt(2)) / 2

        return float(mpmath.log(cdf(upper) - cdf(lower)))


@each_law
@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize(("dtype", "exact"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
def test_probabilities_sum_to_one(law, levels, dtype, exact):
    p, value = grid(law, levels, dtype)
    total = p.log_prob_entries(value).double().exp().sum(dim=1)
    assert (total - 1.0).abs().max() < exact


@each_law
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_probabilities_are_those_of_the_bins(law, levels):
    p, value = grid(law, levels, torch.float64)
    found = p.log_prob_entries(value)
    generator = torch.Generator().manual_seed(1)
    for row in range(len(found)):
        loc, sigma = float(p.loc[row, 0]), float(p.scale[row, 0])
        inside = int(torch.randint(0, levels, (1,), generator=generator))
        nearest = min(max(round((loc + 1) * (levels - 1) / 2), 0), levels - 1)
        for level in {0, levels - 1, inside, nearest}:
            exact = exact_log_prob(law, loc, sigma, level, levels)
            assert float(found[row, level]) == pytest.approx(exact, rel=1e-8, abs=1e-8), (loc, sigma, level)


@each_law
def test_probabilities_are_differences_of_the_cdf(law):
    """With scipy's cdf, where such a difference is accurate."""
    reference = stats.norm if law is DiscretizedNormal else stats.logistic
    levels, loc, sigma = 17, 0.2, 0.3
    centres = torch.linspace(-1.0, 1.0, levels, dtype=torch.float64)
    upper = reference.cdf(centres.numpy() + 1 / 16, loc=loc, scale=sigma)
    upper[-1] = 1.0
    expected = torch.tensor(upper).diff(prepend=torch.zeros(1, dtype=torch.float64))
    wide = torch.ones(1, levels, dtype=torch.float64)
    p = law(loc * wide, sigma * wide, levels)
    found = p.log_prob_entries(torch.arange(levels)[None]).exp()[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


@each_law
@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_everywhere(law, levels, dtype):
    p, value = grid(law, levels, dtype)
    loc, sigma = p.loc.clone().requires_grad_(), p.scale.clone().requires_grad_()
    log_p = law(loc, sigma, levels).log_prob(value)
    assert torch.isfinite(log_p).all()
    for gradient in torch.autograd.grad(log_p.sum(), (loc, sigma)):
        assert torch.isfinite(gradient).all()


@each_law
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_right_far_in_the_tail(law, dtype):
    """d log P / d loc is (φ(l) − φ(u)) / P / sigma; far out the steeper of the two is all of it."""
    for sigma in (1e-4, 1e-3, 0.01, 0.1):
        for x, loc in ((8, 0.9), (8, -0.7), (0, 0.5), (16, -0.5), (3, 0.0)):
            a = torch.full((1, 1), loc, dtype=dtype, requires_grad=True)
            law(a, torch.full((1, 1), sigma, dtype=dtype), 17).log_prob(torch.tensor([[x]])).backward()
            step = 1e-6 * sigma
            up, down = (exact_log_prob(law, loc + s, sigma, x, 17) for s in (step, -step))
            slope = (up - down) / (2 * step)
            assert float(a.grad) == pytest.approx(slope, rel=1e-3), (sigma, x, loc)


@each_law
@pytest.mark.parametrize("levels", [4, 256])
def test_gradients_are_those_of_finite_differences(law, levels):
    loc = torch.tensor([[0.31, -0.97, -2.0, 0.999, 0.0]], dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor([[0.05, 0.2, 0.5, 0.011, 3.0]], dtype=torch.float64, requires_grad=True)
    for k in (0, 1, levels // 2, levels - 1):
        value = torch.full((1, 5), k)
        assert torch.autograd.gradcheck(
            lambda a, b, value=value: law(a, b, levels).log_prob_entries(value), (loc, sigma), rtol=1e-5
        )


@each_law
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_mean_is_that_of_the_probabilities(law, levels):
    p, value = grid(law, levels, torch.float64)
    expected = (p.log_prob_entries(value).exp() * value).sum(dim=1)
    torch.testing.assert_close(p.mean[:, 0], expected, rtol=0.0, atol=5e-5)


@each_law
@pytest.mark.parametrize("levels", [2, 5, 300])
def test_draws_have_the_probabilities(law, levels):
    n = 40_000
    for loc, sigma in ((0.1, 0.3), (-0.95, 0.2), (1.4, 0.5), (0.0, 0.02), (0.3, 40.0)):
        p = law(torch.full((n, 1), loc), torch.full((n, 1), sigma), levels)
        draws = p.sample()
        assert draws.shape == (n, 1)
        assert draws.dtype == (torch.uint8 if levels <= 256 else torch.int32)
        counts = torch.bincount(draws.flatten().long(), minlength=levels).double()
        wide = torch.ones(1, levels, dtype=torch.float64)
        one = law(loc * wide, sigma * wide, levels)
        expected = n * one.log_prob_entries(torch.arange(levels)[None]).exp()[0]
        rare = expected < 10
        observed = torch.cat([counts[~rare], counts[rare].sum()[None]])
        wanted = torch.cat([expected[~rare], expected[rare].sum()[None]])
        if wanted[-1] < 5:
            observed, wanted = observed[:-1], wanted[:-1] * observed[:-1].sum() / wanted[:-1].sum()
        assert len(observed) < 2 or stats.chisquare(observed.numpy(), wanted.numpy()).pvalue > 1e-4


@each_law
def test_draws_stay_on_the_levels(law):
    p, _ = grid(law, 256, torch.float32)
    draws = p.sample((20,))
    assert draws.shape == (20, len(LOCS) * len(SIGMAS), 256)
    assert draws.dtype == torch.uint8
    sharp = law(torch.tensor([[-1.0, 0.0, 1.0, 9.0]]), torch.full((1, 4), 1e-6), 17)
    assert sharp.sample().tolist() == [[0, 8, 16, 16]]


@each_law
def test_integers_of_any_kind_are_values(law):
    p = law(torch.zeros(2, 3), torch.full((2, 3), 0.4), 17)
    value = torch.tensor([[0, 8, 16], [3, 5, 16]])
    for dtype in (torch.uint8, torch.int32, torch.float32):
        assert torch.equal(p.log_prob(value.to(dtype)), p.log_prob(value))
    torch.testing.assert_close(p.log_prob(value), p.log_prob_entries(value).sum(dim=1))


def test_mirror_images_have_equal_probabilities():
    for law in LAWS:
        p, value = grid(law, 17, torch.float64)
        mirrored = law(-p.loc, p.scale, 17).log_prob_entries(16 - value)
        torch.testing.assert_close(p.log_prob_entries(value), mirrored, rtol=1e-9, atol=1e-9)


def test_log1mexp():
    for gap in (1e-12, 1e-3, 0.5, math.log(2), 0.8, 10.0, 60.0):
        a = torch.tensor(gap, dtype=torch.float64, requires_grad=True)
        log1mexp(a).backward()
        with mpmath.workdps(60):
            exact = mpmath.log(1 - mpmath.exp(-mpmath.mpf(gap)))
            slope = 1 / (mpmath.exp(mpmath.mpf(gap)) - 1)
        assert float(log1mexp(a.detach())) == pytest.approx(float(exact), rel=1e-12)
        assert float(a.grad) == pytest.approx(float(slope), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [2, 17, 256, 1000])
@pytest.mark.parametrize("law", [DiscretizedLogistic, DiscretizedNormal])
def test_the_mean_of_narrow_and_wide_laws_is_the_sum_over_all_levels(law, levels, dtype):
    """Σ_k P(X > k) written out, for scales from a thousandth of a level to ten times the range."""
    torch.manual_seed(0)
    loc = torch.empty(4000, 1, dtype=dtype).uniform_(-1.5, 1.5)
    scale = torch.empty(4000, 1, dtype=dtype).uniform_(math.log(2e-3 / levels), math.log(20.0)).exp()
    edges = (torch.arange(levels - 1, dtype=torch.float64) + 0.5) * (2.0 / (levels - 1)) - 1.0
    expected = law.log_cdf((loc.double() - edges) / scale.double()).exp().sum(dim=1, keepdim=True)
    allowed = 5e-5 if dtype == torch.float64 else 1e-4 + 1e-5 * levels
    far = (((loc.double() + 1) / 2 * (levels - 1)) % 1.0 - 0.5).abs() * 2.0 / (levels - 1) / scale.double()
    # In float32 a law much narrower than a level is on one side of an edge or the other.
    told = (far > 1e-3) | (dtype == torch.float64)
    torch.testing.assert_close(
        law(loc, scale, levels).mean.double()[told], expected[told], rtol=0.0, atol=allowed
    )
