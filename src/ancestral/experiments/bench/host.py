"""How much of a step is the host's: time in which no operation computes."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ancestral.experiments.bench.ceilings import synchronize

_NOT_OPERATIONS = ("Optimizer.", "ProfilerStep", "enumerate(")
"""How the names of a profiler's events begin that only mark what Python is at."""


def host_share(step: Callable[[], object], device: torch.device, *, steps: int = 3, call: float) -> float:
    """The share of the time of ``step`` that is the host's, 0 … 1, from ``steps`` profiled ones.

    On a CPU: what lies outside of operations, and ``call`` seconds for each innermost operation. On a
    GPU: what lies outside of its kernels.
    """
    gpu = device.type == "cuda"
    activities = [ProfilerActivity.CUDA] if gpu else [ProfilerActivity.CPU]
    profiled = profile(activities=activities)
    synchronize(device)
    with _quiet():
        profiled.start()
    try:
        start = time.perf_counter()
        for _ in range(steps):
            step()
        synchronize(device)
        wall = time.perf_counter() - start
    finally:
        with _quiet():
            profiled.stop()
    events = profiled.events() or []
    if gpu:
        return share_of(wall, busy=sum(event.self_device_time_total for event in events) * 1e-6)
    operations = [event for event in events if not event.name.startswith(_NOT_OPERATIONS)]
    busy = sum(event.self_cpu_time_total for event in operations) * 1e-6
    return share_of(wall, busy=busy - call * _innermost(operations))


def share_of(wall: float, *, busy: float) -> float:
    """1 − busy / wall, within 0 … 1: clocks of two kinds can disagree by a little."""
    return min(max(1.0 - busy / wall, 0.0), 1.0)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing on standard error: torch's profiler tells there, past Python, when it starts and stops."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _innermost(events: list[Any]) -> int:
    return sum(not event.cpu_children for event in events)
