"""The hierarchical VAE with a bottom-up posterior, x ← z_1 ← … ← z_T with T ≥ 2 learned latents.

p(x, z_1, …, z_T) = p(z_T) p(z_{T−1}|z_T) … p(z_1|z_2) p(x|z_1)
q(z_{1:T}|x) = q(z_1|x) q(z_2|z_1) … q(z_T|z_{T−1})                      the lecture notes' posterior
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution

from ancestral.core.chain import BottomUpChain, Features
from ancestral.core.spec import DataSpec
from ancestral.core.summary import Summary
from ancestral.distributions import gaussian
from ancestral.models.levels import at_least_two_levels, families_of, posteriors_of
from ancestral.parts.likelihoods import Likelihood
from ancestral.parts.posteriors import Posterior
from ancestral.parts.priors import Prior, prior_of
from ancestral.parts.scaling import Scaling


class MarkovHVAE(BottomUpChain):
    """The hierarchical VAE of the lecture notes: Gaussian laws between vectors, q from the data upwards.

    ``latent_dims`` are the sizes of z_1 … z_T. ``laws[i]``, by default a diagonal Gaussian, makes q of
    z_{i+1} from its ``outputs`` numbers: those of ``encoder`` for z_1, and those of ``ups[i − 1]``, which
    reads z_i, for the others. ``downs[i]`` gives p(z_{i+1}|z_{i+2}), twice the size of its latent;
    ``decoder`` maps z_1 to what ``likelihood`` reads.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        ups: Sequence[nn.Module],
        downs: Sequence[nn.Module],
        likelihood: Likelihood,
        scaling: Scaling,
        spec: DataSpec,
        latent_dims: Sequence[int],
        laws: Sequence[Posterior] | None = None,
        prior: Prior | None = None,
    ) -> None:
        super().__init__(len(latent_dims), spec)
        at_least_two_levels(self.T)
        if not len(ups) == len(downs) == self.T - 1:
            raise ValueError(
                f"{len(ups)} ups and {len(downs)} downs for T = {self.T} levels; there must be T − 1 of each."
            )
        self.encoder = encoder
        self.decoder = decoder
        self.ups = nn.ModuleList(ups)
        self.downs = nn.ModuleList(downs)
        self.likelihood = likelihood
        self.is_mass = self.likelihood.discrete
        self.scaling = scaling
        self.latent_dims = tuple(latent_dims)
        self.laws = posteriors_of(laws, self.latent_dims)
        self.prior = prior_of(prior, (self.latent_dims[-1],))

    @property
    def summary(self) -> Summary:
        """Words on the chain, for tables."""
        return Summary(
            inference="variational inference",
            posterior=f"{families_of(self.laws)}, bottom-up",
            likelihood=self.likelihood.name,
        )

    def features(self, x: Tensor) -> Tensor:
        """What q(z_1|x) is made from, (n, laws[0].outputs)."""
        out: Tensor = self.encoder(self.scaling.centred(x))
        return out

    def q_first(self, h: Features) -> Distribution:
        """q(z_1|x)."""
        law: Distribution = self.laws[0](h)
        return law

    def q_up(self, z: Tensor, t: int) -> Distribution:
        """q(z_t|z_{t−1})."""
        law: Distribution = self.laws[t - 1](self.ups[t - 2](z))
        return law

    def p_step(self, state: Any, t: int) -> Distribution:
        """p(z_{t−1}|z_t), or p(x|z_1) for t = 1."""
        if t == 1:
            law: Distribution = self.likelihood(self.decoder(state))
            return law
        return gaussian(self.downs[t - 2](state))
