"""A recipe run from data to result.json; interrupted and gone on with; and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ancestral.bounds import log_likelihood
from ancestral.core.spec import DataSpec
from ancestral.data import Dataset, content_hash, load_data
from ancestral.experiments.build import build_chain
from ancestral.experiments.recipes import Result, Shortened, open_recipe, run_recipe
from ancestral.experiments.recipes.measure import measure
from ancestral.experiments.recipes.result import Extended
from ancestral.experiments.runs import RunFolder, load_run, resume_run
from tiny import MODELS
from tiny_recipes import saved

KEYS = {
    **{"recipe": str, "metric": str, "value": float, "stderr": float, "unit": str, "n": int, "data": str},
    **{"binarization": str, "estimator": str, "seed": int, "evaluation_seed": int, "seconds": float},
    **{"evaluation_seconds": float, "machine": str, "parameters": int, "version": str, "shortened": bool},
    **{"steps": dict, "samples": dict, "elbo": float, "extended": list, "content": str},
    "weights": type(None),
}


def load(source: Path) -> Dataset:
    """The data as the tiny VAE's recipe reads them."""
    return load_data(source, binarize="dynamic", validation=0.1)


def test_a_run_leaves_its_figure(shelf, source, tmp_path):
    recipe = open_recipe("bits-vae", shelf)
    out = tmp_path / "run"
    result = run_recipe(recipe, str(source), out, device="cpu")
    assert result is not None
    facts = json.loads((out / "result.json").read_text())
    assert {name: type(value) for name, value in facts.items()} == KEYS
    assert Result.read(out / "result.json") == result
    assert recipe.result is None  # not asked to record it
    assert result.content == recipe.content == content_hash(load(source))
    chain = load_run(out)
    assert result.parameters == sum(p.numel() for p in chain.parameters())
    assert (result.metric, result.unit, result.n, result.data) == ("nll", "nats", 12, "Blobs")
    assert result.binarization == "dynamic in training; the test set once, seed 3"
    assert result.estimator == "importance sampling, 6 samples an image"
    assert not result.shortened
    assert result.extended == []
    assert facts["steps"] == {"planned": 8, "taken": 8}
    assert facts["samples"] == {"planned": 6, "taken": 6}
    # Importance sampling gains on the ELBO, and with very many samples it gains more.
    assert result.value < -result.elbo
    x = load(source).test.x
    many = -float(log_likelihood(chain, x, samples=3000).mean())
    assert many < result.value + 3.0 * result.stderr
    assert result.value < 64 * math.log(2.0) * 1.2


def test_bits_per_dim_are_of_the_elbo(shelf, source, tmp_path):
    result = run_recipe(open_recipe("grey-ddpm", shelf), str(source), tmp_path / "run", device="cpu")
    assert result is not None
    assert (result.metric, result.unit, result.binarization) == ("bits_per_dim", "bits/dim", "none")
    assert result.estimator == "ELBO, 3 levels an image, drawn by importance"
    assert result.value == pytest.approx(-result.elbo / (64 * math.log(2.0)))


@pytest.mark.parametrize(
    ("model", "levels", "samples", "words"),
    [
        ("ddpm", 3, 1, "ELBO, 3 levels an image, drawn by importance"),
        ("ddpm", None, 2, "ELBO, 2 sweeps over all levels an image"),
        ("ladder", None, 1, "ELBO, 1 path an image"),
        ("ladder", None, 2, "ELBO, 2 paths an image"),
    ],
)
def test_an_estimator_says_how_it_draws(model, levels, samples, words, source):
    x = load_data(source, binarize="none").test.x
    figure = replace(open_recipe("cifar10-ladder").facts.figure, levels=levels)
    chain = build_chain(MODELS[model], DataSpec((1, 8, 8), 17))
    assert measure(chain, x, figure, samples=samples).estimator == words


def test_a_run_that_was_interrupted_goes_on_to_the_same_figure(shelf, source, tmp_path):
    recipe = open_recipe("bits-vae", shelf)
    whole = run_recipe(recipe, str(source), tmp_path / "whole", device="cpu")
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 3

    out = tmp_path / "parts"
    assert run_recipe(recipe, str(source), out, device="cpu", should_stop=stop) is None
    assert RunFolder.open(out).step == 3
    assert not (out / "result.json").exists()
    before = RunFolder.open(out).records("timing.jsonl")[-1]["seconds"]
    result = run_recipe(recipe, str(source), out, device="cpu")
    assert whole is not None
    assert result is not None
    same = ("value", "stderr", "elbo", "parameters", "steps", "machine")
    assert all(getattr(result, name) == getattr(whole, name) for name in same)
    # The seconds of both calls, and no more than they took.
    times = [record["seconds"] for record in RunFolder.open(out).records("timing.jsonl")]
    assert times == sorted(times)
    assert result.seconds == times[-1] > before
    # A finished run is measured anew.
    again = run_recipe(recipe, str(source), out, device="cpu")
    assert again is not None
    assert again.value == result.value
    assert again.seconds == result.seconds


def test_a_shortened_run_says_so(shelf, source, tmp_path):
    recipe = open_recipe("bits-vae", shelf)
    less = Shortened(share=0.5, samples=2)
    result = run_recipe(recipe, str(source), tmp_path / "run", shortened=less, device="cpu", record=True)
    assert result is not None
    assert result.shortened
    assert (result.steps.planned, result.steps.taken) == (8, 4)
    assert (result.samples.planned, result.samples.taken) == (6, 2)
    assert RunFolder.open(tmp_path / "run").training.steps == 4
    assert recipe.result == result
    # A full one takes its place, and then a shortened one does not take that one's.
    full = run_recipe(recipe, str(source), tmp_path / "full", device="cpu", record=True)
    assert recipe.result == full
    with pytest.raises(ValueError, match="is of a full run, and this one is shortened"):
        run_recipe(recipe, str(source), tmp_path / "run", shortened=less, device="cpu", record=True)
    assert recipe.result == full


@pytest.mark.parametrize(
    ("less", "message"),
    [
        (Shortened(share=0.5, steps=4), "share is 0.5 and steps is 4; give one of the two"),
        (Shortened(share=0.0), "share is 0; it must be a finite number, above 0"),
        (Shortened(share=1.5), "share is 1.5"),
        (Shortened(steps=9), "steps is 9; it must be from 1 to 8"),
        (Shortened(steps=0), "steps is 0"),
        (Shortened(samples=7), "samples is 7; it must be from 1 to 6"),
    ],
)
def test_what_is_no_shortening(less, message, shelf, source, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_recipe(open_recipe("bits-vae", shelf), str(source), tmp_path / "run", shortened=less)
    assert not (tmp_path / "run").exists()


def test_other_data_are_refused(shelf, tmp_path):
    recipe = open_recipe("bits-vae", shelf)
    more, other = saved(tmp_path / "more.npz", train=41), saved(tmp_path / "other.npz", seed=1)
    for path, message in (
        (more, "is not Blobs.*training examples are 41, and it must have 40"),
        (other, "other values or another order. Give blobs"),
        ("digits", "test examples|training examples"),
    ):
        with pytest.raises(ValueError, match=message):
            run_recipe(recipe, str(path), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_data_known_to_be_others_are_refused_by_name(shelf, tmp_path):
    """Also where the recipe's own fingerprint is not known, as of data that were not to be had."""
    copy, unknown = saved(tmp_path / "copy.npz", seed=1), saved(tmp_path / "unknown.npz", seed=2)
    folder = shelf / "bits-vae"
    config, facts = (json.loads((folder / name).read_text()) for name in ("config.json", "recipe.json"))
    facts["data"]["not_content"] = {content_hash(load(copy)): "the copy of Blobs"}
    (folder / "config.json").write_text(json.dumps({**config, "content": ""}))
    (folder / "recipe.json").write_text(json.dumps(facts))
    recipe = open_recipe("bits-vae", shelf)
    with pytest.raises(ValueError, match=r"copy.npz is the copy of Blobs and not Blobs.*Give blobs"):
        run_recipe(recipe, str(copy), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
    result = run_recipe(recipe, str(unknown), tmp_path / "run", device="cpu")
    assert result is not None
    assert result.content == content_hash(load(unknown))


def test_a_result_from_before_fingerprints_is_read(shelf, source, tmp_path):
    run_recipe(open_recipe("bits-vae", shelf), str(source), tmp_path / "run", device="cpu")
    path = tmp_path / "run" / "result.json"
    facts = json.loads(path.read_text())
    del facts["content"]
    path.write_text(json.dumps(facts))
    assert Result.read(path).content is None


def test_another_run_is_not_gone_on_with(shelf, source, tmp_path):
    out = tmp_path / "run"
    run_recipe(open_recipe("bits-vae", shelf), str(source), out, device="cpu")
    with pytest.raises(ValueError, match=r"holds another run than grey-ddpm's. Give another --out"):
        run_recipe(open_recipe("grey-ddpm", shelf), str(source), out, device="cpu")
    for extend in (False, True):
        with pytest.raises(ValueError, match=r"over 8 steps, and this one is over 4. Give --steps 8 to go"):
            run_recipe(
                open_recipe("bits-vae", shelf),
                str(source),
                out,
                shortened=Shortened(steps=4),
                device="cpu",
                extend=extend,
            )


def test_a_shorter_run_is_made_longer_when_asked_to(shelf, source, tmp_path):
    recipe, out = open_recipe("bits-vae", shelf), tmp_path / "run"
    with pytest.raises(ValueError, match=r"there is no run at .*run to make longer. Leave --extend out"):
        run_recipe(recipe, str(source), out, device="cpu", extend=True)
    for steps in (3, 5):
        run_recipe(recipe, str(source), out, shortened=Shortened(steps=steps), device="cpu", extend=steps > 3)
    with pytest.raises(
        ValueError, match=r"over 5 steps, and this one is over 8. Give --extend to make it longer, --steps 5"
    ):
        run_recipe(recipe, str(source), out, device="cpu")
    assert RunFolder.open(out).training.steps == 5
    result = run_recipe(recipe, str(source), out, device="cpu", extend=True, record=True)
    assert result is not None
    assert not result.shortened
    assert result.extended == [Extended(3, 3), Extended(5, 5)]
    assert recipe.result == Result.read(out / "result.json") == result
    assert RunFolder.open(out).step == 8
    # One of a run from start to end takes its place, and not the other way round.
    full = run_recipe(recipe, str(source), tmp_path / "full", device="cpu", record=True)
    with pytest.raises(ValueError, match="is of a full run, and this one is a shorter one made longer"):
        run_recipe(recipe, str(source), out, device="cpu", record=True)
    assert recipe.result == full


def test_a_run_longer_than_its_recipe_is_not_the_recipes(shelf, source, tmp_path):
    recipe, out = open_recipe("bits-vae", shelf), tmp_path / "run"
    run_recipe(recipe, str(source), out, device="cpu")
    resume_run(out, data=str(source), steps=12, device="cpu")
    with pytest.raises(ValueError, match=r"over 12 steps, and this one is over 8. Give another --out"):
        run_recipe(recipe, str(source), out, device="cpu")


def test_a_recipe_that_lacks_something_is_not_run(shelf, source, tmp_path):
    with pytest.raises(ValueError, match=r"'later' needs what this version does not have: model.wings = on"):
        run_recipe(open_recipe("later", shelf), str(source), tmp_path / "run")


def test_machines_are_told_in_order(shelf, source, tmp_path, monkeypatch):
    recipe, out = open_recipe("bits-vae", shelf), tmp_path / "run"
    run_recipe(recipe, str(source), out, device="cpu")
    first = Result.read(out / "result.json").machine
    assert f"torch {torch.__version__}" in first
    monkeypatch.setattr("ancestral.experiments.recipes.running.this_machine", lambda _: "Quick 9000")
    result = run_recipe(recipe, str(source), out, device="cpu")
    assert result is not None
    assert result.machine == f"{first}; then Quick 9000"


def test_an_installed_package_is_not_written_to(shelf, source, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ancestral.experiments.recipes.running.SHELF", shelf
    )  # a folder, and no link into a checkout
    with pytest.raises(ValueError, match=r"is an installed package's.*--recipes FOLDER"):
        run_recipe(open_recipe("bits-vae", shelf), str(source), tmp_path / "run", record=True)
    assert not Path(tmp_path / "run").exists()
