"""VAE training at 784-200-200-50, batch 100: ``ancestral`` beside a bare PyTorch loop and pythae.

    .venv-bench/bin/python benchmarks/vae_training.py

All three train the same Bernoulli VAE (tanh, the same widths) on the same 20,000 binary images of 784
pixels, each in a process of its own, in rounds taken in turn: ancestral, bare, pythae, ancestral, … The
bare loop is what one would write by hand: data as floats in memory, Adam, no clipping, no average,
nothing checked or recorded. pythae is run as its users run it, an epoch at a time, by its ``BaseTrainer``.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import tempfile
from importlib.metadata import version
from typing import Any

import paired
import torch
from ours import random_images
from paired import Contender, Worker, check_same_size, compare, compare_memory, rounds
from torch import Tensor, nn
from torch.nn import functional as F
from worker import imported

from ancestral.experiments.bench import count_work

BATCH, IMAGES = 100, 20_000
SHAPE = [1, 28, 28]
OURS = {
    "kind": "vae",
    "levels": 2,
    "model": {"latent_dims": 50, "network": "mlp", "hidden": [200, 200], "activation": "tanh"},
    "options": {"learning_rate": 1e-3},
}


class Bare(nn.Module):
    """The network that one writes by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(784, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 100)
        )
        self.decoder = nn.Sequential(
            nn.Linear(50, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 784)
        )

    def forward(self, x: Tensor) -> Tensor:
        """The negative ELBO of x, (n, 784)."""
        mu, log_var = self.encoder(x).chunk(2, dim=1)
        z = mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)
        reconstruction = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = 0.5 * (mu.square() + log_var.exp() - 1.0 - log_var).sum()
        return (reconstruction + kl) / len(x)


def bare_training(*, batch: int, device: str = "cpu") -> Contender:
    """The loop that one writes by hand."""
    place = torch.device(device)
    imported(place)
    torch.manual_seed(0)
    values = random_images(tuple(SHAPE), levels=2, count=IMAGES).flatten(1).float().to(place)
    net = Bare().to(place)
    work = count_work(lambda: net(values[:2]).backward())
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def batches() -> Any:
        while True:
            yield from torch.randperm(IMAGES, device=place).split(batch)

    order = batches()

    def step() -> None:
        loss = net(values[next(order)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    count = sum(p.numel() for p in net.parameters())
    return Contender(batch, step, torch.__version__, count, work.total / 2, device)


def pythae_training(*, batch: int) -> Contender:
    """pythae's own trainer on the same network; a step is an epoch."""
    logging.disable(logging.INFO)
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    imported(torch.device("cpu"))
    torch.manual_seed(0)

    class Encoder(BaseEncoder):  # type: ignore[misc]
        def __init__(self) -> None:
            BaseEncoder.__init__(self)
            self.body = nn.Sequential(
                nn.Flatten(), nn.Linear(784, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh()
            )
            self.mu, self.log_var = nn.Linear(200, 50), nn.Linear(200, 50)

        def forward(self, batch: Tensor) -> ModelOutput:
            h = self.body(batch)
            return ModelOutput(embedding=self.mu(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):  # type: ignore[misc]
        def __init__(self) -> None:
            BaseDecoder.__init__(self)
            layers = (nn.Linear(50, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 784))
            self.body = nn.Sequential(*layers, nn.Sigmoid())

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.body(z).unflatten(1, tuple(SHAPE)))

    model = VAE(
        VAEConfig(input_dim=tuple(SHAPE), latent_dim=50, reconstruction_loss="bce"),
        encoder=Encoder(),
        decoder=Decoder(),
    )
    x = random_images(tuple(SHAPE), levels=2, count=IMAGES).float()
    work = count_work(lambda: model({"data": x[:2]}).loss.backward())
    settings = BaseTrainerConfig(
        output_dir=tempfile.mkdtemp(),
        num_epochs=1,
        per_device_train_batch_size=batch,
        learning_rate=1e-3,
        no_cuda=True,
    )
    data = BaseDataset(x, torch.zeros(IMAGES))
    trainer = BaseTrainer(model=model, train_dataset=data, training_config=settings)
    trainer.prepare_training()
    epochs = itertools.count(1)

    def step() -> None:
        # Its progress bar is part of it, and is drawn; only nobody needs to see it.
        with contextlib.redirect_stderr(io.StringIO()):
            trainer.train_step(next(epochs))

    count = sum(p.numel() for p in model.parameters())
    return Contender(IMAGES, step, version("pythae"), count, work.total / 2)


def main() -> None:
    """Time the rounds and write the ratios."""
    parser = paired.parser(__doc__, "vae_training")
    parser.set_defaults(seconds=3.0)
    options = paired.parsed(parser)
    ours = {**OURS, "shape": SHAPE, "batch": BATCH, "images": IMAGES}
    workers = [
        Worker("ancestral", "ours:training", ours),
        Worker("bare loop", "vae_training:bare_training", {"batch": BATCH}),
        Worker("pythae", "vae_training:pythae_training", {"batch": BATCH}),
    ]
    sides = rounds(workers, options)
    records = []
    for theirs in sides[1:]:
        check_same_size(sides[0], theirs)
        name = f"VAE training, 784-200-200-50, batch {BATCH}"
        records.append(compare(name, sides[0], theirs))
        records.append(compare_memory(f"{name}: peak memory", sides[0], theirs))
    paired.write(records, options)


if __name__ == "__main__":
    main()
