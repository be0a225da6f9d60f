"""DDPM sampling at 32×32×1: the same number of network calls, ``ancestral`` beside diffusers.

    .venv-bench/bin/python benchmarks/ddpm_sampling.py

DDIM (eta 0) in 20 steps, 64 images at a time, with the networks of ``ddpm_training.py``. diffusers is run
by its ``DDIMPipeline`` as shipped, and at its best: a loop in inference mode with the fastest combination
of channels-last memory, bf16 autocast and torch.compile. Ours is ``ancestral.draw``.
"""

from __future__ import annotations

from typing import Any

import paired
from ddpm_training import DIFFUSERS, OURS, SHAPE
from ours import NOTES
from paired import Worker, check_same_size, compare, fastest, rounds
from peers import variants


def measured(options: Any) -> list[dict[str, Any]]:
    """The records, as shipped and at its best."""
    here = {"shape": SHAPE, "n": options.images, "steps": options.steps}
    make = "peers:diffusers_sampling"
    tried = [
        (f"diffusers, {name}".replace("fused optimiser only", "inference mode only"), make,
         {**here, **DIFFUSERS, "best": on})
        for name, on in variants(compiled=options.compile)
    ]  # fmt: skip
    best = fastest(tried[-1:] if options.quick else tried, options)
    workers = [
        Worker("ancestral", "ours:sampling", {**here, "model": {**NOTES, **OURS}}),
        Worker("diffusers, as shipped", make, {**here, **DIFFUSERS}),
        best,
    ]
    sides = rounds(workers, options)
    records = []
    for theirs in sides[1:]:
        check_same_size(sides[0], theirs)
        name = f"DDPM sampling, 32×32×1, {options.steps} network calls"
        records.append(compare(name, sides[0], theirs))
    return records


def main() -> None:
    """Time the rounds and write the ratios."""
    parser = paired.parser(__doc__, "ddpm_sampling")
    parser.add_argument("--images", type=int, default=64, help="images at a time")
    parser.add_argument("--steps", type=int, default=20, help="network calls")
    parser.add_argument(
        "--no-compile", dest="compile", action="store_false", help="do not try torch.compile for diffusers"
    )
    parser.set_defaults(warm_up=2)
    options = paired.parsed(parser)
    if options.quick:
        options.images, options.steps = 2, 3
    paired.write(measured(options), options)


if __name__ == "__main__":
    main()
