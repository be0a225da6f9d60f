"""What tables say of each chain: the families that its parts really are of."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent

from ancestral import Summary
from ancestral.config import FlowConfig, HVAEConfig, LikelihoodConfig, VAEConfig
from ancestral.core.chain import Chain
from ancestral.core.spec import DataSpec
from ancestral.distributions import DiagonalNormal, standard_normal
from ancestral.experiments.build import build_chain
from ancestral.experiments.compare import Compared, latent_dims
from ancestral.experiments.comparison_table import table
from ancestral.models import MarkovHVAE
from ancestral.models.vae import VAE
from ancestral.parts.likelihoods import Likelihood
from ancestral.parts.posteriors import DiagonalPosterior, FullPosterior, Posterior
from ancestral.parts.scaling import Scaling
from tiny import MODELS

GREY, BITS, PLANE = DataSpec((1, 8, 8), 17), DataSpec((1, 8, 8), 2), DataSpec((2,))
FLOW = FlowConfig(hidden=(8,))
FAMILIES = {
    "diagonal": "diagonal Gaussian",
    "full": "Gaussian with a full covariance",
    "iaf": "inverse autoregressive flow",
    "spline": "spline flow",
}
WORDS = ("Inference type", "Latent space", "Posterior approximation", "Reparameterisation")


def with_q(model, q):
    return replace(model, q=q, flow=FLOW if q in ("iaf", "spline") else FlowConfig())


def words(chain: Chain) -> dict[str, str]:
    """The rows of a comparison's table that are words."""
    numbers = {"mean": 0.0, "stderr": 1.0}
    figures = {
        **{"latent_dims": latent_dims(chain), "dims": chain.spec.dims, "parameters": 1, "elbo": numbers},
        **{"terms": {"reconstruction": 0.0, "matching": 0.0, "prior": 0.0}, "bits_per_dim": None},
        **{"log_likelihood": None, "matching_per_level": [0.0] * (chain.T - 1), "sample_quality": None},
        **{"sample_distance": None, "train_images_per_second": None, "sample_images_per_second": 1.0},
    }
    rows = dict(table([Compared("vae", chain, figures)]))
    return {name: rows[name][0] for name in WORDS}


@pytest.mark.parametrize(("q", "family"), FAMILIES.items())
def test_a_vaes_posterior_is_of_its_family(q, family):
    found = words(build_chain(with_q(MODELS["vae-mlp"], q), GREY))
    assert found["Posterior approximation"] == family
    assert found["Inference type"] == "variational inference"
    assert found["Latent space"] == "4 numbers (data: 64)"


@pytest.mark.parametrize(("q", "family"), FAMILIES.items())
@pytest.mark.parametrize("kind", ["ladder", "bottom-up"])
def test_a_hierarchys_posterior_is_of_its_family_and_direction(kind, q, family):
    found = words(build_chain(with_q(MODELS[kind], q), GREY))["Posterior approximation"]
    # On images, entries of one position alone depend on one another.
    place = "per level and position" if kind == "ladder" and q != "diagonal" else "per level"
    assert found == f"{family} {place}, {'top-down' if kind == 'ladder' else 'bottom-up'}"


def test_families_that_differ_are_named_level_by_level():
    given = build_chain(HVAEConfig(levels=2, posterior="bottom-up", hidden=(4,), latent_dims=(2,)), PLANE)
    assert isinstance(given, MarkovHVAE)
    given.laws = nn.ModuleList([DiagonalPosterior(2), FullPosterior(2)])
    text = given.summary.posterior
    assert text.index("z_1 diagonal Gaussian") < text.index("z_2 Gaussian with a full covariance")


def test_a_ddpms_noising_is_fixed_or_learned():
    fixed, learned = (
        words(build_chain(replace(MODELS["ddpm"], **options), GREY))
        for options in ({}, {"schedule": "learned", "loss": "vlb", "T": "continuous"})
    )
    assert fixed["Inference type"] == "fixed noising, learned denoising"
    assert fixed["Posterior approximation"] == "predefined forward + learned reverse"
    assert fixed["Latent space"] == "12 levels of 64, as the data"
    assert learned["Inference type"] == "learned noising, learned denoising"
    assert learned["Posterior approximation"] == "learned forward + learned reverse"
    assert learned["Latent space"] == "continuous time, 64 numbers, as the data"


@pytest.mark.parametrize(
    ("kind", "spec", "family"),
    [
        ("bernoulli", BITS, "Bernoulli"),
        ("gaussian", PLANE, "Gaussian"),
        ("discretized-gaussian", GREY, "discretised Gaussian"),
        ("discretized-logistic", GREY, "discretised logistic"),
        ("logistic-mixture", GREY, "mixture of 5 discretised logistics"),
    ],
)
def test_the_likelihood_is_of_its_family(kind, spec, family):
    config = VAEConfig(network="mlp", hidden=(4,), latent_dims=2, likelihood=LikelihoodConfig(kind=kind))
    assert build_chain(config, spec).summary.likelihood == family


@pytest.mark.parametrize(("spec", "family"), [(GREY, "discretised Gaussian"), (PLANE, "Gaussian")])
def test_a_ddpms_likelihood_follows_the_data(spec, family):
    config = MODELS["ddpm"] if spec.is_image else replace(MODELS["ddpm"], channels=None, blocks=None)
    assert build_chain(config, spec).summary.likelihood == family


class Own(Chain):
    """A chain of a user's own, of two levels of 3 and 2 numbers."""

    def __init__(self) -> None:
        super().__init__(2, BITS)
        self.scale = nn.Parameter(torch.ones(()))

    def q_top(self, h):
        return standard_normal(len(h), (2,), self.scale)

    def q_step(self, state, h, t):
        return standard_normal(len(h), (3,), self.scale)

    def p_top(self, n):
        return standard_normal(n, (2,), self.scale)

    def p_step(self, state, t):
        if t == 2:
            return standard_normal(len(state), (3,), self.scale)
        return Independent(Bernoulli(probs=torch.full((len(state), 1, 8, 8), 0.5)), 3)


def test_a_chain_of_ones_own_has_words_too():
    found = words(Own())
    assert found["Posterior approximation"] == found["Inference type"] == "defined by the chain"
    assert found["Latent space"] == "2 levels, 5 numbers (data: 64)"

    class Told(Own):
        @property
        def summary(self) -> Summary:
            return Summary(posterior="the prior")

    assert words(Told())["Posterior approximation"] == "the prior"


def test_parts_of_ones_own_go_by_their_class():
    class Shifted(Posterior):
        def law(self, diagonal: DiagonalNormal, extra: Tensor) -> Distribution:
            return diagonal

    class Coin(Likelihood):
        per_entry, discrete = 1, True

        def forward(self, out: Tensor) -> Distribution:
            return Independent(Bernoulli(logits=out), 1)

    spec = DataSpec((4,), 2)
    chain = VAE(
        *(nn.Linear(4, 4), nn.Linear(2, 4)),
        likelihood=Coin(),
        scaling=Scaling(spec),
        spec=spec,
        latent_dims=2,
        posterior=Shifted(2),
    )
    assert (chain.summary.posterior, chain.summary.likelihood) == ("Shifted", "Coin")
