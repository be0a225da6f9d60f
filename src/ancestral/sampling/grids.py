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

from collections.abc import Callable

import numpy as np
import torch

from ancestral._internal import checks
from ancestral.models.diffusion.denoiser import NoiseLevel
from ancestral.models.diffusion.schedules import Schedule

LOWEST_LOG_SNR = -10.0
RHO = 7.0
"""The exponent of Karras et al. 2022, eq. 5."""


MakeGrid = Callable[[Schedule, int], list[NoiseLevel]]
"""From a schedule and a number of steps to the levels of the network calls, from the noise down."""


def even_in_snr(schedule: Schedule, steps: int) -> list[NoiseLevel]:
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


def leading(schedule: Schedule, steps: int) -> list[NoiseLevel]:
    """Every ⌊T / steps⌋-th level from 1 upwards: "leading", diffusers' DDIM."""
    checks.integer("steps", steps, low=1, high=schedule.T)
    stride = schedule.T // steps
    return whole(schedule, [1 + i * stride for i in reversed(range(steps))])


def linspace(schedule: Schedule, steps: int) -> list[NoiseLevel]:
    """Even in t from T to 1, which itself is left out: "linspace", diffusers' DPM-Solver."""
    checks.integer("steps with diffusers' spacing", steps, low=1, high=max(schedule.T - 1, 1))
    rounded = np.linspace(0, schedule.T - 1, steps + 1).round()[:0:-1]
    return whole(schedule, [1 + int(index) for index in rounded])


def karras(schedule: Schedule, steps: int) -> list[NoiseLevel]:
    """Even in ς^(1/ρ), ς = √(1/ᾱ − 1), from level T to level 1 (Karras et al. 2022, eq. 5): diffusers' Heun.

    Between two levels, t is interpolated in log ς.
    """
    checks.integer("steps", steps, low=1, high=schedule.T)
    log_sigma = -0.5 * schedule.log_snr.numpy()
    ends = np.exp(log_sigma[[-1, 0]] / RHO)
    sigma = np.linspace(ends[0], ends[1], steps) ** RHO
    levels = 1.0 + np.interp(np.log(sigma), log_sigma, np.arange(schedule.T))
    return [NoiseLevel(float(t), float(-np.log1p(one**2))) for t, one in zip(levels, sigma, strict=True)]


def whole(schedule: Schedule, levels: list[int]) -> list[NoiseLevel]:
    """The grid of these levels."""
    return [NoiseLevel(float(t), float(schedule.log_alpha_bar[t])) for t in levels]
