"""What the network of a diffusion model is asked for, and the closed forms that make û of its answer.

With z_t = √ᾱ_t u + √(1 − ᾱ_t) ε the four targets are affine functions of one another given z_t: noise ε;
data u; mean c_0 u + c_t z_t, of the step t → t − 1; velocity √ᾱ_t ε − √(1 − ᾱ_t) u.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

PREDICTIONS = ("noise", "data", "mean", "velocity")


@dataclass(frozen=True)
class Coefficients:
    """The closed forms at one level per example, (n, 1, …), in the dtype of z."""

    signal: Tensor
    """√ᾱ_t."""
    noise: Tensor
    """√(1 − ᾱ_t)."""
    c0: Tensor
    ct: Tensor
    """The posterior's mean is c0 u + ct z_t."""
    log_variance: tuple[Tensor, Tensor]
    """log β̃ and log β: the ends of the reverse variance."""


@dataclass(frozen=True)
class Prediction:
    """What the network says at (z_t, t): its own target, and the reverse law that follows."""

    target: Tensor
    """The predicted target, (n, …)."""
    data: Tensor
    """û, the prediction of the scaled data."""
    mean: Tensor
    """c_0 û + c_t z_t."""
    sigma: Tensor
    """σ_t, broadcast to (n, …)."""


def to_data(prediction: str, target: Tensor, z: Tensor, k: Coefficients) -> Tensor:
    """û from a predicted target at z_t: exact, for each of the four."""
    if prediction == "noise":
        return (z - k.noise * target) / k.signal
    if prediction == "velocity":
        return k.signal * z - k.noise * target
    if prediction == "mean":
        return (target - k.ct * z) / k.c0
    return target


def from_data(prediction: str, data: Tensor, z: Tensor, k: Coefficients) -> Tensor:
    """The target that belongs to u = ``data`` at z_t: the inverse of ``to_data``."""
    if prediction == "noise":
        return (z - k.signal * data) / k.noise
    if prediction == "velocity":
        return (k.signal * z - data) / k.noise
    if prediction == "mean":
        return k.c0 * data + k.ct * z
    return data


def per_data_error(prediction: str, k: Coefficients) -> Tensor:
    """The squared error of a target over that of the data it belongs to, (n, 1, …)."""
    if prediction == "noise":
        return (k.signal / k.noise).square()
    if prediction == "velocity":
        return 1.0 / k.noise.square()
    if prediction == "mean":
        return k.c0.square()
    return torch.ones_like(k.signal)


def noise_error(prediction: str, error: Tensor, k: Coefficients) -> Tensor:
    """‖ε − ε̂‖² from the squared error of a target that is of no step, (n,) each."""
    if prediction == "noise":
        return error
    per_error = k.signal if prediction == "velocity" else k.signal / k.noise
    return per_error.square().flatten() * error


def min_snr_weight(prediction: str, k: Coefficients, gamma: float) -> Tensor:
    """min(SNR, gamma) per squared error of the data, in the units of the target's error, (n,)."""
    snr = (k.signal / k.noise).square()
    return (snr.clamp(max=gamma) / per_data_error(prediction, k)).flatten()
