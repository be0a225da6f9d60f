"""Which examples a step sees: a function of (seed, images seen), without state to lose."""

from __future__ import annotations

import torch
from torch import Tensor

from ancestral._internal.randomness import mixed

_ORDER = 1
"""Keeps the seeds of permutations apart from those of a step's other random numbers."""


class DataOrder:
    """An endless sequence of indices: one permutation of the data after another.

    Position i is entry i mod n of the permutation of epoch i // n, which is seeded by (seed, epoch).
    """

    def __init__(self, n: int, seed: int) -> None:
        assert n > 0
        self.n = n
        self.seed = seed
        self._epochs: dict[int, Tensor] = {}

    def take(self, position: int, count: int) -> Tensor:
        """Indices at ``position`` … ``position + count`` − 1, (count,), on the CPU."""
        parts = []
        while count > 0:
            epoch, offset = divmod(position, self.n)
            part = self._permutation(epoch)[offset : offset + count]
            parts.append(part)
            position += len(part)
            count -= len(part)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._epochs:
            generator = torch.Generator().manual_seed(mixed(self.seed, _ORDER, epoch))
            # The last epoch is kept beside the new one, as a batch can reach over the border.
            self._epochs = {e: p for e, p in self._epochs.items() if e == epoch - 1}
            self._epochs[epoch] = torch.randperm(self.n, generator=generator)
        return self._epochs[epoch]
