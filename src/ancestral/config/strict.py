"""What all options have in common: unknown ones are refused, and how a list of sizes is checked."""

from __future__ import annotations

from ancestral import checks

STRICT: dict[str, str] = {"extra": "forbid"}
"""For pydantic, which reads config.json: no name that is not an option."""


def check_sizes(what: str, sizes: object, *, low: int = 1, high: int = 1 << 20) -> None:
    """Refuse what is not a list of whole numbers within the bounds, by default ≥ 1."""
    if not isinstance(sizes, tuple | list):
        raise ValueError(f"{what} is {sizes!r}; it must be whole numbers in parentheses, such as (64, 32).")
    for size in sizes:
        checks.integer(f"a number in {what}", size, low=low, high=high)
