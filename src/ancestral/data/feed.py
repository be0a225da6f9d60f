"""Batches on the device when they are wanted: picked there, or read ahead by a thread of its own."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, tee

import torch
from torch import Tensor

from ancestral.core.batch import Batch
from ancestral.data.dataset import Split
from ancestral.data.rows import Examples, Rows, piece_rows

_AHEAD = 3
"""Blocks of batches that are read ahead."""
_INDICES = 2**13
"""The most indices that are taken ahead at once; fewer where their rows are more than a piece."""


def feed(x: Examples, indices: Iterable[Tensor], device: torch.device) -> Generator[Tensor, None, None]:
    """The rows of ``x`` at each of ``indices``, (k,) whole numbers on the CPU: (k, *shape), on ``device``.

    In the order of ``indices``, which is gone through a little ahead. Rows that are not on the device
    are read by a thread of its own, into pinned memory where the device is a GPU, and copied while it
    computes; neither way waits for the device. Nothing random is drawn. The thread ends with the
    generator: close it (``contextlib.closing``). Errors in reading are raised where the batch is asked for.
    """
    if isinstance(x, Rows) or (x.device.type == "cpu" and device.type != "cpu"):
        return _read_ahead(x, indices, device)
    # A thread would only be in the way of what is one copy within memory.
    return _picked(x, indices, device)


def feed_batches(
    given: Split | Examples, indices: Iterable[Tensor], device: torch.device
) -> Generator[Batch, None, None]:
    """As ``feed``, in batches with the labels of a split that has them."""
    split = Split(given) if isinstance(given, Tensor | Rows) else given
    for_x, for_labels = tee(indices)
    with contextlib.closing(feed(split.x, for_x, device)) as rows:
        for x in rows:
            index = next(for_labels)
            labels = split.labels
            yield Batch(x, None if labels is None else labels[index.to(labels.device)].to(device))


def _picked(x: Tensor, indices: Iterable[Tensor], device: torch.device) -> Generator[Tensor, None, None]:
    for group in _groups(indices, _INDICES):
        index = torch.cat(group)
        if x.device.type == "cuda":
            index = index.pin_memory()
        index = index.to(x.device, non_blocking=True)
        for part in index.split([len(one) for one in group]):
            yield x.index_select(0, part).to(device)


def _read_ahead(
    x: Examples, indices: Iterable[Tensor], device: torch.device
) -> Generator[Tensor, None, None]:
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    # One thread: it is far quicker than a training step, and more would only fight for the interpreter.
    with ThreadPoolExecutor(1, thread_name_prefix="ancestral-feed") as pool:
        # Several small batches at a time: each change of threads costs more than copying a small batch.
        groups = _groups(indices, min(piece_rows(x), _INDICES))
        blocks = (_submit(pool, x, group, stream is not None) for group in groups)
        waiting = deque(islice(blocks, _AHEAD))
        try:
            while waiting:
                sizes, future = waiting.popleft()
                block = _arrived(future.result(), device, stream)
                waiting.extend(islice(blocks, 1))
                yield from block.split(sizes)
        finally:
            pool.shutdown(cancel_futures=True)


def _submit(
    pool: ThreadPoolExecutor, x: Examples, group: list[Tensor], pinned: bool
) -> tuple[list[int], Future[Tensor]]:
    """The sizes of a group of batches, and their rows when they are read."""
    index = torch.cat(group)
    # Made here, so that the thread never calls CUDA, which a graph being captured would not stand.
    out = torch.empty((len(index), *x.shape[1:]), dtype=x.dtype, pin_memory=pinned)
    return [len(one) for one in group], pool.submit(_read, x, index, out)


def _read(x: Examples, index: Tensor, out: Tensor) -> Tensor:
    if isinstance(x, Rows):
        x.read(index, out)
    else:
        torch.index_select(x, 0, index, out=out)
    return out


def _arrived(block: Tensor, device: torch.device, stream: torch.cuda.Stream | None) -> Tensor:
    """A block on the device; to a GPU it goes beside what that computes, which waits for it there."""
    if stream is None:
        return block.to(device)
    with torch.cuda.stream(stream):
        arrived = block.to(device, non_blocking=True)
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    # Its memory was taken for the copying stream, and must not be given away before this one is done.
    arrived.record_stream(current)
    return arrived


def _groups(indices: Iterable[Tensor], rows: int) -> Iterator[list[Tensor]]:
    """Successive indices together, up to the first that make at least ``rows``."""
    group: list[Tensor] = []
    count = 0
    for index in indices:
        group.append(index)
        count += len(index)
        if count >= rows:
            yield group
            group, count = [], 0
    if group:
        yield group
