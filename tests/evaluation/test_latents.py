"""Codes, reconstructions, interpolations and walks, of every family."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Distribution

from ancestral._internal.randomness import RowNoise, reseed
from ancestral.core.walk import generate, infer
from ancestral.evaluation import interpolate, latent_walk, reconstruct
from ancestral.evaluation.latents import _PATH, decode, default_levels, encode, spherical
from ancestral.models.diffusion.schedules import Schedule
from ancestral.sampling import Ancestral, draw
from gaussian_ddpm import gaussian_ddpm
from tiny import MODELS, built, images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return images(60)


@pytest.fixture(params=MODELS)
def chain(request, data):
    torch.manual_seed(0)
    chain = built(MODELS[request.param], data).eval()
    # A ladder's latents begin without an effect.
    for parameter in chain.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return chain


@pytest.mark.usefixtures("float64")
def test_the_spherical_path():
    torch.manual_seed(0)
    a, b = torch.randn(5, 3, 4), torch.randn(5, 3, 4)
    torch.testing.assert_close(spherical(a, b, 0.0), a)
    torch.testing.assert_close(spherical(a, b, 1.0), b)
    a, b = (v / v.flatten(1).norm(dim=1)[:, None, None] for v in (a, b))
    for share in (0.25, 0.5, 0.9):
        between = spherical(a, b, share).flatten(1)
        torch.testing.assert_close(between.norm(dim=1), torch.ones(5))
        whole = (a.flatten(1) * b.flatten(1)).sum(dim=1).acos()
        torch.testing.assert_close((between * a.flatten(1)).sum(dim=1).acos(), share * whole)
    torch.testing.assert_close(spherical(a, 3.0 * a, 0.5), 2.0 * a)
    assert spherical(a, -a, 0.3).isfinite().all()
    assert spherical(torch.zeros(1, 2), torch.zeros(1, 2), 0.5).eq(0.0).all()


def test_a_whole_code_is_decoded_to_the_mean_of_its_paths_last_distribution(chain, data):
    """Worked out from the distributions themselves: the noise of a code is undone exactly."""
    x = data.test.x[:4]
    found = decode(chain, encode(chain, x, seed=3), seed=3)
    reseed(CPU, 3, _PATH)
    with torch.no_grad():
        if chain.single_levels:
            z = chain.q_marginal(chain.features(x), torch.ones(4, dtype=torch.long)).sample()
            last = chain.p_step(z, 1)
        else:
            links = {link.t: link for link in infer(chain, x)}
            last = links[0].p
    torch.testing.assert_close(found, last.mean, rtol=1e-4, atol=1e-4)


def test_reconstructions_have_the_datas_units_and_leave_randomness_alone(chain, data):
    x = data.test.x[:3]
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    found = reconstruct(chain, x, steps=4)
    assert torch.equal(torch.rand(3), expected)
    assert found.levels == tuple(default_levels(chain.T))
    for part, rmse in zip(found.x, found.rmse, strict=True):
        assert part.shape == x.shape
        assert 0 <= part.min() <= part.max() <= 16
        assert rmse == pytest.approx(float((part - x.float()).square().mean().sqrt()), rel=1e-5)
    again = reconstruct(chain, x, steps=4)
    assert all(torch.equal(one, other) for one, other in zip(found.x, again.x, strict=True))
    assert not torch.equal(found.x[0], reconstruct(chain, x, steps=4, seed=1).x[0])


def test_the_ends_of_an_interpolation_are_reconstructions(chain, data):
    a, b = data.test.x[:2], data.test.x[2:4]
    told = []
    between = interpolate(chain, a, b, points=5, steps=6, progress=lambda *done: told.append(done))
    assert between.shape == (2, 5, *a.shape[1:])
    assert told == [(i, 5) for i in range(1, 6)]
    level = 6 if chain.T == 12 else 1
    for place, end in ((0, a), (-1, b)):
        expected = reconstruct(chain, end, levels=[level], steps=6).x[0]
        torch.testing.assert_close(between[:, place], expected, rtol=1e-3, atol=1e-3)


def test_a_walk(chain):
    found = latent_walk(chain, 3, points=4, steps=6)
    assert found.shape == (3, 4, *chain.spec.shape)
    assert found.isfinite().all()
    steps = (found[:, 1:] - found[:, :-1]).flatten(2).norm(dim=2)
    assert (steps < 0.9 * 16 * math.sqrt(chain.spec.dims)).all()


@pytest.mark.usefixtures("float64")
def test_a_ddpm_with_the_best_network_keeps_what_noise_leaves():
    """x̂ drawn from p(x|z_t), z_t ~ q(z_t|x), is distributed as x, and knows less of it the higher t is."""
    mean = torch.tensor([0.5, -0.5])
    covariance = torch.tensor([[0.5, 0.2], [0.2, 0.4]])
    chain = gaussian_ddpm(Schedule.cosine(200), mean, covariance, prediction="noise")
    torch.manual_seed(0)
    x = mean + torch.randn(20_000, 2) @ torch.linalg.cholesky(covariance).T
    found = reconstruct(chain, x, levels=[1, 40, 100, 200], steps=200)
    for level, part in zip(found.levels, found.x, strict=True):
        torch.testing.assert_close(part.mean(dim=0), mean, rtol=0, atol=0.02)
        if level > 1:
            torch.testing.assert_close(part.T.cov(), covariance, rtol=0, atol=0.03)
    assert list(found.rmse) == sorted(found.rmse)
    # At T nothing is left of x: the variance of x̂ − x is that of two independent draws.
    assert found.rmse[-1] == pytest.approx(math.sqrt(2 * 0.45), rel=0.03)
    assert found.rmse[0] < 0.05


def test_descending_visits_the_levels_it_is_told_to():
    chain = gaussian_ddpm(Schedule.cosine(20), torch.zeros(2), torch.eye(2))
    z = torch.randn(3, 2)
    levels = [t for t, _ in Ancestral(4).states(chain, 3, RowNoise(0, 0, 3), start=(12, z))]
    assert (levels[0], levels[-1]) == (12, 0)
    assert len(levels) == 5
    assert all(t < 12 for t in levels[1:])
    *before, (last, distribution) = generate(chain, 3, start=(12, z))
    assert [t for t, _ in before] == list(range(12, 0, -1))
    assert torch.equal(before[0][1], z)
    assert last == 0
    assert isinstance(distribution, Distribution)
    with pytest.raises(ValueError, match="only a diffusion model has levels to leave out"):
        draw(built(MODELS["ladder"], images()), 3, sampler=Ancestral(1))


def test_default_levels():
    assert default_levels(1) == [1]
    assert default_levels(4) == [1, 2, 3, 4]
    assert default_levels(1000) == [1, 167, 333, 500, 667, 833]


def test_mistakes(chain, data):
    x = data.test.x[:2]
    for levels in ([0], [chain.T + 1], []):
        with pytest.raises(ValueError, match="level"):
            reconstruct(chain, x, levels=levels)
    with pytest.raises(ValueError, match="as many"):
        interpolate(chain, x, data.test.x[:3])
    with pytest.raises(ValueError, match="points"):
        latent_walk(chain, 2, points=1)
