"""How many processor cores are free for a computation, measured over a short interval.

Two threads of one computation wait for each other at every operation. Beside other busy programs the slower one
decides, so a computation with fewer threads is faster there.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")
_CGROUP = Path("/sys/fs/cgroup")
_LEAST = 0.25
"""Seconds to measure for: the kernel counts in hundredths."""


@dataclass(frozen=True)
class Load:
    """The state of the machine's clocks at one moment; ``free`` measures from then on."""

    at: float
    own: float
    """Processor seconds of this process."""
    busy: float | None
    """Processor seconds that all programs have taken on the cores that this process may use."""
    group: float | None
    """Processor seconds of this process' control group, which a container's limit is for."""

    @staticmethod
    def now() -> Load:
        """The clocks now."""
        return Load(time.monotonic(), time.process_time(), _busy(), _group_used())

    def free(self) -> int:
        """The number of cores, at least 1, that other programs have left free since this moment.

        Where the system does not say, every core that this process may use. Waits until a quarter of a second
        has been measured.
        """
        cores = usable_cores()
        quota = _group_quota()
        if cores == 1 or (self.busy is None and quota is None):
            return cores
        time.sleep(max(0.0, self.at + _LEAST - time.monotonic()))
        then = Load.now()
        seconds, own = then.at - self.at, then.own - self.own
        free = float(cores)
        if self.busy is not None and then.busy is not None:
            free -= max(0.0, then.busy - self.busy - own) / seconds
        if quota is not None:
            used = 0.0 if self.group is None or then.group is None else then.group - self.group - own
            free = min(free, quota - max(0.0, used) / seconds)
        return max(1, min(cores, round(free)))


def usable_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _busy() -> float | None:
    """Seconds that the usable cores have not been idle; None where the system does not say."""
    try:
        usable = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in _STAT.read_text(encoding="ascii").splitlines()]
        # user nice system idle iowait irq softirq steal: a core that waits for a disk is free, a stolen one not.
        counted = [[int(value) for value in line[1:9]] for line in lines if line and line[0] in usable]
        ticks = sum(sum(values) - values[3] - values[4] for values in counted)
        return ticks / os.sysconf("SC_CLK_TCK") if len(counted) == len(usable) else None
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _group_quota() -> float | None:
    """The cores that the control group is limited to; None without a limit."""
    try:
        limit, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit, period = (
            (_CGROUP / "cpu" / name).read_text(encoding="ascii")
            for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        )
        return None if int(limit) <= 0 else int(limit) / int(period)
    except (OSError, ValueError):
        return None


def _group_used() -> float | None:
    """Processor seconds of the control group; None where the system does not say."""
    try:
        words = (_CGROUP / "cpu.stat").read_text(encoding="ascii").split()
        return int(words[words.index("usage_usec") + 1]) / 1e6
    except (OSError, ValueError, IndexError):
        return None
