"""Likelihoods: densities in the data's own units, sigma from four places, integers in their levels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import AffineTransform, Independent, Normal, TransformedDistribution

from ancestral.core.spec import DataSpec
from ancestral.distributions import DiagonalNormal
from ancestral.distributions.discretized import DiscretizedLogistic, DiscretizedNormal
from ancestral.parts.likelihoods import (
    SIGMAS,
    BernoulliLikelihood,
    DiscretizedGaussianLikelihood,
    DiscretizedLogisticLikelihood,
    GaussianLikelihood,
    ScaleLikelihood,
)
from ancestral.parts.scaling import Scaling

pytestmark = pytest.mark.usefixtures("float64")

VECTOR, IMAGE = DataSpec((3,)), DataSpec((2, 3, 4), levels=17)


def fitted(spec: DataSpec) -> Scaling:
    if spec.levels is None:
        return Scaling(spec).fit(5.0 + torch.randn(200, *spec.shape) * torch.tensor([0.1, 1.0, 30.0]))
    return Scaling(spec).fit(torch.randint(0, spec.levels, (20, *spec.shape)))


def expected_sigma(law: ScaleLikelihood, out: Tensor, shape: tuple[int, ...]) -> Tensor:
    if law.sigma == "predicted":
        second = out[:, shape[0] :]
        return 0.4 * torch.exp(8.0 * torch.tanh(second / 8.0))
    return law.log_sigma.detach().exp().expand(len(out), *shape)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_a_gaussian_density_is_in_the_units_of_the_data(sigma):
    """By change of variables from the network's units: the Jacobian is in the density."""
    scaling = fitted(VECTOR)
    law = GaussianLikelihood(VECTOR, scaling, sigma=sigma, value=0.4)
    if sigma == "per-pixel":
        with torch.no_grad():
            law.log_sigma += torch.randn(3)
    out = torch.randn(6, 3 * law.per_entry)
    mean = out[:, :3] + scaling.centre
    in_network_units = Normal(mean, expected_sigma(law, out, (3,)))
    change = AffineTransform(scaling.shift, scaling.scale)
    expected = Independent(TransformedDistribution(in_network_units, [change]), 1)
    x = expected.sample()
    torch.testing.assert_close(law(out).log_prob(x), expected.log_prob(x))
    torch.testing.assert_close(law(out).mean, scaling.inverse(mean))
    assert not law.discrete


def test_a_density_integrates_to_one_in_the_units_of_the_data():
    scaling = Scaling(DataSpec((1,))).fit(7.0 + 40.0 * torch.randn(50, 1))
    law = GaussianLikelihood(DataSpec((1,)), scaling, sigma="fixed", value=0.4)
    x = torch.linspace(-500.0, 500.0, 100_001)[:, None]
    density = law(torch.full((len(x), 1), 0.3)).log_prob(x).exp()
    assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("kind", "law"),
    [
        (DiscretizedGaussianLikelihood, DiscretizedNormal),
        (DiscretizedLogisticLikelihood, DiscretizedLogistic),
    ],
)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_discretized_likelihoods_read_the_output_in_blocks(kind, law, sigma):
    scaling = fitted(IMAGE)
    likelihood = kind(IMAGE, scaling, sigma=sigma, value=0.4)
    channels = 2 * likelihood.per_entry
    out = torch.randn(5, channels, 3, 4)
    mean = out[:, :2] + scaling.centre
    expected = law(mean, expected_sigma(likelihood, out, IMAGE.shape), 17)
    x = torch.randint(0, 17, (5, 2, 3, 4), dtype=torch.uint8)
    torch.testing.assert_close(likelihood(out).log_prob(x), expected.log_prob(x))
    # A linear layer's flat output is read alike.
    torch.testing.assert_close(likelihood(out.flatten(1)).log_prob(x), expected.log_prob(x))
    assert likelihood.discrete
    assert likelihood(out).sample().shape == x.shape
    assert likelihood(out).log_prob(x).shape == (5,)


def test_what_is_learned_is_what_sigma_says():
    shapes = {
        sigma: [tuple(p.shape) for p in GaussianLikelihood(VECTOR, Scaling(VECTOR), sigma=sigma).parameters()]
        for sigma in SIGMAS
    }
    assert shapes == {"fixed": [], "shared": [()], "per-pixel": [(3,)], "predicted": []}
    for sigma in SIGMAS:
        law = GaussianLikelihood(VECTOR, Scaling(VECTOR), sigma=sigma, value=0.7)
        out = torch.zeros(2, 3 * law.per_entry)
        assert isinstance(law(out), DiagonalNormal)
        torch.testing.assert_close(law(out).variance, torch.full((2, 3), 0.49))


def test_sigma_gets_its_gradient():
    scaling = fitted(VECTOR)
    for sigma, shape in (("shared", ()), ("per-pixel", (3,))):
        law = GaussianLikelihood(VECTOR, scaling, sigma=sigma, value=0.5)
        x = scaling.inverse(torch.randn(400, 3))
        law(torch.zeros(400, 3)).log_prob(x).mean().backward()
        u = (scaling(x) - scaling.centre).square().mean(dim=0)
        slope = u / 0.25 - 1.0  # d/dlog σ of −log σ − u²/2σ²
        torch.testing.assert_close(law.log_sigma.grad, slope.sum() if shape == () else slope)


def test_bernoulli_starts_from_the_mean_of_the_data():
    spec = DataSpec((1, 2, 2), levels=2)
    out = torch.randn(3, 1, 2, 2)
    x = torch.randint(0, 2, (3, 1, 2, 2))
    plain = BernoulliLikelihood(spec, Scaling(spec))
    torch.testing.assert_close(plain(out).mean, torch.sigmoid(out))
    scaling = Scaling(spec)
    scaling.fit(torch.tensor([[0, 1], [1, 0]]).expand(1, 1, 2, 2).repeat(4, 1, 1, 1))
    scaling.centre[0, 0, 0] = 2 * 0.3 - 1.0
    law = BernoulliLikelihood(spec, scaling)
    start = law(torch.zeros(3, 1, 2, 2)).mean[0, 0]
    torch.testing.assert_close(start, torch.tensor([[0.3, 0.995], [0.995, 0.005]]))
    assert law(out).log_prob(x).shape == (3,)
    assert law.discrete
    torch.testing.assert_close(torch.logit(law(out).mean) - out, torch.logit(start).expand(3, 1, 2, 2))


def test_kinds_of_data_that_do_not_fit_are_refused():
    for spec, kind in ((VECTOR, "real-valued"), (IMAGE, "integers of 17 levels")):
        with pytest.raises(
            ValueError,
            match=rf"Bernoulli likelihood needs data of 2 levels, and these are {kind}.*--binarize",
        ):
            BernoulliLikelihood(spec, Scaling(spec))
    for law, name in (
        (DiscretizedGaussianLikelihood, "discretized-gaussian"),
        (DiscretizedLogisticLikelihood, "discretized-logistic"),
    ):
        with pytest.raises(ValueError, match=f"a {name} likelihood on real-valued data: it needs integers"):
            law(VECTOR, Scaling(VECTOR))
    with pytest.raises(ValueError, match=r"sigma is 'shard'.*Did you mean 'shared'"):
        GaussianLikelihood(VECTOR, Scaling(VECTOR), sigma="shard")
    with pytest.raises(ValueError, match="the value of sigma is 0; it must be a finite number, above 0"):
        GaussianLikelihood(VECTOR, Scaling(VECTOR), value=0.0)


def test_half_precision_outputs_are_read_in_float32():
    torch.set_default_dtype(torch.float32)
    scaling = Scaling(IMAGE)
    law = DiscretizedLogisticLikelihood(IMAGE, scaling)
    assert law(torch.zeros(2, 4, 3, 4, dtype=torch.bfloat16)).loc.dtype == torch.float32


def test_scaling_of_integers_is_fixed():
    scaling = Scaling(IMAGE)
    ends = torch.tensor([0, 8, 16], dtype=torch.uint8)
    assert scaling(ends).tolist() == [-1.0, 0.0, 1.0]
    x = torch.randint(0, 5, (30, 2, 3, 4), dtype=torch.uint8)
    assert scaling.fit(x) is scaling
    assert scaling(ends).tolist() == [-1.0, 0.0, 1.0]
    assert scaling.inverse(scaling(ends)).tolist() == [0.0, 8.0, 16.0]
    torch.testing.assert_close(scaling.centred(x).mean(dim=0), torch.zeros(2, 3, 4), rtol=0, atol=1e-6)
    for wrong in (torch.full((2, 2, 3, 4), 17), torch.full((2, 2, 3, 4), -1)):
        with pytest.raises(ValueError, match=r"17 grey levels: whole numbers from 0 to 16"):
            Scaling(IMAGE).fit(wrong)


def test_scaling_of_real_data_standardises_each_entry():
    x = torch.randn(500, 3) * torch.tensor([1e-3, 1.0, 1e5]) + torch.tensor([4.0, 0.0, -1e6])
    scaling = Scaling(VECTOR)
    torch.testing.assert_close(scaling(x), x)
    u = scaling.fit(x)(x)
    torch.testing.assert_close(u.mean(dim=0), torch.zeros(3), atol=1e-9, rtol=0)
    torch.testing.assert_close(u.std(dim=0, unbiased=False), torch.ones(3))
    torch.testing.assert_close(scaling.inverse(u), x)
    torch.testing.assert_close(scaling.centred(x), u)


def test_an_entry_that_never_varies_is_shifted_only():
    for constant in (0.1, 1e6 / 3, 0.0):
        x = torch.stack([torch.randn(700), torch.full((700,), constant), torch.randn(700)], dim=1)
        for dtype in (torch.float32, torch.float64):
            scaling = Scaling(VECTOR).to(dtype).fit(x.to(dtype))
            assert float(scaling.scale[1]) == 1.0
            assert scaling(x.to(dtype))[:, 1].abs().max() < 1e-6 * max(constant, 1.0)
    single = Scaling(VECTOR).fit(torch.tensor([[1.0, 2.0, 3.0]]))
    assert single.scale.tolist() == [1.0, 1.0, 1.0]
    assert math.isfinite(float(single(torch.zeros(1, 3)).sum()))


def test_scaling_travels_with_the_weights():
    scaling = fitted(VECTOR)
    other = Scaling(VECTOR)
    other.load_state_dict(scaling.state_dict())
    x = torch.randn(4, 3)
    assert torch.equal(other(x), scaling(x))
    assert not list(scaling.parameters())
