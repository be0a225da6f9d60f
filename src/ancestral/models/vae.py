"""The variational autoencoder: the chain with one latent level (Kingma & Welling 2014).

q(z|x) = N( mu(x), sigma²(x) I )       encoder; or another law of ``posteriors``
p(z)   = N( 0, I )                     prior
p(x|z) = likelihood of decoder(z)      decoder

ELBO = E_q[ log p(x|z) ] − KL( q(z|x) ‖ p(z) )
z = mu + sigma · ε, ε ~ N(0, I)        the reparameterisation, in ``DiagonalNormal.rsample``
KL = ½ Σ ( mu² + sigma² − 1 − log sigma² )      in closed form
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ancestral._internal import checks
from ancestral.core.chain import Chain, Features
from ancestral.core.spec import DataSpec
from ancestral.core.summary import Summary
from ancestral.parts.likelihoods import Likelihood
from ancestral.parts.posteriors import DiagonalPosterior, Posterior, centre
from ancestral.parts.priors import Prior, prior_of
from ancestral.parts.scaling import Scaling


class VAE(Chain):
    """x ← z, with any posterior as encoder and any likelihood as decoder.

    ``encoder`` maps the centred data (n, *shape) to what ``posterior`` reads, (n, posterior.outputs): mu and
    log sigma for the diagonal Gaussian that it is by default; ``decoder`` maps z (n, latent_dims) to what
    ``likelihood`` reads. ``prior`` is N(0, I) by default.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        likelihood: Likelihood,
        scaling: Scaling,
        spec: DataSpec,
        latent_dims: int,
        posterior: Posterior | None = None,
        prior: Prior | None = None,
    ) -> None:
        super().__init__(1, spec)
        checks.integer("latent_dims", latent_dims, low=1)
        self.encoder = encoder
        self.decoder = decoder
        self.posterior = posterior or DiagonalPosterior(latent_dims)
        self.likelihood = likelihood
        self.is_mass = self.likelihood.discrete
        self.scaling = scaling
        self.latent_dims = latent_dims
        self.prior = prior_of(prior, (latent_dims,))

    @property
    def summary(self) -> Summary:
        """Words on the chain, for tables."""
        return Summary(
            inference="variational inference",
            posterior=self.posterior.name,
            likelihood=self.likelihood.name,
        )

    def features(self, x: Tensor) -> Tensor:
        """What q(z|x) is made from, (n, posterior.outputs): mu and log sigma come first."""
        out: Tensor = self.encoder(self.scaling.centred(x))
        return out

    def q_top(self, h: Features) -> Distribution:
        """q(z|x), the encoder's law."""
        law: Distribution = self.posterior(h)
        return law

    def p_step(self, state: Any, t: int) -> Distribution:
        """p(x|z), the decoder's law; the only step there is, t = 1."""
        return self.decode(state)

    def encode(self, x: Tensor) -> Distribution:
        """q(z|x) of data (n, *shape)."""
        return self.q_top(self.features(x))

    def decode(self, z: Tensor) -> Distribution:
        """p(x|z) of latents (n, latent_dims); its ``mean`` is the notes' D(z)."""
        law: Distribution = self.likelihood(self.decoder(z))
        return law

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x|z) at z = mu(x), or in the middle of a flow: (n, *shape), in the data's units."""
        return self.decode(centre(self.encode(x))).mean
