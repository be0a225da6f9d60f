"""A folder of image files: taking it in beside what Pillow alone decodes, and training from the cache.

    .venv/bin/python benchmarks/intake.py --folder path/to/cifar10-jpeg

In turns, in one process: ``load_data`` with an empty cache (listing, decoding on all cores, checking, writing
the cache and reading it) and a pool of as many processes that do nothing but open and decode the same files.
Then the second start, and training steps from the mapped cache and from memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image
from streaming import rounds_of

import ancestral
from ancestral.data import Rows, load_data, sources
from ancestral.experiments.bench.machine import this_machine

RESULTS = Path(__file__).resolve().parent / "results" / "intake.json"
CHUNK = 128


def decoded(path: str) -> int:
    """What Pillow does with a file, and nothing else."""
    with Image.open(path) as image:
        return int(np.asarray(image.convert("RGB")).shape[0])


def pillow(paths: list[str], cores: int) -> float:
    """Seconds to decode all files on so many cores."""
    start = time.perf_counter()
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        for _ in pool.imap_unordered(decoded, paths, chunksize=CHUNK):
            pass
    return time.perf_counter() - start


def taken_in(folder: Path, cache: Path, *, fresh: bool) -> float:
    """Seconds of ``load_data``."""
    os.environ["ANCESTRAL_CACHE"] = str(cache)
    if fresh:
        shutil.rmtree(cache, ignore_errors=True)
    start = time.perf_counter()
    load_data(folder)
    return time.perf_counter() - start


def record(name: str, peer: str, pairs: list[tuple[float, float]], **rest: object) -> dict[str, object]:
    """A line of docs/speed.md from rounds of (ours, theirs), more is better."""
    ratios = [ours / theirs for ours, theirs in pairs]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "name": f"A folder of images: {name}",
        "peer": peer,
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "ours": ours,
        "theirs": theirs,
        "unit": "images/s",
        "rounds": len(pairs),
        "our_version": ancestral.__version__,
        "command": "python benchmarks/intake.py --folder path/to/cifar10-jpeg",
        **rest,
    }


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="a folder of image files of one size")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    paths = [str(path) for path in sorted(options.folder.rglob("*.jp*g"))]
    cores = len(os.sched_getaffinity(0))
    machine = str(this_machine(torch.device("cpu")))
    with tempfile.TemporaryDirectory() as place:
        cache = Path(place) / "cache"
        pillow(paths, cores)  # into the page cache
        pairs = [
            (len(paths) / taken_in(options.folder, cache, fresh=True), len(paths) / pillow(paths, cores))
            for _ in range(options.rounds)
        ]
        again = statistics.median(taken_in(options.folder, cache, fresh=False) for _ in range(options.rounds))
        sources.MAPPED_ABOVE = 0
        mapped = load_data(options.folder)
        sources.MAPPED_ABOVE = 2**62
        resident = load_data(options.folder)
        assert isinstance(mapped.train.x, Rows)
        assert not isinstance(resident.train.x, Rows)
        from_cache, from_memory = rounds_of(mapped, "cpu"), rounds_of(resident, "cpu")
        trained = [(from_cache(), from_memory()) for _ in range(2 * options.rounds)][1:]
    note = (
        f"{len(paths):,} JPEGs of 32×32 in the page cache; ours lists, decodes, checks, writes the cache "
        "and reads it. "
        f"The second start takes {again:.2f} s."
    )
    records = [
        record(
            "taken in the first time",
            f"Pillow alone, in {cores} processes",
            pairs,
            peer_version=PIL.__version__,
            machine=machine,
            note=note,
        ),
        record(
            "training a small VAE from the cache",
            "the same from memory",
            trained,
            peer_version=ancestral.__version__,
            machine=machine,
        ),
    ]
    RESULTS.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
