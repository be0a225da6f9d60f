"""Write docs/results.md from the recipes; with --check, only say whether it is what they give.

python -m ancestral.experiments.recipes.table
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ancestral.experiments.recipes.recipe import SHELF, STRICT, Recipe, open_recipes
from ancestral.experiments.recipes.result import Result

_HEAD = """# Results, beside published ones

Made by `python -m ancestral.experiments.recipes.table` from `recipes/*/result.json`, which the runs
themselves wrote, and `recipes/published.json`.
`ancestral recipe run NAME --data D` gets a figure again; `--record` writes it down.

- Smaller is better everywhere. ± is the standard error of the mean over the test images.
- A figure is compared only with those of the same data and the same binarisation: others differ by nats.
- "Shortened" is a run of fewer steps, or measured with fewer samples, than the recipe asks for: its figure is
  not the recipe's.
- Minutes are of training steps alone.
"""


@dataclass(frozen=True)
class Published:
    """A figure of somebody else's."""

    model: str
    value: str
    source: str
    """Where we read it; not always the paper it is from."""
    url: str

    __pydantic_config__: ClassVar = STRICT


@dataclass(frozen=True)
class Table:
    """The published figures on some data, and what is to be known of them."""

    title: str
    words: str
    figures: list[Published]

    __pydantic_config__: ClassVar = STRICT


def page(folder: Path = SHELF) -> str:
    """The text of docs/results.md."""
    recipes = open_recipes(folder)
    tables = _published(folder / "published.json")
    named = {table.title for table in tables}
    strangers = [recipe.name for recipe in recipes if recipe.facts.table not in named]
    assert not strangers, f"these recipes name a table that published.json does not have: {strangers}"
    parts = [_HEAD]
    for table in tables:
        ours = [recipe for recipe in recipes if recipe.facts.table == table.title]
        parts.append("\n".join([f"## {table.title}", "", table.words, "", *_section(table, ours)]))
    return "\n".join(parts)


def _published(path: Path) -> list[Table]:
    from pydantic import TypeAdapter

    return TypeAdapter(list[Table]).validate_json(path.read_text(encoding="utf-8"), strict=True)


def _section(table: Table, recipes: Sequence[Recipe]) -> list[str]:
    headings = ["recipe", "what", "must reach", "aim", "reached", "verdict", "estimator", "steps", "minutes"]
    values = {recipe.name: recipe.result for recipe in recipes}
    lines = _table(headings, [_row(recipe, values) for recipe in recipes])
    machines = [result.machine for result in values.values() if result is not None]
    for machine in dict.fromkeys(machines):
        names = [name for name, result in values.items() if result is not None and result.machine == machine]
        versions = {result.version for result in values.values() if result and result.machine == machine}
        lines += ["", f"{', '.join(names)}: ancestral {', '.join(sorted(versions))} on {machine}."]
    for recipe in recipes:
        if recipe.result is not None and recipe.result.parts > 1:
            lines += ["", f"{recipe.name}: {_in_parts(recipe.result)}"]
        if recipe.facts.not_here and recipe.result is None:
            lines += ["", f"{recipe.name}, not run here: {recipe.facts.not_here}"]
        if recipe.facts.note:
            lines += ["", f"{recipe.name}: {recipe.facts.note}"]
    if table.figures:
        rows = [[f.model, f.value, f"[{f.source}]({f.url})"] for f in table.figures]
        lines += ["", *_table(["published", "figure", "read in"], rows)]
    return [*lines, ""]


def _row(recipe: Recipe, values: dict[str, Result | None]) -> list[str]:
    facts, result = recipe.facts, recipe.result
    figure = facts.figure
    digits, unit = figure.digits, figure.unit
    targets = [figure.target(figure.must), figure.target(figure.aim)]
    if result is None:
        return [recipe.name, facts.title, *targets, recipe.status, "–", "–", "–", "–"]
    steps = f"{result.steps.taken:,}"
    if result.steps.taken < result.steps.planned:
        steps += f" of {result.steps.planned:,}"
    if result.parts > 1:
        steps += f" in {result.parts} parts"
    estimator = result.estimator
    if result.samples.taken < result.samples.planned:
        estimator += f" (planned: {result.samples.planned:,})"
    return [
        recipe.name,
        facts.title,
        *targets,
        f"**{result.figure:.{digits}f}** {unit}, n = {result.n:,}",
        _verdict(recipe, result, values, digits),
        estimator,
        steps,
        f"{result.seconds / 60:,.0f}",
    ]


def _in_parts(result: Result) -> str:
    """That a run was made longer, and where: its learning rate was not that of one run from start to end."""
    parts = " and ".join(f"at step {one.step:,}, planned over {one.steps:,}" for one in result.extended)
    return f"a shorter run made longer, {parts}; the learning rate was each plan's in turn."


def _verdict(recipe: Recipe, result: Result, values: dict[str, Result | None], digits: int) -> str:
    """Where a figure stands, plainly; a shortened one says that it is."""
    figure = recipe.facts.figure
    goals = [figure.must, figure.aim]
    if figure.below is not None:
        other = values.get(figure.below)
        if other is None:
            return f"no figure of {figure.below} to compare with"
        goals = [None if goal is None else other.value - goal for goal in goals]
    must, aim = goals
    if aim is not None and result.value <= aim:
        text = "aim reached"
    elif must is not None and result.value > must:
        text = f"behind by {result.value - must:.{digits}f}"
    elif must is not None:
        text = "reached" if aim is None else f"reached; {result.value - aim:.{digits}f} from the aim"
    elif aim is not None:
        text = f"behind the aim by {result.value - aim:.{digits}f}"
    else:
        text = "our own reference"
    less = [name for name, so in (("shortened", result.shortened), ("in parts", result.parts > 1)) if so]
    return f"{text} ({', '.join(less)})" if less else text


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    return [line(headings), line(["---"] * len(headings)), *(line(row) for row in rows)]


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if not SHELF.is_symlink():
        sys.exit("the page is a checkout's; this is an installed package.")
    file = SHELF.resolve().parent / "docs" / "results.md"
    if not options.check:
        file.write_text(page(), encoding="utf-8")
    elif not file.exists() or file.read_text(encoding="utf-8") != page():
        sys.exit(
            "docs/results.md is not what recipes/ gives; run: python -m ancestral.experiments.recipes.table"
        )


if __name__ == "__main__":
    main()
