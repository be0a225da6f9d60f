"""The families of q: a full covariance against torch's, and where each starts."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td
from torch.distributions import kl_divergence

from ancestral.core.walk import has_closed_kl
from ancestral.distributions import DiagonalNormal, FullNormal, gaussian, refine
from ancestral.distributions.flow import FlowNormal, NormalizingFlow
from ancestral.parts.posteriors import (
    LARGEST_FULL,
    DiagonalPosterior,
    FlowPosterior,
    FullPosterior,
    Posterior,
    centre,
)

pytestmark = pytest.mark.usefixtures("float64")


def families(latent: int) -> list[Posterior]:
    bent = [
        FlowPosterior(latent, NormalizingFlow(kind, latent, 4, hidden=(8,))) for kind in ("iaf", "spline")
    ]
    return [DiagonalPosterior(latent), FullPosterior(latent), *bent]


def full(n: int, d: int) -> FullNormal:
    law = FullPosterior(d)(torch.randn(n, d * (d + 3) // 2))
    assert isinstance(law, FullNormal)
    return law


def peer(law: FullNormal) -> td.MultivariateNormal:
    return td.MultivariateNormal(law.loc, scale_tril=law.factor)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_full_normal_is_torchs(d):
    q, z = full(7, d), torch.randn(7, d)
    torch.testing.assert_close(q.log_prob(z), peer(q).log_prob(z))
    torch.testing.assert_close(q.variance, peer(q).variance)
    torch.testing.assert_close(q.mean, peer(q).mean)
    p = DiagonalNormal(torch.randn(7, d), 0.2 + torch.rand(7, d))
    torch.testing.assert_close(
        kl_divergence(q, p),
        kl_divergence(peer(q), td.MultivariateNormal(p.loc, scale_tril=torch.diag_embed(p.scale))),
    )
    assert has_closed_kl(q, p)
    assert not has_closed_kl(q, q)


def test_the_full_normals_kl_is_the_mean_log_ratio():
    q = full(1, 3)
    p = DiagonalNormal(torch.randn(1, 3), 0.5 + torch.rand(1, 3))
    z = q.rsample((100_000,))
    assert z.shape == (100_000, 1, 3)
    ratio = q.log_prob(z[:, 0]) - p.log_prob(z[:, 0])
    assert float(ratio.mean() - kl_divergence(q, p)) == pytest.approx(0, abs=4 * float(ratio.std()) / 316)
    covariance = torch.cov(z[:, 0].T)
    torch.testing.assert_close(covariance, (q.factor @ q.factor.mT)[0], atol=0.1, rtol=0.03)


def test_nothing_beside_the_diagonal_is_the_diagonal_law():
    params = torch.randn(5, 9)
    params[:, 6:] = 0.0
    q, diagonal = FullPosterior(3)(params), gaussian(params[:, :6])
    p = DiagonalNormal(torch.zeros(5, 3), torch.ones(5, 3))
    z = torch.randn(5, 3)
    torch.testing.assert_close(q.log_prob(z), diagonal.log_prob(z))
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(diagonal, p))


def test_a_kl_of_nearly_nothing_is_exact():
    """In fp32, in units of p: ½ δ² to a thousandth for a δ beside the diagonal, and 0 for equal laws."""
    p = DiagonalNormal(torch.zeros(1, 2, dtype=torch.float32), torch.full((1, 2), 3.0, dtype=torch.float32))
    params = torch.zeros(1, 5, dtype=torch.float32)
    assert float(kl_divergence(FullPosterior(2)(params, p), p)) == 0.0
    params[0, 4] = 1e-6
    assert float(kl_divergence(FullPosterior(2)(params, p), p)) == pytest.approx(0.5e-12, rel=1e-3)


def test_rows_and_columns_are_where_they_should_be():
    """The outputs behind the first 2 d are N row by row, in units of their row's sigma."""
    params = torch.tensor([[0.0, 0.0, 0.0, 0.0, math.log(2.0), math.log(3.0), 0.5, -0.25, 0.125]])
    law = FullPosterior(3)(params)
    expected = torch.tensor([[1.0, 0, 0], [1.0, 2.0, 0], [-0.75, 0.375, 3.0]])
    torch.testing.assert_close(law.factor[0], expected, atol=0.02, rtol=0.02)  # log sigma is softly clamped


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 5)])
def test_laws_in_a_priors_units(shape):
    """At 0 every family is the prior itself; elsewhere its value is mu + sigma times the law without one."""
    prior = DiagonalNormal(torch.randn(shape), 0.3 + torch.rand(shape))
    z = torch.randn(shape)
    jacobian = prior.scale.log().sum(dim=tuple(range(1, len(shape))))
    for family in families(3):
        params = torch.zeros(4, family.outputs, *shape[2:])
        torch.testing.assert_close(family(params, prior).log_prob(z), prior.log_prob(z))
        params = torch.randn(params.shape)
        for parameter in family.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape)
        within, plain = family(params, prior), family(params)
        assert (within.batch_shape, within.event_shape) == (shape[:1], shape[1:])
        torch.testing.assert_close(within.log_prob(prior.loc + prior.scale * z), plain.log_prob(z) - jacobian)
        torch.manual_seed(5)
        drawn = within.rsample()
        torch.manual_seed(5)
        torch.testing.assert_close(drawn, prior.loc + prior.scale * plain.rsample())
        torch.testing.assert_close(centre(within), prior.loc + prior.scale * centre(plain))


def test_positions_of_an_image_have_laws_of_their_own():
    params, z = torch.randn(4, 9, 2, 2), torch.randn(4, 3, 2, 2)
    family = FullPosterior(3)
    prior = DiagonalNormal(torch.randn(4, 3, 2, 2), 0.3 + torch.rand(4, 3, 2, 2))
    law = family(params)
    at = [(i, j) for i in range(2) for j in range(2)]
    each = [family(params[..., i, j]) for i, j in at]
    torch.testing.assert_close(
        law.log_prob(z), sum(one.log_prob(z[..., i, j]) for one, (i, j) in zip(each, at, strict=True))
    )
    torch.testing.assert_close(
        kl_divergence(law, prior),
        sum(
            kl_divergence(one, DiagonalNormal(prior.loc[..., i, j], prior.scale[..., i, j]))
            for one, (i, j) in zip(each, at, strict=True)
        ),
    )
    assert law.rsample().shape == law.variance.shape == (4, 3, 2, 2)
    assert law.rsample((6,)).shape == (6, 4, 3, 2, 2)


def test_a_law_of_bf16_outputs_is_in_fp32():
    for family in families(3):
        law = family.float()(torch.randn(4, family.outputs, dtype=torch.bfloat16))
        z = law.rsample()
        assert z.dtype == law.log_prob(z).dtype == torch.float32


def test_the_middle_of_a_law():
    params = torch.randn(4, 6)
    assert torch.equal(centre(DiagonalPosterior(3)(params)), params[:, :3])
    law = families(3)[2](torch.randn(4, 10))
    assert isinstance(law, FlowNormal)
    assert torch.equal(centre(law), law.around.loc)


def test_what_families_refuse():
    with pytest.raises(ValueError, match=r"gives 7 outputs for a FullPosterior of 3 .* must give 9"):
        FullPosterior(3)(torch.zeros(2, 7))
    with pytest.raises(ValueError, match=f"at most {LARGEST_FULL} latents. Use fewer, or q iaf"):
        FullPosterior(LARGEST_FULL + 1)
    with pytest.raises(ValueError, match="the size of a latent is 0"):
        DiagonalPosterior(0)


def test_refining_is_in_units_of_the_prior():
    prior = DiagonalNormal(torch.tensor([[2.0]]), torch.tensor([[3.0]]))
    law = refine(prior, torch.tensor([[0.5, 0.01]]))
    torch.testing.assert_close(law.loc, torch.tensor([[3.5]]))
    torch.testing.assert_close(law.scale, 3.0 * torch.tensor([[0.01]]).exp(), rtol=1e-6, atol=0)
