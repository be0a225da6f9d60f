"""How often 95 % intervals cover what is known: many repetitions from one long batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from torch import Tensor

from ancestral.bounds import Estimate

REPETITIONS = 1000


def covered(results: Iterable[tuple[float, float | None, float]]) -> float:
    """The share of (mean, standard error, what it should be) whose interval has the latter in it."""
    hits = []
    for mean, stderr, expected in results:
        assert stderr is not None
        assert stderr > 0
        hits.append(abs(mean - expected) < 1.96 * stderr)
    assert len(hits) == REPETITIONS
    return sum(hits) / REPETITIONS


def coverage(values: Tensor, expected: float) -> float:
    """The share of repetitions, of as many values each, whose interval has ``expected`` in it."""
    estimates = [Estimate.of(part) for part in values.chunk(REPETITIONS)]
    return covered((one.mean, one.stderr, expected) for one in estimates)


def is_95_percent(share: float) -> bool:
    """Within three standard deviations, 0.69 % each, of 95 % in 1,000."""
    return 0.93 <= share <= 0.97


def values_of_estimates(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object]) -> list[Tensor]:
    """The values per example that ``call`` makes its estimates of, in order."""
    seen: list[Tensor] = []
    of = Estimate.of

    def recorded(values: Tensor) -> Estimate:
        seen.append(values)
        return of(values)

    with monkeypatch.context() as patch:
        patch.setattr(Estimate, "of", staticmethod(recorded))
        call()
    return seen
