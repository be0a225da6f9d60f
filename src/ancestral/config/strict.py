"""What all options have in common: unknown ones are refused, and those that would not be read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

from ancestral._internal import checks

STRICT: dict[str, str] = {"extra": "forbid"}
"""For pydantic, which reads config.json: no name that is not an option."""


DropoutOf = Literal["channels", "units"]
ABSENT = "absent"
"""In the metadata of an option that came later: its value where a config.json does not have it."""


def with_later(kind: Any, values: Any) -> Any:
    """Options of ``kind`` from JSON, with those that an earlier version did not have at what they were then."""
    if not isinstance(values, dict):
        return values
    fields = dataclasses.fields(kind)
    later = {field.name: field.metadata[ABSENT] for field in fields if ABSENT in field.metadata}
    parts = {field.name: field.default_factory for field in fields}
    nested = {
        name: with_later(part, values[name])
        for name, part in parts.items()
        if dataclasses.is_dataclass(part) and name in values
    }
    return {**later, **values, **nested}


def check_sizes(what: str, sizes: object, *, low: int = 1, high: int = 1 << 20) -> None:
    """Refuse what is not a list of whole numbers within the bounds, by default ≥ 1."""
    if not isinstance(sizes, tuple | list):
        raise ValueError(f"{what} is {sizes!r}; it must be whole numbers in parentheses, such as (64, 32).")
    for size in sizes:
        checks.integer(f"a number in {what}", size, low=low, high=high)


def refuse_unread(
    config: Any, names: Iterable[str], *, where: str, instead: str | None = None, prefix: str = ""
) -> None:
    """Refuse options that what was chosen beside them does not read, unless they are at their defaults.

    ``where`` says what was chosen, and ``instead`` what would read them.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name in names:
        value = getattr(config, name)
        if (tuple(value) if isinstance(value, list) else value) != defaults[name]:
            rest = "." if instead is None else f", or use {instead}."
            raise ValueError(
                f"{prefix}{name} is {value!r} and {where}, which has no such option; leave it out{rest}"
            )
