"""The fixed affine map between the data's own units and the network's: about [−1, 1] or unit variance."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ancestral.spec import DataSpec


class Scaling(nn.Module):
    """u = (x − shift) / scale, with buffers that travel with the weights.

    Integers 0 … levels − 1 go to [−1, 1]; real vectors are standardised with the statistics of the
    training data (``fit``). A likelihood undoes it inside its law, so that densities are in the data's
    own units and no Jacobian is left over.

    ``centre`` is the mean of u over the training data, entry by entry: encoders read u − centre, and
    decoders start from it, so that an untrained model already knows the mean image. 0 until ``fit``.
    """

    shift: Tensor
    scale: Tensor
    centre: Tensor

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        if spec.levels is None:
            shift, scale = torch.zeros(spec.shape), torch.ones(spec.shape)
        else:
            half = torch.tensor((spec.levels - 1) / 2.0)
            shift, scale = half, half.clone()
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        self.register_buffer("centre", torch.zeros(spec.shape))
        self.levels = spec.levels

    def fit(self, x: Tensor) -> Scaling:
        """Take the statistics of training data x, (n, *shape), entry by entry. Returns itself.

        Real data are standardised (an entry that never varies is shifted only); integers keep their fixed
        map and set ``centre``. ``ValueError`` for integers that are not among the levels.
        """
        if self.levels is None:
            mean, std = x.double().mean(dim=0), x.double().std(dim=0, unbiased=False)
            std = torch.where(std > 1e-12 * (1.0 + mean.abs()), std, torch.ones_like(std))
            self.shift.copy_(mean)
            self.scale.copy_(std)
            return self
        if int(x.max()) >= self.levels or int(x.min()) < 0:
            raise ValueError(
                f"training values from {int(x.min())} to {int(x.max())} for data of {self.levels} levels; "
                f"they must be in 0 … {self.levels - 1}. For binarised data, give the bits: data.seen()."
            )
        # In float32, as one pass over large data need not double them; the sums are of small integers.
        self.centre.copy_(x.float().mean(dim=0).sub(self.shift).div(self.scale))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """From the data's units to the network's, as floating point."""
        return (x.to(self.shift.dtype) - self.shift) / self.scale

    def centred(self, x: Tensor) -> Tensor:
        """What an encoder reads: u − centre."""
        return self(x) - self.centre

    def inverse(self, u: Tensor) -> Tensor:
        """From the network's units back to the data's."""
        return u * self.scale + self.shift
