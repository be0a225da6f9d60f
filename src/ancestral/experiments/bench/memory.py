"""Memory: the most that was held at once, and the least that a training step must move."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from ancestral.core.chain import Chain

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def held(device: torch.device) -> int:
    """Bytes held now: the process's resident memory, or on a GPU what torch has allocated there."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    now = _status("VmRSS")
    return peak(device) if now is None else now


def peak(device: torch.device) -> int:
    """The most bytes held since ``reset_peak`` (or since the start, where a system cannot reset it)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = _status("VmHWM")
    if most is not None:
        return most
    # In kilobytes, but for macOS, which counts bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak(device: torch.device) -> None:
    """Let ``peak`` start again from what is held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5", encoding="ascii")


def parameter_traffic(chain: Chain, *, averaged: bool) -> int:
    """Bytes that one AdamW step must read and write for the parameters alone, each in its own precision.

    A weight is read forward and backward; its gradient is written and read; AdamW reads and writes the
    weight and two moments; the moving average, where there is one (``averaged``), is read and written.
    """
    weights = sum(p.nbytes for p in chain.parameters())
    return weights * (2 + 2 + 6 + (2 if averaged else 0))


@contextlib.contextmanager
def saved_bytes(chain: Chain) -> Iterator[list[int]]:
    """Bytes that autograd keeps inside for the backward pass, in a list of one number.

    Memory that several operations keep counts once, and parameters, which are there anyway, not at all.
    """
    seen = {p.untyped_storage().data_ptr() for p in chain.parameters()}
    total = [0]
    # Held until the end, so that no memory is given out twice and taken for the same.
    kept = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept.append(storage)
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def _status(field: str) -> int | None:
    """A field of /proc/self/status in bytes; None where there is no such file."""
    try:
        text = _STATUS.read_text(encoding="utf-8")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return None
