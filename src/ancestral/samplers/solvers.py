"""The steps of the few-step samplers: weights worked out beforehand, and the loop that applies them.

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

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral.diffusion import DDPM, Coefficients
from ancestral.samplers.grids import Grid
from ancestral.schedules import posterior


@dataclass(frozen=True)
class Weights:
    """Of each step from one level of a grid to the next, float64, (N − 1,)."""

    z: Tensor
    """a."""
    data: Tensor
    """b."""
    change: Tensor
    """c; 0 in a first-order step."""
    noise: Tensor
    """γ̃."""


def first_order(grid: Grid, eta: float) -> Weights:
    """DDIM with η = ``eta`` (Song et al. 2021, eq. 12 and 16)."""
    above, below = grid.log_alpha_bar[:-1], grid.log_alpha_bar[1:]
    variance = eta**2 * posterior(below, above).variance
    a = ((-torch.expm1(below) - variance) / -torch.expm1(above)).sqrt()
    b = (0.5 * below).exp() - a * (0.5 * above).exp()
    return Weights(a, b, torch.zeros_like(a), variance.sqrt())


def multistep(grid: Grid, eta: float) -> Weights:
    """DPM-Solver++(2M): ``eta`` is 0 for the ODE and 1 for the SDE. Its first step is of first order."""
    plain, h = first_order(grid, eta), grid.log_snr.diff()
    change = torch.zeros_like(h)
    change[1:] = 0.5 * plain.data[1:] * h[1:] / h[:-1]
    return Weights(plain.z, plain.data, change, plain.noise)


def heun(grid: Grid) -> Weights:
    """Heun's method in σ/α (Karras et al. 2022, alg. 1)."""
    plain = first_order(grid, 0.0)
    return Weights(plain.z, plain.data, 0.5 * plain.data * (0.5 * grid.log_snr.diff()).exp(), plain.noise)


class Denoiser:
    """û at the levels of a grid: one network call, with all else worked out before the loop."""

    def __init__(self, chain: DDPM, grid: Grid, like: Tensor) -> None:
        self.chain = chain
        self.time = on(like, chain.noising.time(grid.levels.to(like.device)))
        signal = (0.5 * grid.log_alpha_bar).exp()
        noise = (-torch.expm1(grid.log_alpha_bar)).sqrt()
        # A predicted mean is that of a step between two whole levels; the other targets use no such step.
        t = grid.levels.round().long()
        table = chain.schedule.log_alpha_bar
        step = posterior(table[t - 1], table[t])
        k = Coefficients(signal, noise, step.c0, step.ct, (step.variance.log(), step.step_variance.log()))
        # Each of the four is affine: û = (weight of z) z + (weight of the target) target.
        one, none = torch.ones_like(signal), torch.zeros_like(signal)
        self.z = on(like, chain.to_data(none, one, k))
        self.target = on(like, chain.to_data(one, none, k))

    def __call__(self, z: Tensor, i: int) -> Tensor:
        """û at z, (n, *shape), at the i-th level of the grid."""
        target, _ = self.chain.ask(z, self.time[i].expand(len(z)))
        return self.z[i] * z + self.target[i] * target


def walk(chain: DDPM, grid: Grid, weights: Weights, z: Tensor, *, ahead: bool) -> Iterator[Tensor]:
    """z at each level of the grid, (n, *shape), from the given z at its first one.

    ``ahead``: the change of û is seen from a guess at the next level (Heun), at a second network call;
    otherwise it is taken from the level before. Nothing in the loop waits for the device.
    """
    denoiser = Denoiser(chain, grid, z)
    a, b, c, noise = (on(z, w) for w in (weights.z, weights.data, weights.change, weights.noise))
    stochastic = bool((weights.noise > 0).any())
    multistep = bool((weights.change != 0).any()) and not ahead
    before: Tensor | None = None
    yield z
    for i in range(len(grid.levels) - 1):
        data = denoiser(z, i)
        z = a[i] * z + b[i] * data
        if ahead:
            z = z + c[i] * (denoiser(z, i + 1) - data)
        elif before is not None:
            z = z + c[i] * (data - before)
        if multistep:
            before = data
        if stochastic:
            z = z + noise[i] * torch.randn_like(z)
        yield z


def on(like: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """Numbers worked out in float64, one by one, where and as what ``like`` is."""
    return values.to(like.device, like.dtype).unbind()
