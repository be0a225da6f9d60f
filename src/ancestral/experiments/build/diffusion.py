"""DDPMs from their options."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from ancestral.config import DDPMConfig
from ancestral.config.strict import refuse_unread
from ancestral.core.spec import DataSpec
from ancestral.models.diffusion import (
    PARAMETRIZATIONS,
    ContinuousDiffusion,
    Diffusion,
    Gamma,
    GaussianDiffusion,
    LearnedSchedule,
    LogLinear,
    variance_of,
)
from ancestral.models.diffusion.schedules import Schedule
from ancestral.networks import Fourier, TimeMLP, Transformer, UNet
from ancestral.networks.fourier import widened
from ancestral.parts.scaling import Scaling

CONTINUOUS_STEPS = 1000
"""Levels that a chain of continuous time is sampled at by default."""


def build_schedule(config: DDPMConfig, spec: DataSpec) -> Schedule | Gamma:
    """The noise schedule that the options name; for continuous T its function."""
    first = config.first_log_snr
    if first is None:
        # Data in [-1, 1] have levels 2 / (levels - 1) apart; at log-SNR l the noise is about e^(-l/2) wide.
        # Few levels are further apart than the data are wide, and want less noise than that.
        first = 9.0 if spec.levels is None else max(2.0 * math.log((spec.levels - 1) / 2.0), 2.5)
    T = CONTINUOUS_STEPS if config.T == "continuous" else config.T
    if config.schedule == "learned":
        return LearnedSchedule(T, first=first, last=config.last_log_snr)
    if config.T == "continuous":
        if config.schedule != "log-linear":
            raise ValueError(
                f"T is continuous and schedule is {config.schedule!r}, which is one of whole levels. Use "
                "schedule log-linear or learned, or a whole number for T."
            )
        return LogLinear(T, first=first, last=config.last_log_snr)
    if config.schedule == "linear":
        return Schedule.linear(T)
    if config.schedule == "cosine":
        return Schedule.cosine(T)
    if config.schedule == "sigmoid":
        return Schedule.sigmoid(T)
    return Schedule.log_linear(T, first=first, last=config.last_log_snr)


def build_ddpm(config: DDPMConfig, spec: DataSpec, scaling: Scaling) -> GaussianDiffusion:
    """A diffusion model, in T levels or in continuous time."""
    schedule = build_schedule(config, spec)
    parts: Any = {
        "scaling": scaling,
        "parametrization": PARAMETRIZATIONS[config.prediction],
        "variance": variance_of(config.variance),
    }
    network = _denoiser(config, spec, 2 if config.variance == "learned" else 1)
    if config.T == "continuous":
        if config.loss != "vlb":
            raise ValueError(
                f"T is continuous and loss is {config.loss!r}; in continuous time there is the bound only. "
                "Use loss vlb, or a whole number for T."
            )
        assert isinstance(schedule, Gamma)
        return ContinuousDiffusion(network, schedule, **parts)
    return Diffusion(network, schedule, **parts)


def _denoiser(config: DDPMConfig, spec: DataSpec, per_entry: int) -> nn.Module:
    """z and a time to ``per_entry`` outputs for each entry of z."""
    network = _denoiser_network(config, spec, per_entry)
    return Fourier(network, config.fourier) if config.fourier else network


def _denoiser_network(config: DDPMConfig, spec: DataSpec, per_entry: int) -> nn.Module:
    if not spec.is_image:
        if config.network == "transformer":
            raise ValueError(
                "network is 'transformer' and the data are vectors, which have a residual mlp; leave it out."
            )
        refuse_unread(
            config,
            ("channels", "attention", "heads"),
            where="the data are vectors, whose network is a residual mlp",
        )
        return TimeMLP(
            widened(spec.dims, config.fourier),
            per_entry * spec.dims,
            hidden=config.width,
            depth=config.blocks or 1,
            dropout=config.dropout or 0.0,
        )
    channels, *size = spec.shape
    if config.network == "transformer":
        return Transformer(
            widened(channels, config.fourier),
            per_entry * channels,
            (size[0], size[1]),
            width=config.width,
            depth=config.blocks or 6,
            patch=config.patch or 2,
            heads=config.heads,
            positions=config.positions,
            dropout=config.dropout or 0.0,
        )
    refuse_unread(config, ("width",), where="network is 'unet' on images", instead="network transformer")
    return UNet(
        widened(channels, config.fourier),
        per_entry * channels,
        (size[0], size[1]),
        channels=config.channels or ((48, 48) if max(size) < 16 else (32, 64, 64)),
        blocks=config.blocks or 1,
        attention=config.attention,
        heads=config.heads or 1,
        dropout=config.dropout or 0.0,
    )
