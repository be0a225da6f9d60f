"""Scores of single examples against closed forms, and against the mean that ``evaluate`` gives."""

from __future__ import annotations

import math

import pytest
import torch

from ancestral.bounds.student import student_factor
from ancestral.evaluation import Scores, evaluate, scores
from linear_gaussian import LinearVAE
from tiny import MODELS, built, images
from toys import randn


@pytest.mark.usefixtures("float64")
def test_bounds_lie_below_the_closed_form_and_come_near_it():
    chain = LinearVAE(randn(3, 2, seed=1), 0.5)
    x = chain.law.sample((40,))
    truth = chain.law.log_prob(x)
    elbo = scores(chain, x, samples=4000)
    # Of every example: the ELBO of the best diagonal q is short by the family's gap.
    assert ((elbo.nats - (truth - chain.family_gap)).abs() < 5 * elbo.stderr).all()
    assert (elbo.stderr > 0).all()
    iwae = scores(chain, x, bound="iwae", samples=4000)
    torch.testing.assert_close(iwae.nats, truth, rtol=0, atol=0.15)
    assert iwae.stderr.isnan().all()
    assert elbo.bits_per_dim is None
    assert torch.equal(elbo.nats[elbo.order()], elbo.nats.sort(descending=True).values)


@pytest.mark.usefixtures("float64")
def test_the_standard_error_is_that_of_the_draws():
    chain = LinearVAE(randn(3, 2, seed=1), 0.5, shift=0.3)
    x = chain.law.sample((1,))
    runs = [scores(chain, x, samples=50, seed=seed) for seed in range(300)]
    spread = torch.cat([one.nats for one in runs]).std()
    told = torch.cat([one.stderr for one in runs]).square().mean().sqrt()
    assert float(told / spread) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("name", MODELS)
def test_their_mean_is_the_bound_of_all(name):
    data = images(200)
    torch.manual_seed(0)
    chain = built(MODELS[name], data).eval()
    x = data.test.x
    found = scores(chain, x, samples=8, batch_size=7)
    expected = evaluate(chain, x, samples=8)
    error = math.hypot(float(found.stderr.norm()) / len(x), expected.elbo.stderr)
    assert float(found.nats.mean()) == pytest.approx(expected.elbo.mean, abs=5 * error)
    torch.testing.assert_close(found.bits_per_dim, -found.nats / (64 * math.log(2.0)))
    assert torch.equal(scores(chain, x, samples=8, batch_size=7).nats, found.nats)


@pytest.mark.slow
def test_random_levels_of_a_ddpm_have_an_error_of_their_own():
    data = images(200)
    torch.manual_seed(0)
    chain = built(MODELS["ddpm"], data).eval()
    x = data.test.x[:10]
    sweep = scores(chain, x, samples=50)
    drawn = scores(chain, x, levels=400)
    assert drawn.bound == "ELBO, 400 random levels"
    scale = (drawn.stderr**2 + sweep.stderr**2).sqrt()
    assert ((drawn.nats - sweep.nats).abs() < 6 * scale).all()


def test_intervals_have_student_s_factor():
    for degrees, factor in (
        (1, 12.7062),
        (2, 4.30265),
        (3, 3.18245),
        (4, 2.77645),
        (15, 2.13145),
        (200, 1.97190),
    ):
        assert student_factor(degrees) == pytest.approx(factor, abs=1e-4)
    with pytest.raises(ValueError, match="degrees is 0"):
        student_factor(0)
    nats, stderr = torch.tensor([-3.0, -1.0, -2.0]).double(), torch.tensor([1.0, 2.0, 1.0]).double()
    found = Scores(nats, stderr, torch.tensor([3, 31, 3]), None, "ELBO")
    expected = torch.tensor([3.18245, 2 * student_factor(31), 3.18245]).double()
    torch.testing.assert_close(found.interval, expected, rtol=0, atol=1e-4)
    assert found.error["large"]
    assert found.error["degrees_of_freedom"] == 3
    assert "3.18" in found.remark
    assert "--levels" in found.remark
    sharp = Scores(nats, 0.01 * stderr, torch.tensor([3, 3, 3]), None, "ELBO")
    assert not sharp.error["large"]
    assert "--levels" not in sharp.remark
    unknown = Scores(nats, nats * torch.nan, torch.zeros(3, dtype=torch.long), None, "IWAE")
    assert unknown.interval.isnan().all()
    assert unknown.remark is None


def test_the_ends_of_the_ranking_get_more_levels():
    data = images(200)
    torch.manual_seed(0)
    chain = built(MODELS["ddpm"], data).eval()
    x = data.test.x[:30]
    coarse = scores(chain, x, levels=4)
    found = scores(chain, x, levels=4, refine=True)
    assert torch.equal(found.nats, scores(chain, x, levels=4, refine=True).nats)
    refined = found.degrees > coarse.degrees
    order = found.order()
    assert refined[order[:5]].all()
    assert refined[order[-5:]].all()
    assert (found.degrees[refined] == 7).all()
    assert torch.equal(found.nats[~refined], coarse.nats[~refined])
    assert (found.nats[refined] != coarse.nats[refined]).all()
    assert found.bound == f"ELBO, 4 random levels, 32 for the {int(refined.sum())} at the ends"
    with pytest.raises(ValueError, match="refine"):
        scores(chain, x, samples=1, refine=True)


def test_mistakes():
    data = images(60)
    vae, ddpm = (built(MODELS[name], data).eval() for name in ("vae-mlp", "ddpm"))
    x = data.test.x[:2]
    for chain, options, words in (
        (vae, {"levels": 3}, r"no closed-form q\(z_t\|x\) to estimate from random levels; leave it out"),
        (ddpm, {"bound": "iwae"}, "useless"),
        (ddpm, {"levels": 3, "samples": 3}, "one of them"),
        (vae, {"bound": "ais"}, "must be one of elbo, iwae"),
        (vae, {"samples": 0}, "samples"),
    ):
        with pytest.raises(ValueError, match=words):
            scores(chain, x, **options)
    with pytest.raises(ValueError, match="no examples"):
        scores(vae, x[:0])
