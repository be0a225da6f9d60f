"""Recipes of a few milliseconds, and their data."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ancestral.config import DataConfig, ModelConfig, TrainingConfig
from ancestral.data import content_hash, load_data
from ancestral.experiments.runs.options import model_json
from tiny import blobs

TRAINING = TrainingConfig(
    steps=8, batch_size=8, warmup=1, log_every=1, evaluate_every=4, sample_every=0, checkpoint_every=2
)
FIGURES: dict[str, dict[str, Any]] = {
    "nll": {"metric": "nll", "must": 30.0, "aim": 20.0, "samples": 6, "levels": None},
    "bits": {"metric": "bits_per_dim", "must": None, "aim": None, "samples": 1, "levels": 3},
}


def write_recipe(
    folder: Path, name: str, model: ModelConfig, *, figure: str, source: Path, binarize: Any, **facts: Any
) -> None:
    """A recipe's folder, for the images that ``saved`` makes."""
    config = DataConfig("blobs", binarize, 0.1)
    data = load_data(source, binarize=binarize, validation=0.1)
    needs = {"name": "Blobs", "train": 40, "test": 12, "shape": [1, 8, 8], "levels": 17, "source": "blobs"}
    given = {
        "title": "a tiny one",
        "table": "Blobs",
        "data": needs,
        "figure": {**FIGURES[figure], "below": None, "seed": 5},
        "command": f"ancestral recipe run {name} --data D",
        "minutes": 0.01,
        "on": "anything",
        "lacks": [],
        "note": "",
    }
    options = {
        "format": 1,
        "version": "0.1.0",
        "data": asdict(config),
        "model": model_json(model),
        "training": asdict(TRAINING),
        "spec": {"shape": [1, 8, 8], "levels": data.spec.levels},
        "content": content_hash(data),
    }
    (folder / name).mkdir(parents=True)
    (folder / name / "recipe.json").write_text(json.dumps(given | facts))
    (folder / name / "config.json").write_text(json.dumps(options))


def saved(path: Path, *, seed: int = 0, train: int = 40) -> Path:
    """A file of blobs with a test split of its own."""
    x = blobs(train + 12, seed=seed)
    np.savez(path, x_train=x[:train], x_test=x[train:], levels=17)
    return path
