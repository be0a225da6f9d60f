"""One-shot VAE sampling beside its floors: what the arithmetic alone, and the bytes alone, would take.

    .venv/bin/python benchmarks/vae_sampling.py

A VAE of 784-200-200-50 on binary and on 8-bit images, means of p(x|z) through ``ancestral.draw`` as
``ancestral sample`` takes them. The arithmetic's floor is the decoder's counted products at the measured
rate of large ones; the memory's is writing the decoder's output once and reading it once at the measured
bandwidth. Printed: images/s, and the share of each floor in the time that sampling takes.
"""

from __future__ import annotations

import argparse

import torch

import ancestral
from ancestral.experiments.bench import arithmetic_floor, count_work, measure_ceilings, this_machine
from ancestral.experiments.bench.ceilings import best_time

CPU = torch.device("cpu")


def sampled(levels: int, n: int, seconds: float) -> tuple[float, float, float]:
    """Seconds for n samples, and those that arithmetic and memory alone would take."""
    torch.manual_seed(0)
    config = ancestral.VAEConfig(network="mlp", hidden=(200, 200), latent_dims=50, activation="tanh")
    chain = ancestral.build_chain(config, ancestral.DataSpec((1, 28, 28), levels)).eval()
    took = best_time(
        lambda: ancestral.draw(chain, n, final="mean", batch_size=n, precision="fp32"), CPU, seconds=seconds
    )
    with torch.no_grad():
        z = torch.randn(n, 50)
        out = chain.decoder(z)
        work = count_work(lambda: chain.decoder(z))
    ceilings = measure_ceilings(CPU, seconds=seconds)
    return took, arithmetic_floor(work, ceilings, "fp32"), 2 * out.nbytes / ceilings.bandwidth


def main() -> None:
    """Measure both kinds of data and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=4096, help="samples at once")
    parser.add_argument("--seconds", type=float, default=4.0, help="for each measurement")
    options = parser.parse_args()
    print(this_machine(CPU))
    for levels in (2, 256):
        took, arithmetic, memory = sampled(levels, options.n, options.seconds)
        print(
            f"{levels} levels: {options.n / took:,.0f} images/s; arithmetic alone {arithmetic / took:.0%}, "
            f"memory alone {memory / took:.0%} of the time"
        )


if __name__ == "__main__":
    main()
