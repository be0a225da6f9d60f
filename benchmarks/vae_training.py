"""VAE training at 784-200-200-50, batch 100: ``ancestral`` beside a bare PyTorch loop and pythae.

    make bench

All three train the same Bernoulli VAE (tanh, the same widths) on the same 20,000 binary images of 784
pixels, in one process, in rounds taken in turn: ancestral, bare, pythae, ancestral, … The bare loop is
what one would write by hand: data as floats in memory, Adam, no clipping, no average, nothing checked
or recorded. pythae is run as its users run it, by its ``BaseTrainer``. Printed and written to
benchmarks/results/vae_training.json: the median over the rounds of each ratio, and its spread.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ancestral
from ancestral.data import Dataset, Split
from ancestral.training import TrainingState

BATCH, IMAGES = 100, 20_000
STEPS = IMAGES // BATCH


def binary_images() -> Tensor:
    """(IMAGES, 1, 28, 28) of zeros and ones: what is in them does not change the time."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(IMAGES, 1, 28, 28, generator=generator) < 0.2).to(torch.uint8)


def ours(x: Tensor) -> Callable[[], None]:
    """A round of ``ancestral.train``: clipping, averaging, warm-up, exact data order and finite checks on."""
    spec = ancestral.DataSpec((1, 28, 28), 2)
    data = Dataset(
        name="bits", spec=spec, train=Split(x), validation=None, test=Split(x[:10]),
        test_origin="none", binarize="none", source_levels=2, levels_origin="bits",
    )  # fmt: skip
    config = ancestral.VAEConfig(latent_dims=50, network="mlp", hidden=(200, 200), activation="tanh")
    chain = ancestral.build_chain(config, spec, train=data.seen())
    state = TrainingState(chain, ancestral.TrainingConfig(steps=10**6, batch_size=BATCH, learning_rate=1e-3))
    loop = ancestral.train(state, data)

    def round_() -> None:
        for _ in range(STEPS):
            next(loop)

    return round_


def bare(x: Tensor) -> Callable[[], None]:
    """The loop that one writes by hand."""
    values = x.flatten(1).float()
    encoder = nn.Sequential(
        nn.Linear(784, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 100)
    )
    decoder = nn.Sequential(
        nn.Linear(50, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 784)
    )
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)

    def round_() -> None:
        order = torch.randperm(IMAGES)
        for first in range(0, IMAGES, BATCH):
            batch = values[order[first : first + BATCH]]
            mu, log_var = encoder(batch).chunk(2, dim=1)
            z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
            reconstruction = F.binary_cross_entropy_with_logits(decoder(z), batch, reduction="sum") / BATCH
            kl = 0.5 * (mu.square() + log_var.exp() - 1.0 - log_var).sum() / BATCH
            optimizer.zero_grad()
            (reconstruction + kl).backward()
            optimizer.step()

    return round_


def pythae(x: Tensor) -> tuple[Callable[[], None], str]:
    """pythae's own trainer on the same network, an epoch per round; and its version."""
    from importlib.metadata import version

    logging.disable(logging.INFO)
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            BaseEncoder.__init__(self)
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(784, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh()
            )
            self.mu, self.log_var = nn.Linear(200, 50), nn.Linear(200, 50)

        def forward(self, batch: Tensor) -> ModelOutput:
            h = self.body(batch)
            return ModelOutput(embedding=self.mu(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            BaseDecoder.__init__(self)
            self.body = nn.Sequential(
                nn.Linear(50, 200),
                nn.Tanh(),
                nn.Linear(200, 200),
                nn.Tanh(),
                nn.Linear(200, 784),
                nn.Sigmoid(),
            )

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.body(z).unflatten(1, (1, 28, 28)))

    model = VAE(
        VAEConfig(input_dim=(1, 28, 28), latent_dim=50, reconstruction_loss="bce"),
        encoder=Encoder(),
        decoder=Decoder(),
    )
    data = BaseDataset(x.float(), torch.zeros(IMAGES))
    folder = tempfile.mkdtemp()
    settings = BaseTrainerConfig(
        output_dir=folder, num_epochs=1, per_device_train_batch_size=BATCH, learning_rate=1e-3, no_cuda=True
    )
    trainer = BaseTrainer(model=model, train_dataset=data, training_config=settings)
    trainer.prepare_training()
    epochs = iter(range(1, 10**6))

    def round_() -> None:
        # Its progress bar is part of it, and is drawn; only nobody needs to see it.
        with contextlib.redirect_stderr(io.StringIO()):
            trainer.train_step(next(epochs))

    return round_, version("pythae")


def machine() -> str:
    """What it ran on."""
    return f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def main() -> None:
    """Time the rounds and write the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each, after one to warm up")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "vae_training.json")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; it must be at least 1")
    x = binary_images()
    peer, version = pythae(x)
    rounds = {"ancestral": ours(x), "bare loop": bare(x), "pythae": peer}
    rates: dict[str, list[float]] = {name: [] for name in rounds}
    for number in range(options.rounds + 1):
        for name, round_ in rounds.items():
            start = time.perf_counter()
            round_()
            if number:
                rates[name].append(IMAGES / (time.perf_counter() - start))
        print(f"round {number}/{options.rounds}", file=sys.stderr)
    results = []
    for name in ("bare loop", "pythae"):
        ratios = [a / b for a, b in zip(rates["ancestral"], rates[name], strict=True)]
        results.append(
            {
                "name": "VAE training, 784-200-200-50, batch 100",
                "peer": name,
                "peer_version": version if name == "pythae" else torch.__version__,
                "ratio": statistics.median(ratios),
                "low": min(ratios),
                "high": max(ratios),
                "ours": statistics.median(rates["ancestral"]),
                "theirs": statistics.median(rates[name]),
                "unit": "images/s",
                "machine": machine(),
            }
        )
        print(
            f"ancestral / {name}: {results[-1]['ratio']:.2f} ({min(ratios):.2f} … {max(ratios):.2f}), "
            f"{results[-1]['ours']:,.0f} against {results[-1]['theirs']:,.0f} images/s"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
