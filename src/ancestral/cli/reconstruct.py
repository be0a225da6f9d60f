"""``ancestral reconstruct``: examples, and what the latents above each level keep of them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ancestral._internal import checks
from ancestral.cli.options import ExampleOptions, opened
from ancestral.cli.parsing import parse
from ancestral.cli.saving import as_array, save_array


@dataclass(frozen=True, kw_only=True)
class Reconstruct(ExampleOptions):
    """Code examples by q down to some levels, and let p do the rest."""

    out: Path
    """A .png (a row per example: itself, then its reconstructions) or a .npz with "x", "reconstructions" and
    "levels"."""
    n: int = 16
    """How many examples: a fixed random choice of the split."""
    level: tuple[int, ...] = ()
    """The lowest levels that q's code holds, one or more; by default up to six of 1 … T. At level 1 all is
    q's."""
    steps: int = 50
    """ddpm: how many of the T levels are visited, from a level below T in proportion."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer("n", self.n, low=1)
        checks.integer("steps", self.steps, low=1)
        checks.suffix("--out", self.out, (".png", ".npz"))


def run(arguments: list[str]) -> None:
    """The command."""
    options = parse(Reconstruct, arguments, prog="ancestral reconstruct")
    asked = opened(options, needs=options.n)
    from ancestral.cli.progress import example_progress
    from ancestral.evaluation import reconstruct, save_rows

    x = asked.split.some(options.n).x.to("cpu")
    with example_progress("reconstructing") as progress:
        found = reconstruct(
            asked.chain,
            x,
            levels=options.level or None,
            steps=options.steps,
            seed=options.seed,
            progress=progress,
        )
    spec = asked.folder.spec
    if options.out.suffix == ".png":
        columns = {f"t = {level}": state for level, state in zip(found.levels, found.x, strict=True)}
        save_rows(options.out, {"x": x, **columns}, spec)
    else:
        save_array(options.out, _arrays(x, found, spec))
    print(f"written: {options.out}, {options.n} {asked.words} examples", file=sys.stderr)
    if options.json:
        print(
            json.dumps(
                {
                    "model": asked.folder.name,
                    "checkpoint": asked.folder.chosen.json(),
                    "data": asked.source,
                    "n": options.n,
                    **found.json(),
                }
            )
        )
        return
    for level, error in zip(found.levels, found.rmse, strict=True):
        print(f"coded by z_{level} and above: root mean square error {error:.4f}, in the data's units")


def _arrays(x: Any, found: Any, spec: Any) -> dict[str, Any]:
    import numpy as np

    parts = np.stack([as_array(part, spec) for part in found.x], axis=1)
    return {"x": as_array(x, spec), "reconstructions": parts, "levels": np.array(found.levels)}
