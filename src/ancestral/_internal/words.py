"""Numbers in words, for people."""

from __future__ import annotations


def rate(per_second: float, what: str) -> str:
    """As "1,250 images/s" or "1.3 images/s": at least two digits, as slow models differ by them."""
    digits = 0 if per_second >= 10 else 1 if per_second >= 1 else 2
    return f"{per_second:,.{digits}f} {what}/s"
