"""Work in pieces, so that memory does not grow with the number of paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from ancestral._internal import checks
from ancestral.core.chain import Chain

Done = Callable[[float], None]
"""Called with the share of the work that is done, up to 1."""

_LIMITS = {"cpu": (2**20, 2**13), "cuda": (2**26, 2**16)}
"""Entries of decoded data, and latent paths, in memory at once: few enough for a CPU's cache, and enough to
keep a GPU busy."""
_CHANNELS = 8
"""By how much less for convolutional networks on a CPU, which store many channels for each pixel: paths of
28×28 images then take 0.7 of the time."""


def rows_at_once(chain: Chain, x: Tensor, rows: int | None = None) -> int:
    """How many latent paths are in memory at once: ``rows``, or what suits the data and their device.

    ``ValueError`` unless it is at least 1.
    """
    if rows is None:
        entries, paths = _LIMITS.get(x.device.type, _LIMITS["cuda"])
        if x.device.type == "cpu" and any(isinstance(module, nn.Conv2d) for module in chain.modules()):
            entries //= _CHANNELS
        return max(1, min(paths, entries // chain.spec.dims))
    checks.integer("rows", rows, low=1)
    return rows


def slices(n: int, size: int) -> Iterator[slice]:
    """0 … n − 1 in turn, at most ``size`` (at least 1) at once, and as evenly as can be."""
    size = max(1, size)
    count = -(-n // size)
    return (slice(n * i // count, n * (i + 1) // count) for i in range(count))


def within_slice(done: Done, some: slice, total: int) -> Done:
    """Tells of a share of a slice of ``total`` things as of a share of them all."""
    return lambda share: done((some.start + share * (some.stop - some.start)) / total)
