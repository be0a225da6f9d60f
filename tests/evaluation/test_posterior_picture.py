"""Posteriors on a grid: figures that are known in closed form, what is refused, and what is drawn."""

from __future__ import annotations

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from ancestral.core.spec import DataSpec
from ancestral.evaluation import posterior_grids, save_posteriors
from ancestral.models.vae import VAE
from ancestral.parts.likelihoods import GaussianLikelihood
from ancestral.parts.scaling import Scaling
from tiny import MODELS, built, images, vectors

SPEC = DataSpec((3,))


def linear_vae(*, width: float = 1.0, noise: float = 0.5, off: float = 0.0) -> VAE:
    """A linear decoder, with the posterior's mean + ``off`` and ``width`` times its sigmas for q."""
    scaling = Scaling(SPEC)
    chain = VAE(
        nn.Linear(3, 4),
        nn.Linear(2, 3),
        likelihood=GaussianLikelihood(SPEC, scaling, sigma="fixed", value=noise),
        scaling=scaling,
        spec=SPEC,
        latent_dims=2,
    )
    weight = chain.decoder.weight.detach()
    covariance = torch.linalg.inv(torch.eye(2) + weight.T @ weight / noise**2)
    gain = covariance @ weight.T / noise**2
    with torch.no_grad():
        chain.encoder.weight.copy_(torch.cat([gain, torch.zeros(2, 3)]))
        sigma = width * covariance.diag().sqrt()
        chain.encoder.bias[:2] = off - gain @ chain.decoder.bias
        chain.encoder.bias[2:] = 7.0 * torch.atanh(sigma.log() / 7.0)
    return chain


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("width", "noise", "off"), [(1.0, 0.5, 0.0), (0.3, 0.5, 1.0), (3.0, 0.02, 0.5), (0.1, 2.0, 3.0)]
)
def test_figures_of_a_linear_model(width, noise, off):
    """Narrow, wide and far laws: log p(x) and the gap are the closed forms."""
    chain, x = linear_vae(width=width, noise=noise, off=off), torch.randn(2, 3)
    weight, bias = chain.decoder.weight.detach(), chain.decoder.bias.detach()
    evidence = MultivariateNormal(bias, weight @ weight.T + noise**2 * torch.eye(3))
    covariance = torch.linalg.inv(torch.eye(2) + weight.T @ weight / noise**2)
    truth = MultivariateNormal((x - bias) @ weight @ covariance / noise**2, covariance)
    q = chain.encode(x)
    expected = kl_divergence(MultivariateNormal(q.mean, torch.diag_embed(q.variance)), truth)
    for i, grid in enumerate(posterior_grids(chain, x, cells=401)):
        assert grid.log_likelihood == pytest.approx(float(evidence.log_prob(x)[i]), abs=2e-3)
        assert grid.gap == pytest.approx(float(expected[i].detach()), rel=2e-3, abs=2e-3)
        assert grid.share == pytest.approx(1.0, abs=2e-3)
        found = grid.json()
        assert found["elbo"] == pytest.approx(grid.log_likelihood - grid.gap)
        assert found["gap"] == grid.gap


def test_nothing_of_the_callers_is_changed():
    chain, x = linear_vae().train(), torch.randn(2, 3)
    before = torch.get_rng_state()
    first = posterior_grids(chain, x, cells=21)
    assert torch.equal(torch.get_rng_state(), before)
    assert chain.training
    again = posterior_grids(chain, x, cells=21)
    assert all(torch.equal(a.log_q, b.log_q) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_only_two_latent_numbers_can_be_shown(name):
    chain = built(MODELS[name], images())
    with pytest.raises(
        ValueError, match=r"for a vae of two latent numbers, and this is a .*--model.latent-dims 2"
    ):
        posterior_grids(chain, images().test.x[:1])


def test_a_picture_has_a_row_per_name_and_a_column_per_example(tmp_path, monkeypatch):
    drawn: list[Figure] = []
    save = Figure.savefig

    def noted(figure: Figure, *args, **kwargs) -> None:
        drawn.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", noted)
    x = torch.randn(3, 3)
    rows = {"narrow": posterior_grids(linear_vae(width=0.3), x, cells=41)}
    rows["wide"] = posterior_grids(linear_vae(width=3.0), x, cells=41)
    save_posteriors(tmp_path / "new" / "a.png", rows)
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.format == "PNG"
    panels = drawn[0].axes
    assert len(panels) == 6
    assert [panels[i].get_ylabel() for i in (0, 3)] == ["narrow", "wide"]
    grids = [*rows["narrow"], *rows["wide"]]
    assert [panel.get_title() for panel in panels] == [f"gap {grid.gap:.3f} nats" for grid in grids]
    # What is shown of a column is the same in each row, and holds the middle of both laws.
    for above, below in zip(panels[:3], panels[3:], strict=True):
        assert above.get_xlim() == below.get_xlim()
        assert above.get_ylim() == below.get_ylim()


def test_vectors_of_two_numbers_may_have_two_latents():
    data = vectors()
    chain = built(MODELS["vae-mlp"].__class__(network="mlp", hidden=(4,), q="iaf"), data)
    (grid,) = posterior_grids(chain, data.test.x[:1], cells=21)
    assert grid.gap > 0
