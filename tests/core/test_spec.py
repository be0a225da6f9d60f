"""What one example is, in words."""

from __future__ import annotations

import numpy as np
import pytest

from ancestral.config import DataConfig, RunConfig
from ancestral.core.spec import DataSpec
from ancestral.experiments.runs import RunFolder, load_data_of
from ancestral.training.loop import check_fits
from tiny import MODELS, TRAINING, blobs, built, images, vectors


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (DataSpec((1, 8, 8), 17), "grey images of 8 × 8 pixels with 17 levels"),
        (DataSpec((3, 32, 32), 256), "colour images of 32 × 32 pixels with 256 levels"),
        (DataSpec((1, 28, 20), 2), "grey images of 28 × 20 pixels (height × width) with 2 levels"),
        (DataSpec((4, 8, 8), 256), "images of 4 channels and 8 × 8 pixels with 256 levels"),
        (DataSpec((1, 8, 8)), "grey images of 8 × 8 pixels of real numbers"),
        (DataSpec((5,)), "vectors of 5 real numbers"),
        (DataSpec((1,)), "vectors of 1 real number"),
        (DataSpec((5,), 3), "vectors of 5 whole numbers with 3 levels"),
    ],
)
def test_words(spec, words):
    assert spec.words == words


def message(error) -> str:
    text = str(error.value)
    assert "DataSpec" not in text
    return text


def test_data_that_a_chain_is_not_for():
    with pytest.raises(ValueError, match="build the chain") as error:
        check_fits(built(MODELS["vae-mlp"], images()), vectors(), TRAINING)
    text = message(error)
    assert "8 × 8" in text
    assert "17 levels" in text
    assert "2 real numbers" in text


def test_data_that_a_run_is_not_of(tmp_path):
    np.savez(tmp_path / "other.npz", x=blobs(60, size=6, levels=5), levels=5)
    config = RunConfig(DataConfig("blobs"), MODELS["vae-mlp"], TRAINING)
    folder = RunFolder.create(tmp_path / "run", images(), TRAINING, config=config)
    with pytest.raises(ValueError, match="same shape and levels") as error:
        load_data_of(folder, source=str(tmp_path / "other.npz"))
    text = message(error)
    assert all(fact in text for fact in ("6 × 6", "5 levels", "8 × 8", "17 levels"))
