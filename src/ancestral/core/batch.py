"""Examples that go through training, bounds and sampling together."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """n examples, with their labels and masks where there are any."""

    x: Tensor
    """(n, *shape), in the data's own values."""
    y: Tensor | None = None
    """What a chain may be conditioned on, with the examples first, such as classes (n,) counted from 0."""
    mask: Tensor | None = None
    """Which entries of x are observed, (n, *shape), bool; None where all are.

    It reaches objectives and bounds with the batch. Those of this library do not read it."""

    @staticmethod
    def of(given: Batch | Tensor) -> Batch:
        """The batch itself, or a batch of examples without labels."""
        return given if isinstance(given, Batch) else Batch(given)

    def __len__(self) -> int:
        return len(self.x)

    def first(self, n: int) -> Batch:
        """The first n examples."""
        y, mask = (None if part is None else part[:n] for part in (self.y, self.mask))
        return Batch(self.x[:n], y, mask)

    def showing(self, x: Tensor) -> Batch:
        """The same examples with other values x, such as augmented ones."""
        return replace(self, x=x)

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        y, mask = (None if part is None else part.to(device) for part in (self.y, self.mask))
        return Batch(self.x.to(device), y, mask)
