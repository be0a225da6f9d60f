"""``ancestral interpolate``: from one example to another through a run's latents."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from ancestral._internal import checks
from ancestral.cli.options import ExampleOptions, opened
from ancestral.cli.parsing import parse
from ancestral.cli.saving import as_array, save_array


@dataclass(frozen=True, kw_only=True)
class Interpolate(ExampleOptions):
    """Mix the latents of two examples, along the spherical path, and decode."""

    out: Path
    """A .png (a row per pair: one end, the points between, the other end) or a .npz with "a", "b" and
    "interpolations"."""
    n: int = 8
    """How many pairs of examples: a fixed random choice of the split."""
    between: tuple[int, int] | None = None
    """The numbers of two examples, counted from 0, in the place of --n."""
    points: int = 8
    """How many points, with the reconstructions of both ends."""
    level: int | None = None
    """The lowest level whose latents are mixed; by default 1, and for a ddpm the middle one: the higher, the
    further from both ends."""
    steps: int = 50
    """ddpm: how many of the T levels are visited, from a level below T in proportion."""

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.integer("n", self.n, low=1)
        checks.integer("points", self.points, low=2, high=1000)
        checks.integer("steps", self.steps, low=1)
        for number in self.between or ():
            checks.integer("between", number, low=0)
        checks.suffix("--out", self.out, (".png", ".npz"))


def run(arguments: list[str]) -> None:
    """The command."""
    options = parse(Interpolate, arguments, prog="ancestral interpolate")
    needs = 2 * options.n if options.between is None else max(options.between) + 1
    asked = opened(options, needs=needs)
    import torch

    from ancestral.cli.progress import example_progress
    from ancestral.data import subset
    from ancestral.evaluation import interpolate, save_rows

    if options.between is None:
        chosen = torch.from_numpy(subset(len(asked.split), needs))
        firsts, lasts = chosen[: options.n], chosen[options.n :]
    else:
        firsts, lasts = (torch.tensor([number]) for number in options.between)
    a, b = (asked.split.x.index_select(0, numbers).to("cpu") for numbers in (firsts, lasts))
    with example_progress("interpolating") as progress:
        found = interpolate(
            asked.chain,
            a,
            b,
            points=options.points,
            level=options.level,
            steps=options.steps,
            seed=options.seed,
            progress=progress,
        )
    spec = asked.folder.spec
    if options.out.suffix == ".png":
        points = {f"{index / (options.points - 1):.2f}": found[:, index] for index in range(options.points)}
        save_rows(options.out, {"a": a, **points, "b": b}, spec)
    else:
        between = as_array(found.flatten(0, 1), spec)
        arrays = {"interpolations": between.reshape(len(a), options.points, *between.shape[1:])}
        save_array(options.out, {"a": as_array(a, spec), "b": as_array(b, spec), **arrays})
    print(f"written: {options.out}, {len(a)} pairs of {asked.words} examples", file=sys.stderr)
    if options.json:
        pairs = list(zip(firsts.tolist(), lasts.tolist(), strict=True))
        print(
            json.dumps(
                {
                    "model": asked.folder.name,
                    "checkpoint": asked.folder.chosen.json(),
                    "data": asked.source,
                    "pairs": pairs,
                }
            )
        )
