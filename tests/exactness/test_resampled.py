"""Importance-weighted losses through a few chosen draws: the same value, and the same gradient on average."""

from __future__ import annotations

import math

import pytest
import torch

from ancestral.config import HVAEConfig, VAEConfig
from ancestral.distributions import DiagonalNormal, FullNormal
from ancestral.objectives import DReG, Few, Iwae, NegativeElbo
from ancestral.objectives.importance import chosen
from ancestral.training.objective import objective_of
from weighted import TINY, each_toy, gradient, tiny, toy

pytestmark = pytest.mark.usefixtures("float64")

WHOLE = {False: Iwae, True: DReG}
each_model = pytest.mark.parametrize("model", TINY.values(), ids=TINY.keys())
each_gradient = pytest.mark.parametrize("doubly", [False, True], ids=["iwae", "dreg"])


@each_gradient
@each_model
def test_the_value_and_terms_are_those_of_all_draws(model, doubly):
    chain, x = tiny(model)
    torch.manual_seed(3)
    expected = WHOLE[doubly](6)(chain, x)
    torch.manual_seed(3)
    found = Few(WHOLE[doubly](6), backward=2)(chain, x)
    torch.testing.assert_close(found.value, expected.value)
    torch.testing.assert_close(found.terms, expected.terms)


@each_gradient
@each_model
def test_the_gradient_has_the_same_mean(model, doubly):
    """At the same draws of z, over many choices among them, and over examples."""
    chain, x = tiny(model)
    xs = x.repeat(30, 1)
    differences = []
    for seed in range(60):
        torch.manual_seed(seed)
        whole = gradient(chain, WHOLE[doubly](5)(chain, xs))
        torch.manual_seed(seed)
        differences.append(gradient(chain, Few(WHOLE[doubly](5), backward=2)(chain, xs)) - whole)
    stacked = torch.stack(differences)
    z = stacked.mean(dim=0) / (stacked.std(dim=0) / math.sqrt(len(stacked)) + 1e-12)
    assert float(z.abs().max()) < 5.0
    assert 0.2 < float(z.square().mean()) < 2.0


REDRAWN = {
    **TINY,
    "full": VAEConfig(hidden=(3,), latent_dims=2, q="full", dropout=0.0),
    "full ladder": HVAEConfig(levels=3, width=3, latent_dims=(2, 1, 2), q="full", dropout=0.0),
    "bottom-up of three": HVAEConfig(
        levels=3, posterior="bottom-up", hidden=(3,), latent_dims=(2, 1, 2), dropout=0.0
    ),
}


@each_gradient
@pytest.mark.parametrize("model", REDRAWN.values(), ids=REDRAWN.keys())
def test_draws_made_again_have_the_gradient_of_the_path_of_all(model, doubly, monkeypatch):
    """In every draw: q's noise for the chosen ones is worked out from where they fell."""
    chain, x = tiny(model)
    torch.manual_seed(3)
    again = gradient(chain, Few(WHOLE[doubly](6), backward=2)(chain, x))
    # Without it the path of all draws is differentiated, as of a law that has none.
    monkeypatch.delattr(DiagonalNormal, "redrawn")
    monkeypatch.delattr(FullNormal, "redrawn")
    torch.manual_seed(3)
    whole = gradient(chain, Few(WHOLE[doubly](6), backward=2)(chain, x))
    torch.testing.assert_close(again, whole, rtol=1e-9, atol=1e-11)
    assert float(whole.abs().max()) > 0.0


@pytest.mark.parametrize("shape", [(3,), (3, 2, 2)])
def test_a_draw_made_again_is_itself_and_depends_on_its_law(shape):
    torch.manual_seed(0)
    loc, scale = torch.randn(4, *shape), torch.rand(4, *shape) + 0.1
    factor = torch.randn(4, *shape[1:], 3, 3).tril(-1) + torch.diag_embed(scale.movedim(1, -1))
    for law, parameter in (
        (DiagonalNormal, scale.requires_grad_()),
        (FullNormal, factor.detach().requires_grad_()),
    ):
        torch.manual_seed(1)
        drawn = law(loc, parameter).rsample()
        again = law(loc, parameter).redrawn(drawn.detach())
        torch.testing.assert_close(again, drawn)
        ours, expected = (torch.autograd.grad(z.square().sum(), parameter)[0] for z in (again, drawn))
        torch.testing.assert_close(ours.tril(), expected.tril())


@each_gradient
@each_toy
def test_of_equal_weights_each_draw_is_taken_once(name, doubly):
    """At the exact posterior as many choices as draws are the whole gradient, draw by draw."""
    chain, data = toy(name)
    x = data.sample((5,)) + 0.5
    torch.manual_seed(1)
    expected = gradient(chain, WHOLE[doubly](7)(chain, x))
    torch.manual_seed(1)
    found = gradient(chain, Few(WHOLE[doubly](7), backward=7)(chain, x))
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_draws_are_chosen_by_their_weights():
    share = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.0, 1.0, 0.0, 0.0]]).repeat(3000, 1)
    torch.manual_seed(0)
    rows = chosen(share, 3)
    assert rows.shape == (18_000,)
    example, draw = rows.reshape(-1, 3) // 4, rows.reshape(-1, 3) % 4
    assert torch.equal(example, torch.arange(6000)[:, None].expand(-1, 3))
    counts = torch.nn.functional.one_hot(draw, 4).sum(dim=1)
    assert (counts >= (3 * share).floor()).all()
    assert (counts <= (3 * share).ceil()).all()
    mean = counts[::2].double().mean(dim=0)
    torch.testing.assert_close(mean, 3 * share[0], rtol=0, atol=4 * 0.5 / math.sqrt(3000))


def test_which_chains_take_it():
    options = {"objective": "dreg", "training_samples": 4, "backward_samples": 2}
    for model in (
        VAEConfig(hidden=(3,), latent_dims=2, **options),
        HVAEConfig(levels=2, posterior="bottom-up", hidden=(3,), latent_dims=(2, 1), **options),
        HVAEConfig(levels=2, width=3, latent_dims=(2, 1), **options),
    ):
        chain, x = tiny(model)
        objective = objective_of(chain)
        assert objective.name == "negative IWAE-4 bound, DReG gradient, gradient through 2 of 4 samples"
        torch.manual_seed(2)
        loss = objective(chain, x)
        torch.manual_seed(2)
        ours = gradient(chain, Few(DReG(4), backward=2)(chain, x))
        torch.testing.assert_close(gradient(chain, loss), ours)


@pytest.mark.parametrize("config", [VAEConfig, HVAEConfig])
def test_mistakes(config):
    with pytest.raises(ValueError, match="backward_samples is 2 and objective is 'elbo'"):
        config(training_samples=4, backward_samples=2)
    with pytest.raises(ValueError, match="backward_samples is 5; it must be"):
        config(objective="iwae", training_samples=4, backward_samples=5)
    with pytest.raises(ValueError, match="backward_samples is 5; it must be"):
        Few(Iwae(4), backward=5)
    with pytest.raises(ValueError, match="NegativeElbo has no importance weights to choose samples by"):
        Few(NegativeElbo(4), backward=2)
