"""The factorised laws against torch.distributions, and where they are meant to be better."""

from __future__ import annotations

import mpmath
import pytest
import torch
from scipy import stats
from torch import distributions as td
from torch.distributions import kl_divergence

from ancestral.distributions import (
    Bernoulli,
    DiagonalNormal,
    full_precision,
    gaussian,
    soft_clamp,
    standard_normal,
)

SHAPES = [(5, 3), (5, 2, 4, 4)]
each_shape = pytest.mark.parametrize("shape", SHAPES)


def peer(law: DiagonalNormal) -> td.Independent:
    return td.Independent(td.Normal(law.mean, law.variance.sqrt()), len(law.event_shape))


def random_law(shape: tuple[int, ...]) -> DiagonalNormal:
    return DiagonalNormal(torch.randn(shape), torch.rand(shape) + 0.2)


@each_shape
@pytest.mark.usefixtures("float64")
def test_the_diagonal_normal_is_torchs(shape):
    q, p = random_law(shape), random_law(shape)
    x = torch.randn(shape)
    assert (q.batch_shape, q.event_shape) == (shape[:1], shape[1:])
    torch.testing.assert_close(q.log_prob(x), peer(q).log_prob(x))
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(peer(q), peer(p)))
    assert kl_divergence(q, q).abs().max() == 0
    torch.testing.assert_close(q.mean, peer(q).mean)
    torch.testing.assert_close(q.variance, peer(q).variance)
    torch.testing.assert_close(q.stddev, peer(q).stddev)


@each_shape
@pytest.mark.usefixtures("float64")
def test_loc_and_scale_are_broadcast(shape):
    ones = (shape[0], *[1] * (len(shape) - 1))
    full, narrow = torch.randn(shape), torch.rand(ones) + 0.2
    q, wide = DiagonalNormal(full, narrow), DiagonalNormal(full, narrow.expand(shape))
    p, wide_p = DiagonalNormal(-full, 2.0 * narrow), DiagonalNormal(-full, 2.0 * narrow.expand(shape))
    x = torch.randn(shape)
    torch.testing.assert_close(q.log_prob(x), wide.log_prob(x))
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(wide, wide_p))
    assert q.mean.shape == q.variance.shape == q.rsample().shape == shape
    # The law of one example for all of a batch.
    shared = DiagonalNormal(full[:1], narrow)
    torch.testing.assert_close(
        kl_divergence(shared, p), kl_divergence(DiagonalNormal(full[:1].expand(shape), narrow), p)
    )


@pytest.mark.usefixtures("float64")
def test_draws_are_reparameterised():
    loc = torch.tensor([[1.0, -3.0]], requires_grad=True)
    scale = torch.tensor([[0.5, 2.0]], requires_grad=True)
    law = DiagonalNormal(loc, scale)
    draws = law.rsample((50_000,))
    assert draws.shape == (50_000, 1, 2)
    white = ((draws - loc) / scale).detach()[:, 0]
    assert stats.kstest(white[:, 0].numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(white[:, 1].numpy(), "norm").pvalue > 1e-3
    assert abs(float(torch.corrcoef(white.T)[0, 1])) < 0.02
    draws.sum().backward()
    torch.testing.assert_close(loc.grad, torch.full((1, 2), 50_000.0))
    torch.testing.assert_close(scale.grad, white.sum(dim=0)[None])
    assert not law.sample().requires_grad
    # In the order of torch's generator, as torch's own normal law.
    torch.manual_seed(1)
    ours = law.rsample()
    torch.manual_seed(1)
    torch.testing.assert_close(ours, peer(law).rsample())


def test_kl_in_float32_keeps_its_digits_where_two_laws_nearly_coincide():
    """Where torch's own formula, in float32, has none: two thousand such terms add up in a DDPM."""
    steps = [1e-6, 1e-4, 1e-3, 1e-2, 0.5]
    for mean_step in (0.0, *steps):
        for log_step in (0.0, *steps):
            q = DiagonalNormal(torch.full((1, 1), 1.0 + mean_step), torch.full((1, 1), 1.0 + log_step))
            p = DiagonalNormal(torch.ones(1, 1), torch.ones(1, 1))
            # Of the very numbers that float32 holds.
            with mpmath.workdps(50):
                ratio = mpmath.mpf(float(q.scale)) ** 2
                exact = 0.5 * (ratio - 1 - mpmath.log(ratio) + (mpmath.mpf(float(q.loc)) - 1) ** 2)
            found = float(kl_divergence(q, p))
            assert found >= 0.0
            assert found == pytest.approx(float(exact), rel=2e-3, abs=1e-13)


@pytest.mark.usefixtures("float64")
def test_kl_is_the_mean_log_ratio():
    q, p = (DiagonalNormal(torch.randn(1, 6).expand(40_000, 6), torch.rand(1, 6) + 0.2) for _ in range(2))
    z = q.sample()
    ratio = q.log_prob(z) - p.log_prob(z)
    assert abs(float(ratio.mean() - kl_divergence(q, p)[0])) < 5 * float(ratio.std()) / 200


@each_shape
@pytest.mark.usefixtures("float64")
def test_standard_normal(shape):
    law = standard_normal(shape[0], shape[1:], torch.zeros(()))
    x = torch.randn(shape)
    expected = td.Independent(td.Normal(torch.zeros(shape), torch.ones(shape)), len(shape) - 1).log_prob(x)
    torch.testing.assert_close(law.log_prob(x), expected)
    assert law.sample().dtype == torch.float64
    assert standard_normal(2, (3,), torch.zeros((), dtype=torch.float32)).sample().dtype == torch.float32


@each_shape
@pytest.mark.usefixtures("float64")
def test_bernoulli_is_torchs(shape):
    logits = 8.0 * torch.randn(shape)
    law, theirs = Bernoulli(logits), td.Independent(td.Bernoulli(logits=logits), len(shape) - 1)
    x = theirs.sample()
    torch.testing.assert_close(law.log_prob(x), theirs.log_prob(x))
    assert torch.equal(law.log_prob(x.to(torch.uint8)), law.log_prob(x))
    torch.testing.assert_close(law.mean, theirs.mean)
    assert law.sample().dtype == torch.uint8
    many = Bernoulli(torch.tensor([[-2.0, 0.0, 0.7, 90.0]])).sample((40_000,)).double().mean(dim=0)[0]
    assert (many - torch.sigmoid(torch.tensor([-2.0, 0.0, 0.7, 90.0]))).abs().max() < 0.013


def test_bernoulli_stays_finite_for_sure_predictions():
    logits = torch.tensor([[200.0, -200.0, 1e6]], requires_grad=True)
    log_p = Bernoulli(logits).log_prob(torch.tensor([[0, 1, 1]]))
    log_p.backward()
    assert float(log_p.detach()) == pytest.approx(-400.0)
    torch.testing.assert_close(logits.grad, torch.tensor([[-1.0, 1.0, 0.0]]))


@pytest.mark.parametrize("dims", [5, 8, 43])
def test_one_logarithm_for_many_entries_is_the_sum_of_all(dims):
    """As a graph that is not differentiated has it, where sure and unsure predictions stand together."""
    torch.manual_seed(0)
    logits = 20.0 * torch.randn(6, dims, dtype=torch.float64)
    logits[:, :3] = torch.tensor([0.0, 90.0, -90.0])
    x = (torch.rand(2, dims) < 0.5).to(torch.uint8)

    def log_prob(logits, x):
        return Bernoulli(logits).log_prob_repeated(x)

    graphs: list[str] = []

    def keep(graph, inputs):
        graphs.append(graph.code)
        return graph

    torch.compiler.reset()
    with torch.no_grad():
        found = torch.compile(log_prob, backend=keep, fullgraph=True)(logits, x)
    assert ".prod(" in graphs[0]
    expected = Bernoulli(logits).log_prob(x.repeat_interleave(3, dim=0))
    torch.testing.assert_close(found, expected)


def test_laws_are_never_in_half_precision():
    for dtype in (torch.bfloat16, torch.float16):
        assert full_precision(torch.zeros(2, dtype=dtype)).dtype == torch.float32
        law = gaussian(torch.zeros(2, 6, dtype=dtype))
        assert law.loc.dtype == law.scale.dtype == torch.float32
    assert full_precision(torch.zeros(2, dtype=torch.float64)).dtype == torch.float64


@pytest.mark.usefixtures("float64")
def test_a_networks_output_as_a_gaussian():
    params = torch.randn(3, 4, 2, 2)
    law = gaussian(params)
    assert law.event_shape == (2, 2, 2)
    torch.testing.assert_close(law.mean, params[:, :2])
    torch.testing.assert_close(law.scale, (7.0 * torch.tanh(params[:, 2:] / 7.0)).exp())
    wild = torch.full((1, 2), 1e9, requires_grad=True)
    assert float(gaussian(wild).scale.log().detach()) == pytest.approx(7.0)


def test_soft_clamp():
    u = torch.tensor([-100.0, -1e-3, 0.0, 1e-3, 5.0, 100.0], requires_grad=True)
    v = soft_clamp(u, 4.0)
    torch.testing.assert_close(v.detach()[1:4], u.detach()[1:4], rtol=1e-6, atol=0)
    assert v.abs().max() <= 4.0
    assert (v.detach().diff() > 0).all()
    v.sum().backward()
    assert (u.grad[1:5] > 0).all()
