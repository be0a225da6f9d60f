"""On one GPU: U-Net and transformer training, a small VAE, and sampling, beside diffusers at its best.

    .venv-bench/bin/python benchmarks/gpu.py

The DDPM CIFAR-10 U-Net (diffusers' ``UNet2DModel`` of 35.7 M parameters, 32×32×3) in batches of 128
beside ours of the same parameters and FLOPs; a transformer of the same cost; the VAE of
``vae_training.py`` beside the bare loop; 20 DDIM steps. diffusers runs with a fused optimiser and the
fastest combination of channels-last memory, bf16 autocast and torch.compile. Training is also put beside
the card's own bf16 matrix rate, measured in the same run. ``--dry-run`` runs all of it on the CPU with
tiny shapes, to see that it works; what it prints means nothing.
"""

from __future__ import annotations

import sys
from typing import Any

import paired
import torch
from ours import NOTES
from paired import Side, Worker, check_same_size, compare, compare_memory, fastest, rounds
from peers import variants
from vae_training import BATCH as VAE_BATCH
from vae_training import OURS as VAE
from vae_training import SHAPE as VAE_SHAPE

from ancestral.experiments.bench import Sizes, measure_ceilings

SHAPE = [3, 32, 32]
DIFFUSERS = {"channels": [128, 256, 256, 256], "blocks": 2, "attention": [16]}
OURS = {"channels": [192, 256, 256, 256], "blocks": 2, "attention": [16]}
TRANSFORMER = {"network": "transformer", "width": 384, "blocks": 12, "patch": 2}
TINY = {"channels": [32, 32], "blocks": 1, "attention": [16]}
TINY_TRANSFORMER = {"network": "transformer", "width": 16, "blocks": 1, "patch": 8}
PARTS = ("unet", "transformer", "vae", "sampling")


def share(name: str, side: Side, ceiling: float) -> dict[str, Any]:
    """One record: the arithmetic achieved beside the measured bf16 matrix rate."""
    achieved = [rate * side.facts["flops"] for rate in side.rates]
    record = {
        "name": f"{name}: share of the matrix rate",
        "peer": "measured bf16 matrix product",
        "peer_version": torch.__version__,
        **paired.spread_of([each / ceiling for each in achieved]),
        "ours": side.rate * side.facts["flops"] / 1e12,
        "theirs": ceiling / 1e12,
        "unit": "TFLOP/s",
        "machine": side.facts["machine"],
        "our_version": side.facts["version"],
        "parameters": [side.facts["parameters"], None],
        "flops": [side.facts["flops"], None],
        "rounds": len(achieved),
    }
    print(paired.told(record), flush=True)
    return record


def unet(options: Any, ceiling: float) -> list[dict[str, Any]]:
    """Training of the CIFAR-10 U-Net."""
    here = {"shape": SHAPE, "batch": options.batch, "device": options.device}
    its, mine = (TINY, TINY) if options.dry_run else (DIFFUSERS, OURS)
    tried = [
        (f"diffusers, {name}", "peers:diffusers_training", {**here, **its, "best": on})
        for name, on in variants(compiled=options.compile)
    ]
    best = fastest(tried[-1:] if options.dry_run else tried, options)
    ours = Worker("ancestral", "ours:training", {**here, "model": {**NOTES, **mine}})
    sides = rounds([ours, best], options)
    name = f"U-Net training, 32×32×3, batch {options.batch}"
    return [
        _compared(name, sides, options),
        compare_memory(f"{name}: peak memory", *sides),
        share(name, sides[0], ceiling),
    ]


def transformer(options: Any, ceiling: float) -> list[dict[str, Any]]:
    """Training of a transformer of the U-Net's cost."""
    here = {"shape": SHAPE, "batch": options.batch, "device": options.device}
    mine = TINY_TRANSFORMER if options.dry_run else TRANSFORMER
    (side,) = rounds([Worker("ancestral", "ours:training", {**here, "model": {**NOTES, **mine}})], options)
    return [share(f"Transformer training, 32×32×3, batch {options.batch}", side, ceiling)]


def vae(options: Any, ceiling: float) -> list[dict[str, Any]]:
    """Training of the small VAE, beside the bare eager loop."""
    ours = {**VAE, "shape": VAE_SHAPE, "batch": VAE_BATCH, "device": options.device}
    bare = {"batch": VAE_BATCH, "device": options.device}
    workers = [
        Worker("ancestral", "ours:training", ours),
        Worker("bare loop", "vae_training:bare_training", bare),
    ]
    sides = rounds(workers, options)
    return [_compared(f"VAE training, 784-200-200-50, batch {VAE_BATCH}", sides, options)]


def sampling(options: Any, ceiling: float) -> list[dict[str, Any]]:
    """Sampling by the CIFAR-10 U-Net in as many network calls."""
    here = {"shape": SHAPE, "n": 2 * options.batch, "steps": options.steps, "device": options.device}
    its, mine = (TINY, TINY) if options.dry_run else (DIFFUSERS, OURS)
    tried = [
        (f"diffusers, {name}", "peers:diffusers_sampling", {**here, **its, "best": on})
        for name, on in variants(compiled=options.compile)
    ]
    best = fastest(tried[-1:] if options.dry_run else tried, options)
    ours = Worker("ancestral", "ours:sampling", {**here, "model": {**NOTES, **mine}})
    sides = rounds([ours, best], options)
    return [_compared(f"DDPM sampling, 32×32×3, {options.steps} network calls", sides, options)]


def _compared(name: str, sides: list[Side], options: Any) -> dict[str, Any]:
    if not options.dry_run:
        check_same_size(sides[0], sides[1])
    return compare(name, sides[0], sides[1])


def main() -> None:
    """Run the parts and write the records after each."""
    parser = paired.parser(__doc__, "gpu")
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument("--steps", type=int, default=20, help="network calls of a sample")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="none for diffusers")
    parser.add_argument("--dry-run", action="store_true", help="tiny, on the CPU; writes nothing")
    parser.set_defaults(warm_up=20, seconds=4.0)
    given = sys.argv[1:]
    options = paired.parsed(parser, [*given, "--quick"] if "--dry-run" in given else given)
    if not options.dry_run and not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA GPU, and torch sees none here. See that it works: --dry-run")
    options.device = "cpu" if options.dry_run else "cuda"
    sizes = None
    if options.dry_run:
        options.batch, options.steps = 2, 2
        sizes = Sizes(matrix=64, images=2, channels=4, side=8, copied=1 << 16)
    ceilings = measure_ceilings(torch.device(options.device), seconds=options.seconds, sizes=sizes)
    torch.cuda.empty_cache()
    records: list[dict[str, Any]] = []
    parts = {"unet": unet, "transformer": transformer, "vae": vae, "sampling": sampling}
    for part in options.parts:
        records += parts[part](options, ceilings.products["bf16"])
        paired.write(records, options)


if __name__ == "__main__":
    main()
