"""From grey levels to bits: drawn anew (Salakhutdinov and Murray 2008), drawn once for all, or cut."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ancestral.data.raw import Array
from ancestral.data.rows import Bits, Examples, Rows, piece_rows

BIT_SEEDS = {"train": 1, "validation": 2, "test": 3}
"""The seeds with which a split's fixed bits are drawn, on the CPU, under ``binarize="dynamic"``."""


def draw_bits(grey: Tensor, *, levels: int, generator: torch.Generator | None = None) -> Tensor:
    """Bits (uint8 0 or 1) ~ Bernoulli(k / (levels − 1)) of the grey levels k, of the same shape.

    Exact in integers: with r uniform on 0 … levels − 2, P(r < k) = k / (levels − 1). Without a
    ``generator`` the global random state of the device is used.
    """
    r = torch.randint(0, levels - 1, grey.shape, dtype=grey.dtype, device=grey.device, generator=generator)
    return (r < grey).to(torch.uint8)


def threshold_bits(grey: Tensor, *, levels: int) -> Tensor:
    """1 (uint8) where a grey level k is above (levels − 1) / 2, else 0."""
    return (grey > (levels - 1) / 2).to(torch.uint8)


class FixedBits:
    """The bits of a split that never change: one draw over all of it, with its seed, of which any rows.

    The draw is gone through in blocks of rows, and the generator's state at the start of each is kept
    (5 kB a block of 1 MB), so that neither all bits nor all draws are ever in memory.
    """

    def __init__(self, split: str, levels: int) -> None:
        self._levels = levels
        self._states = [torch.Generator().manual_seed(BIT_SEEDS[split]).get_state()]
        self._lock = threading.Lock()

    def __call__(self, grey: Tensor, places: Array) -> Tensor:
        """The bits of grey levels (n, *shape) on the CPU, at these places in the split, (n,)."""
        size = piece_rows(grey)
        bits = torch.empty(grey.shape, dtype=torch.uint8)
        for block in np.unique(places // size).tolist():
            mine = torch.from_numpy(np.flatnonzero(places // size == block))
            within = torch.from_numpy(places - block * size)[mine]
            bits[mine] = (self._draws(block, size, grey)[within] < grey[mine]).to(torch.uint8)
        return bits

    def _draws(self, block: int, size: int, grey: Tensor) -> Tensor:
        """The r of ``draw_bits`` of a block, (size, *shape)."""
        generator, shape = torch.Generator(), (size, *grey.shape[1:])
        with self._lock:
            for at in range(min(block, len(self._states) - 1), block + 1):
                generator.set_state(self._states[at])
                r = torch.randint(0, self._levels - 1, shape, dtype=grey.dtype, generator=generator)
                if at + 1 == len(self._states):
                    self._states.append(generator.get_state())
        return r


def binarized(x: Examples, bits: Bits) -> Examples:
    """x as bits: a tensor at once, on its device; rows in a file whenever they are read."""
    if isinstance(x, Rows):
        return replace(x, bits=bits)
    return bits(x.cpu(), np.arange(len(x))).to(x.device)
