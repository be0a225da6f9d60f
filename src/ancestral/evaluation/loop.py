"""The loop over a data set in batches: the same for every bound."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ancestral._internal import checks
from ancestral._internal.allocator import keep_freed_memory
from ancestral._internal.block import part_of_block
from ancestral._internal.randomness import own_randomness, reseed
from ancestral.bounds import Bound, Bounded
from ancestral.bounds.pieces import Done
from ancestral.core import entrance
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain
from ancestral.data import Examples, Split, feed_batches
from ancestral.data.rows import Rows

Progress = Callable[[int, int], None]
"""Called with (examples done, examples in all)."""
BLOCK = 500
"""Examples that draw together: the seed of their random numbers is of the first of them."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """A bound on log p(x) of some examples, and how it was computed."""

    found: Bounded
    estimator: dict[str, Any]
    """How, as in the commands' JSON: ``Bound.json`` of the bound as it was planned."""
    words: str
    """The same for a person."""
    calls: int
    """Generative steps p(z_{t−1}|z_t) computed for one example."""
    seconds: float
    seed: int

    @property
    def n(self) -> int:
        """How many examples."""
        return len(self.found.nats)


def bounded(
    chain: Chain,
    x: Split | Examples | entrance.Given,
    bounds: Sequence[Bound],
    *,
    batch_size: int = BLOCK,
    seed: int = 0,
    purpose: Sequence[int] = (),
    progress: Progress | None = None,
) -> list[Measurement]:
    """Each bound on all of x, (n, *shape): examples in the data's own values, or a split with its labels.

    A bound draws for blocks of ``BLOCK`` examples, from generators seeded by (seed, purpose, first example of the
    block), whatever other bounds there are. At most ``batch_size`` examples of a block are computed at once, which
    changes no draws; bounds that are computed ``in_blocks`` limit their memory by themselves. The last block
    counts like the others, and the caller's random state is left as it was. ``ValueError`` or ``TypeError`` for
    examples that do not match the chain (``entered``), and ``ValueError`` for a bound that it does not have.
    """
    for bound in bounds:
        bound.check(chain)
    some = entered(chain, x)
    return bounded_of(
        chain, some, bounds, batch_size=batch_size, seed=seed, purpose=purpose, progress=progress
    )


def entered(chain: Chain, x: Split | Examples | entrance.Given, *, what: str = "x") -> Split | Examples:
    """The examples x, checked and in the spec's type, and the chain's distributions for some of them.

    Rows of a file are not read for it: their values are checked batch by batch, as they are read.
    ``ValueError`` or ``TypeError`` as ``entrance.checked`` and ``entrance.check_chain``.
    """
    values = x.x if isinstance(x, Split) else x
    found: Examples
    if isinstance(values, Rows):
        entrance.check_shape(chain.spec, tuple(values.shape), what=what)
        found = values
    else:
        found = entrance.examples(chain, values, what=what)
    whole = replace(x, x=found) if isinstance(x, Split) else found
    with batches(whole[:2], 2, next(chain.parameters()).device) as numbered:
        _, few = next(numbered)
        seen = entrance.examples(chain, few.x, what=what) if isinstance(found, Rows) else found
        entrance.check_chain(chain, seen, chain.condition(few))
    return whole


@torch.no_grad()
def bounded_of(
    chain: Chain,
    x: Split | Examples,
    bounds: Sequence[Bound],
    *,
    batch_size: int = BLOCK,
    seed: int = 0,
    purpose: Sequence[int] = (),
    progress: Progress | None = None,
) -> list[Measurement]:
    """As ``bounded``, of examples that ``entered``, by bounds that were checked."""
    checks.integer("batch_size", batch_size, low=1)
    unread = isinstance(x.x if isinstance(x, Split) else x, Rows)
    device = next(chain.parameters()).device
    size = BLOCK if any(bound.in_blocks for bound in bounds) else batch_size
    parts: list[dict[int, list[Bounded]]] = [{} for _ in bounds]
    seconds = [0.0 for _ in bounds]
    with own_randomness(device), evaluation_mode(chain), batches(x, size, device) as numbered:
        planned = [bound.planned(chain, x, seed=seed) for bound in bounds]
        for part, batch in numbered:
            first = part.block + part.offset
            if unread:
                batch = batch.showing(entrance.examples(chain, batch.x))
            for index, bound in enumerate(planned):
                start = time.perf_counter()
                reseed(device, seed, *purpose, part.block)
                done = within(progress, first, len(batch), len(x), part=(index, len(bounds)))
                with part.drawing():
                    parts[index].setdefault(part.block, []).append(bound.of(chain, batch, done=done))
                seconds[index] += time.perf_counter() - start
            if progress is not None:
                progress(first + len(batch), len(x))
    found = []
    for bound, blocks, taken in zip(planned, parts, seconds, strict=True):
        whole = [bound.of_block(some) for some in blocks.values()]
        joined = type(whole[0]).joined(whole)
        found.append(Measurement(joined, bound.json(), bound.words, bound.calls(chain), taken, seed))
    return found


@dataclass(frozen=True)
class Part:
    """Examples of a block that are computed at once."""

    block: int
    """The number of the block's first example."""
    offset: int
    """The place of the part's first example in the block."""
    count: int
    total: int
    """The number of examples of the block."""

    def drawing(self) -> contextlib.AbstractContextManager[None]:
        """Inside, torch draws for the whole block and keeps the numbers of the part."""
        return part_of_block(self.offset, self.count, self.total)


def parts_of(n: int, size: int) -> list[Part]:
    """n examples in blocks, and these in parts of at most ``size``."""
    return [
        Part(block, offset, min(size, total - offset), total)
        for block in range(0, n, BLOCK)
        for total in [min(BLOCK, n - block)]
        for offset in range(0, total, size)
    ]


@contextlib.contextmanager
def batches(x: Split | Examples, size: int, device: torch.device) -> Iterator[Iterator[tuple[Part, Batch]]]:
    """All of x, on the device, in batches of at most ``size`` examples of a block."""
    parts = parts_of(len(x), size)
    firsts = ((part.block + part.offset, part.count) for part in parts)
    found = feed_batches(x, (torch.arange(first, first + count) for first, count in firsts), device)
    if device.type == "cpu":
        keep_freed_memory()
    with contextlib.closing(found):
        yield zip(parts, found, strict=True)


@contextlib.contextmanager
def evaluation_mode(chain: Chain) -> Iterator[None]:
    """The chain without dropout, and back to what it was."""
    was_training = chain.training
    chain.eval()
    try:
        yield
    finally:
        chain.train(was_training)


def within(
    progress: Progress | None, first: int, count: int, total: int, *, part: tuple[int, int] = (0, 1)
) -> Done:
    """Reports a share of a batch of ``count`` examples, from ``first`` on, as that many whole examples.

    With ``part``, (i, n), it is the share of the i-th of n equal parts of the work.
    """

    def done(share: float) -> None:
        if progress is not None:
            index, parts = part
            progress(first + int((index + share) / parts * count), total)

    return done
