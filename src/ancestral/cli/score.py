"""``ancestral score``: how likely each single example is."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ancestral._internal import checks
from ancestral.cli.options import ExampleOptions, opened
from ancestral.cli.parsing import parse
from ancestral.cli.saving import save_text


@dataclass(frozen=True, kw_only=True)
class Score(ExampleOptions):
    """A lower bound on log p(x) of each example, from the most to the least likely."""

    out: Path
    """A .csv with a line per example, from the most to the least likely: its number in the source (index and row,
    from 0) or its file, its key, its split with --split all, its class, the bound in nats, the standard error of
    its own draws, and bits/dim for integer data."""
    split: Literal["test", "validation", "train", "all"] = "test"  # type: ignore[assignment]
    """Which part of the data; all scores every example of the source."""
    key: str | None = None
    """New tables: the column to show beside the scores; by default the one that the run was trained with."""
    picture: Path | None = None
    """A .png of the most likely examples above the least likely; by default beside --out, of its name."""
    shown: int = 32
    """How many of each are in the picture; 0 for no picture."""
    n: int | None = None
    """Only n examples of each part, a fixed random choice; by default all."""
    bound: Literal["elbo", "iwae"] = "elbo"
    """The ELBO, or the importance-weighted bound (vae, hvae)."""
    samples: int | None = None
    """Draws of q per example: by default 16 for the ELBO and 256 for iwae; ddpm: sweeps, by default 1."""
    levels: int | None = None
    """ddpm: random levels per example in the place of a sweep; by default 16 above T = 100."""
    batch_size: int = 500
    """Examples at once, at most 500. The scores do not depend on it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.suffix("--out", self.out, (".csv",))
        if self.picture is not None:
            checks.suffix("--picture", self.picture, (".png",))
        checks.integer("shown", self.shown, low=0, high=10_000)
        checks.integer("batch_size", self.batch_size, low=1)
        for name in ("n", "samples", "levels"):
            if (value := getattr(self, name)) is not None:
                checks.integer(name, value, low=1)


def run(arguments: list[str]) -> None:
    """The command."""
    options = parse(Score, arguments, prog="ancestral score")
    asked = opened(options, key=options.key)
    from ancestral.bounds import Estimate
    from ancestral.cli.progress import example_progress
    from ancestral.data import chosen
    from ancestral.evaluation import Scored, scored

    parts: list[Scored] = []
    for name, split in asked.splits.items():
        with example_progress("scoring" if len(asked.splits) == 1 else f"scoring {name}") as progress:
            parts.append(
                scored(
                    asked.chain,
                    split,
                    bound=options.bound,
                    samples=options.samples,
                    levels=options.levels,
                    batch_size=options.batch_size,
                    seed=options.seed,
                    n=options.n,
                    store=asked.folder.store,
                    split=name,
                    progress=progress,
                )
            )
    found = Scored.joined(parts, class_names=asked.data.class_names)
    save_text(options.out, _lines(found.rows))
    count = len(found.rows)
    print(f"written: {options.out}, {count} {_words(asked)} examples by {found.bound}", file=sys.stderr)
    if options.shown:
        picture = options.picture or options.out.with_suffix(".png")
        shown = _picture(picture, found, options.shown, asked.folder.spec)
        print(f"written: {picture}, the {shown} most likely above the {shown} least likely", file=sys.stderr)
    mean = Estimate.of(found.nats)
    facts: dict[str, Any] = {
        "model": asked.folder.name,
        "checkpoint": asked.folder.chosen.json(),
        "data": asked.source,
        "split": asked.words,
        "n": count,
        "examples": chosen(count, sum(len(split) for split in asked.splits.values())),
        "bound": found.bound,
        "seed": options.seed,
        "nats": mean.json(),
        "score_error": found.scores.error,
        "most_likely": _end(found.rows[0]),
        "least_likely": _end(found.rows[-1]),
        "notes": list(asked.data.notes),
    }
    if options.json:
        print(json.dumps(facts))
        return
    print(f"{found.bound}: {mean:.4f} nats over {count} examples")
    if found.scores.remark is not None:
        print(found.scores.remark)
    for name in ("most_likely", "least_likely"):
        one = facts[name]
        print(f"{name.replace('_', ' ')}: {_called(one)}, {one['nats']:.4f} nats")


def _words(asked: Any) -> str:
    return "new" if asked.new else asked.words


def _end(row: dict[str, Any]) -> dict[str, Any]:
    """The identity and the score of the first or last example."""
    named: dict[str, Any] = {
        name: row[name] for name in ("index", "row", "file", "key", "split") if name in row
    }
    return {**named, "nats": row["nats"]}


def _called(one: dict[str, Any]) -> str:
    name = one["file"] if "file" in one else f"row {one['row']}"
    return f"{name} ({one['key']})" if "key" in one else str(name)


def _lines(rows: list[dict[str, Any]]) -> str:
    """The CSV: text as numbers are read back exactly, and empty where there is none."""
    import csv
    import io

    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _text(value) for name, value in row.items()})
    return file.getvalue()


def _text(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return value


def _picture(path: Path, found: Any, shown: int, spec: Any) -> int:
    """Draw the ends of the order; how many of each."""
    from ancestral.evaluation import save_comparison

    count = min(shown, max(1, len(found.rows) // 2))
    order = range(len(found.rows))
    ends = {"most likely": found.x(order[:count]), "least likely": found.x(order[::-1][:count])}
    save_comparison(path, ends, spec)
    return count
