"""What the network of a diffusion model predicts, and the closed forms that turn it into û.

With z_t = √ᾱ_t u + √(1 − ᾱ_t) ε the four targets are affine functions of one another given z_t: noise ε;
data u; mean c_0 u + c_t z_t, of the step t → t − 1; velocity √ᾱ_t ε − √(1 − ᾱ_t) u.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class ClosedForms:
    """The closed forms at one level per example: (n, 1, …) but for the time, in the dtype of z."""

    signal: Tensor
    """√ᾱ_t."""
    noise: Tensor
    """√(1 − ᾱ_t)."""
    c0: Tensor
    ct: Tensor
    """The mean of q(z_s|z_t, x) is c0 u + ct z_t."""
    log_variance: tuple[Tensor, Tensor]
    """log β̃ and log β: the ends of the reverse variance."""
    time: Tensor
    """What the network reads as its time, (n,)."""


class Parametrization(ABC):
    """A target that the network predicts, as an affine function of u given z_t."""

    name: ClassVar[str]
    between_levels: ClassVar[bool] = True
    """Whether the target is defined at a single level, and so between two levels and in continuous time."""

    @abstractmethod
    def to_data(self, target: Tensor, z: Tensor, k: ClosedForms) -> Tensor:
        """û from a predicted target at z_t, exactly."""

    @abstractmethod
    def from_data(self, data: Tensor, z: Tensor, k: ClosedForms) -> Tensor:
        """The target of u = ``data`` at z_t: the inverse of ``to_data``."""

    @abstractmethod
    def per_data_error(self, k: ClosedForms) -> Tensor:
        """The squared error of a target over the squared error of its û, (n, 1, …)."""

    def noise_error(self, error: Tensor, k: ClosedForms) -> Tensor:
        """‖ε − ε̂‖² from the squared error of the target, (n,) each."""
        return ((k.signal / k.noise).square() / self.per_data_error(k)).flatten() * error


class NoisePrediction(Parametrization):
    """ε (Ho et al. 2020)."""

    name = "noise"

    def to_data(self, target: Tensor, z: Tensor, k: ClosedForms) -> Tensor:
        """As ``Parametrization``."""
        return (z - k.noise * target) / k.signal

    def from_data(self, data: Tensor, z: Tensor, k: ClosedForms) -> Tensor:
        """As ``Parametrization``."""
        return (z - k.signal * data) / k.noise

    def per_data_error(self, k: ClosedForms) -> Tensor:
        """As ``Parametrization``."""
        return (k.signal / k.noise).square()

    def noise_error(self, error: Tensor, k: ClosedForms) -> Tensor:
        """The error itself."""
        return error


class DataPrediction(Parametrization):
    """u, the data in the network's units."""

    name = "data"

    def to_data(self, target: Tensor, z: Tensor, k: ClosedForms) -> Tensor:
        """As ``Parametrization``."""
        return target

    def from_data(self, data: Tensor, z: Tensor, k: ClosedForms) -> Tensor:
        """As ``Parametrization``."""
        return data

    def per_data_error(self, k: ClosedForms) -> Tensor:
        """As ``Parametrization``."""
        return torch.ones_like(k.signal)


class MeanPrediction(Parametrization):
    """c_0 u + c_t z_t, the mean of q(z_{t−1}|z_t, x)."""

    name = "mean"
    between_levels = False

    def to_data(self, target: Tensor, z: Tensor, k: ClosedForms) -> Tensor:
        """As ``Parametrization``."""
        return (target - k.ct * z) / k.c0

    def from_data(self, data: Tensor, z: Tensor, k: ClosedForms) -> Tensor:
        """As ``Parametrization``."""
        return k.c0 * data + k.ct * z

    def per_data_error(self, k: ClosedForms) -> Tensor:
        """As ``Parametrization``."""
        return k.c0.square()


class VelocityPrediction(Parametrization):
    """√ᾱ_t ε − √(1 − ᾱ_t) u (Salimans & Ho 2022)."""

    name = "velocity"

    def to_data(self, target: Tensor, z: Tensor, k: ClosedForms) -> Tensor:
        """As ``Parametrization``."""
        return k.signal * z - k.noise * target

    def from_data(self, data: Tensor, z: Tensor, k: ClosedForms) -> Tensor:
        """As ``Parametrization``."""
        return (k.signal * z - data) / k.noise

    def per_data_error(self, k: ClosedForms) -> Tensor:
        """As ``Parametrization``."""
        return 1.0 / k.noise.square()

    def noise_error(self, error: Tensor, k: ClosedForms) -> Tensor:
        """ᾱ_t times the error."""
        return k.signal.square().flatten() * error


PARAMETRIZATIONS: dict[str, Parametrization] = {
    one.name: one for one in (NoisePrediction(), DataPrediction(), MeanPrediction(), VelocityPrediction())
}
"""By name, as configs choose them."""
