"""Training from a mapped file beside training from memory: the same data, model and random numbers.

    .venv/bin/python benchmarks/streaming.py

A small mlp VAE on images of 784 bytes, so that the data's share of a step is large; rounds of each in turn
in one process. Printed: the median over the rounds of images/s from the file ÷ images/s from memory, and
its spread. The file lies in the page cache; how fast a disk is, is not measured.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import ancestral
from ancestral.data import Dataset, Rows, load_data, sources
from ancestral.training import TrainingState

BATCH, STEPS = 100, 200


def loaded(path: Path, *, mapped: bool) -> Dataset:
    """The data set, from its file or in memory."""
    sources.MAPPED_ABOVE = 0 if mapped else 2**62
    data = load_data(path)
    assert isinstance(data.train.x, Rows) == mapped
    return data


def rounds_of(data: Dataset, device: str) -> Callable[[], float]:
    """What trains for a round and returns its images/s."""
    torch.manual_seed(0)
    config = ancestral.VAEConfig(network="mlp", hidden=(32,), latent_dims=8)
    chain = ancestral.build_chain(config, data.spec, train=data.seen()).to(device)
    training = ancestral.TrainingConfig(steps=10**6, batch_size=BATCH)
    loop = ancestral.train(TrainingState(chain, training), data)

    def round_() -> float:
        start = time.perf_counter()
        for _ in range(STEPS):
            record = next(loop)
        float(record.loss)  # waits for the device
        return STEPS * BATCH / (time.perf_counter() - start)

    return round_


def main() -> None:
    """Time the rounds and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each, after one to warm up")
    parser.add_argument("--images", type=int, default=200_000, help="images of 28×28 in the file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, (options.images, 28, 28), dtype=np.uint8))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        streamed = rounds_of(loaded(path, mapped=True), device)
        resident = rounds_of(loaded(path, mapped=False).to(device), device)
        rates = [(streamed(), resident()) for _ in range(options.rounds + 1)][1:]
    ratios = [ours / theirs for ours, theirs in rates]
    ours, theirs = (statistics.median(column) for column in zip(*rates, strict=True))
    print(
        f"the file / memory: {statistics.median(ratios):.3f} ({min(ratios):.3f} … {max(ratios):.3f}), "
        f"{ours:,.0f} against {theirs:,.0f} images/s; {device}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}"
    )


if __name__ == "__main__":
    main()
