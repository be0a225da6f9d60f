"""Dropout of single units or of whole channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Dropout(nn.Dropout):
    """In training, zeroes a share p of its input and divides the rest by 1 − p.

    By default each unit by itself. With ``whole`` a channel of an example is zeroed or not at all positions
    (Tompson et al. 2015): neighbouring units, which repeat one another, go together, and far fewer random numbers
    are drawn. Channels are the second axis of (n, C), (n, C, H, W), and the last of (n, tokens, C).
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__(p)
        self.whole = False

    def forward(self, x: Tensor) -> Tensor:
        """x with a share of it zeroed; x itself in evaluation mode."""
        if not self.training or self.p == 0.0:
            return x
        if not self.whole:
            return F.dropout(x, self.p)
        shape = (len(x), 1, x.shape[2]) if x.dim() == 3 else (*x.shape[:2], *(1 for _ in x.shape[2:]))
        kept = torch.rand(shape, device=x.device) >= self.p
        return x * (kept.to(x.dtype) / (1.0 - self.p))

    def extra_repr(self) -> str:
        """As ``nn.Module``."""
        return f"{self.p:g}, of whole channels" if self.whole else f"{self.p:g}"


def drop_channels_(module: nn.Module) -> None:
    """Let every ``Dropout`` in ``module`` zero whole channels."""
    for part in module.modules():
        if isinstance(part, Dropout):
            part.whole = True
