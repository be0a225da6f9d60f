"""Give every recipe's config.json the options that it lacks, with their defaults.

python -m ancestral.experiments.recipes.complete

To be run when an option is added. A config states every option, so that no change of a default changes a
recipe; a new option's default is what the recipe has had all along.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from ancestral._internal.atomic import write_text_atomically
from ancestral.config import MODELS, DataConfig, TrainingConfig
from ancestral.config.strict import with_later
from ancestral.experiments.recipes.recipe import SHELF


def completed(facts: dict[str, Any]) -> dict[str, Any]:
    """What config.json holds, with the options it lacks."""
    kind = facts["model"]["kind"]
    model = dataclasses.asdict(MODELS[kind]())
    source = facts["data"]["source"]
    training = with_later(TrainingConfig, facts["training"])
    return {
        **facts,
        "data": _over(dataclasses.asdict(DataConfig(source)), facts["data"]),
        "model": {"kind": kind, **_over(model, with_later(MODELS[kind], facts["model"]))},
        "training": _over(dataclasses.asdict(TrainingConfig()), training),
    }


def _over(defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The defaults in their order, with what is given over them; unknown names stay, to be refused."""
    merged = {
        name: _over(value, given[name]) if isinstance(value, dict) else given[name]
        for name, value in defaults.items()
        if name in given
    }
    rest = {name: value for name, value in given.items() if name not in defaults and name != "kind"}
    return {**{name: merged.get(name, value) for name, value in defaults.items()}, **rest}


def complete(folder: Path = SHELF) -> list[Path]:
    """Complete the config of every recipe in ``folder``; returns those that were changed."""
    changed = []
    for path in sorted(folder.glob("*/config.json")):
        before = path.read_text(encoding="utf-8")
        after = json.dumps(completed(json.loads(before)), indent=1) + "\n"
        if after != before:
            write_text_atomically(path, after)
            changed.append(path)
    return changed


if __name__ == "__main__":
    for path in complete():
        print(path)
