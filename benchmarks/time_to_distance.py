"""Time to the same sample distance: diffusers' unconditional recipe beside our default one.

    .venv-bench/bin/python benchmarks/time_to_distance.py --data fashion-mnist

``--data`` is a folder of IDX files (28×28 images are padded to 32×32). First diffusers' recipe is trained
for ``--minutes``: the 32-64-64 U-Net, noise prediction, linear betas, AdamW at 1e-4, 500 steps of warm-up
and a cosine decay over the whole time, EMA, batch 64. Then ours, with default network and recipe for the
same job, for ``--ours-minutes`` (its cosine decay over ``--ours-steps``, or over as many steps as fit).
Both are sampled at checkpoints by their averaged weights, with the same number of network calls of their
own sampler, and measured by one ruler: ``ancestral.evaluation.Ruler``. Time is that of training alone;
compilation counts, evaluation does not. The ratio is the time that theirs took over the time at which
ours was first seen at or below the distance that theirs ended at; ``high`` is the same for our
checkpoint before. Every checkpoint is written as it is reached.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paired
import torch
from ddpm_training import DIFFUSERS
from ours import drawing, model_config
from paired import RESULTS, Worker
from peers import BEST, ddim, diffusers_loss, diffusers_optimizer, diffusers_unet, scaled
from torch import Tensor
from torch.nn import functional as F

import ancestral
from ancestral.data import Dataset, Split
from ancestral.experiments.bench import this_machine
from ancestral.training import TrainingState

BATCH, WARMUP = 64, 500
CPU = torch.device("cpu")
Distance = Callable[[Tensor], float]
"""From n samples in the data's units, (n, *shape), to how far they are from the data."""


def padded(data: Dataset, side: int = 32) -> Dataset:
    """The same images with zeros around, ``side`` × ``side``."""
    channels, height, width = data.spec.shape
    if max(height, width) > side:
        sys.exit(f"images are {height}×{width}; this benchmark takes images of at most {side}×{side}.")
    top, left = (side - height) // 2, (side - width) // 2
    around = (left, side - width - left, top, side - height - top)

    def pad(split: Split | None) -> Split | None:
        return None if split is None else Split(F.pad(split.x, around), split.labels)

    return dataclasses.replace(
        data,
        spec=ancestral.DataSpec((channels, side, side), data.spec.levels),
        train=pad(data.train),
        validation=pad(data.validation),
        test=pad(data.test),
    )


def ruler(data: Dataset, *, n: int, features: str) -> tuple[Distance, int, str]:
    """The distance that both sides are measured by, how many samples it takes, and its name."""
    from ancestral.evaluation import Ruler

    made = Ruler.of(data, n=n, features=features)
    name = f"squared Fréchet distance, features {made.space.name}, n = {made.n}"
    print(f"{name}; floor {made.floor.frechet:.4g}", file=sys.stderr)
    return (lambda samples: made.measure(samples).sample.frechet), made.n, name


def drawn(draw: Callable[[int], Tensor], n: int, *, at_once: int = 256) -> Tensor:
    """n samples of a function that draws a batch, with random numbers of their own."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return torch.cat([draw(min(at_once, n - first)) for first in range(0, n, at_once)])


def curve(
    steps: Iterator[int], sample: Callable[[], Tensor], distance: Distance, *, budget: float, checkpoints: int
) -> Iterator[dict[str, float]]:
    """Train until ``steps`` (of images seen) end, in about ``budget`` seconds; measure at even times."""
    span, seconds, images, measured_at = budget / checkpoints, 0.0, 0, -1
    due = span
    while True:
        start = time.perf_counter()
        seen = next(steps, None)
        seconds += time.perf_counter() - start
        images = images if seen is None else seen
        if images > measured_at and (seen is None or seconds >= due):
            yield {"seconds": seconds, "images": images, "distance": distance(sample())}
            measured_at, due = images, span * (math.floor(seconds / span) + 1)
        if seen is None:
            return


def theirs(data: Dataset, options: argparse.Namespace) -> tuple[Iterator[int], Callable[[], Tensor]]:
    """diffusers' recipe: its steps, and samples in the data's units with its averaged weights."""
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusers.training_utils import EMAModel

    torch.manual_seed(0)
    shape = list(data.spec.shape)
    net = diffusers_unet(shape=shape, **DIFFUSERS)  # type: ignore[arg-type]
    x = scaled(data.train.x, CPU)
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = diffusers_optimizer(net)
    ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    draw = ddim(
        net, DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear"), steps=options.calls,
        shape=shape, place=CPU, on=dict.fromkeys(BEST, False),
    )  # fmt: skip

    def steps() -> Iterator[int]:
        count, seconds = 0, 0.0
        while (share := seconds / (60.0 * options.minutes)) < 1.0:
            start = time.perf_counter()
            for group in optimizer.param_groups:
                group["lr"] = 1e-4 * min((count + 1) / WARMUP, 0.5 * (1.0 + math.cos(math.pi * share)))
            loss = diffusers_loss(net, scheduler, x[torch.randint(len(x), (BATCH,))])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            ema.step(net.parameters())
            loss.item()
            count += 1
            # Evaluation, while the caller holds a step, is not training time.
            seconds += time.perf_counter() - start
            yield count * BATCH

    def sample() -> Tensor:
        ema.store(net.parameters())
        ema.copy_to(net.parameters())
        net.eval()
        out = drawn(draw, options.samples)
        net.train()
        ema.restore(net.parameters())
        return ((out + 1.0) * 127.5).round()

    return steps(), sample


def ours(data: Dataset, options: argparse.Namespace) -> tuple[Iterator[int], Callable[[], Tensor]]:
    """Our default network and recipe, but for what ``--model`` and ``--training`` say."""
    torch.manual_seed(0)
    chain = ancestral.build_chain(model_config("ddpm", options.model), data.spec, train=data.seen())
    recipe = {"steps": options.ours_steps or _steps_that_fit(data, options), **options.training}
    state = TrainingState(chain, ancestral.TrainingConfig(**recipe))
    draw = drawing(chain, steps=options.calls, sampler=options.sampler)

    def steps() -> Iterator[int]:
        for record in ancestral.train(state, data):
            yield record.images_seen

    def sample() -> Tensor:
        with state.averaged():
            return drawn(draw, options.samples)

    return steps(), sample


def _steps_that_fit(data: Dataset, options: argparse.Namespace) -> int:
    """Steps in ``--ours-minutes``, timed in another process that leaves no compiled code behind."""
    batch = options.training.get("batch_size", ancestral.TrainingConfig().batch_size)
    given = {
        "shape": list(data.spec.shape), "levels": data.spec.levels, "batch": batch, "model": options.model,
        "options": options.training,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as cache:
        before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        worker = Worker("timing", "ours:training", given)
        first = worker.ask(steps=2)["seconds"]
        found = worker.ask(steps=2 if options.quick else 30)
        worker.close()
        if before is None:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
        else:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = before
    per_step = found["seconds"] / found["steps"]
    # What the first steps take longer, to compile, is not there for others.
    count = max(int((60.0 * options.ours_minutes - first) / per_step), 1)
    print(f"ours: {per_step:.3f} s a step, so {count} steps", file=sys.stderr)
    return count


def ratio_of(theirs_: list[dict[str, float]], ours_: list[dict[str, float]]) -> dict[str, float] | None:
    """Their time over our time to the distance that theirs ended at; None where ours never reached it."""
    goal = theirs_[-1]
    for index, point in enumerate(ours_):
        if point["distance"] <= goal["distance"]:
            ratio = goal["seconds"] / point["seconds"]
            high = goal["seconds"] / ours_[index - 1]["seconds"] if index else ratio
            return {"ratio": ratio, "low": ratio, "high": high, "ours": point["seconds"]}
    return None


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="a folder of IDX files, or what ancestral train takes")
    parser.add_argument("--minutes", type=float, default=30.0, help="of diffusers' recipe")
    parser.add_argument("--ours-minutes", type=float, default=8.0)
    parser.add_argument("--ours-steps", type=int, help="of our decay; by default as many as fit")
    parser.add_argument("--their-checkpoints", type=int, default=3)
    parser.add_argument("--our-checkpoints", type=int, default=8)
    parser.add_argument("--samples", type=int, default=1000, help="at each checkpoint")
    parser.add_argument("--calls", type=int, default=50, help="network calls of both samplers")
    parser.add_argument("--sampler", default="ddim", help="ours")
    parser.add_argument("--features", default="auto", help="the ruler's: classifier, components, pixels")
    parser.add_argument("--model", type=json.loads, default={}, help="JSON of DDPMConfig options of ours")
    parser.add_argument("--training", type=json.loads, default={}, help="JSON of TrainingConfig options")
    parser.add_argument("--quick", action="store_true", help="seconds, to see that it works; writes nothing")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.command = " ".join(["python", "benchmarks/time_to_distance.py", *sys.argv[1:]])
    if options.quick:
        options.minutes, options.ours_minutes, options.ours_steps = 0.02, 0.02, options.ours_steps or 3
        options.their_checkpoints, options.our_checkpoints = 1, 2
        options.samples, options.calls = 16, 2
        options.training = {"batch_size": 8, **options.training}
    elif options.out is None:
        options.out = RESULTS / "time_to_distance.json"
    return options


def main(measure: Callable[..., tuple[Distance, int, str]] = ruler) -> None:
    """Run both and write both curves and the ratio; ``measure`` makes the distance."""
    options = parsed()
    data = padded(ancestral.load_data(options.data))
    distance, options.samples, what = measure(data, n=options.samples, features=options.features)
    from importlib.metadata import version

    record: dict[str, Any] = {
        "name": f"Time to the sample distance of {options.minutes:g} minutes of diffusers, {data.name}",
        "peer": "diffusers, unconditional recipe",
        "peer_version": version("diffusers"),
        "our_version": ancestral.__version__,
        "ratio": None,
        "unit": "s",
        "machine": str(this_machine(CPU)),
        "distance": what,
        "calls": options.calls,
        "curves": {"theirs": [], "ours": []},
    }
    sides = {
        "theirs": (theirs, options.minutes, options.their_checkpoints),
        "ours": (ours, options.ours_minutes, options.our_checkpoints),
    }
    for side, (make, minutes, checkpoints) in sides.items():
        steps, sample = make(data, options)
        points = record["curves"][side]
        for point in curve(steps, sample, distance, budget=60.0 * minutes, checkpoints=checkpoints):
            points.append(point)
            told = f"{point['seconds']:.0f} s, {point['images']:,} images, distance {point['distance']:.4g}"
            print(f"{side}: {told}", flush=True)
            paired.write([record], options)
    found = ratio_of(record["curves"]["theirs"], record["curves"]["ours"])
    record |= {"theirs": record["curves"]["theirs"][-1]["seconds"], **(found or {})}
    paired.write([record], options)
    print("ours did not get there." if found is None else f"{found['ratio']:.1f} times sooner.")


if __name__ == "__main__":
    main()
