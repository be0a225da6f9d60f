"""The recipes that come with the library: whole, valid, and findable from an installed package."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace

import pytest

from ancestral.cli.parsing import parse
from ancestral.cli.recipe import Run
from ancestral.config import DDPMConfig, HVAEConfig
from ancestral.core.spec import DataSpec
from ancestral.experiments.build import build_chain
from ancestral.experiments.recipes import SHELF, load_recipe, open_recipe, open_recipes
from ancestral.experiments.recipes.complete import complete, completed
from ancestral.experiments.recipes.weights import WEIGHTS
from ancestral.experiments.runs import RunFolder

NAMES = [recipe.name for recipe in open_recipes()]
each = pytest.mark.parametrize("name", NAMES)


def test_the_shelf_is_the_folder_at_the_top_of_a_checkout():
    assert SHELF.is_symlink()
    assert SHELF.resolve().name == "recipes"
    assert (SHELF.resolve().parent / "pyproject.toml").is_file()
    for name in ("vae-1", "iwae-1", "vae-2", "iwae-2", "flow-1", "ladder"):
        assert f"mnist-{name}" in NAMES
    for data in ("mnist8", "fashion8", "cifar10"):
        assert {f"{data}-ladder", f"{data}-diffusion"} <= set(NAMES)


@each
def test_every_option_is_stated(name):
    """No change of a default changes a recipe. To mend: python -m ancestral.experiments.recipes.complete"""
    facts = json.loads((SHELF / name / "config.json").read_text())
    assert completed(facts) == facts
    assert list(completed(facts)["model"]) == list(facts["model"])


@each
def test_its_options_make_a_chain_for_its_data(name):
    recipe = open_recipe(name)
    config, needs = recipe.config, recipe.facts.data
    spec = RunFolder.open(SHELF / name).spec
    assert spec == DataSpec(needs.shape, 2 if config.data.binarize == "dynamic" else needs.levels)
    small = config.model
    if isinstance(small, DDPMConfig | HVAEConfig):
        small = replace(small, blocks=1)
    assert build_chain(small, spec).discrete
    assert (recipe.facts.figure.levels is None) or isinstance(config.model, DDPMConfig)
    held = round(config.data.validation * needs.train)
    assert config.training.batch_size <= needs.train - held
    assert config.training.steps % config.training.checkpoint_every == 0


@each
def test_its_command_runs_it(name):
    words = shlex.split(open_recipe(name).facts.command)
    assert words[:3] == ["ancestral", "recipe", "run"]
    options = parse(Run, words[3:], prog="ancestral recipe run")
    assert options.name == name
    assert (options.share, options.steps, options.samples) == (None, None, None)


@each
def test_its_result_is_of_it(name):
    recipe = open_recipe(name)
    result = recipe.result
    if result is None:
        return
    figure = recipe.facts.figure
    assert (result.recipe, result.metric, result.unit) == (name, figure.metric, figure.unit)
    assert result.n == recipe.facts.data.test
    assert result.content in (None, recipe.content)
    assert (SHELF / name / WEIGHTS).is_file() == (result.weights is not None)
    if result.weights is not None:
        assert sum(p.numel() for p in load_recipe(name).parameters()) == result.parameters
    assert (result.steps.planned, result.samples.planned) == (recipe.config.training.steps, figure.samples)
    assert result.shortened == (
        result.steps.taken < result.steps.planned or result.samples.taken < result.samples.planned
    )


def test_the_original_of_cifar10_is_not_its_jpeg_copy():
    original, copy = open_recipe("cifar10-original-diffusion"), open_recipe("cifar10-diffusion")
    assert original.facts.data.not_content == {copy.content: "CIFAR-10 (JPEG copy)"}
    # A fingerprint is of data as they are read: both recipes must read them alike.
    assert replace(original.config.data, source="") == replace(copy.config.data, source="")
    data = {recipe.content: recipe.facts.data.name for recipe in open_recipes() if recipe.content}
    assert set(data.values()) == {"MNIST", "Fashion-MNIST", "CIFAR-10 (JPEG copy)"}


@pytest.mark.parametrize("kind", ["ladder", "diffusion"])
def test_fashion8_is_as_mnist8(kind):
    fashion, mnist = open_recipe(f"fashion8-{kind}"), open_recipe(f"mnist8-{kind}")
    assert fashion.facts.title == f"as {mnist.name}"
    assert fashion.config.model == mnist.config.model


def test_a_new_option_is_given_its_default(tmp_path):
    path = tmp_path / "one" / "config.json"
    path.parent.mkdir()
    facts = json.loads((SHELF / "mnist-vae-1" / "config.json").read_text())
    whole = json.dumps(facts, indent=1) + "\n"
    del facts["model"]["beta"], facts["model"]["likelihood"]["sigma"], facts["training"]["keep"]
    path.write_text(json.dumps(facts))
    assert complete(tmp_path) == [path]
    assert path.read_text() == whole
    assert complete(tmp_path) == []
    # What is no option stays, to be refused by name.
    facts["model"]["wings"] = 2
    assert completed(facts)["model"]["wings"] == 2
