"""The number of processor threads of a run: stored in its folder, and watched while it trains.

Sums over another number of threads differ in the last bits, so a run is resumed with the number it was started
with. Beside other busy programs, threads wait for each other and fewer of them are faster.
"""

from __future__ import annotations

import json
import statistics
from collections import deque
from pathlib import Path

import torch

from ancestral._internal.atomic import write_text_atomically

NAME = "threads.json"
_WARM = 5
"""First steps that do not count: they compile and fill caches."""
_EARLY, _RECENT = 20, 20
_SLOWER = 2.0
_FOR = 10.0
"""Seconds for which steps must have been slow before anything is said."""


def store_threads(run: Path) -> None:
    """Store torch's number of threads in the run's folder, where it is not stored yet."""
    number = torch.get_num_threads()
    if stored_threads(run) != number:
        write_text_atomically(run / NAME, json.dumps({"threads": number}) + "\n")


def stored_threads(path: Path) -> int | None:
    """The number of threads of a run, or of the first run of a comparison; None where it is not stored."""
    for place in (path / NAME, *sorted(path.glob(f"*/{NAME}"))):
        try:
            number = json.loads(place.read_text(encoding="utf-8"))["threads"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if type(number) is int and number > 0:
            return number
    return None


class Pace:
    """Whether training steps have become much slower than the early ones: ``took`` receives each."""

    def __init__(self, *, skip: int = 0) -> None:
        self.skip = skip + _WARM
        """Steps that do not count."""
        self.early: list[float] = []
        self.usual = 0.0
        """Seconds of an early step."""
        self.recent: deque[float] = deque(maxlen=_RECENT)
        self.slow = 0.0
        """Seconds for which steps have been slow."""
        self.done = False

    def took(self, seconds: float) -> float | None:
        """How many times the early steps' time steps take now, once: when they have been slow for a while."""
        if self.done:
            return None
        if self.skip > 0:
            self.skip -= 1
            return None
        if len(self.early) < _EARLY:
            self.early.append(seconds)
            self.usual = statistics.median(self.early)
            return None
        self.recent.append(seconds)
        if len(self.recent) < _RECENT:
            return None
        ratio = statistics.median(self.recent) / self.usual if self.usual else 1.0
        if ratio > _SLOWER:
            self.slow += sum(self.recent)
        else:
            self.slow = 0.0
        self.recent.clear()
        if self.slow < _FOR:
            return None
        self.done = True
        return ratio


def slower(ratio: float, threads: int, run: Path | None) -> str:
    """The line that says that steps take ``ratio`` times as long, and what to do."""
    seen = f"training steps take {ratio:.1f} times as long as at the start: other programs may use the cores."
    if threads == 1:
        return f"{seen} One thread is used already (--threads 1); stop some of the other programs."
    where = "" if run is None else f", then: ancestral train --resume {run} --threads {max(1, threads // 2)}"
    return f"{seen} Fewer threads than {threads} may be faster. Press Ctrl-C{where}"
