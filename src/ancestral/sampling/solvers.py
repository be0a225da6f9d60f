"""The steps of the few-step samplers: their weights, from the two noise levels of a step.

With α = √ᾱ, σ = √(1 − ᾱ), λ = log(α / σ) (half the log-SNR) and û = û(z_t, t), the network's prediction of
the data, the ODE whose solutions have the marginals of q is, from level t to a lower level s,

    z_s = (σ_s/σ_t) z_t + σ_s ∫_{λ_t}^{λ_s} e^λ û dλ                    Lu et al. 2022 (DPM-Solver++), eq. 8

A step replaces û by a polynomial in λ. With û held constant it is, with γ = 0 in

    z_s = a z_t + b û + γ̃ ε,   γ̃² = γ² β̃,   a = √(σ_s² − γ̃²) / σ_t,   b = α_s − a α_t

DDIM (Song et al. 2021, eq. 12 and 16, where γ is η and β̃ the variance of q(z_s|z_t, x)). γ = 1 is the
ancestral step with the posterior's variance, and the first-order step of the SDE form of DPM-Solver++. The
others add to it the change of û, by a finite difference:

* DPM-Solver++(2M) (ibid., alg. 2) extrapolates from the level r before t: û + ½ (û − û_r) h_s/h_t, with
  h_s = λ_s − λ_t and h_t = λ_t − λ_r. In its SDE form the same stands beside γ = 1.
* Heun (Karras et al. 2022, alg. 1 without churn) is the trapezoidal rule in the variables x = z/α and
  ς = σ/α, dx/dς = (x − û)/ς. Its first half is the step above to a guess z'_s. With ρ = ς_s/ς_t, averaging
  the slopes at both ends and putting x = z/α in gives  z_s = z'_s + b/(2ρ) (û(z'_s, s) − û).

So each is z_s = a z_t + b û + c · (change of û) + γ̃ ε. Steps end at the last level visited; û there is the
sample, as a step to ᾱ = 1 has a = γ̃ = 0 and b = 1 (and none of the samplers adds a change to it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from ancestral.models.diffusion.denoiser import NoiseLevel


@dataclass(frozen=True)
class Weights:
    """Of one step from a level to a lower one."""

    z: float
    """a."""
    data: float
    """b."""
    change: float
    """c; 0 in a first-order step."""
    noise: float
    """γ̃."""


def first_order(t: NoiseLevel, s: NoiseLevel, eta: float) -> Weights:
    """DDIM with η = ``eta`` (Song et al. 2021, eq. 12 and 16)."""
    noise_t, noise_s = -math.expm1(t.log_alpha_bar), -math.expm1(s.log_alpha_bar)
    beta = -math.expm1(t.log_alpha_bar - s.log_alpha_bar)
    variance = eta**2 * beta * noise_s / noise_t
    a = math.sqrt((noise_s - variance) / noise_t)
    b = math.exp(0.5 * s.log_alpha_bar) - a * math.exp(0.5 * t.log_alpha_bar)
    return Weights(a, b, 0.0, math.sqrt(variance))


def multistep(t: NoiseLevel, s: NoiseLevel, eta: float, before: NoiseLevel | None) -> Weights:
    """DPM-Solver++(2M): ``eta`` is 0 for the ODE and 1 for the SDE. Its first step is of first order."""
    plain = first_order(t, s, eta)
    if before is None:
        return plain
    ratio = (s.log_snr - t.log_snr) / (t.log_snr - before.log_snr)
    return replace(plain, change=0.5 * plain.data * ratio)


def heun(t: NoiseLevel, s: NoiseLevel) -> Weights:
    """Heun's method in σ/α (Karras et al. 2022, alg. 1)."""
    plain = first_order(t, s, 0.0)
    return replace(plain, change=0.5 * plain.data * math.exp(0.5 * (s.log_snr - t.log_snr)))
