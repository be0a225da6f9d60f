"""``ancestral info``: what a run is and how far it has come."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ancestral.cli.options import CheckpointOption, Flag
from ancestral.cli.parsing import parse


@dataclass(frozen=True, kw_only=True)
class Info(CheckpointOption):
    """Show a run: its model, data, progress and last figures."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    json: Flag = False
    """Print one JSON object on standard output."""


def run(arguments: list[str]) -> None:
    """The command."""
    options = parse(Info, arguments, prog="ancestral info")
    from ancestral.experiments.runs import RunFolder

    folder = RunFolder.open(options.run, checkpoint=options.checkpoint)
    facts = _facts(folder)
    if options.json:
        print(json.dumps(facts))
        return
    facts["extended"] = ", ".join(f"at {one['step']} of {one['steps']}" for one in facts["extended"]) or None
    if facts["checkpoint"] is not None:
        facts["checkpoint"] = folder.chosen.words
    if folder.best is not None:
        facts["best"] = f"step {folder.best.step}, held-out {folder.best.words}"
    if facts["stopped_early"] is not None:
        facts["stopped_early"] = "at step {step}; the best is of step {best}".format(**facts["stopped_early"])
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, entry in value.items():
                print(f"  {key:<18} {entry}")
        else:
            print(f"{name:<20} {value}")


def _facts(folder: Any) -> dict[str, Any]:
    records = folder.records()
    trained = [record for record in records if record["kind"] == "train"]
    held_out = [record for record in records if record["kind"] == "validation"]
    timing = folder.records("timing.jsonl")
    points = folder.checkpoints
    step = folder.step
    facts: dict[str, Any] = {
        "run": str(folder.path),
        "kind": folder.name,
        "version": folder.facts["version"],
        "step": step,
        "steps": folder.training.steps,
        "extended": folder.extended,
        "finished": step >= folder.training.steps,
        "checkpoints": len(points),
        "parameters": _parameters(points[-1]) if points else None,
        "images_per_second": timing[-1]["images_per_second"] if timing else None,
        "loss": trained[-1]["loss"] if trained else None,
        "checkpoint": folder.chosen.json() if points else None,
        "best": None if folder.best is None else folder.best.json(),
        "stopped_early": folder.stopped_early,
        "held_out_elbo": held_out[-1]["elbo"] if held_out else None,
        "held_out_bits_per_dim": held_out[-1]["bits_per_dim"] if held_out else None,
        "data": folder.facts["data"],
        "example": folder.facts["spec"],
        "model": folder.facts["model"],
        "training": folder.facts["training"],
    }
    return facts


def _parameters(checkpoint: Path) -> int:
    """Counted from the checkpoint's header, without reading the weights."""
    from ancestral._internal.tensors import count_numbers

    try:
        return count_numbers(checkpoint / "state.safetensors", "ema/")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{checkpoint}: not a readable checkpoint ({error}).") from error
