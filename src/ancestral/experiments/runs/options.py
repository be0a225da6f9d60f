"""Options read back from JSON, each checked again: what is unknown, missing or of another type is named."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, TypeVar

from ancestral._internal import checks
from ancestral.config import (
    MODELS,
    DataConfig,
    DDPMConfig,
    HVAEConfig,
    ModelConfig,
    TrainingConfig,
    VAEConfig,
)
from ancestral.config.strict import with_later

C = TypeVar("C", DataConfig, TrainingConfig, VAEConfig, HVAEConfig, DDPMConfig)


def read_model(given: Any, where: str) -> ModelConfig:
    """A model's options from JSON with its kind, as ``model_json`` writes them; ``where`` is for messages."""
    values = dict(given) if isinstance(given, dict) else {}
    kind = values.pop("kind", None)
    checks.one_of(f"{where}.kind", kind, MODELS)
    if kind == VAEConfig.kind:
        return read_options(VAEConfig, values, where)
    if kind == HVAEConfig.kind:
        return read_options(HVAEConfig, values, where)
    return read_options(DDPMConfig, values, where)


def model_json(config: ModelConfig) -> dict[str, Any]:
    """A model's options with its kind."""
    return {"kind": config.kind, **dataclasses.asdict(config)}


def read_options(kind: type[C], values: Any, where: str) -> C:
    """Options of ``kind``; ``ValueError`` names those that are unknown, missing or of another type."""
    from pydantic import TypeAdapter, ValidationError

    values = with_later(kind, values)
    _check_keys(kind, values, where)
    try:
        # As JSON, where a list is a tuple and otherwise every type must be what it is.
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise ValueError(_problem(error.errors()[0], where)) from error


def _problem(found: Any, where: str) -> str:
    """One message from what pydantic found, in our words where they are ours."""
    place = ".".join([where, *(str(part) for part in found["loc"])])
    return f"{place}: {found['msg'].removeprefix('Value error, ').rstrip('.')}."


def _check_keys(kind: Any, values: Any, where: str) -> None:
    fields = {field.name: field.default_factory for field in dataclasses.fields(kind)}
    given = values.keys() if isinstance(values, dict) else set()
    if not isinstance(values, dict) or given != fields.keys():
        unknown, missing = sorted(given - fields.keys()), sorted(fields.keys() - given)
        told = [f"{name!r} is unknown.{checks.suggest(name, fields)}" for name in unknown]
        told += [f"{', '.join(map(repr, missing))} missing."] if missing else []
        raise ValueError(
            f"{where}: the options do not fit this version: {' '.join(told)} Put back what ancestral "
            "wrote, or start a new run."
        )
    for name, part in fields.items():
        if dataclasses.is_dataclass(part):
            _check_keys(part, values[name], f"{where}.{name}")
