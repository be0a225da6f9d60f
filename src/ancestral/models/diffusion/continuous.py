"""Diffusion in continuous time: the limit T → ∞ of the chain and its bound (Kingma et al. 2021, section 4).

    matching = ½ ∫_0^1 γ′(u) E‖ε − ε̂(z_u, u)‖² du,   γ = −log SNR,   z_u = α_u x + σ_u ε        ibid., eq. 17

with the reconstruction at u = 0 and prior matching at u = 1. It depends on γ through its ends alone. In the
limit the reverse variance is that of q, so that only the variance of p(x|z_0) is left to learn.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ancestral.core.chain import Features
from ancestral.core.elbo import Elbo
from ancestral.models.diffusion.chain import GaussianDiffusion
from ancestral.models.diffusion.draws import BINS, LevelDraw
from ancestral.models.diffusion.noising import Gamma
from ancestral.models.diffusion.parametrization import ClosedForms, Parametrization
from ancestral.models.diffusion.variance import ReverseVariance
from ancestral.parts.likelihoods import DataDistribution
from ancestral.parts.priors import Prior
from ancestral.parts.scaling import Scaling


class ContinuousDiffusion(GaussianDiffusion):
    """x ← z_u, u in [0, 1]: a diffusion model of continuous time, trained and evaluated at random u.

    Sampling takes steps: for all that walks a chain it is the diffusion of the T levels of ``schedule``, which
    are γ at T even places. ``variance`` is that of these steps; a learned one is the posterior's but for
    p(x|z_1). The bound is not of those T levels but of the limit, and has no sweep: it is estimated
    (``elbo_at``) from levels t that are numbers in [0, 1] (``matching_at``).

    ``ValueError`` for a parametrization that is of a step between two levels.
    """

    continuous = True
    noising: Gamma

    def __init__(
        self,
        network: nn.Module,
        noising: Gamma,
        *,
        scaling: Scaling,
        parametrization: Parametrization | None = None,
        variance: ReverseVariance | None = None,
        likelihood: DataDistribution | None = None,
        prior: Prior | None = None,
    ) -> None:
        super().__init__(
            network,
            noising,
            scaling=scaling,
            parametrization=parametrization,
            variance=variance,
            likelihood=likelihood,
            prior=prior,
        )
        if not self.parametrization.between_levels:
            raise ValueError(
                f"prediction is {self.parametrization.name!r}, which is that of a step between two levels: "
                "continuous time has none. Use prediction noise, data or velocity, or an integer for T."
            )

    def closed_forms(self, like: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> ClosedForms:
        """As ``GaussianDiffusion``, but only the variance at level 1 is learned: in the limit the others are
        given."""
        k = super().closed_forms(like, t, s)
        if not self.variance.learned:
            return k
        low, high = k.log_variance
        first = (self._levels(like, t) == 1).reshape(low.shape)
        return replace(k, log_variance=(low, high.where(first, low)))

    # The bound -----------------------------------------------------------------------------------------

    def matching_at(self, h: Features, t: Tensor, condition: Any = None) -> Tensor:
        """½ γ′(t) ‖ε − ε̂‖² for a draw of ε at one t in [0, 1] per example, (n,): ∫ of it is the term."""
        k = self.level_forms(h, t)
        z = k.signal * h + k.noise * torch.randn_like(h)
        return self.level_term(h, z, self.ask(z, k.time, condition), k, t)

    def elbo_of(
        self, x: Tensor, *, samples: int = 1, h: Features | None = None, condition: Any = None
    ) -> Elbo:
        """As ``elbo_sampled_of`` with ``samples`` t: there is no sweep."""
        return self.elbo_sampled_of(x, levels=samples, h=h, condition=condition)

    def level_at(self, place: Tensor) -> Tensor:
        """The t in [0, 1] at ``place``: itself."""
        return place

    def elbo_at(
        self,
        x: Tensor,
        place: Tensor,
        weight: Tensor,
        *,
        h: Features | None = None,
        condition: Any = None,
    ) -> Elbo:
        """The ELBO with its matching term estimated from given t, at 1 + m calls; ``matching`` is (n, 1).

        ``place``, (n, m) in [0, 1], are the t, and ``weight``, (n, m), multiplies the term of each: it is
        unbiased where a place has the density 1 / (m · weight).
        """
        h = self.features(x) if h is None else h
        reconstruction, prior = self.ends(x, h, condition)
        matching = torch.zeros_like(reconstruction)
        for t, share in zip(place.unbind(1), weight.unbind(1), strict=True):
            matching = matching + self.matching_at(h, t, condition) * share.to(reconstruction.dtype)
        return Elbo(reconstruction, matching[:, None], prior, self.spec.dims, self.discrete)

    # One level of the bound -------------------------------------------------------------------------------

    @property
    def matching_scale(self) -> float:
        """1: the term is an integral over [0, 1]."""
        return 1.0

    @property
    def cells(self) -> int:
        """As ``GaussianDiffusion``."""
        return BINS

    def drawn_level(self, draw: LevelDraw) -> Tensor:
        """As ``GaussianDiffusion``: 0 at the first level, else in [0, 1]."""
        return draw.place.double().where(~draw.first, 0.0)

    def level_forms(self, u: Tensor, t: Tensor) -> ClosedForms:
        """The closed forms at t in [0, 1], (n,): those of a step do not exist and are NaN."""
        signal, noise = self._signal_and_noise(u, self.noising.log_alpha_bar_at(t))
        none = torch.full((), torch.nan, dtype=u.dtype, device=u.device)
        return ClosedForms(signal, noise, none, none, (none, none), self.noising.time_at(t).to(u.dtype))

    def level_term(
        self, u: Tensor, z: Tensor, answer: tuple[Tensor, Tensor | None], k: ClosedForms, t: Tensor
    ) -> Tensor:
        """½ γ′(t) ‖ε − ε̂‖², (n,)."""
        error = torch.einsum("n...->n", (self.parametrization.from_data(u, z, k) - answer[0]).square())
        return 0.5 * self.noising.slope(t).to(u.dtype) * self.parametrization.noise_error(error, k)

    def reconstructed(self, z: Tensor, answer: tuple[Tensor, Tensor | None], k: ClosedForms) -> Distribution:
        """As ``GaussianDiffusion``."""
        return self.last(self.understood(z, answer, k, step=self.closed_forms(z, 1)))
