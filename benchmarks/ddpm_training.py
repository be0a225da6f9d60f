"""DDPM training at 32×32×1, batch 64: ``ancestral`` beside diffusers and denoising-diffusion-pytorch.

    .venv-bench/bin/python benchmarks/ddpm_training.py

Against diffusers' ``UNet2DModel`` with channels 32-64-64, two blocks a level and attention at 16×16, and
against denoising-diffusion-pytorch's ``Unet`` of its default shape (four levels, multipliers 1-2-4-8) at
dim 32. Each is run as its users run it (fp32, contiguous) and at its best: the fastest combination of
channels-last memory and bf16 autocast, or that one under torch.compile, with a fused optimiser. Ours is
the U-Net of the library with as many parameters within 5 % and as many FLOPs within 10 %, counted and
printed; all predict the noise with a squared error, clip, and average the weights. Peak memory is what a
process holds while it trains beyond what it held after its imports.
"""

from __future__ import annotations

import json
from typing import Any

import paired
from ours import NOTES
from paired import Side, Worker, check_same_size, compare, compare_memory, fastest, rounds
from peers import variants

SHAPE, BATCH = [1, 32, 32], 64
DIFFUSERS = {"channels": [32, 64, 64], "blocks": 2, "attention": [16]}
OURS = {"channels": [48, 56, 64], "blocks": 2, "attention": [16]}
"""Ours of the same size: an upsampling takes us 4/9 of the arithmetic, and our way up has a block less a
level, so the same channels and blocks would be less work."""
LUCIDRAINS = {"dim": 32, "multipliers": [1, 2, 4, 8]}
OURS_LUCIDRAINS = {"channels": [64, 96, 128, 256], "blocks": 1, "attention": [4]}
PEERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "diffusers": ("peers:diffusers_training", DIFFUSERS, OURS),
    "denoising-diffusion-pytorch": ("peers:lucidrains_training", LUCIDRAINS, OURS_LUCIDRAINS),
}


def measured(peer: str, options: Any) -> list[dict[str, Any]]:
    """The records of one peer: as shipped and at its best, time and memory."""
    make, its, ours = PEERS[peer]
    here = {"shape": SHAPE, "batch": options.batch}
    tried = [
        (f"{peer}, {name}", make, {**here, **its, "best": on})
        for name, on in variants(compiled=options.compile)
    ]
    best = fastest(tried[-1:] if options.quick else tried, options)
    workers = [
        Worker("ancestral", "ours:training", {**here, "model": {**NOTES, **ours}}),
        Worker(f"{peer}, as shipped", make, {**here, **its}),
        best,
    ]
    sides: list[Side] = rounds(workers, options)
    records = []
    for theirs in sides[1:]:
        check_same_size(sides[0], theirs)
        name = f"DDPM training, 32×32×1, batch {options.batch}"
        records.append(compare(name, sides[0], theirs))
        records.append(compare_memory(f"{name}: peak memory", sides[0], theirs))
    return records


def kept(options: Any) -> list[dict[str, Any]]:
    """What an earlier run found of the peers that this one leaves out."""
    if options.out is None or not options.out.exists():
        return []
    records: list[dict[str, Any]] = json.loads(options.out.read_text(encoding="utf-8"))
    return [record for record in records if record["peer"].partition(",")[0] not in options.peers]


def main() -> None:
    """Time the rounds and write the ratios."""
    parser = paired.parser(__doc__, "ddpm_training")
    parser.add_argument("--batch", type=int, default=BATCH, help="images a step")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument(
        "--no-compile", dest="compile", action="store_false", help="do not try torch.compile for the peers"
    )
    options = paired.parsed(parser)
    if options.quick:
        options.batch = 4
    records = [record for peer in options.peers for record in measured(peer, options)]
    paired.write([*kept(options), *records], options)


if __name__ == "__main__":
    main()
