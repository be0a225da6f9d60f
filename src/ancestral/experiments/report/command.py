"""The command that makes a run, from its options: those that are not the defaults."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from ancestral.config import DataConfig, ModelConfig, RunConfig, TrainingConfig


def train_command(config: RunConfig, out: str) -> str:
    """``ancestral train …``."""
    options = [*_changed(config.data, "", DataConfig(config.data.source)), *_changed(config.training, "")]
    options += _changed(config.model, "model.")
    return _joined(["ancestral", "train", config.model.kind], config.data, out, options)


def compare_command(data: DataConfig, models: list[ModelConfig], training: TrainingConfig, out: str) -> str:
    """``ancestral compare …`` of these models."""
    options = [*_changed(data, "", DataConfig(data.source)), *_changed(training, "")]
    for model in models:
        options += _changed(model, f"{model.kind}.")
    if [model.kind for model in models] != ["vae", "hvae", "ddpm"]:
        options = ["--models", *(model.kind for model in models), *options]
    return _joined(["ancestral", "compare"], data, out, options)


def _joined(head: list[str], data: DataConfig, out: str, options: list[str]) -> str:
    return shlex.join([*head, "--data", data.source, "--out", out, *options])


def _changed(options: Any, prefix: str, default: Any = None) -> list[str]:
    """The options that differ from the default, as on a command line; those of a part behind its name."""
    default = type(options)() if default is None else default
    words: list[str] = []
    for field in dataclasses.fields(options):
        if field.name in ("source", "kind") and not field.init:
            continue
        value, usual = getattr(options, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            words += _changed(value, f"{prefix}{field.name}.", usual)
        elif value != usual:
            words += _words(f"--{prefix}{field.name}".replace("_", "-"), value)
    return words


def _words(name: str, value: Any) -> list[str]:
    if value is True:
        return [name]
    if isinstance(value, tuple):
        return [name, *(str(one) for one in value)]
    return [name, str(value)]
