"""Student's factor: how wide an interval is whose standard error comes from a few numbers."""

from __future__ import annotations

import functools
import math

CONFIDENCE = 0.95


@functools.cache
def student_factor(degrees: int) -> float:
    """How many standard errors reach ``CONFIDENCE`` to both sides: 12.7 for one degree of freedom, 1.96 for many.

    ``degrees`` is the number of independent estimates less one; ``ValueError`` below 1.
    """
    if degrees < 1:
        raise ValueError(f"degrees is {degrees}; a standard error has at least 1 degree of freedom.")
    low, high = 0.0, 0.5 * math.pi
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _within(middle, degrees) < CONFIDENCE else (low, middle)
    return math.sqrt(degrees) * math.tan(high)


def _within(angle: float, degrees: int) -> float:
    """P(|t| < √ν tan(angle)) for ν degrees of freedom (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    return 2.0 / math.pi * (angle + sine * total) if odd else sine * total
