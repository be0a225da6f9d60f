"""The weights beside a recorded result: small, of that result, and good for its figure."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import ancestral.experiments.recipes.weights
from ancestral.data import load_data
from ancestral.experiments.recipes import SHELF, Result, Shortened, load_recipe, open_recipe, run_recipe
from ancestral.experiments.recipes.measure import measure
from ancestral.experiments.recipes.weights import LARGEST
from ancestral.experiments.runs import RunFolder, load_run
from ancestral.training.state import model_tensors

RECIPES = {"bits-vae": "dynamic", "grey-ddpm": "none"}


def recorded(shelf: Path, name: str, source: Path, out: Path, **options) -> Result:
    result = run_recipe(open_recipe(name, shelf), str(source), out, device="cpu", record=True, **options)
    assert result is not None
    return result


@pytest.mark.parametrize("name", RECIPES)
def test_they_give_the_recorded_figure_again(name, shelf, source, tmp_path):
    result = recorded(shelf, name, source, tmp_path / "run")
    recipe = open_recipe(name, shelf)
    assert result == recipe.result == Result.read(tmp_path / "run" / "result.json")
    chain = load_recipe(name, shelf)
    assert not chain.training
    figure = recipe.facts.figure
    x = load_data(source, binarize=RECIPES[name], validation=0.1).test.x
    found = measure(chain, x, figure, samples=figure.samples)
    assert (found.figure.mean, found.figure.stderr, found.elbo) == (result.value, result.stderr, result.elbo)


def test_they_are_the_runs_averaged_ones_and_nothing_else(shelf, source, tmp_path):
    recorded(shelf, "bits-vae", source, tmp_path / "run")
    path = shelf / "bits-vae" / "weights.safetensors"
    assert path.stat().st_size < LARGEST
    averaged = model_tensors(load_run(tmp_path / "run"))
    stored = load_file(path)
    assert {f"model/{name}" for name in averaged} == stored.keys()
    assert all(torch.equal(stored[f"model/{name}"], tensor) for name, tensor in averaged.items())
    # The last weights themselves are others.
    tensors = load_file(RunFolder.open(tmp_path / "run").checkpoints[-1] / "state.safetensors")
    assert any(not torch.equal(tensors[name], tensor) for name, tensor in stored.items())
    assert sorted(p.name for p in path.parent.iterdir()) == [
        *("config.json", "recipe.json", "result.json", "weights.safetensors")
    ]


def test_random_numbers_are_left_alone(shelf, source, tmp_path):
    recorded(shelf, "bits-vae", source, tmp_path / "run")
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    load_recipe("bits-vae", shelf)
    assert torch.equal(torch.rand(4), wanted)


def test_without_a_record_there_are_none(shelf, source, tmp_path):
    recipe = open_recipe("bits-vae", shelf)
    result = run_recipe(recipe, str(source), tmp_path / "run", device="cpu")
    assert result is not None
    assert result.weights is None
    with pytest.raises(ValueError, match=r"no weights are recorded for the recipe 'bits-vae'.*--record"):
        load_recipe("bits-vae", shelf)
    with pytest.raises(ValueError, match="Did you mean 'bits-vae'"):
        load_recipe("bit-vae", shelf)


def test_large_ones_are_not_kept_and_older_ones_go(shelf, source, tmp_path, monkeypatch):
    half = recorded(shelf, "bits-vae", source, tmp_path / "half", shortened=Shortened(share=0.5))
    path = shelf / "bits-vae" / "weights.safetensors"
    size = path.stat().st_size
    monkeypatch.setattr(ancestral.experiments.recipes.weights, "LARGEST", size)
    whole = recorded(shelf, "bits-vae", source, tmp_path / "whole")
    assert half.weights is not None
    assert whole.weights is None
    assert not path.exists()
    with pytest.raises(ValueError, match="no weights are recorded"):
        load_recipe("bits-vae", shelf)
    monkeypatch.setattr(ancestral.experiments.recipes.weights, "LARGEST", size + 1)
    again = recorded(shelf, "bits-vae", source, tmp_path / "whole")
    assert again.weights not in (None, half.weights)
    assert path.stat().st_size == size
    load_recipe("bits-vae", shelf)


@pytest.mark.parametrize("at", ["result", "weights"])
def test_a_kill_leaves_no_weights_of_another_run(at, shelf, source, tmp_path, monkeypatch):
    recorded(shelf, "bits-vae", source, tmp_path / "half", shortened=Shortened(share=0.5))
    place = ("result.Result.write", "weights.replacing")[at == "weights"]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"ancestral.experiments.recipes.{place}", killed)
        with pytest.raises(KeyboardInterrupt):
            recorded(shelf, "bits-vae", source, tmp_path / "whole")
    assert not (shelf / "bits-vae" / "weights.safetensors").exists()
    with pytest.raises(ValueError, match="no weights are recorded"):
        load_recipe("bits-vae", shelf)
    recorded(shelf, "bits-vae", source, tmp_path / "whole")
    load_recipe("bits-vae", shelf)


def test_a_file_of_another_run_is_not_loaded(shelf, source, tmp_path):
    folder = shelf / "bits-vae"
    recorded(shelf, "bits-vae", source, tmp_path / "half", shortened=Shortened(share=0.5))
    other = (folder / "weights.safetensors").read_bytes()
    recorded(shelf, "bits-vae", source, tmp_path / "whole")
    (folder / "weights.safetensors").write_bytes(other)
    with pytest.raises(ValueError, match=r"is not the file that was recorded with result\.json"):
        load_recipe("bits-vae", shelf)


def test_weights_of_other_options_are_not_loaded(shelf, source, tmp_path):
    recorded(shelf, "bits-vae", source, tmp_path / "run")
    path = shelf / "bits-vae" / "config.json"
    facts = json.loads(path.read_text())
    facts["model"]["latent_dims"] += 1
    path.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"does not fit the options in .*config.json"):
        load_recipe("bits-vae", shelf)


def test_a_package_holds_them():
    project = tomllib.loads((SHELF.resolve().parent / "pyproject.toml").read_text())
    assert (
        "experiments/recipes/shelf/*/*.safetensors"
        in project["tool"]["setuptools"]["package-data"]["ancestral"]
    )
