"""What bounds found, as named tensors and plain facts, for a file."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor

from ancestral.bounds.ais import AisBounded
from ancestral.bounds.base import Bounded, Summed
from ancestral.bounds.errors import DrawError
from ancestral.bounds.fitted import FittedBounded
from ancestral.bounds.iwae import Curve, WeightedBounded
from ancestral.bounds.ode import OdeBounded
from ancestral.bounds.path import ElboBounded

_KINDS: dict[str, type[Bounded]] = {
    kind.__name__: kind
    for kind in (Bounded, ElboBounded, WeightedBounded, AisBounded, OdeBounded, FittedBounded)
}


def flattened(found: Bounded) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Its tensors by name, and the other facts, ready for JSON."""
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {"kind": type(found).__name__}
    for field in fields(found):
        name, value = field.name, getattr(found, field.name)
        if isinstance(value, Tensor):
            tensors[name] = value.contiguous()
        elif isinstance(value, DrawError):
            facts[name] = [value.of_sum, value.of_each]
        elif isinstance(value, Summed):
            tensors[name], facts[name] = value.total.contiguous(), value.n
        elif isinstance(value, Curve):
            tensors[f"{name}.values"] = value.values.contiguous()
            tensors[f"{name}.effective"] = value.effective.contiguous()
            facts[name] = list(value.counts)
        else:
            assert value is None, (name, value)
    return tensors, facts


def restored(tensors: dict[str, Tensor], facts: dict[str, Any]) -> Bounded:
    """The inverse of ``flattened``. ``KeyError`` where something is missing."""
    kind = _KINDS[facts["kind"]]
    return kind(**{field.name: _restored(field.name, tensors, facts) for field in fields(kind)})


def _restored(name: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Any:
    if name == "draw_error":
        return DrawError(*facts[name]) if name in facts else None
    if name == "matching":
        return Summed(tensors[name], facts[name])
    if name == "curve":
        values, effective = tensors[f"{name}.values"], tensors[f"{name}.effective"]
        return Curve(tuple(facts[name]), values, effective)
    if name in ("replicates", "trace_variance"):
        return tensors.get(name)
    return tensors[name]
