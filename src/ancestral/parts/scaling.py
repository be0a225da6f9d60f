"""The fixed affine map between the data's own units and the network's: about [−1, 1] or unit variance."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from ancestral.core.entrance import Given, checked
from ancestral.core.spec import DataSpec

_CONSTANT = 1e-13
"""A standard deviation below this part of the largest value is rounding: the entry never varies."""


class Scaling(nn.Module):
    """u = (x − shift) / scale, with buffers that travel with the weights.

    Integers 0 … levels − 1 go to [−1, 1]; real vectors are standardised with the statistics of the
    training data (``fit``). A likelihood undoes it inside its law, so that densities are in the data's
    own units and no Jacobian is left over. Data of 64 bits (``spec.double``) are centred and scaled in 64
    bits; u has the type of ``centre``.

    ``centre`` is the mean of u over the training data, entry by entry: encoders read u − centre, and
    decoders start from it, so that an untrained model already knows the mean image. 0 until ``fit``.
    """

    shift: Tensor
    scale: Tensor
    centre: Tensor

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        if spec.levels is None:
            dtype = torch.float64 if spec.double else None
            shift, scale = torch.zeros(spec.shape, dtype=dtype), torch.ones(spec.shape, dtype=dtype)
        else:
            half = torch.tensor((spec.levels - 1) / 2.0)
            shift, scale = half, half.clone()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.register_buffer("centre", torch.zeros(spec.shape))
        self.spec = spec
        self.levels = spec.levels

    def fit(self, x: Given | Iterable[Tensor]) -> Scaling:
        """Take the statistics of training data x, (n, *shape), whole or in pieces, entry by entry.

        Real data are standardised (an entry that never varies is shifted only); integers keep their fixed
        map and set ``centre``. Returns itself. ``ValueError`` for integers that are not among the levels,
        and for no data.
        """
        pieces = (
            (checked(self.spec, x, what="the training data"),) if isinstance(x, Tensor | np.ndarray) else x
        )
        if self.levels is None:
            mean, std, size = _mean_std_size(pieces)
            std = torch.where(std > _CONSTANT * size, std, torch.ones_like(std))
            self.shift.copy_(mean)
            self.scale.copy_(std)
            return self
        mean, low, high = _mean_and_range(pieces)
        if high >= self.levels or low < 0:
            raise ValueError(
                f"training values from {low} to {high} for data of {self.levels} levels; "
                f"they must be in 0 … {self.levels - 1}. For binarised data, give the bits: data.seen()."
            )
        self.centre.copy_(mean.to(self.shift.dtype).sub(self.shift).div(self.scale))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """From the data's units to the network's, as floating point."""
        x = x if x.is_floating_point() else x.to(self.shift.dtype)
        return ((x - self.shift) / self.scale).to(self.centre.dtype)

    def centred(self, x: Tensor) -> Tensor:
        """What an encoder reads: u − centre."""
        return self(x) - self.centre

    def inverse(self, u: Tensor) -> Tensor:
        """From the network's units back to the data's."""
        return u * self.scale + self.shift


def _mean_std_size(pieces: Iterable[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The mean, the standard deviation and the largest absolute value of each entry, in float64.

    Pieces are put together as in Chan et al. (1979), equation 2.1.
    """
    n, mean, squares, size = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())
    for piece in pieces:
        x = piece.double()
        size = torch.maximum(size, x.abs().amax(dim=0))
        step, part = x.mean(dim=0) - mean, len(x) / (n + len(x))
        squares = squares + (x - x.mean(dim=0)).square().sum(dim=0) + step.square() * (n * part)
        mean, n = mean + step * part, n + len(x)
    _check_any(n)
    return mean, (squares / n).sqrt(), size


def _mean_and_range(pieces: Iterable[Tensor]) -> tuple[Tensor, int, int]:
    """The mean of each entry, in float64, and the least and largest of all."""
    n, total, lows, highs = 0, torch.zeros(()), [], []
    for piece in pieces:
        low, high = torch.aminmax(piece)
        lows.append(int(low))
        highs.append(int(high))
        # Sums of integers are exact in float64, so how the data are cut into pieces changes nothing.
        total, n = total + piece.double().sum(dim=0), n + len(piece)
    _check_any(n)
    return total / n, min(lows), max(highs)


def _check_any(n: int) -> None:
    if n == 0:
        raise ValueError(
            "there are no examples to take statistics of; data.seen() can be gone through once, so call it "
            "again for each use."
        )
