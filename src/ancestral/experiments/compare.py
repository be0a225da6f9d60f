"""One budget, one ruler: train several models on the same data, evaluate all alike, put them side by side."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral._internal.atomic import write_text_atomically
from ancestral._internal.randomness import own_randomness
from ancestral.bounds import Estimate
from ancestral.config import (
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
)
from ancestral.core.chain import Chain
from ancestral.core.walk import generated
from ancestral.data import Dataset
from ancestral.evaluation import Ruler, save_comparison, save_curve, save_picture
from ancestral.evaluation.loop import Progress
from ancestral.experiments.build.settled import settled_training
from ancestral.experiments.compare_cost import Stage, planned_stages
from ancestral.experiments.runs import (
    RunFolder,
    load_configured,
    load_run,
    pick_device,
    resume_run,
    train_run,
)
from ancestral.experiments.runs.chosen import check_choice
from ancestral.experiments.runs.fitting import initial_chain
from ancestral.experiments.runs.measuring import SHOWN, Plan, RunMeasurement, measure_run, rulers_of
from ancestral.training.loop import check_fits

Watch = Callable[[str, int], "Watching"]
"""Called with a model's kind and its steps; returns what watches its training and evaluation."""


@dataclasses.dataclass(frozen=True)
class Watching:
    """What receives how far one model has come."""

    report: Callable[[dict[str, Any]], None] = lambda record: None
    progress: Progress = lambda done, total: None
    done: Callable[[], None] = lambda: None


@dataclasses.dataclass(frozen=True)
class Compared:
    """One model's part of a comparison."""

    kind: str
    chain: Chain
    """With its averaged weights."""
    figures: dict[str, Any]
    """Its entry in comparison.json."""
    samples: Tensor | None = None
    """64 of its samples; None where it was read from a file."""
    nats: Tensor | None = None
    """The ELBO of each test example, (n,); None where it was read from a file."""

    @property
    def kl_per_latent(self) -> list[float]:
        """The terms of z_1 … z_T, nats: matching terms, then prior matching."""
        return [*self.figures["matching_per_level"], self.figures["terms"]["prior"]]


class Stopped(Exception):
    """The comparison was asked to stop; what is trained so far is stored."""


def compare(
    data: DataConfig,
    models: list[ModelConfig],
    training: TrainingConfig,
    out: Path,
    *,
    n: int | None = 1000,
    levels: int | None = None,
    importance_samples: int = 32,
    quality: int = 500,
    seeds: int = 1,
    device: str = "auto",
    checkpoint: int | str | None = None,
    reading: Progress = lambda done, total: None,
    stages: Callable[[Sequence[Stage]], None] = lambda stages: None,
    watch: Watch = lambda kind, steps: Watching(),
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Compared]:
    """Train each model for the same steps and batches, and evaluate all on the same held-out examples.

    Writes ``out``/KIND (run folders), ``out``/samples-KIND.png, ``out``/samples.png, ``out``/curve.png (of a
    DDPM whose samples are measured) and, last, ``out``/comparison.json. Runs that are there already with the
    same options are resumed, so an interrupted comparison loses nothing. ``n`` limits the test examples
    (None for all). ``quality`` is the number of samples whose distance from the data is measured, fewer where
    the data are fewer (0 for none). ``seeds`` trains each model that many times, with the seeds that follow the
    first one (run folders ``out``/KIND-seed-S), for the spread of the ELBO over training seeds. ``checkpoint``
    chooses the weights of every run, as in ``load_run``. ``reading``
    receives how far the data are read, and ``stages`` what is going to be done and about how long it takes,
    before the first step.
    """
    # All that can be rejected is rejected before the first minute of training.
    plan = Plan(n, levels, importance_samples, quality, curve=True)
    plan.check()
    checks.integer("seeds", seeds, low=1, high=100)
    check_choice(checkpoint)
    if training.stop_early:
        raise ValueError(
            f"stop_early is {training.stop_early}, and a comparison trains every model for the same number of "
            "steps. Leave it out; the best checkpoint of each is compared in any case."
        )
    dataset = load_configured(data, progress=reading)
    configs = {
        model.kind: _seeded(_settled(RunConfig(data, model, training), dataset), seeds) for model in models
    }
    for kind, runs in configs.items():
        for path, config in zip(_paths(out, kind, runs), runs, strict=True):
            _check_reusable(path, config)
    rulers = rulers_of(dataset, quality)
    place = pick_device(device)
    stages(planned_stages([runs[0] for runs in configs.values()], dataset, plan, rulers, place, seeds=seeds))
    compared = []
    for kind, runs in configs.items():
        watching = watch(kind, training.steps)
        found = _one(kind, runs, dataset, out, plan, rulers, device, checkpoint, watching, should_stop)
        compared.append(found)
        watching.done()
    _write(out, data, dataset, training, compared)
    return compared


def _settled(config: RunConfig, data: Dataset) -> RunConfig:
    """The run with numbers for the defaults that depend on the data, checked against them."""
    chain = initial_chain(config, data)
    check_fits(chain, data, config.training)
    training = settled_training(config.training, len(data.train), diffusion=chain.single_levels)
    return dataclasses.replace(config, model=chain.config, training=training)


def _seeded(config: RunConfig, seeds: int) -> list[RunConfig]:
    """The run and the same with the next seeds."""
    first = config.training.seed
    return [
        dataclasses.replace(config, training=dataclasses.replace(config.training, seed=first + index))
        for index in range(seeds)
    ]


def _paths(out: Path, kind: str, runs: Sequence[RunConfig]) -> list[Path]:
    """Where the runs of one model are: the first in a folder by its kind."""
    return [out / kind, *(out / f"{kind}-seed-{run.training.seed}" for run in runs[1:])]


def _check_reusable(path: Path, config: RunConfig) -> None:
    """Reject, before any work, a folder that holds a run with other options."""
    if not (path / "config.json").exists():
        return
    there = RunFolder.open(path).config
    for name in ("data", "model", "training"):
        if getattr(there, name) != getattr(config, name):
            raise ValueError(
                f"{path} holds a run with other {name} options. Give --out a new folder, or remove this one."
            )


def _one(
    kind: str,
    runs: Sequence[RunConfig],
    data: Dataset,
    out: Path,
    plan: Plan,
    rulers: Sequence[Ruler],
    device: str,
    checkpoint: int | str | None,
    watching: Watching,
    should_stop: Callable[[], bool],
) -> Compared:
    """Train one model with each of its seeds, and measure it."""
    elbos: list[float] = []
    found: Compared | None = None
    for path, config in zip(_paths(out, kind, runs), runs, strict=True):
        if (path / "config.json").exists():
            fitted = resume_run(path, device=device, report=watching.report, should_stop=should_stop)
        else:
            fitted = train_run(config, path, device=device, report=watching.report, should_stop=should_stop)
        if not fitted.finished:
            raise Stopped(kind)
        folder = RunFolder.open(path, checkpoint=checkpoint)
        chain = load_run(folder).to(pick_device(device))
        if found is None:
            found = compared(folder, chain, data, plan, rulers=rulers, progress=watching.progress)
            assert found.samples is not None
            save_picture(out / f"samples-{kind}.png", found.samples, chain.spec)
            if found.figures["sampler_curve"] is not None:
                save_curve(out / "curve.png", found.figures["sampler_curve"])
            elbos.append(found.figures["elbo"]["mean"])
        else:
            alone = dataclasses.replace(plan, importance_samples=0, quality=0, curve=False)
            one = measure_run(folder, chain, data, alone, rulers=[], progress=watching.progress)
            elbos.append(one.evaluation.elbo.mean)
    assert found is not None
    if len(runs) > 1:
        found.figures["seeds"] = over_seeds([run.training.seed for run in runs], elbos)
    return found


def over_seeds(seeds: Sequence[int], elbos: Sequence[float]) -> dict[str, Any]:
    """The ELBO of runs that differ by their seed alone: its mean, the mean's standard error, and each."""
    spread = Estimate.of(torch.tensor(elbos, dtype=torch.float64))
    return {"seeds": list(seeds), "elbos": list(elbos), "elbo": spread.json()}


def compared(
    folder: RunFolder,
    chain: Chain,
    data: Dataset,
    plan: Plan,
    *,
    rulers: Sequence[Ruler] | None = None,
    enough: bool = False,
    progress: Progress = lambda done, total: None,
) -> Compared:
    """A run's part of a comparison: what ``runs.measuring.measure_run`` measures or reads, as figures."""
    found = measure_run(folder, chain, data, plan, rulers=rulers, enough=enough, progress=progress)
    timing = folder.records("timing.jsonl")
    figures = {
        "model": folder.name,
        "data": folder.config.data.source,
        "split": "test",
        "checkpoint": folder.chosen.json(),
        **found.evaluation.json(),
        "gaps": found.gaps,
        "parameters": sum(p.numel() for p in chain.parameters()),
        "latent_dims": latent_dims(chain),
        "train_images_per_second": timing[-1]["images_per_second"] if timing else None,
        "sample_images_per_second": found.rate,
        "network_calls_per_sample": chain.T,
        **_distances(found),
        "sampler_curve": found.curve,
    }
    return Compared(folder.name, chain, figures, found.samples[:SHOWN], found.evaluation.nats)


def _distances(found: RunMeasurement) -> dict[str, Any]:
    """The Fréchet distance and its floor, and all the others with what they are of."""
    first, others = (found.distances[0], found.distances[1:]) if found.distances else (None, [])
    return {
        "sample_distance": None if first is None else first["distance"]["frechet"],
        "sample_distance_floor": None if first is None else first["floor"]["frechet"],
        "sample_quality": first,
        "sample_quality_also": others,
    }


@torch.no_grad()
def latent_dims(chain: Chain) -> int:
    """How many numbers the latents of one example are (of one level, where each has the data's size)."""
    device = next(chain.parameters()).device
    if chain.single_levels:
        return int(chain.p_top(1).event_shape.numel())
    with own_randomness(device):
        return sum(z[0].numel() for z in generated(chain, 1)[0])


def differences(found: Sequence[Compared]) -> list[dict[str, Any]]:
    """By how much the ELBO of each model is above that of each other, over the same examples.

    The error is that of the paired differences: the examples' own spread, which is common to both, is not
    part of it.
    """
    pairs = []
    for a, b in itertools.combinations(found, 2):
        if a.nats is None or b.nats is None or len(a.nats) != len(b.nats):
            continue
        difference = Estimate.of(a.nats.double() - b.nats.double())
        bits = None
        if a.figures["bits_per_dim"] is not None and b.figures["bits_per_dim"] is not None:
            bits = difference.scaled(-1.0 / (a.figures["dims"] * math.log(2.0))).json()
        pairs.append(
            {
                "models": [a.kind, b.kind],
                "n": len(a.nats),
                "elbo": difference.json(),
                "bits_per_dim": bits,
            }
        )
    return pairs


def _write(
    out: Path, data: DataConfig, dataset: Dataset, training: TrainingConfig, found: list[Compared]
) -> None:
    rows = {one.kind: one.samples for one in found if one.samples is not None}
    save_comparison(out / "samples.png", {"data": dataset.test.some(SHOWN).x.to("cpu"), **rows}, dataset.spec)
    facts = {
        "data": {**dataset.describe(), "source": data.source},
        "budget": {
            "steps": training.steps,
            "batch_size": training.batch_size,
            "images_seen": training.steps * training.batch_size,
            "seed": training.seed,
        },
        "models": {one.kind: one.figures for one in found},
        "differences": differences(found),
    }
    write_text_atomically(out / "comparison.json", json.dumps(facts, indent=1) + "\n")


def read_comparison(out: Path) -> tuple[dict[str, Any], list[Compared]]:
    """What comparison.json in ``out`` says, and its models. ``ValueError`` where it cannot be read."""
    path = out / "comparison.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        models = dict(facts["models"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error!r}). Make it anew: ancestral compare, with the same options and "
            "--out."
        ) from error
    return facts, [
        Compared(kind, load_run(out / kind, checkpoint=checkpoint_of(figures)), figures)
        for kind, figures in models.items()
    ]


def checkpoint_of(figures: dict[str, Any]) -> int | str:
    """The checkpoint that a model's figures are of: in a comparison of an earlier version, the last."""
    chosen = figures.get("checkpoint")
    return "last" if chosen is None else int(chosen["step"])
