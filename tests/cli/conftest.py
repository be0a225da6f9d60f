"""Small runs of each kind, trained once by the command itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import call
from tiny import saved_images, saved_vectors

SHORT = ("--steps", 3, "--batch-size", 8, "--validation", 0.2, "--device", "cpu", "--sample-every", 0)
TINY = {
    "vae": ("vae", "--model.network", "mlp", "--model.hidden", 8, "--model.latent-dims", 3),
    "hvae": ("hvae", "--model.levels", 2, "--model.width", 4, "--model.latent-dims", 2),
    "ddpm": ("ddpm", "--model.T", 12, "--model.blocks", 1),
}
"""The model of each kind, for images and vectors."""
OF_DATA = {
    "images": {"vae": (), "hvae": (), "ddpm": ("--model.channels", 4)},
    "vectors": {"vae": (), "hvae": (), "ddpm": ("--model.width", 8)},
}
"""More options, that are read for these data."""


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> dict[str, str]:
    """Files to train on: images of 8×8 in 17 levels, and vectors of two numbers."""
    folder = tmp_path_factory.mktemp("data")
    return {"images": saved_images(folder), "vectors": saved_vectors(folder)}


@pytest.fixture(scope="session")
def runs(data, tmp_path_factory) -> dict[str, Path]:
    """A run of each kind on each data, by names as "vae on images"; not to be changed."""
    folder, made = tmp_path_factory.mktemp("runs"), {}
    for source, path in data.items():
        for kind, options in TINY.items():
            out = folder / f"{kind}-{source}"
            answer = call("train", *options, *OF_DATA[source][kind], "--data", path, "--out", out, *SHORT)
            assert answer.status == 0, answer.err
            made[f"{kind} on {source}"] = out
    return made
