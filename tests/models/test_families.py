"""The three families, beside the mathematics: what they refuse, and what they do in one shot."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ancestral.core.spec import DataSpec
from ancestral.models import LadderHVAE, MarkovHVAE
from ancestral.models.vae import VAE
from ancestral.parts.likelihoods import DiscretizedLogisticLikelihood, GaussianLikelihood
from ancestral.parts.scaling import Scaling


def test_families_refuse_parts_that_do_not_fit():
    spec = DataSpec((2,))
    scaling = Scaling(spec)
    common = {"likelihood": GaussianLikelihood(spec, scaling), "scaling": scaling, "spec": spec}
    net = nn.Identity()
    with pytest.raises(ValueError, match="latent_dims is 0; it must be at least 1"):
        VAE(net, net, latent_dims=0, **common)
    with pytest.raises(ValueError, match=r"1 latent level\(s\).*has at least 2.*use a VAE"):
        MarkovHVAE(net, net, ups=[], downs=[], latent_dims=(3,), **common)
    with pytest.raises(ValueError, match=r"1 ups and 2 downs for T = 3 levels; there must be T − 1"):
        MarkovHVAE(net, net, ups=[net], downs=[net, net], latent_dims=(3, 2, 1), **common)
    with pytest.raises(ValueError, match=r"2 posteriors, 2 top_downs and 2 priors for T = 2 levels"):
        LadderHVAE(
            net,
            net,
            posteriors=[net] * 2,
            top_downs=[net] * 2,
            priors=[net] * 2,
            stream_shape=(1,),
            latent_shapes=[(1,), (1,)],
            **common,
        )


def test_a_vae_encodes_decodes_and_reconstructs():
    spec = DataSpec((1, 2, 2), levels=5)
    scaling = Scaling(spec).fit(torch.randint(0, 5, (30, 1, 2, 2)))
    likelihood = DiscretizedLogisticLikelihood(spec, scaling)
    chain = VAE(
        nn.Sequential(nn.Flatten(), nn.Linear(4, 6)),
        nn.Linear(3, 8),
        likelihood=likelihood,
        scaling=scaling,
        spec=spec,
        latent_dims=3,
    )
    x = torch.randint(0, 5, (7, 1, 2, 2), dtype=torch.uint8)
    q = chain.encode(x)
    mu, log_sigma = chain.encoder(scaling.centred(x)).chunk(2, dim=1)
    torch.testing.assert_close(q.mean, mu)
    torch.testing.assert_close(q.variance, (14.0 * torch.tanh(log_sigma / 7.0)).exp())
    reconstructed = chain.reconstruct(x)
    torch.testing.assert_close(reconstructed, chain.decode(q.mean).mean.detach())
    assert reconstructed.shape == x.shape
    assert not reconstructed.requires_grad
    assert ((reconstructed >= 0) & (reconstructed <= 4)).all()
    assert chain.sample(3).shape == (3, 1, 2, 2)
    assert chain.discrete
    assert chain.elbo(x).bits_per_dim.shape == (7,)


def test_a_vae_of_integers_may_have_a_density_and_then_no_bits():
    spec = DataSpec((2,), levels=5)
    scaling = Scaling(spec)
    chain = VAE(
        nn.Linear(2, 4),
        nn.Linear(2, 4),
        likelihood=GaussianLikelihood(spec, scaling),
        scaling=scaling,
        spec=spec,
        latent_dims=2,
    )
    assert not chain.discrete
    with pytest.raises(ValueError, match="bits_per_dim of a density"):
        _ = chain.elbo(torch.zeros(3, 2)).bits_per_dim
