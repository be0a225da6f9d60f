"""``ancestral recipe``: the recorded results, and how to get them again."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ancestral._internal import checks
from ancestral.cli.options import Flag
from ancestral.cli.parsing import parse
from ancestral.cli.threads import ThreadOptions, use_threads
from ancestral.config import Device

if TYPE_CHECKING:
    from ancestral.experiments.recipes import Recipe, Result

_HELP = """usage: ancestral recipe list [--recipes FOLDER] [--json]
       ancestral recipe run NAME --data D [options]

Recipes: a config, the figure it is for, and the result that was recorded for it.

commands:
  list   each recipe with its target and its recorded result
  run    train a recipe on your copy of its data, measure it, and write result.json into the run's folder

ancestral recipe run --help shows all options.
"""


@dataclass(frozen=True, kw_only=True)
class List:
    """Each recipe with its target and its recorded result."""

    recipes: Path | None = None
    """A folder of recipes; by default those that come with the library."""
    json: Flag = False
    """Print one JSON object on standard output."""


@dataclass(frozen=True, kw_only=True)
class Run(ThreadOptions):
    """Train a recipe, measure it, and write result.json. Called again, it resumes where it was stopped."""

    name: Annotated[str, tyro.conf.Positional]
    """The recipe, as ancestral recipe list shows it."""
    data: str
    """Your copy of its data: a folder of IDX files, or a .npy or .npz file."""
    out: Path | None = None
    """The run's folder; by default runs/NAME."""
    share: float | None = None
    """Shortened: take this share of the recipe's steps."""
    steps: int | None = None
    """Shortened: take this many steps."""
    samples: int | None = None
    """Shortened: measure with this many samples an image."""
    device: Device = "auto"
    """auto takes a GPU where there is one."""
    extend: Flag = False
    """Extend the shorter run of the recipe that the run's folder holds."""
    record: Flag = False
    """Write the result into the recipe's folder too, and the averaged weights where they are below 3 MB."""
    recipes: Path | None = None
    """A folder of recipes; by default those that come with the library."""
    json: Flag = False
    """Print the result as one JSON object on standard output."""


def run(arguments: list[str]) -> None:
    """The command."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        return
    checks.one_of("what to do with recipes", arguments[0], ("list", "run"))
    prog = f"ancestral recipe {arguments[0]}"
    if arguments[0] == "list":
        _list(parse(List, arguments[1:], prog=prog))
    else:
        _run(parse(Run, arguments[1:], prog=prog))


def _list(options: List) -> None:
    from ancestral.experiments.recipes import SHELF, open_recipes

    recipes = open_recipes(options.recipes or SHELF)
    if options.json:
        print(json.dumps({recipe.name: _facts(recipe) for recipe in recipes}))
        return
    rows = [("recipe", "must reach", "aim", "recorded")]
    for recipe in recipes:
        figure, result = recipe.facts.figure, recipe.result
        recorded = in_words(result, figure.digits) if result is not None else _not_run(recipe)
        rows.append((recipe.name, figure.target(figure.must), figure.target(figure.aim), recorded))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def _facts(recipe: Recipe) -> dict[str, Any]:
    figure, result = recipe.facts.figure, recipe.result
    return {
        "title": recipe.facts.title,
        "metric": figure.metric,
        "unit": figure.unit,
        "must": figure.must,
        "aim": figure.aim,
        "below": figure.below,
        "lacks": recipe.facts.lacks,
        "command": recipe.facts.command,
        "status": recipe.status,
        "not_here": recipe.facts.not_here,
        "note": recipe.facts.note,
        "result": None if result is None else result.json(),
    }


def _not_run(recipe: Recipe) -> str:
    lacks = recipe.facts.lacks
    return f"{recipe.status} (needs {', '.join(lacks)})" if lacks else recipe.status


def in_words(result: Result, digits: int) -> str:
    """A result in one line."""
    text = f"{result.figure:.{digits}f} {result.unit}, n = {result.n:,}"
    if result.parts > 1:
        text += f", in {result.parts} parts"
    if not result.shortened:
        return text
    return (
        f"{text}, shortened: {result.steps.taken:,} of {result.steps.planned:,} steps, "
        f"{result.samples.taken:,} of {result.samples.planned:,} samples"
    )


def _run(options: Run) -> None:
    from ancestral.cli.progress import example_progress, stop_on_signal, training_progress
    from ancestral.experiments.recipes import SHELF, Shortened, open_recipe, run_recipe
    from ancestral.experiments.recipes.weights import WEIGHTS

    recipe = open_recipe(options.name, options.recipes or SHELF)
    shortened = Shortened(options.share, options.steps, options.samples)
    steps = shortened.steps_of(recipe.config.training.steps)
    out = Path("runs") / recipe.name if options.out is None else options.out
    use_threads(options, out)
    with (
        stop_on_signal() as should_stop,
        training_progress(recipe.name, steps, recipe.config.training.batch_size) as report,
        example_progress("evaluating") as progress,
    ):
        result = run_recipe(
            recipe,
            options.data,
            out,
            shortened=shortened,
            device=options.device,
            record=options.record,
            extend=options.extend,
            report=report,
            progress=progress,
            should_stop=should_stop,
        )
    if result is None:
        print("stopped. Resume with the same command.", file=sys.stderr)
        raise KeyboardInterrupt
    print(
        json.dumps(result.json())
        if options.json
        else f"{recipe.name}: {in_words(result, recipe.facts.figure.digits)}"
    )
    print(f"written: {out / 'result.json'}", file=sys.stderr)
    if options.record:
        print(f"written: {recipe.path / 'result.json'}", file=sys.stderr)
        kept = result.weights is not None
        weights = f"written: {recipe.path / WEIGHTS}" if kept else "the weights are too large to be recorded"
        print(weights, file=sys.stderr)
