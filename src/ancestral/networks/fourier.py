"""Fourier features of a network's input: fine differences of its entries made large (VDM, appendix C)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ancestral._internal import checks

LOWEST, HIGHEST = -4, 12
"""Exponents of 2 that float32 has angles for: 2^12 π z is off by less than 0.001 for |z| ≤ 1."""


class Fourier(nn.Module):
    """``network(features, time)``, where the features are z with its sines and cosines appended.

    For each exponent n, in turn, sin(2^n π z) and cos(2^n π z) of every channel follow z along axis 1 (Kingma
    et al. 2021, appendix C): (n, C, …) becomes (n, ``widened(C, exponents)``, …), which is what ``network``
    must take. 2^n π z turns once in 2^(1 − n): levels that are 2 / 255 apart, as those of 8-bit data scaled
    to [−1, 1], are told apart by n = 7 and 8.

    Raises ``ValueError`` for exponents that are not whole numbers from −4 to 12, and for none.
    """

    def __init__(self, network: nn.Module, exponents: Sequence[int]) -> None:
        super().__init__()
        if not exponents:
            raise ValueError("there are no exponents; give at least one, or the network without features.")
        for exponent in exponents:
            checks.integer("an exponent of Fourier features", exponent, low=LOWEST, high=HIGHEST)
        self.network = network
        self.exponents = tuple(exponents)

    def forward(self, z: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """The network's value at z, (n, C, …), and time, (n,)."""
        # In half precision the angles would be off by radians.
        exact = z.to(torch.promote_types(z.dtype, torch.float32))
        parts = [exact]
        for exponent in self.exponents:
            angles = (2.0**exponent * math.pi) * exact
            parts += [angles.sin(), angles.cos()]
        features = torch.cat(parts, dim=1)
        out: Tensor = (
            self.network(features, time) if condition is None else self.network(features, time, condition)
        )
        return out


def widened(channels: int, exponents: Sequence[int]) -> int:
    """How many channels (or entries of a vector) z has with its features."""
    return channels * (1 + 2 * len(exponents))
