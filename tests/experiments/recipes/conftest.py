"""A folder of tiny recipes, and their data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tiny import MODELS
from tiny_recipes import saved, write_recipe


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """The data of the tiny recipes."""
    return saved(tmp_path_factory.mktemp("data") / "blobs.npz")


@pytest.fixture
def shelf(tmp_path, source) -> Path:
    """Tiny recipes: a VAE on bits, a DDPM on grey levels, and one that lacks something."""
    folder = tmp_path / "recipes"
    vae = MODELS["vae-mlp"]
    write_recipe(folder, "bits-vae", vae, figure="nll", source=source, binarize="dynamic")
    write_recipe(folder, "grey-ddpm", MODELS["ddpm"], figure="bits", source=source, binarize="none")
    write_recipe(
        folder, "later", vae, figure="nll", source=source, binarize="dynamic", lacks=["model.wings = on"]
    )
    table = {"title": "Blobs", "words": "Soft spots.", "figures": []}
    (folder / "published.json").write_text(json.dumps([table]))
    return folder
