"""Noise schedules of a DDPM and the closed forms that follow from them.

    q(x_t|x_{t−1}) = N( √(1 − β_t) x_{t−1}, β_t I ),   α_t = 1 − β_t,   ᾱ_t = Π_{s≤t} α_s,   ᾱ_0 = 1
    q(x_t|x_0)     = N( √ᾱ_t x_0, (1 − ᾱ_t) I )                                     Ho et al. 2020, eq. 4

For two levels s < t, with α_{t|s} = ᾱ_t / ᾱ_s and β_{t|s} = 1 − α_{t|s} (s = t − 1 gives α_t and β_t),

    q(x_s|x_t, x_0) = N( c_0 x_0 + c_t x_t, β̃ I )                                   ibid., eq. 6–7
    c_0 = √ᾱ_s β_{t|s} / (1 − ᾱ_t),   c_t = √α_{t|s} (1 − ᾱ_s) / (1 − ᾱ_t),
    β̃ = β_{t|s} (1 − ᾱ_s) / (1 − ᾱ_t)

Everything is kept as log ᾱ in float64, so that 1 − ᾱ_t and β_{t|s} have full relative precision at both
ends of the schedule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral._internal import checks


@dataclass(frozen=True)
class PosteriorCoefficients:
    """q(x_s|x_t, x_0) as coefficients, each a float64 tensor of the shape of t."""

    c0: Tensor
    """The weight of x_0 in the mean."""
    ct: Tensor
    """The weight of x_t in the mean."""
    variance: Tensor
    """β̃, which is 0 for s = 0."""
    step_variance: Tensor
    """β_{t|s}, the variance of the forward step; the other end of what a reverse variance may be."""


class Schedule:
    """The noise levels 0 … T of a forward process.

    ``betas`` are β_1 … β_T, each in (0, 1); ``ValueError`` names the first that is not. Build one with
    ``linear``, ``cosine``, ``sigmoid`` or ``log_linear``, or from betas of your own.
    """

    def __init__(self, betas: Tensor, *, name: str = "custom") -> None:
        betas = torch.as_tensor(betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) < 1:
            raise ValueError(
                f"betas have shape {tuple(betas.shape)}; they must be one dimension of T ≥ 1 values."
            )
        wrong = ~((betas > 0) & (betas < 1))
        if wrong.any():
            t = int(wrong.nonzero()[0])
            raise ValueError(
                f"beta_{t + 1} is {float(betas[t]):g}; every beta_t must be in (0, 1). For few steps "
                "take smaller ends of the schedule, or the cosine one."
            )
        self.name = name
        self.T = len(betas)
        log_alpha = torch.log1p(-betas)
        self.log_alpha_bar = torch.cat([log_alpha.new_zeros(1), log_alpha.cumsum(0)])
        """log ᾱ_0 … log ᾱ_T, float64, (T + 1,)."""

    def __repr__(self) -> str:
        return f"Schedule({self.name}, T={self.T}, terminal SNR {self.terminal_snr:.3g})"

    @property
    def betas(self) -> Tensor:
        """β_1 … β_T, (T,)."""
        return -torch.expm1(self.log_alpha_bar.diff())

    @property
    def alpha_bar(self) -> Tensor:
        """ᾱ_0 = 1, ᾱ_1, …, ᾱ_T, (T + 1,)."""
        return self.log_alpha_bar.exp()

    @property
    def log_snr(self) -> Tensor:
        """log( ᾱ_t / (1 − ᾱ_t) ) for t = 1 … T, (T,), decreasing."""
        return log_snr(self.log_alpha_bar[1:])

    @property
    def terminal_snr(self) -> float:
        """ᾱ_T / (1 − ᾱ_T): what is left of the data in x_T. Prior matching is about ½ D · this."""
        return float(self.log_snr[-1].exp())

    @staticmethod
    def from_log_alpha_bar(log_alpha_bar: Tensor, *, name: str, beta_max: float = 1.0) -> Schedule:
        """A schedule through log ᾱ_0 … log ᾱ_T over its first entry, betas cut at ``beta_max``."""
        betas = -torch.expm1(log_alpha_bar.diff())
        return Schedule(betas.clamp(max=beta_max), name=name)

    @staticmethod
    def linear(T: int, *, first: float | None = None, last: float | None = None) -> Schedule:
        """β_t from ``first`` to ``last`` in equal steps (Ho et al. 2020, §4).

        By default 1e−4 to 0.02 at T = 1000, and for another T both times 1000 / T, which keeps ᾱ as a
        function of t / T (Nichol & Dhariwal 2021). This needs T > 20.
        """
        checks.integer("T", T, low=1)
        first = 0.1 / T if first is None else first
        last = 20.0 / T if last is None else last
        return Schedule(torch.linspace(first, last, T, dtype=torch.float64), name="linear")

    @staticmethod
    def cosine(T: int, *, offset: float = 0.008, beta_max: float = 0.999) -> Schedule:
        """ᾱ_t = f(t) / f(0), f(t) = cos²( (t/T + offset) / (1 + offset) · π/2 ), betas cut at ``beta_max``.

        Nichol & Dhariwal 2021, eq. 17.
        """
        checks.integer("T", T, low=1)
        checks.number("offset", offset, low=0.0)
        u = torch.linspace(0.0, 1.0, T + 1, dtype=torch.float64)
        # cos(π/2) is 6e-17 and not 0 in floating point: its square stands for the zero at t = T.
        log_f = 2.0 * torch.cos((u + offset) / (1.0 + offset) * (math.pi / 2)).abs().log()
        return Schedule.from_log_alpha_bar(log_f, name="cosine", beta_max=beta_max)

    @staticmethod
    def sigmoid(T: int, *, start: float = -3.0, end: float = 3.0, beta_max: float = 0.999) -> Schedule:
        """ᾱ_t falls as a sigmoid from 1 at t = 0 to 0 at t = T, betas cut at ``beta_max``.

        ᾱ_t = ( σ(end) − σ(start + (end − start) t/T) ) / ( σ(end) − σ(start) )  (Jabri et al. 2023, alg. 1)
        """
        checks.integer("T", T, low=1)
        if not start < end:
            raise ValueError(f"start is {start:g} and end is {end:g}; start must be below end.")
        u = torch.linspace(0.0, 1.0, T + 1, dtype=torch.float64)
        top = torch.sigmoid(torch.tensor(end, dtype=torch.float64))
        alpha_bar = top - torch.sigmoid(start + (end - start) * u)
        # σ(end) − σ(end) is exactly 0 at t = T; the cut at beta_max makes of it what the last step can reach.
        alpha_bar = (alpha_bar / alpha_bar[0]).clamp(min=1e-30)
        return Schedule.from_log_alpha_bar(alpha_bar.log(), name="sigmoid", beta_max=beta_max)

    @staticmethod
    def log_linear(T: int, *, first: float = 9.0, last: float = -9.0) -> Schedule:
        """log-SNR from ``first`` at t = 1 to ``last`` at t = T in equal steps (Kingma et al. 2021, VDM).

        With it the VLB weighs the noise errors of all levels alike, so that the simple loss nearly is
        the VLB.
        """
        checks.integer("T", T, low=1)
        if not last < first:
            raise ValueError(f"first is {first:g} and last is {last:g}; log-SNR must fall.")
        snr = torch.linspace(first, last, T, dtype=torch.float64)
        log_alpha_bar = torch.nn.functional.logsigmoid(snr)
        return Schedule.from_log_alpha_bar(
            torch.cat([log_alpha_bar.new_zeros(1), log_alpha_bar]), name="log-linear"
        )


def log_snr(log_alpha_bar: Tensor) -> Tensor:
    """log( ᾱ / (1 − ᾱ) ) from log ᾱ < 0."""
    return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))


def posterior(log_alpha_bar_s: Tensor, log_alpha_bar_t: Tensor) -> PosteriorCoefficients:
    """q(x_s|x_t, x_0) for s < t from log ᾱ_s and log ᾱ_t (Ho et al. 2020, eq. 7, for any s < t)."""
    step = log_alpha_bar_t - log_alpha_bar_s
    beta = -torch.expm1(step)
    noise_s, noise_t = -torch.expm1(log_alpha_bar_s), -torch.expm1(log_alpha_bar_t)
    return PosteriorCoefficients(
        c0=(0.5 * log_alpha_bar_s).exp() * beta / noise_t,
        ct=(0.5 * step).exp() * noise_s / noise_t,
        variance=beta * noise_s / noise_t,
        step_variance=beta,
    )


def strided(T: int, steps: int) -> list[int]:
    """``steps`` levels out of T … 1, evenly spread, both ends among them; T alone for one step."""
    checks.integer("steps", steps, low=1, high=T)
    if steps == 1:
        return [T]
    return [round(T - i * (T - 1) / (steps - 1)) for i in range(steps)]


def spread(total: int, frames: int) -> set[int]:
    """Which of ``total`` states, counted from 0, are kept as ``frames``: evenly, both ends among them.

    One frame is the last.
    """
    if frames == 1:
        return {total - 1}
    return {round(i * (total - 1) / (frames - 1)) for i in range(frames)}
