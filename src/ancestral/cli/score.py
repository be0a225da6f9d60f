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
    """A .csv with a line per example: its number in the split (from 0), its class where there are classes,
    the bound in nats, the standard error of its own draws, and bits/dim for integer data."""
    picture: Path | None = None
    """A .png of the most likely examples above the least likely; by default beside --out, of its name."""
    shown: int = 32
    """How many of each are in the picture; 0 for no picture."""
    n: int | None = None
    """Only the first n examples; by default all."""
    bound: Literal["elbo", "iwae"] = "elbo"
    """The ELBO, or the importance-weighted bound (vae, hvae)."""
    samples: int | None = None
    """Draws of q per example: by default 16 for the ELBO and 256 for iwae; ddpm: sweeps, by default 1."""
    levels: int | None = None
    """ddpm: random levels per example in the place of a sweep; by default 16 above T = 100."""
    batch_size: int = 500
    """Examples at once."""

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
    asked = opened(options)
    from ancestral.bounds import Estimate
    from ancestral.cli.progress import example_progress
    from ancestral.evaluation import scores

    x = asked.split.x[: options.n]
    with example_progress("scoring") as progress:
        found = scores(
            asked.chain,
            x,
            bound=options.bound,
            samples=options.samples,
            levels=options.levels,
            batch_size=options.batch_size,
            seed=options.seed,
            store=asked.folder.store,
            split=options.split,
            progress=progress,
        )
    order = found.order().tolist()
    save_text(options.out, _lines(found, order, asked))
    print(f"written: {options.out}, {len(order)} {options.split} examples by {found.bound}", file=sys.stderr)
    if options.shown:
        picture = options.picture or options.out.with_suffix(".png")
        count = _picture(picture, x, order, options.shown, asked.folder.spec)
        print(f"written: {picture}, the {count} most likely above the {count} least likely", file=sys.stderr)
    mean, error = Estimate.of(found.nats), found.error
    best, worst = order[0], order[-1]
    facts: dict[str, Any] = {
        "model": asked.folder.name,
        "data": asked.source,
        "split": options.split,
        "n": len(order),
        "bound": found.bound,
        "nats": mean.json(),
        "score_error": error,
        "most_likely": {"index": best, "nats": float(found.nats[best])},
        "least_likely": {"index": worst, "nats": float(found.nats[worst])},
    }
    if options.json:
        print(json.dumps(facts))
        return
    print(f"{found.bound}: {mean:.4f} nats over {len(order)} examples")
    if found.remark is not None:
        print(found.remark)
    for name in ("most_likely", "least_likely"):
        one = facts[name]
        print(f"{name.replace('_', ' ')}: example {one['index']}, {one['nats']:.4f} nats")


def _lines(found: Any, order: list[int], asked: Any) -> str:
    """The CSV: text as numbers are read back exactly, and empty where there is none."""
    import csv
    import io

    labels, names = asked.split.labels, asked.data.class_names
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    heads = ["index", *([] if labels is None else ["class"]), "nats", "stderr"]
    writer.writerow([*heads, *([] if found.bits_per_dim is None else ["bits_per_dim"])])
    for index in order:
        row: list[object] = [index]
        if labels is not None:
            label = int(labels[index])
            row.append(label if names is None else names[label])
        error = float(found.stderr[index])
        row += [repr(float(found.nats[index])), "" if math.isnan(error) else repr(error)]
        if found.bits_per_dim is not None:
            row.append(repr(float(found.bits_per_dim[index])))
        writer.writerow(row)
    return file.getvalue()


def _picture(path: Path, x: Any, order: list[int], shown: int, spec: Any) -> int:
    """Draw the ends of the order; how many of each."""
    import torch

    from ancestral.evaluation import save_comparison

    count = min(shown, max(1, len(order) // 2))
    ends = {
        "most likely": x.index_select(0, torch.tensor(order[:count], device=x.device)),
        "least likely": x.index_select(0, torch.tensor(order[::-1][:count], device=x.device)),
    }
    save_comparison(path, ends, spec)
    return count
