"""Which of the T levels a few-step sampler asks the network at.

Little happens to û where hardly any signal or hardly any noise is left, and how many levels a schedule has
there differs: even steps in t suit one and not another. What happens is a matter of the log-SNR, so our grid
("snr") takes even steps in

    1 / (1 + SNR^(−1/4)),   SNR = ᾱ / (1 − ᾱ),   from the first level with log SNR ≥ −10 down to level 1,

close together at log SNR = 0 and three or four times wider (in log-SNR) at the ends. The levels are whole
ones, as the network knows no others. Above the first of them z_t keeps less than e^−10 of the data's
variance, so that z ~ N(0, I) stands for q(z_t) there as well as at T. At level 1 the chain has p(x|z_1).

The other grids are those that diffusers gives its samplers by default.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ancestral import checks
from ancestral.schedules import Schedule, log_snr

LOWEST_LOG_SNR = -10.0
RHO = 7.0
"""The exponent of Karras et al. 2022, eq. 5."""


@dataclass(frozen=True)
class Grid:
    """The levels of the network calls, from the noise down; after the last comes the data."""

    levels: Tensor
    """t in 1 … T, falling, float64 (N,); whole, but for the Karras grid."""
    log_alpha_bar: Tensor
    """log ᾱ_t, float64 (N,)."""

    @property
    def log_snr(self) -> Tensor:
        """log SNR_t, rising, (N,)."""
        return log_snr(self.log_alpha_bar)


def even_in_snr(schedule: Schedule, steps: int) -> Grid:
    """``steps`` different levels, as even in 1 / (1 + SNR^(−1/4)) as whole levels allow: our own."""
    checks.integer("steps", steps, low=1, high=schedule.T)
    snr = schedule.log_snr
    # Among fewer levels than steps there would be no room: the noisier ones are taken in then.
    top = max(int((snr >= LOWEST_LOG_SNR).sum()), steps)
    place = torch.sigmoid(snr[:top] / 4.0)
    levels: list[int] = []
    for i, target in enumerate(torch.linspace(float(place[-1]), float(place[0]), steps, dtype=torch.float64)):
        nearest = 1 + int((place - target).abs().argmin())
        below = levels[-1] - 1 if levels else top
        levels.append(max(min(nearest, below), steps - i))
    return whole(schedule, levels)


def leading(schedule: Schedule, steps: int) -> Grid:
    """Every ⌊T / steps⌋-th level from 1 upwards: "leading", diffusers' DDIM."""
    checks.integer("steps", steps, low=1, high=schedule.T)
    stride = schedule.T // steps
    return whole(schedule, [1 + i * stride for i in reversed(range(steps))])


def linspace(schedule: Schedule, steps: int) -> Grid:
    """Even in t from T to 1, which itself is left out: "linspace", diffusers' DPM-Solver."""
    checks.integer("steps with diffusers' spacing", steps, low=1, high=max(schedule.T - 1, 1))
    rounded = np.linspace(0, schedule.T - 1, steps + 1).round()[:0:-1]
    return whole(schedule, [1 + int(index) for index in rounded])


def karras(schedule: Schedule, steps: int) -> Grid:
    """Even in ς^(1/ρ), ς = √(1/ᾱ − 1), from level T to level 1 (Karras et al. 2022, eq. 5): diffusers' Heun.

    Between two levels, t is interpolated in log ς.
    """
    checks.integer("steps", steps, low=1, high=schedule.T)
    log_sigma = -0.5 * schedule.log_snr.numpy()
    ends = np.exp(log_sigma[[-1, 0]] / RHO)
    sigma = np.linspace(ends[0], ends[1], steps) ** RHO
    levels = 1.0 + np.interp(np.log(sigma), log_sigma, np.arange(schedule.T))
    return Grid(torch.from_numpy(levels), -torch.log1p(torch.from_numpy(sigma).square()))


def whole(schedule: Schedule, levels: list[int]) -> Grid:
    """The grid of these levels."""
    t = torch.tensor(levels)
    return Grid(t.double(), schedule.log_alpha_bar[t])
