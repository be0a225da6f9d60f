"""How many processor threads a command computes with, and the option that chooses the number."""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ancestral._internal import checks
from ancestral._internal.cores import Load, usable_cores

_SET = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that decide the number for torch."""
_MOST = 4096

_started = Load.now()


def start() -> None:
    """Start to measure the load of the machine, while torch is imported."""
    global _started
    _started = Load.now()


@dataclass(frozen=True, kw_only=True)
class ThreadOptions:
    """The number of threads, for commands that compute."""

    threads: int | None = None
    """Processor threads. By default OMP_NUM_THREADS, or the number that the run was trained with, or for a new run
    the number of cores that are free at the start. Another number changes results in the last bits."""

    def __post_init__(self) -> None:
        self.check_threads()

    def check_threads(self) -> None:
        """Raise ``ValueError`` for a number that is not allowed."""
        if self.threads is not None:
            checks.integer("threads", self.threads, low=1, high=_MOST)


def use_threads(options: ThreadOptions, run: Path | None = None) -> None:
    """Set torch's number of threads for this process; ``run`` is the folder of an existing run or comparison.

    A line on standard error says where the number is not the machine's or the run's.
    """
    import torch

    from ancestral.experiments.runs.threads import stored_threads

    usual = _usual()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
        return
    if any(os.environ.get(name) for name in _SET):
        torch.set_num_threads(usual)
        return
    stored = None if run is None else stored_threads(run)
    cores = usable_cores()
    if stored is None:
        number = min(usual, _started.free())
        if number < usual:
            _say(
                f"using {_threads(number)}: other programs use the other cores. --threads N sets the number."
            )
    elif stored > cores:
        number = cores
        _say(
            f"the run was trained with {stored} threads and this machine has {_cores(cores)}: using "
            f"{_threads(cores)}, so results differ in the last bits. --threads {stored} gives the same bits."
        )
    else:
        number = stored
        if number > 1 and (free := _started.free()) < number:
            _say(
                f"using {_threads(number)}, as in training; other programs leave {_cores(free)} free. --threads "
                f"{free} may be faster; results then differ in the last bits."
            )
    torch.set_num_threads(number)


@functools.cache
def _usual() -> int:
    """The number that torch takes by itself."""
    import torch

    return torch.get_num_threads()


def _threads(number: int) -> str:
    return f"{number} thread{'' if number == 1 else 's'}"


def _cores(number: int) -> str:
    return f"{number} core{'' if number == 1 else 's'}"


def _say(text: str) -> None:
    print(f"ancestral: {text}", file=sys.stderr)
