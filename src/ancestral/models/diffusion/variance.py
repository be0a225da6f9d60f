"""The variance of the reverse step p(z_{t−1}|z_t), between the two ends that q gives: β̃_t and β_t."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor


class ReverseVariance(ABC):
    """σ_t² of p(z_{t−1}|z_t), from log β̃_t, log β_t and, where it is learned, the network."""

    name: str
    outputs: ClassVar[int]
    """How many numbers the network gives for each entry of z: its target, and a second one where σ_t is
    learned."""
    learned: ClassVar[bool] = False
    """Whether training has to reach it."""

    @abstractmethod
    def log_variance(self, low: Tensor, high: Tensor, raw: Tensor | None) -> Tensor:
        """log σ_t² from log β̃_t, log β_t and the network's second output (None where it has none)."""

    def lower(self, variance: Tensor, second: Tensor, step_variance: Tensor, levels: Tensor) -> Tensor:
        """The lower end of the variance at each of ``levels``: β̃_t where it is not 0.

        β̃_1 = 0, and no distribution has variance 0: there β_1 stands in. ``second`` is β̃_2.
        """
        return torch.where(variance > 0, variance, step_variance)


class FixedVariance(ReverseVariance):
    """β̃_t ("posterior") or β_t ("beta"): the two choices of Ho et al. 2020, section 3.2."""

    outputs = 1

    def __init__(self, name: str = "posterior") -> None:
        if name not in ("posterior", "beta"):
            raise ValueError(f"the fixed variance is {name!r}; it must be 'posterior' or 'beta'.")
        self.name = name

    def log_variance(self, low: Tensor, high: Tensor, raw: Tensor | None) -> Tensor:
        """As ``ReverseVariance``."""
        return low if self.name == "posterior" else high


class LearnedVariance(ReverseVariance):
    """log σ_t² between log β̃_t and log β_t, at the sigmoid of the network's second output.

    Nichol & Dhariwal 2021, eq. 15, with a sigmoid; β̃_2 stands in for the lower end at t = 1 (ibid.).
    """

    name = "learned"
    outputs = 2
    learned = True

    def log_variance(self, low: Tensor, high: Tensor, raw: Tensor | None) -> Tensor:
        """As ``ReverseVariance``."""
        assert raw is not None
        return low + torch.sigmoid(raw) * (high - low)

    def lower(self, variance: Tensor, second: Tensor, step_variance: Tensor, levels: Tensor) -> Tensor:
        """As ``ReverseVariance``."""
        variance = torch.where(levels == 1, torch.minimum(second, step_variance), variance)
        return super().lower(variance, second, step_variance, levels)


def variance_of(name: str) -> ReverseVariance:
    """The variance that a config names: "beta", "posterior" or "learned"."""
    return LearnedVariance() if name == "learned" else FixedVariance(name)
