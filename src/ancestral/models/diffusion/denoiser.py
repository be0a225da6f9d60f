"""What samplers act on: the network's prediction of the data, û(z_t, t), and where a sample begins and ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ancestral.distributions import DiagonalNormal
from ancestral.models.diffusion.parametrization import ClosedForms
from ancestral.models.diffusion.schedules import Schedule, posterior

if TYPE_CHECKING:
    from ancestral.models.diffusion.chain import GaussianDiffusion


@dataclass(frozen=True)
class NoiseLevel:
    """A level that a sampler visits."""

    t: float
    """In 1 … T; between two levels where a grid asks for it."""
    log_alpha_bar: float

    @property
    def log_snr(self) -> float:
        """log( ᾱ / (1 − ᾱ) )."""
        bar = torch.tensor(self.log_alpha_bar, dtype=torch.float64)
        return float(bar - torch.log(-torch.expm1(bar)))


@dataclass(frozen=True)
class Denoised:
    """The network's answer at z_t."""

    data: Tensor
    """û, the prediction of the data in the network's units, (n, *shape)."""
    answer: tuple[Tensor, Tensor | None]
    """What the network gave: its target, and its output on the variance (None where that is fixed)."""


class Denoiser:
    """û(z, level) of a diffusion chain, one network call. Guidance and inpainting wrap it.

    All that depends on levels alone is on the CPU in float64, so that nothing in a sampler's loop waits for
    the device.
    """

    def __init__(self, chain: GaussianDiffusion, condition: Any = None) -> None:
        self.chain = chain
        self.condition = condition
        self.T = chain.T
        self.schedule: Schedule = chain.schedule
        self.between_levels = chain.parametrization.between_levels
        """Whether û is defined between two levels."""
        self.bars = self.schedule.log_alpha_bar
        self.times = chain.noising.times()

    def level(self, t: int) -> NoiseLevel:
        """The level t, an integer in 1 … T."""
        return NoiseLevel(float(t), float(self.bars[t]))

    def top(self, n: int) -> Distribution:
        """p(z_T), where a sample begins."""
        return self.chain.p_top(n) if self.condition is None else self.chain.p_top(n, self.condition)

    def __call__(self, z: Tensor, level: NoiseLevel) -> Denoised:
        """û at z, (n, *shape)."""
        below = int(level.t)
        above = min(below + 1, self.T)
        time = torch.lerp(self.times[below], self.times[above], level.t - below)
        expanded = torch.full((len(z),), float(time), dtype=z.dtype, device=z.device)
        answer = self.chain.ask(z, expanded, self.condition)
        of_z, of_target = self._weights(level)
        return Denoised(of_z * z + of_target * answer[0], answer)

    def _weights(self, level: NoiseLevel) -> tuple[float, float]:
        """û = (the first) z + (the second) target: all parametrizations are affine."""
        bar = torch.tensor(level.log_alpha_bar, dtype=torch.float64)
        t = round(level.t)
        # A predicted mean is that of a step between two whole levels; the other targets use no such step.
        step = posterior(self.bars[t - 1], self.bars[t])
        none, one = torch.zeros_like(bar), torch.ones_like(bar)
        k = ClosedForms((0.5 * bar).exp(), (-torch.expm1(bar)).sqrt(), step.c0, step.ct, (none, none), none)
        to_data = self.chain.parametrization.to_data
        return float(to_data(none, one, k)), float(to_data(one, none, k))

    def step(self, denoised: Denoised, z: Tensor, t: int, s: int) -> DiagonalNormal:
        """p(z_s|z_t) of the model on a subset of its levels, s < t; with s < t − 1 not the chain's own p."""
        chain = self.chain
        at, step = chain.closed_forms(z, t), chain.closed_forms(z, t, s)
        return chain.understood(z, denoised.answer, at, step=step).step

    def last(self, denoised: Denoised, z: Tensor, t: int) -> Distribution:
        """p(x|z_t), where a sample ends: the chain's p(x|z_1) for t = 1."""
        chain = self.chain
        at, step = chain.closed_forms(z, t), chain.closed_forms(z, t, 0)
        return chain.last(chain.understood(z, denoised.answer, at, step=step))

    def in_data_units(self, u: Tensor) -> Tensor:
        """From the network's units back to the data's."""
        return self.chain.scaling.inverse(u)

    def mean(self, denoised: Denoised) -> Tensor:
        """û in the data's units, within 0 … levels − 1 for integer data."""
        x, levels = self.in_data_units(denoised.data), self.chain.spec.levels
        return x if levels is None else x.clamp(0, levels - 1)
