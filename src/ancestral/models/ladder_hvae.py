"""The hierarchical VAE whose posterior shares the generative path, with a deterministic stream beside z.

    p(x, z_1, …, z_T) = p(z_T) p(z_{T−1}|z_T) … p(z_1|z_{≥2}) p(x|z_{≥1})
    q(z_{1:T}|x) = q(z_T|x) q(z_{T−1}|z_T, x) … q(z_1|z_{≥2}, x)

(Sønderby et al. 2016; Kingma et al. 2016; Vahdat & Kautz 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ancestral.core.chain import Chain, Features
from ancestral.core.spec import DataSpec
from ancestral.core.summary import Summary
from ancestral.core.walk import State, condition_of
from ancestral.distributions import DiagonalNormal, gaussian, standard_normal
from ancestral.models.levels import at_least_two_levels, families_of, posteriors_of
from ancestral.parts.likelihoods import Likelihood
from ancestral.parts.posteriors import Posterior
from ancestral.parts.priors import Prior, prior_of
from ancestral.parts.scaling import Scaling


@dataclass(frozen=True)
class Stream:
    """What a ladder passes down beside z: the stream, and p's distribution of the next z."""

    stream: Tensor
    """(n, width, …), a deterministic function of all the latents above."""
    prior: DiagonalNormal | None
    """p(z_{t−1}|z_{≥t}), which q's law refines; None below the last level."""


class LadderHVAE(Chain):
    """The hierarchical VAE whose q shares the generative path, with a deterministic stream beside z.

    Level t's q starts from p's own law of z_{t−1} and moves it by what the data say:
    q = N( mu_p + sigma_p Δmu, (sigma_p e^{Δ})² ), so that a level is dead exactly where Δmu = Δ = 0. With
    another of ``posteriors``, the noise of that law is mixed or bent.

    ``bottom_up`` gives T features, nearest the data first; ``posteriors[i]``, ``laws[i]``, which makes q from
    its output, and ``top_downs[i]`` belong to z_{i+1}; ``priors[i]`` reads p(z_{i+1}|…) off the stream, for
    all but the top level;
    ``head`` maps the last stream to what ``likelihood`` reads. ``stream_shape`` and ``latent_shapes``
    are per-example shapes, of the stream at the top and of z_1 … z_T.
    """

    def __init__(
        self,
        bottom_up: nn.Module,
        head: nn.Module,
        *,
        posteriors: Sequence[nn.Module],
        top_downs: Sequence[nn.Module],
        priors: Sequence[nn.Module],
        likelihood: Likelihood,
        scaling: Scaling,
        spec: DataSpec,
        stream_shape: tuple[int, ...],
        latent_shapes: Sequence[tuple[int, ...]],
        laws: Sequence[Posterior] | None = None,
        prior: Prior | None = None,
    ) -> None:
        super().__init__(len(latent_shapes), spec)
        at_least_two_levels(self.T)
        if not len(posteriors) == len(top_downs) == len(priors) + 1 == self.T:
            raise ValueError(
                f"{len(posteriors)} posteriors, {len(top_downs)} top_downs and {len(priors)} priors for "
                f"T = {self.T} levels; there must be T, T and T − 1 of them."
            )
        self.bottom_up = bottom_up
        self.head = head
        self.posteriors = nn.ModuleList(posteriors)
        self.top_downs = nn.ModuleList(top_downs)
        self.priors = nn.ModuleList(priors)
        self.likelihood = likelihood
        self.is_mass = self.likelihood.discrete
        self.scaling = scaling
        self.start = nn.Parameter(torch.zeros(stream_shape))
        self.latent_shapes = [tuple(shape) for shape in latent_shapes]
        self.laws = posteriors_of(laws, [shape[0] for shape in self.latent_shapes])
        self.prior = prior_of(prior, self.latent_shapes[-1])

    @property
    def summary(self) -> Summary:
        """Words on the chain, for tables."""
        spatial = any(len(shape) > 1 for shape in self.latent_shapes)
        return Summary(
            inference="variational inference",
            posterior=f"{families_of(self.laws, spatial=spatial)}, top-down",
            likelihood=self.likelihood.name,
        )

    def features(self, x: Tensor) -> list[Tensor]:
        """The bottom-up features of every level, nearest the data first."""
        out: list[Tensor] = self.bottom_up(self.scaling.centred(x))
        return out

    def q_top(self, h: Features) -> Distribution:
        """q(z_T|x), which starts from N(0, I) whatever the prior is."""
        n = len(h[-1])
        stream = self.start.expand(n, *self.start.shape)
        reference = standard_normal(n, self.latent_shapes[-1], self.start)
        law: Distribution = self.laws[-1](self.posteriors[-1](stream, h[-1]), reference)
        return law

    def carry(self, state: State | None, z: Tensor, t: int) -> State:
        """z_t with the stream below level t and p(z_{t−1}|…), which p reads off it."""
        above = None if state is None else state.stream
        above = self.start.expand(len(z), *self.start.shape) if above is None else above.stream
        stream = self.top_downs[t - 1](above, z)
        below = Stream(stream, gaussian(self.priors[t - 2](stream)) if t > 1 else None)
        return State(z, condition_of(state), below)

    def q_step(self, state: State, h: Features, t: int) -> Distribution:
        """q(z_{t−1}|z_{≥t}, x)."""
        below: Stream = state.stream
        assert below.prior is not None
        change = self.posteriors[t - 2](below.stream, h[t - 2])
        law: Distribution = self.laws[t - 2](change, below.prior)
        return law

    def p_step(self, state: State, t: int) -> Distribution:
        """p(z_{t−1}|z_{≥t}), or p(x|z_{≥1}) for t = 1."""
        below: Stream = state.stream
        if t == 1:
            law: Distribution = self.likelihood(self.head(below.stream))
            return law
        assert below.prior is not None
        return below.prior
