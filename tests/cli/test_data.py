"""``ancestral data``: what is in a source."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from ancestral.data import load_data
from commands import call


def test_a_folder_of_images(tmp_path, monkeypatch):
    monkeypatch.setenv("ANCESTRAL_CACHE", str(tmp_path / "cache"))
    for label in ("cat", "dog"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(10):
            Image.new("L", (8, 8), number).save(tmp_path / "set" / label / f"{number}.png")
    grid = tmp_path / "grid.png"
    answer = call("data", tmp_path / "set", "--augment", "flip", "--out", grid, "--n", 9)
    assert answer.status == 0, answer.err
    for words in (
        "8 wide, 8 high, grey",
        "256",
        "held out, 4 of 20",
        "2 classes: cat",
        "flip",
        "ddpm",
        "parameters",
    ):
        assert words in answer.out
    with Image.open(grid) as picture:
        assert picture.size[0] > 3 * 8
    facts = json.loads(call("data", tmp_path / "set", "--json").out)
    assert sum(facts["classes"].values()) == facts["train"]
    assert (facts["shape"], facts["levels"], facts["class_names"]) == ([1, 8, 8], 256, ["cat", "dog"])


@pytest.mark.parametrize("source", ["digits", "moons"])
def test_built_in_data_as_they_are_described(source):
    facts = json.loads(call("data", source, "--json").out)
    expected = load_data(source).describe()
    assert {name: facts[name] for name in expected} == expected
    assert facts["models"].keys() == {"vae", "hvae", "ddpm"}
    assert all("parameters" in text for text in facts["models"].values())


def test_what_cannot_be_built_says_why(tmp_path):
    np.save(tmp_path / "thin.npy", np.zeros((20, 1, 1), np.uint8))
    answer = call("data", tmp_path / "thin.npy")
    assert answer.status == 0, answer.err
    assert "vae" in answer.out


def test_mistakes(tmp_path):
    for arguments in (
        ["nowhere"],
        ["digits", "--out", "a.txt"],
        ["digits", "--n", "0"],
        ["digits", "--label", "a"],
    ):
        answer = call("data", *arguments)
        assert answer.status == 2
        assert "Traceback" not in answer.err
    assert not list(tmp_path.iterdir())
