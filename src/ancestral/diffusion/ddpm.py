"""Denoising diffusion: a fixed Gaussian q and latents of the data's shape (Ho et al. 2020).

    q(z_t|x)           = N( √ᾱ_t u, (1 − ᾱ_t) I )             closed form; u is x in the network's units
    q(z_{t−1}|z_t, x)  = N( c_0 u + c_t z_t, β̃_t I )          ``schedules.posterior``
    p(z_{t−1}|z_t)     = N( c_0 û + c_t z_t, σ_t² I )          û = û(z_t, t), from the network
    p(x|z_1)           = the same normal at t = 1 (mean û), integrated over the data's levels

    ELBO = E log p(x|z_1) − Σ_{t=2..T} E KL( q(z_{t−1}|z_t,x) ‖ p(z_{t−1}|z_t) ) − KL( q(z_T|x) ‖ N(0,I) )

The network predicts one of four targets (``targets``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ancestral import checks
from ancestral.chain import Features, final_value
from ancestral.diffusion import targets
from ancestral.diffusion.draws import Draws
from ancestral.diffusion.learned import LearnedSchedule
from ancestral.diffusion.losses import check_loss, describe, named_loss
from ancestral.diffusion.noising import Noising, Table
from ancestral.diffusion.targets import PREDICTIONS, Coefficients, Prediction
from ancestral.discretized import DiscretizedNormal
from ancestral.distributions import DiagonalNormal, full_precision, standard_normal
from ancestral.elbo import Loss
from ancestral.marginal import MarginalChain
from ancestral.scaling import Scaling
from ancestral.schedules import Posterior, Schedule, log_snr, posterior, spread, strided
from ancestral.spec import DataSpec
from ancestral.summary import Summary

VARIANCES = ("beta", "posterior", "learned")


class DDPM(MarginalChain):
    """x ← z_1 ← … ← z_T with fixed noising and learned denoising.

    ``network(z, time)`` takes z (n, *shape) and a time, (n,), and returns (n, *shape). The time is t / T in
    (0, 1], or an affine function of log-SNR with a schedule that is a ``Gamma``, as a learned one is. With
    ``variance="learned"`` it returns twice as many channels, the second half saying where log σ_t² lies
    between log β̃_t and log β_t (Nichol & Dhariwal 2021, eq. 15). ``variance`` "beta" and "posterior" are
    the two ends. At t = 1 β̃ is 0: β_1 stands in for it, and β̃_2 for the lower end of "learned" (ibid.).

    ``loss``: "simple" is E‖target − prediction‖², the notes' (Ho et al. 2020, eq. 14, for noise); "vlb" is
    the exact −ELBO from one t; "min-snr" weighs the simple loss by min(SNR, gamma) in units of data error
    (Hang et al. 2023); "hybrid" is simple + ``vlb_weight`` · vlb with the mean held fixed in the latter
    (Nichol & Dhariwal 2021, eq. 16), the way to learn the variance beside the simple loss. ``sampling`` says
    how the t of a batch are drawn: "uniform", "even" or "importance" (``draws``).
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        schedule: Schedule | Noising,
        scaling: Scaling,
        spec: DataSpec,
        prediction: str = "noise",
        variance: str = "posterior",
        loss: str = "simple",
        gamma: float = 5.0,
        vlb_weight: float = 0.001,
        sampling: str = "even",
    ) -> None:
        super().__init__(schedule.T, spec)
        checks.one_of("prediction", prediction, PREDICTIONS)
        checks.one_of("variance", variance, VARIANCES)
        check_loss(loss, variance=variance, learned=isinstance(schedule, LearnedSchedule))
        checks.number("gamma", gamma, above=0.0)
        checks.number("vlb_weight", vlb_weight, above=0.0)
        self.network = network
        self.scaling = scaling
        self.noising = schedule if isinstance(schedule, Noising) else Table(schedule)
        self.prediction = prediction
        self.variance = variance
        self.loss = loss
        self.gamma = gamma
        self.vlb_weight = vlb_weight
        self.draws = Draws(sampling, max(self.T - 1, 1))

    @property
    def schedule(self) -> Schedule:
        """The noise levels as they are now."""
        return self.noising.schedule

    @property
    def log_alpha_bar(self) -> Tensor:
        """log ᾱ_0 … log ᾱ_T, float64, (T + 1,), on the chain's device."""
        return self.noising.log_alpha_bar(torch.arange(self.T + 1, device=self.scaling.shift.device))

    @property
    def loss_name(self) -> str:
        """What ``training_loss`` is called in reports."""
        return describe(self)

    @property
    def summary(self) -> Summary:
        """Words on the chain, for tables."""
        learned = isinstance(self.noising, LearnedSchedule)
        return Summary(
            inference=f"{'learned' if learned else 'fixed'} noising, learned denoising",
            posterior=f"{'learned' if learned else 'predefined'} forward + learned reverse",
            reparameterisation="used, forward and reverse",
            likelihood="Gaussian" if self.spec.levels is None else "discretised Gaussian",
            noising=True,
            continuous=self.continuous,
        )

    # q: fixed, closed-form -------------------------------------------------------------------------

    def features(self, x: Tensor) -> Tensor:
        """u, the data in the network's units."""
        return self.scaling(x)

    def q_marginal(self, h: Features, t: Tensor | int) -> DiagonalNormal:
        """q(z_t|x) = N( √ᾱ_t u, (1 − ᾱ_t) I )  (Ho et al. 2020, eq. 4)."""
        k = self.coefficients(h, t)
        return DiagonalNormal(k.signal * h, k.noise)

    def q_top(self, h: Features) -> DiagonalNormal:
        """q(z_T|x)."""
        return self.q_marginal(h, self.T)

    def q_step(self, state: Any, h: Features, t: int | Tensor) -> DiagonalNormal:
        """q(z_{t−1}|z_t, x), t ≥ 2  (Ho et al. 2020, eq. 6–7)."""
        k = self.coefficients(h, t)
        return DiagonalNormal(k.c0 * h + k.ct * state, (0.5 * k.log_variance[0]).exp())

    # p: learned ------------------------------------------------------------------------------------

    def p_top(self, n: int) -> DiagonalNormal:
        """p(z_T) = N(0, I)."""
        return standard_normal(n, self.spec.shape, self.scaling.shift)

    def p_step(self, state: Any, t: int | Tensor) -> Distribution:
        """p(z_{t−1}|z_t), or p(x|z_1) for t = 1. As a tensor, t is one level ≥ 2 per example."""
        return self.reverse(state, t)

    def reverse(self, z: Tensor, t: int | Tensor, s: int | None = None) -> Distribution:
        """p(z_s|z_t) for a level s < t (t − 1 when left out), or p(x|z_t) for s = 0.

        With s < t − 1 this is the model on a strided subset of its levels: a sampler, whose p is not the
        one the ELBO is of.
        """
        predicted = self.predict(z, t, s)
        ends = t == 1 if s is None else s == 0
        if isinstance(ends, bool) and ends:
            return self.data_law(predicted)
        return DiagonalNormal(predicted.mean, predicted.sigma)

    def data_law(self, predicted: Prediction) -> Distribution:
        """p(x|z_1), the reverse law at t = 1, over the data's levels (Ho et al. 2020, eq. 13)."""
        if self.spec.levels is not None:
            return DiscretizedNormal(predicted.data, predicted.sigma, self.spec.levels)
        return DiagonalNormal(self.scaling.inverse(predicted.data), predicted.sigma * self.scaling.scale)

    def predict(self, z: Tensor, t: int | Tensor, s: int | None = None) -> Prediction:
        """The network's prediction at (z_t, t), and the reverse law to level s (t − 1 when left out)."""
        step = self.coefficients(z, t, s)
        answer = self.ask(z, self.noising.time(self._levels(z, t)).to(z.dtype))
        # The network's target is of the step t → t − 1 also where a sampler goes further down.
        return self.understood(z, answer, at=step if s is None else self.coefficients(z, t), step=step)

    def understood(
        self, z: Tensor, answer: tuple[Tensor, Tensor | None], *, at: Coefficients, step: Coefficients
    ) -> Prediction:
        """What an answer of the network (``ask``) at z_t says of a step down; its target is of ``at``."""
        target, raw = answer
        low, high = step.log_variance
        if raw is not None:
            log_variance = low + torch.sigmoid(raw) * (high - low)
        else:
            log_variance = low if self.variance == "posterior" else high
        data = self.to_data(target, z, at)
        return Prediction(
            target=target,
            data=data,
            mean=step.c0 * data + step.ct * z,
            sigma=(0.5 * log_variance).exp().expand_as(z),
        )

    def ask(self, z: Tensor, time: Tensor) -> tuple[Tensor, Tensor | None]:
        """One network call at z, (n, …), and ``noising.time``, (n,): its target, its word on the variance.

        The second is None unless the variance is learned. What a time between two levels means is up to the
        network.
        """
        out = full_precision(self.network(z, time))
        expected = (len(z), (2 if self.variance == "learned" else 1) * z.shape[1], *z.shape[2:])
        assert out.shape == expected, f"the network gave {tuple(out.shape)}, expected {expected}"
        if self.variance != "learned":
            return out, None
        target, raw = out.chunk(2, dim=1)
        return target, raw

    def to_data(self, target: Tensor, z: Tensor, k: Coefficients) -> Tensor:
        """û from a predicted target at z_t (``targets.to_data``)."""
        return targets.to_data(self.prediction, target, z, k)

    def from_data(self, data: Tensor, z: Tensor, k: Coefficients) -> Tensor:
        """The target that belongs to u = ``data`` at z_t (``targets.from_data``)."""
        return targets.from_data(self.prediction, data, z, k)

    # Training ----------------------------------------------------------------------------------------

    def training_loss(self, x: Tensor) -> Loss:
        """The named loss at one level per example, which ``draws`` chooses (``losses``)."""
        return named_loss(self, x)

    def observe(self, seen: dict[str, Tensor]) -> None:
        """Keep the losses that importance sampling goes by."""
        self.draws.observe(seen)

    @property
    def first_share(self) -> float:
        """The probability of t = 1 in training: a tenth for the VLB, where t = 1 is a term of its own (the
        reconstruction) that one level in T would hardly ever train; 1 / T for the other losses."""
        return max(0.1, 1.0 / self.T) if self.loss == "vlb" else 1.0 / self.T

    # Sampling ------------------------------------------------------------------------------------------

    def generate(self, n: int, *, steps: int | None = None) -> Iterator[tuple[int, Tensor | Distribution]]:
        """Ancestral sampling over ``steps`` of the T levels (all when left out), evenly spread."""
        z = self.p_top(n).sample()
        yield self.T, z
        yield from self.descend(z, self.T, steps=steps)

    def descend(
        self, z: Tensor, t: int, *, steps: int | None = None
    ) -> Iterator[tuple[int, Tensor | Distribution]]:
        """As ``MarginalChain.descend``, over ``steps`` of the levels t … 1, evenly spread."""
        times = strided(t, t if steps is None else steps)
        for t, s in zip(times, [*times[1:], 0], strict=True):
            law = self.reverse(z, t, s)
            if s == 0:
                yield 0, law
            else:
                z = law.sample()
                yield s, z

    @torch.no_grad()
    def sample(self, n: int, *, final: str = "draw", steps: int | None = None) -> Tensor:
        """n examples, (n, *shape): see ``Chain.sample``; ``steps`` as in ``generate``."""
        _, samples = self.trajectory(n, final=final, steps=steps, frames=1)
        return samples[-1]

    def preview(self, n: int) -> Tensor:
        """n examples from at most 50 strided steps."""
        return self.sample(n, final="mean", steps=min(self.T, 50))

    @torch.no_grad()
    def trajectory(
        self, n: int, *, final: str = "draw", steps: int | None = None, frames: int = 10
    ) -> tuple[list[int], list[Tensor]]:
        """Ancestral sampling with ``frames`` of its states kept: their levels, and each (n, *shape).

        The last frame is level 0, the sample; the others are z_t mapped to the data's units.
        """
        checks.integer("n", n, low=1)
        checks.integer("frames", frames, low=1)
        kept = spread((self.T if steps is None else steps) + 1, frames)
        levels, states = [], []
        for index, (t, state) in enumerate(self.generate(n, steps=steps)):
            if isinstance(state, Distribution):
                levels.append(t)
                states.append(final_value(state, final))
            elif index in kept:
                levels.append(t)
                states.append(self.scaling.inverse(state))
        return levels, states

    # Closed forms at given levels ----------------------------------------------------------------------

    def coefficients(self, like: Tensor, t: int | Tensor, s: int | None = None) -> Coefficients:
        """The closed forms at level t (a number, or one per example) and below it s, shaped for ``like``."""
        levels = self._levels(like, t)
        bar_t = self.noising.log_alpha_bar(levels)
        bar_s = self.noising.log_alpha_bar(levels - 1 if s is None else torch.full_like(levels, s))
        law: Posterior = posterior(bar_s, bar_t)
        lower = law.variance
        if self.variance == "learned" and self.T > 1:
            bars = self.noising.log_alpha_bar(torch.arange(1, 3, device=levels.device))
            second = posterior(bars[0], bars[1]).variance
            lower = torch.where(levels == 1, torch.minimum(second, law.step_variance), lower)
        # β̃ is 0 where a step ends at the data: no law has variance 0, so β stands in.
        lower = torch.where(lower > 0, lower, law.step_variance)

        def shaped(values: Tensor) -> Tensor:
            return values.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))

        return Coefficients(
            signal=shaped((0.5 * bar_t).exp()),
            noise=shaped((-torch.expm1(bar_t)).sqrt()),
            c0=shaped(law.c0),
            ct=shaped(law.ct),
            log_variance=(shaped(lower.log()), shaped(law.step_variance.log())),
        )

    def log_snr(self, t: Tensor) -> Tensor:
        """log SNR at levels t ≥ 1, float64."""
        return log_snr(self.noising.log_alpha_bar(t).detach())

    def _levels(self, like: Tensor, t: int | Tensor) -> Tensor:
        if isinstance(t, Tensor):
            return t
        return torch.full((len(like),), t, dtype=torch.long, device=like.device)
