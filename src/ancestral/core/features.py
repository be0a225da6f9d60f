"""What q reads of the data: tensors in whatever a chain keeps them in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Features = Any
"""What q reads of x: x itself, or whatever tensors a chain computes from it once (a tensor, or a
list, tuple or dict of tensors, each with the examples first)."""


def map_features(h: Features, change: Callable[[Tensor], Tensor]) -> Features:
    """The features with each of their tensors changed, whatever they are kept in."""
    if isinstance(h, Tensor):
        return change(h)
    if isinstance(h, dict):
        return {name: map_features(part, change) for name, part in h.items()}
    if isinstance(h, list | tuple):
        return type(h)(map_features(part, change) for part in h)
    raise TypeError(
        f"features() returned {type(h).__name__}; it must return a tensor, or a list, tuple or dict of "
        "tensors with the examples first, so that several paths per example can be drawn."
    )


def feature_tensors(h: Features) -> list[Tensor]:
    """All tensors of the features."""
    found: list[Tensor] = []

    def keep(part: Tensor) -> Tensor:
        found.append(part)
        return part

    map_features(h, keep)
    return found


def repeat_features(h: Features, samples: int) -> Features:
    """Each example of the features ``samples`` times in a row."""
    if samples == 1:
        return h
    return map_features(h, lambda part: part.repeat_interleave(samples, dim=0))
