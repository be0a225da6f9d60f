"""docs/results.md is what the recipes give, and says plainly where a figure stands."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from ancestral.experiments.recipes import open_recipe
from ancestral.experiments.recipes.result import Extended, Planned, Result
from ancestral.experiments.recipes.table import page
from tiny import MODELS
from tiny_recipes import FIGURES, write_recipe

ROOT = Path(__file__).parents[3]
RESULT = Result(
    recipe="bits-vae",
    metric="nll",
    value=31.256,
    stderr=0.04321,
    unit="nats",
    n=12,
    data="Blobs",
    binarization="none",
    estimator="importance sampling, 6 samples an image",
    seed=0,
    evaluation_seed=5,
    seconds=150.0,
    evaluation_seconds=1.0,
    machine="Quick 9000, 2 threads, torch 9",
    parameters=1000,
    version="0.1.0",
    shortened=False,
    steps=Planned(8, 8),
    samples=Planned(6, 6),
    elbo=-33.0,
)


def row(shelf: Path, result: Result, name: str = "bits-vae") -> str:
    """The row of a recipe with this result."""
    result.write(shelf / name / "result.json")
    (line,) = [line for line in page(shelf).splitlines() if line.startswith(f"| {name} |")]
    return line


def test_the_page_is_what_the_recipes_give():
    """To mend: python -m ancestral.experiments.recipes.table"""
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == page()


def test_a_result_is_a_row(shelf):
    assert row(shelf, RESULT) == (
        "| bits-vae | a tiny one | 30.00 nats | 20.00 nats | **31.26 ± 0.04** nats, n = 12 | behind by 1.26 "
        "| importance sampling, 6 samples an image | 8 | 2 |"
    )
    text = page(shelf)
    assert "bits-vae: ancestral 0.1.0 on Quick 9000, 2 threads, torch 9." in text
    assert "| later | a tiny one | 30.00 nats | 20.00 nats | not run yet | – | – | – | – |" in text


def test_a_run_that_was_made_longer_says_so(shelf):
    line = row(shelf, replace(RESULT, extended=[Extended(3, 3), Extended(4, 5)]))
    assert "| 8 in 3 parts |" in line
    assert "| behind by 1.26 (in parts) |" in line
    assert (
        "bits-vae: a shorter run made longer, at step 3, planned over 3 and at step 4, planned "
        "over 5; the learning rate was each plan's in turn."
    ) in page(shelf)


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (30.01, "behind by 0.01"),
        (30.0, "reached; 10.00 from the aim"),
        (20.5, "reached; 0.50 from the aim"),
        (20.0, "aim reached"),
        (3.0, "aim reached"),
    ],
)
def test_where_a_figure_stands(value, verdict, shelf):
    assert f"| {verdict} |" in row(shelf, replace(RESULT, value=value))


def test_a_figure_worse_than_its_aim_is_behind_it_where_nothing_has_to_be_reached(shelf):
    path = shelf / "bits-vae" / "recipe.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "figure": {**facts["figure"], "must": None}}))
    assert "| behind the aim by 11.26 |" in row(shelf, RESULT)
    assert "| behind the aim by 11.26 (shortened) |" in row(shelf, replace(RESULT, shortened=True))
    assert "| aim reached |" in row(shelf, replace(RESULT, value=20.0))


def test_a_shortened_figure_says_so(shelf):
    short = replace(RESULT, shortened=True, steps=Planned(8000, 4000), samples=Planned(6, 2))
    line = row(shelf, short)
    assert "| behind by 1.26 (shortened) |" in line
    assert "(planned: 6) | 4,000 of 8,000 |" in line


def test_a_figure_may_be_relative_to_anothers(shelf, source):
    figure = {**FIGURES["nll"], "must": 0.7, "aim": 1.2, "below": "bits-vae", "seed": 5}
    write_recipe(shelf, "flow", MODELS["vae-mlp"], figure="nll", source=source, binarize="dynamic")
    path = shelf / "flow" / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "figure": figure}))
    other = replace(RESULT, recipe="flow", value=30.5)
    assert "| no figure of bits-vae to compare with |" in row(shelf, other, "flow")
    row(shelf, RESULT)
    assert "| 0.70 nats below bits-vae |" in row(shelf, other, "flow")
    verdicts = {30.7: "behind by 0.14", 30.5: "reached; 0.44 from the aim", 30.0: "aim reached"}
    for value, verdict in verdicts.items():
        assert f"| {verdict} |" in row(shelf, replace(other, value=value), "flow")


def test_a_recipe_that_is_not_run_here_says_so_in_its_row(shelf):
    path = shelf / "grey-ddpm" / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "not_here": "it takes days."}))
    assert "| grey-ddpm | a tiny one | – | – | not run here | – | – | – | – |" in page(shelf)
    assert "grey-ddpm, not run here: it takes days." in page(shelf)
    # Somebody with the machine for it may have recorded one.
    bits = replace(RESULT, recipe="grey-ddpm", metric="bits_per_dim", unit="bits/dim", value=1.23456)
    assert "**1.235 ± 0.043** bits/dim" in row(shelf, bits, "grey-ddpm")
    assert "not run here" not in page(shelf)


def test_a_reference_of_our_own_and_published_figures(shelf):
    bits = replace(RESULT, recipe="grey-ddpm", metric="bits_per_dim", unit="bits/dim", value=1.23456)
    line = row(shelf, bits, "grey-ddpm")
    assert "**1.235 ± 0.043** bits/dim" in line
    assert "| our own reference |" in line
    figure = {"model": "M", "value": "9 nats", "source": "a page", "url": "https://example.org"}
    tables = json.loads((shelf / "published.json").read_text())
    (shelf / "published.json").write_text(json.dumps([{**tables[0], "figures": [figure]}]))
    assert "| M | 9 nats | [a page](https://example.org) |" in page(shelf)


def test_every_published_figure_has_its_place_and_unit():
    tables = json.loads((ROOT / "recipes" / "published.json").read_text(encoding="utf-8"))
    for table in tables:
        unit = "nats" if "binarised" in table["title"] else "bits/dim"
        models = [figure["model"] for figure in table["figures"]]
        assert len(set(models)) == len(models)
        for figure in table["figures"]:
            assert re.fullmatch(rf"(≤ )?\d+\.\d+ {unit}", figure["value"])
            assert figure["url"].startswith("https://")
            assert figure["source"]
    # A copy's figures stand beside no published one.
    (copy,) = [table for table in tables if table["title"] == "CIFAR-10 (JPEG copy)"]
    assert copy["figures"] == []


def test_a_result_that_was_edited_is_refused_by_name(shelf):
    path = shelf / "bits-vae" / "result.json"
    path.write_text(json.dumps({**RESULT.json(), "value": "31"}))
    with pytest.raises(ValueError, match="is not a recipe's result"):
        _ = open_recipe("bits-vae", shelf).result
