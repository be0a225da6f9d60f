"""One small finished run, trained once and copied by the tests that change it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from ancestral.config import DataConfig, RunConfig
from ancestral.experiments.runs import train_run
from tiny import MODELS, TRAINING, saved_images


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> tuple[Path, RunConfig]:
    """A finished run of a VAE and its options; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    data = DataConfig(saved_images(folder), validation=0.2)
    config = RunConfig(data, MODELS["vae-mlp"], replace(TRAINING, keep=3))
    train_run(config, folder / "run", device="cpu")
    return folder / "run", config


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of it that a test may do with as it likes."""
    return Path(shutil.copytree(trained[0], tmp_path / "run"))
