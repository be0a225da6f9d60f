"""Our side: training through ``ancestral.train``, sampling as ``ancestral sample`` does."""

from __future__ import annotations

from typing import Any

import torch
from paired import Contender
from worker import imported

import ancestral
from ancestral.config import ModelConfig
from ancestral.data import Dataset, Split
from ancestral.experiments.bench import count_work, training_work
from ancestral.training import TrainingState
from ancestral.training.objective import objective_of

NOTES = {"schedule": "linear", "prediction": "noise", "variance": "posterior", "loss": "simple"}
"""The DDPM of the notes: the same task as the peers', predicting noise with a plain squared error."""
IMAGES = 4096
"""Random ones: what is in them does not change the time."""


def random_images(shape: tuple[int, ...], *, levels: int = 256, count: int = IMAGES) -> torch.Tensor:
    """(count, *shape), uint8."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, levels, (count, *shape), dtype=torch.uint8, generator=generator)


def dataset(x: torch.Tensor, levels: int) -> Dataset:
    """Images as a data set, to train on alone."""
    return Dataset(
        name="random", spec=ancestral.DataSpec(tuple(x.shape[1:]), levels), train=Split(x),
        validation=None, test=Split(x[:10]), test_origin="none", source_levels=levels, levels_origin="random",
    )  # fmt: skip


def tuples(options: dict[str, Any]) -> dict[str, Any]:
    """Options that came as JSON, where a tuple is a list."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}


def model_config(kind: str, options: dict[str, Any]) -> ModelConfig:
    """The options of a "vae" or "ddpm"."""
    kinds: dict[str, Any] = {"vae": ancestral.VAEConfig, "ddpm": ancestral.DDPMConfig}
    return kinds[kind](**tuples(options))


def training(
    *,
    shape: list[int],
    batch: int,
    model: dict[str, Any],
    kind: str = "ddpm",
    levels: int = 256,
    device: str = "cpu",
    images: int = IMAGES,
    options: dict[str, Any] | None = None,
) -> Contender:
    """Training steps: clipping, averaging, warm-up, exact data order and finite checks are on.

    ``options`` are of ``TrainingConfig``.
    """
    place = torch.device(device)
    imported(place)
    torch.manual_seed(0)
    data = dataset(random_images(tuple(shape), levels=levels, count=images), levels)
    chain = ancestral.build_chain(model_config(kind, model), data.spec, train=data.seen()).to(place)
    work = training_work(chain.train(), objective_of(chain), data.train.x[:2].to(place))
    config = ancestral.TrainingConfig(**{"steps": 100_000, "batch_size": batch, **(options or {})})
    state = TrainingState(chain, config)
    loop = ancestral.train(state, data.to(place))
    return Contender(
        images=batch,
        step=lambda: next(loop),
        version=ancestral.__version__,
        parameters=sum(p.numel() for p in chain.parameters()),
        flops=work.total / 2,
        device=device,
    )


def sampling(
    *,
    shape: list[int],
    n: int,
    steps: int,
    model: dict[str, Any],
    sampler: str = "ddim",
    device: str = "cpu",
    compile: str = "auto",
) -> Contender:
    """A batch of n samples in ``steps`` network calls, as they reach the user: on the CPU."""
    place = torch.device(device)
    imported(place)
    torch.manual_seed(0)
    spec = ancestral.DataSpec(tuple(shape), 256)
    chain = ancestral.build_chain(model_config("ddpm", model), spec).to(place).eval()
    z, time = torch.randn(2, *shape, device=place), torch.full((2,), 0.5, device=place)
    with torch.no_grad():
        work = count_work(lambda: chain.network(z, time))
    draw = drawing(chain, steps=steps, sampler=sampler, compile=compile)
    return Contender(
        images=n,
        step=lambda: draw(n),
        version=ancestral.__version__,
        parameters=sum(p.numel() for p in chain.parameters()),
        flops=steps * work.total / 2,
        device=device,
    )


def drawing(chain: Any, *, steps: int, sampler: str = "ddim", compile: str = "auto") -> Any:
    """A function of n that draws n samples in ``steps`` network calls."""
    chosen = ancestral.Sampler.named(sampler, steps)
    assert chosen.calls(chain) == steps, f"{sampler} asks the network {chosen.calls(chain)} times"
    return lambda n: ancestral.draw(chain, n, sampler=chosen, final="mean", batch_size=n, compile=compile)
