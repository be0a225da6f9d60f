"""Diffusion in continuous time: the limit T → ∞ of the chain and its bound (Kingma et al. 2021, section 4).

    matching = ½ ∫_0^1 γ′(u) E‖ε − ε̂(z_u, u)‖² du,   γ = −log SNR,   z_u = α_u x + σ_u ε        ibid., eq. 17

with the reconstruction at u = 0 and prior matching at u = 1. It depends on γ through its ends alone. In the
limit the reverse variance is that of q, so that nothing of it is left to learn but that of p(x|z_0).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributions import kl_divergence

from ancestral import checks
from ancestral.chain import Features
from ancestral.diffusion.ddpm import DDPM
from ancestral.diffusion.draws import BINS, Draws
from ancestral.diffusion.learned import LearnedSchedule
from ancestral.diffusion.noising import Gamma
from ancestral.diffusion.targets import Coefficients, noise_error
from ancestral.distributions import sum_event
from ancestral.elbo import Elbo, Loss
from ancestral.scaling import Scaling
from ancestral.spec import DataSpec

PREDICTIONS = ("noise", "data", "velocity")


class ContinuousDDPM(DDPM):
    """x ← z_u, u in [0, 1]: a diffusion model of continuous time, trained and evaluated at random u.

    Sampling takes steps: for all that walks a chain it is the DDPM of the T levels of ``schedule``, which are
    γ at T even places. ``variance`` is that of its steps; "learned" is the posterior's but for p(x|z_1). Its
    bound is not of those T levels but of the limit, and has no sweep: it is estimated (``elbo_at``) from
    levels t that are numbers in [0, 1] (``matching_at``).

    The loss is the VLB; ``prediction`` is "noise", "data" or "velocity". Else as ``DDPM``.
    """

    continuous = True

    def __init__(
        self,
        network: nn.Module,
        *,
        schedule: Gamma,
        scaling: Scaling,
        spec: DataSpec,
        prediction: str = "noise",
        variance: str = "posterior",
        sampling: str = "even",
    ) -> None:
        if prediction == "mean":
            raise ValueError(
                "prediction is 'mean', which is that of a step between two levels: continuous time has none. "
                "Use prediction noise, data or velocity, or a whole number for T."
            )
        checks.one_of("prediction", prediction, PREDICTIONS)
        super().__init__(
            network,
            schedule=schedule,
            scaling=scaling,
            spec=spec,
            prediction=prediction,
            variance=variance,
            loss="vlb",
        )
        self.draws = Draws(sampling, BINS)

    @property
    def loss_name(self) -> str:
        """What ``training_loss`` is called in reports."""
        return "negative ELBO (continuous-time VLB, one t)"

    @property
    def log_noise(self) -> Gamma:
        """γ, the noise level at each t in [0, 1]."""
        assert isinstance(self.noising, Gamma)
        return self.noising

    def coefficients(self, like: Tensor, t: int | Tensor, s: int | None = None) -> Coefficients:
        """As ``DDPM``, but only the variance at level 1 is learned: in the limit the others are given."""
        k = super().coefficients(like, t, s)
        low, high = k.log_variance
        first = (self._levels(like, t) == 1).reshape(low.shape)
        return replace(k, log_variance=(low, high.where(first | (self.variance != "learned"), low)))

    # The bound -----------------------------------------------------------------------------------------

    def matching_at(self, h: Features, t: Tensor) -> Tensor:
        """½ γ′(t) ‖ε − ε̂‖² for a draw of ε at one t in [0, 1] per example, (n,): ∫ of it is the term."""
        k = self.between(h, t)
        z = k.signal * h + k.noise * torch.randn_like(h)
        target, _ = self.ask(z, self.log_noise.time_at(t).to(h.dtype))
        return self._cost(h, z, t, target)

    def _cost(self, u: Tensor, z: Tensor, t: Tensor, target: Tensor) -> Tensor:
        k = self.between(u, t)
        error = sum_event((self.from_data(u, z, k) - target).square())
        return 0.5 * self.log_noise.slope(t).to(u.dtype) * noise_error(self.prediction, error, k)

    def between(self, like: Tensor, t: Tensor) -> Coefficients:
        """The closed forms at t in [0, 1], (n,): those of a step are none, NaN."""
        log_alpha_bar = self.log_noise.log_alpha_bar_at(t)

        def shaped(values: Tensor) -> Tensor:
            return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))

        none = torch.full((), torch.nan, dtype=like.dtype, device=like.device)
        signal, noise = (0.5 * log_alpha_bar).exp(), (-torch.expm1(log_alpha_bar)).sqrt()
        return Coefficients(shaped(signal), shaped(noise), none, none, (none, none))

    def elbo(self, x: Tensor, *, samples: int = 1, h: Features | None = None) -> Elbo:
        """As ``elbo_sampled`` with ``samples`` t: there is no sweep."""
        return self.elbo_sampled(x, levels=samples, h=h)

    def level_at(self, place: Tensor) -> Tensor:
        """The t in [0, 1] at ``place``: itself."""
        return place

    def elbo_at(self, x: Tensor, place: Tensor, weight: Tensor, *, h: Features | None = None) -> Elbo:
        """The ELBO with its matching term estimated from given t, at 1 + m calls; ``matching`` is (n, 1).

        ``place``, (n, m) in [0, 1], are the t, and ``weight``, (n, m), multiplies the cost of each: it is
        unbiased where a place has the density 1 / (m · weight).
        """
        h = self.features(x) if h is None else h
        reconstruction, prior = self._ends(x, h)
        matching = torch.zeros_like(reconstruction)
        for t, share in zip(place.unbind(1), weight.unbind(1), strict=True):
            matching = matching + self.matching_at(h, t) * share.to(reconstruction.dtype)
        return Elbo(reconstruction, matching[:, None], prior, self.spec.dims, self.discrete)

    # Training ------------------------------------------------------------------------------------------

    def training_loss(self, x: Tensor) -> Loss:
        """−ELBO from one t per example: t = 0 for a tenth of them, whose term the reconstruction is."""
        u = self.features(x)
        draw = self.draws(len(x), first=self.first_share, device=x.device)
        t = draw.place.double().where(~draw.first, 0.0)
        k = self.between(u, t)
        z = k.signal * u + k.noise * torch.randn_like(u)
        target, raw = self.ask(z, self.log_noise.time_at(t).to(u.dtype))
        costs = self._cost(u, z, t, target)
        matching = draw.weighed(costs).mean() / (1.0 - self.first_share)
        # Where t is not 0 this is a term that no law is asked for, and it is left out.
        last = self.understood(z, (target, raw), at=k, step=self.coefficients(u, 1))
        reconstruction = torch.where(draw.first, -self.data_law(last).log_prob(x), 0.0).mean()
        reconstruction = reconstruction / self.first_share
        prior = kl_divergence(self.q_top(u), self.p_top(len(x))).mean()
        value = reconstruction + matching + prior
        if isinstance(self.log_noise, LearnedSchedule):
            value = value + self.log_noise.variance_loss(t, draw.weighed(costs.square()))
        terms = {"reconstruction": reconstruction, "matching": matching, "prior": prior}
        return Loss(
            value, {name: term.detach() for name, term in terms.items()}, self.draws.seen(draw, costs)
        )

    @property
    def first_share(self) -> float:
        """The probability of t = 0 in training."""
        return 0.1
