"""How cost grows: time and memory against batch, resolution, T, data-set size and width, with exponents.

    .venv-bench/bin/python benchmarks/scaling.py

One process for each point trains our DDPM or VAE on random images (for T, samples as well: all T network
calls). Time per step, peak memory and FLOPs are fitted as c · size^p by least squares in log-log, and the
exponents p stand side by side: nothing may grow faster than the arithmetic does (``--room``), and the
program ends with status 1 where something does.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import paired
from ours import NOTES
from paired import Worker

# The cosine schedule exists for any T.
DDPM = {**NOTES, "schedule": "cosine", "channels": [32, 64, 64]}
VAE = {"network": "conv", "width": 32}


@dataclass(frozen=True)
class Sweep:
    """One kind of growth: what grows, its values, and the contender of each."""

    model: str
    against: str
    values: Sequence[int]
    make: str = "ours:training"

    def options(self, value: int) -> dict[str, Any]:
        """The contender's options at one value."""
        model = dict(DDPM if self.model == "ddpm" else VAE)
        out: dict[str, Any] = {"shape": [1, 32, 32], "model": model}
        if self.make == "ours:training":
            out |= {"kind": self.model, "batch": 32}
        else:
            out |= {"n": 8, "steps": value, "sampler": "ancestral"}
        if self.against == "resolution":
            out["shape"] = [1, value, value]
        elif self.against == "width":
            model |= {"channels": [value, 2 * value, 2 * value]} if self.model == "ddpm" else {"width": value}
        elif self.against == "T":
            model["T"] = value
        else:
            out[{"batch": "batch", "data-set size": "images"}[self.against]] = value
        return out


def sweeps(*, quick: bool) -> Iterator[Sweep]:
    """All of them; with ``quick`` two small values each."""
    spans = {
        "batch": (8, 16, 32, 64, 128, 256),
        "resolution": (8, 16, 32, 64),
        "data-set size": (1_000, 4_000, 16_000, 64_000),
        "width": (16, 32, 64, 128),
    }
    tiny = {"batch": (2, 4), "resolution": (8, 16), "data-set size": (64, 128), "width": (4, 8)}
    for against, values in (tiny if quick else spans).items():
        for model in ("ddpm", "vae"):
            yield Sweep(model, against, values)
    yield Sweep("ddpm", "T", (10, 20) if quick else (10, 100, 1000))
    yield Sweep("ddpm", "T", (2, 4) if quick else (10, 40, 160), "ours:sampling")


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """p of the least-squares fit cost = c · size^p in log-log; 0 where a cost is not positive."""
    if min(costs) <= 0:
        return 0.0
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def measured(sweep: Sweep, options: Any) -> dict[str, Any]:
    """The record of one sweep."""
    points: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    for value in sweep.values:
        given = sweep.options(value)
        worker = Worker(f"{sweep.model}, {sweep.against} {value}", sweep.make, given)
        (side,) = paired.rounds([worker], options)
        facts = side.facts
        images = given.get("batch", given.get("n"))
        seconds = images / max(side.rates)
        points.append({"seconds": seconds, "memory": side.memory, "flops": images * side.facts["flops"]})
    record = {
        "name": "scaling",
        "model": sweep.model,
        "what": "training step" if sweep.make == "ours:training" else "8 samples",
        "against": sweep.against,
        "values": list(sweep.values),
        **{part: [point[part] for point in points] for part in ("seconds", "memory", "flops")},
        "our_version": facts["version"],
        "machine": facts["machine"],
    }
    for part in ("seconds", "memory", "flops"):
        record[f"{part}_exponent"] = exponent(sweep.values, record[part])
    print(
        f"{sweep.model}, {record['what']} against {sweep.against}: time ^{record['seconds_exponent']:.2f}, "
        f"memory ^{record['memory_exponent']:.2f}, FLOPs ^{record['flops_exponent']:.2f}",
        flush=True,
    )
    return record


def too_fast(record: dict[str, Any], room: float) -> list[str]:
    """What grows faster than the arithmetic by more than ``room``.

    Where the arithmetic does not depend on the size (the data set's), memory may grow as the data do.
    """
    allowed = record["flops_exponent"] + room
    held = max(allowed, 1.0) if record["against"] == "data-set size" else allowed
    out = []
    for part, most in (("seconds", allowed), ("memory", held)):
        if record[f"{part}_exponent"] > most:
            out.append(
                f"{record['model']}, {record['what']}: {part} grow as {record['against']}^"
                f"{record[f'{part}_exponent']:.2f}, and may at most as ^{most:.2f}"
            )
    return out


def main() -> None:
    """Measure every sweep and write what was found."""
    parser = paired.parser(__doc__, "scaling")
    parser.add_argument("--room", type=float, default=0.1, help="by how much an exponent may be larger")
    parser.set_defaults(rounds=3, seconds=2.0, warm_up=5)
    options = paired.parsed(parser)
    records = []
    for sweep in sweeps(quick=options.quick):
        records.append(measured(sweep, options))
        paired.write(records, options)
    wrong = [text for record in records for text in too_fast(record, options.room)]
    if wrong and not options.quick:
        sys.exit("\n".join(wrong))
    if options.quick:
        print(json.dumps(wrong))


if __name__ == "__main__":
    main()
