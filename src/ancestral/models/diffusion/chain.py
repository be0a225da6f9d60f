"""Denoising diffusion: a fixed Gaussian q and latents of the data's shape (Ho et al. 2020).

    q(z_t|x)           = N( √ᾱ_t u, (1 − ᾱ_t) I )             closed form; u is x in the network's units
    q(z_{t−1}|z_t, x)  = N( c_0 u + c_t z_t, β̃_t I )          ``schedules.posterior``
    p(z_{t−1}|z_t)     = N( c_0 û + c_t z_t, σ_t² I )          û = û(z_t, t), from the network
    p(x|z_1)           = the same normal at t = 1 (mean û), integrated over the data's grey levels

    ELBO = E log p(x|z_1) − Σ_{t=2..T} E KL( q(z_{t−1}|z_t,x) ‖ p(z_{t−1}|z_t) ) − KL( q(z_T|x) ‖ p(z_T) )

``Diffusion`` is this chain. ``continuous.ContinuousDiffusion`` is its limit of infinitely many levels.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from ancestral.core.chain import Features
from ancestral.core.marginal import MarginalChain
from ancestral.core.summary import Summary
from ancestral.core.walk import condition_of, latent_of
from ancestral.distributions import DiagonalNormal, full_precision
from ancestral.models.diffusion.denoiser import Denoiser
from ancestral.models.diffusion.draws import LevelDraw
from ancestral.models.diffusion.noising import FixedNoising, Noising
from ancestral.models.diffusion.parametrization import ClosedForms, NoisePrediction, Parametrization
from ancestral.models.diffusion.schedules import Schedule, log_snr, posterior
from ancestral.models.diffusion.variance import FixedVariance, ReverseVariance
from ancestral.parts.likelihoods import DataDistribution, normal_data
from ancestral.parts.priors import Prior, prior_of
from ancestral.parts.scaling import Scaling


@dataclass(frozen=True)
class Prediction:
    """What the network predicts at (z_t, t), and the reverse step that follows."""

    target: Tensor
    """The predicted target, (n, …)."""
    data: Tensor
    """û, the prediction of the scaled data."""
    mean: Tensor
    """c_0 û + c_t z_t."""
    sigma: Tensor
    """σ_t, broadcast to (n, …)."""

    @property
    def step(self) -> DiagonalNormal:
        """p(z_{t−1}|z_t)."""
        return DiagonalNormal(self.mean, self.sigma)

    def detached_mean(self) -> Prediction:
        """The same without gradients to anything but sigma."""
        return Prediction(self.target.detach(), self.data.detach(), self.mean.detach(), self.sigma)


class GaussianDiffusion(MarginalChain):
    """What diffusion in T levels and in continuous time have in common: q, the network, and p's steps.

    ``network(z, time)`` takes z (n, *shape) and a time, (n,), and returns (n, *shape), or twice as many
    channels where the variance is learned. The time is t / T in (0, 1], or an affine function of log-SNR with
    a noising that is a ``Gamma``, as a learned one is. A chain with conditions calls ``network(z, time,
    condition)``.
    """

    noising: Noising

    def __init__(
        self,
        network: nn.Module,
        noising: Noising,
        *,
        scaling: Scaling,
        parametrization: Parametrization | None,
        variance: ReverseVariance | None,
        likelihood: DataDistribution | None,
        prior: Prior | None,
    ) -> None:
        super().__init__(noising.T, scaling.spec)
        self.network = network
        self.scaling = scaling
        self.noising = noising
        self.parametrization = parametrization or NoisePrediction()
        self.variance = variance or FixedVariance()
        self.likelihood = likelihood or normal_data(scaling)
        self.is_mass = self.likelihood.discrete
        self.prior = prior_of(prior, self.spec.shape)

    def with_network(self, network: nn.Module) -> Self:
        """The same chain with another network, such as a compiled one; all other parts are shared."""
        twin = copy.copy(self)
        twin._modules = {**self._modules, "network": network}
        return twin

    @property
    def schedule(self) -> Schedule:
        """The noise levels as they are now."""
        return self.noising.schedule

    @property
    def summary(self) -> Summary:
        """Words on the chain, for tables."""
        learned = self.noising.learned
        return Summary(
            inference=f"{'learned' if learned else 'fixed'} noising, learned denoising",
            posterior=f"{'learned' if learned else 'predefined'} forward + learned reverse",
            reparameterisation="used, forward and reverse",
            likelihood=self.likelihood.name,
            noising=True,
            continuous=self.continuous,
        )

    # q: fixed, closed-form -------------------------------------------------------------------------

    def features(self, x: Tensor, condition: Any = None) -> Tensor:
        """u, the data in the network's units."""
        return self.scaling(x)

    def q_marginal(self, h: Features, t: Tensor | int) -> DiagonalNormal:
        """q(z_t|x) = N( √ᾱ_t u, (1 − ᾱ_t) I )  (Ho et al. 2020, eq. 4)."""
        signal, noise = self._signal_and_noise(h, self.noising.log_alpha_bar(self._levels(h, t)))
        return DiagonalNormal(signal * h, noise)

    def q_top(self, h: Features) -> DiagonalNormal:
        """q(z_T|x)."""
        return self.q_marginal(h, self.T)

    def q_step(self, state: Any, h: Features, t: int | Tensor) -> DiagonalNormal:
        """q(z_{t−1}|z_t, x), t ≥ 2  (Ho et al. 2020, eq. 6–7)."""
        return self.q_given(h, latent_of(state), self.closed_forms(h, t))

    @staticmethod
    def q_given(u: Tensor, z: Tensor, k: ClosedForms) -> DiagonalNormal:
        """q(z_{t−1}|z_t, x) from the closed forms at t ≥ 2."""
        return DiagonalNormal(k.c0 * u + k.ct * z, (0.5 * k.log_variance[0]).exp())

    # p: learned ------------------------------------------------------------------------------------

    def p_top(self, n: int, condition: Any = None) -> Distribution:
        """p(z_T): the part ``prior``, N(0, I) by default."""
        found: Distribution = self.prior(n)
        return found

    def p_step(self, state: Any, t: int | Tensor) -> Distribution:
        """p(z_{t−1}|z_t), or p(x|z_1) for t = 1. A tensor, (n,), gives each example a level.

        ``ValueError`` for a tensor in which some levels are 1 and some are not: the two distributions differ in
        kind.
        """
        predicted = self.predict(latent_of(state), t, condition=condition_of(state))
        return self.last(predicted) if _is_last(t) else predicted.step

    def last(self, predicted: Prediction) -> Distribution:
        """p(x|z_1), the reverse step at t = 1, over the data's grey levels (Ho et al. 2020, eq. 13)."""
        return self.likelihood(predicted.data, predicted.sigma)

    def predict(self, z: Tensor, t: int | Tensor, *, condition: Any = None) -> Prediction:
        """The network's prediction at (z_t, t), and the reverse step to level t − 1."""
        k = self.closed_forms(z, t)
        return self.understood(z, self.ask(z, k.time, condition), k)

    def understood(
        self,
        z: Tensor,
        answer: tuple[Tensor, Tensor | None],
        k: ClosedForms,
        *,
        step: ClosedForms | None = None,
    ) -> Prediction:
        """The reverse step that the network's ``answer`` (``ask``) at z_t means.

        ``k`` are the closed forms of the network's level, ``step`` those of the step taken, where it differs.
        """
        target, raw = answer
        step = k if step is None else step
        log_variance = self.variance.log_variance(*step.log_variance, raw)
        data = self.parametrization.to_data(target, z, k)
        return Prediction(
            target=target,
            data=data,
            mean=step.c0 * data + step.ct * z,
            sigma=(0.5 * log_variance).exp().expand_as(z),
        )

    def ask(self, z: Tensor, time: Tensor, condition: Any = None) -> tuple[Tensor, Tensor | None]:
        """One network call at z, (n, …), and ``noising.time``, (n,): its target, its output on the variance.

        The second is None unless the variance is learned. What a time between two levels means is up to the
        network.
        """
        out = self.network(z, time) if condition is None else self.network(z, time, condition)
        out = full_precision(out)
        expected = (len(z), self.variance.outputs * z.shape[1], *z.shape[2:])
        assert out.shape == expected, f"the network gave {tuple(out.shape)}, expected {expected}"
        if self.variance.outputs == 1:
            return out, None
        target, raw = out.chunk(2, dim=1)
        return target, raw

    # One level of the bound, for objectives and estimates ------------------------------------------------

    @property
    @abstractmethod
    def matching_scale(self) -> float:
        """What the mean of ``level_term`` over random levels is multiplied by to give the matching term."""

    @property
    @abstractmethod
    def cells(self) -> int:
        """In how many equal cells of [0, 1] the levels above the first are drawn."""

    @abstractmethod
    def drawn_level(self, draw: LevelDraw) -> Tensor:
        """The levels of a draw, (n,)."""

    @abstractmethod
    def level_forms(self, u: Tensor, t: Tensor) -> ClosedForms:
        """The closed forms at drawn levels t, (n,)."""

    @abstractmethod
    def level_term(
        self, u: Tensor, z: Tensor, answer: tuple[Tensor, Tensor | None], k: ClosedForms, t: Tensor
    ) -> Tensor:
        """The matching term of one level, (n,), from the network's answer at z_t; finite at the first level,
        which has none."""

    @abstractmethod
    def reconstructed(self, z: Tensor, answer: tuple[Tensor, Tensor | None], k: ClosedForms) -> Distribution:
        """p(x|z) from the network's answer, where z is of the first level."""

    # Sampling ---------------------------------------------------------------------------------------

    denoises = True

    def denoiser(self, condition: Any = None) -> Denoiser:
        """What samplers act on."""
        return Denoiser(self, condition)

    # Closed forms ------------------------------------------------------------------------------------

    def closed_forms(self, like: Tensor, t: int | Tensor, s: int | Tensor | None = None) -> ClosedForms:
        """The closed forms at level t (an integer, or one per example) and of the step to s < t, for ``like``.

        s is t − 1 where it is left out.
        """
        levels = self._levels(like, t)
        bar_t = self.noising.log_alpha_bar(levels)
        bar_s = self.noising.log_alpha_bar(levels - 1 if s is None else self._levels(like, s))
        law = posterior(bar_s, bar_t)
        lower = self.variance.lower(law.variance, self._second(levels), law.step_variance, levels)
        signal, noise = self._signal_and_noise(like, bar_t)
        return ClosedForms(
            signal=signal,
            noise=noise,
            c0=_shaped(law.c0, like),
            ct=_shaped(law.ct, like),
            log_variance=(_shaped(lower.log(), like), _shaped(law.step_variance.log(), like)),
            time=self.noising.time(levels).to(like.dtype),
        )

    def _second(self, levels: Tensor) -> Tensor:
        """β̃_2, which stands in for β̃_1 where the variance is learned."""
        if self.T == 1:
            return torch.full((), torch.inf, dtype=torch.float64, device=levels.device)
        bars = self.noising.log_alpha_bar(torch.arange(1, 3, device=levels.device))
        return posterior(bars[0], bars[1]).variance

    @staticmethod
    def _signal_and_noise(like: Tensor, log_alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1 − ᾱ), shaped for ``like``."""
        signal, noise = (0.5 * log_alpha_bar).exp(), (-torch.expm1(log_alpha_bar)).sqrt()
        return _shaped(signal, like), _shaped(noise, like)

    def log_snr(self, t: Tensor) -> Tensor:
        """log SNR at levels t ≥ 1, float64."""
        return log_snr(self.noising.log_alpha_bar(t).detach())

    @staticmethod
    def _levels(like: Tensor, t: int | Tensor) -> Tensor:
        if isinstance(t, Tensor):
            return t
        return torch.full((len(like),), t, dtype=torch.long, device=like.device)


class Diffusion(GaussianDiffusion):
    """x ← z_1 ← … ← z_T with fixed noising and learned denoising.

    ``noising`` is a ``Schedule`` or a ``Noising``. ``scaling`` says what the data are and how the network sees
    them. By default the network predicts the noise, the reverse variance is the posterior's, p(x|z_1) is a
    (discretised) normal and p(z_T) is N(0, I).
    """

    def __init__(
        self,
        network: nn.Module,
        noising: Schedule | Noising,
        *,
        scaling: Scaling,
        parametrization: Parametrization | None = None,
        variance: ReverseVariance | None = None,
        likelihood: DataDistribution | None = None,
        prior: Prior | None = None,
    ) -> None:
        super().__init__(
            network,
            FixedNoising(noising) if isinstance(noising, Schedule) else noising,
            scaling=scaling,
            parametrization=parametrization,
            variance=variance,
            likelihood=likelihood,
            prior=prior,
        )

    def matching_at(self, h: Features, t: Tensor, condition: Any = None) -> Tensor:
        """As ``MarginalChain``, with the closed forms computed once."""
        k = self.closed_forms(h, t)
        z = torch.addcmul(k.signal * h, k.noise, torch.randn_like(h))
        return self.level_term(h, z, self.ask(z, k.time, condition), k, t)

    @property
    def matching_scale(self) -> float:
        """T − 1, the number of matching terms."""
        return float(self.T - 1)

    @property
    def cells(self) -> int:
        """A cell for each level above the first."""
        return max(self.T - 1, 1)

    def drawn_level(self, draw: LevelDraw) -> Tensor:
        """As ``GaussianDiffusion``: 1 at the first level, else 2 … T."""
        return torch.where(draw.first, 1, draw.cell + 2)

    def level_forms(self, u: Tensor, t: Tensor) -> ClosedForms:
        """As ``GaussianDiffusion``."""
        return self.closed_forms(u, t)

    def level_term(
        self, u: Tensor, z: Tensor, answer: tuple[Tensor, Tensor | None], k: ClosedForms, t: Tensor
    ) -> Tensor:
        """KL( q(z_{t−1}|z_t,x) ‖ p(z_{t−1}|z_t) ), (n,)."""
        return kl_divergence(self.q_given(u, z, k), self.understood(z, answer, k).step)

    def reconstructed(self, z: Tensor, answer: tuple[Tensor, Tensor | None], k: ClosedForms) -> Distribution:
        """As ``GaussianDiffusion``."""
        return self.last(self.understood(z, answer, k))


def _shaped(values: Tensor, like: Tensor) -> Tensor:
    """(n,) as (n, 1, …), in the dtype of ``like``."""
    return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def _is_last(t: int | Tensor) -> bool:
    """Whether the step at level t ends at the data."""
    if not isinstance(t, Tensor):
        return t == 1
    ones = int((t == 1).sum())
    if 0 < ones < len(t):
        raise ValueError(
            f"t is a tensor of {len(t)} levels of which {ones} are 1: p(x|z_1) and p(z_t-1|z_t) are different "
            "kinds of distribution. Call p_step for the two separately."
        )
    return ones > 0
