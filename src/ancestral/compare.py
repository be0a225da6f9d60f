"""One budget, one ruler: train several models on the same data, evaluate all alike, put them side by side."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ancestral.atomic import write_text_atomically
from ancestral.chain import Chain
from ancestral.config import (
    MODELS,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
)
from ancestral.data import Dataset
from ancestral.diffusion import DDPM
from ancestral.evaluation import (
    Evaluation,
    Fitting,
    Ruler,
    bound_gaps,
    default_levels,
    evaluate,
    save_comparison,
    save_curve,
    save_picture,
)
from ancestral.evaluation.bounds import Progress
from ancestral.evaluation.quality import LEAST
from ancestral.marginal import MarginalChain
from ancestral.randomness import own_randomness, reseed
from ancestral.runs import (
    MeasuredSamples,
    RunFolder,
    load_configured,
    load_run,
    measure_samplers,
    measure_samples_by,
    pick_device,
    resume_run,
    train_run,
)
from ancestral.runs.fitting import initial_chain
from ancestral.runs.options import model_json
from ancestral.runs.quality import check_count
from ancestral.samplers import computing, draw
from ancestral.training.loop import check_fits

IMPORTANCE_T = 10
"""Importance sampling is for chains up to this T: over a thousand levels its weights are useless."""
GAP_EXAMPLES = 32
"""To so many test examples q is fitted, to tell the encoder's share of the ELBO's gap from the family's."""
_FITTING = Fitting(steps=200, learning_rate=0.05, samples=5)
CURVE_CALLS = (5, 10, 20)
"""The network calls at which a DDPM's samplers are compared: some 170 a sample, in all."""
_SAMPLES = 64
_SAMPLE_SEED = 5

Watch = Callable[[str, int], "Stage"]
"""Called with a model's kind and its steps; returns what watches its training and evaluation."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """Who is told how far one model has come."""

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

    @property
    def kl_per_latent(self) -> list[float]:
        """The cost of z_1 … z_T, nats: matching terms, then prior matching."""
        return [*self.figures["matching_per_level"], self.figures["terms"]["prior"]]


class Stopped(Exception):
    """The comparison was asked to stop; what is trained so far is kept."""


def compare(
    data: DataConfig,
    models: list[ModelConfig],
    training: TrainingConfig,
    out: Path,
    *,
    n: int | None = 1000,
    levels: int | None = None,
    importance_samples: int = 256,
    quality: int = 500,
    device: str = "auto",
    reading: Progress = lambda done, total: None,
    watch: Watch = lambda kind, steps: Stage(),
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Compared]:
    """Train each model for the same steps and batches, and evaluate all on the same held-out examples.

    Writes ``out``/KIND (run folders), ``out``/samples-KIND.png, ``out``/samples.png, ``out``/curve.png (of a
    DDPM whose samples are measured) and, last, ``out``/comparison.json. Runs that are there already with the
    same options are gone on with, so an interrupted comparison loses nothing. ``n`` limits the test examples
    (None for all). ``quality`` is the number of samples whose distance from the data is measured, fewer where
    the data are fewer (0 for none). ``reading`` is told how far the data are read.
    """
    # All that can be refused is refused before the first minute of training.
    check_count(quality)
    for model in models:
        _check_reusable(out / model.kind, RunConfig(data, model, training))
    dataset = load_configured(data, progress=reading)
    for model in models:
        check_fits(initial_chain(RunConfig(data, model, training), dataset), dataset, training)
    rulers = rulers_of(dataset, quality)
    compared = []
    for model in models:
        stage = watch(model.kind, training.steps)
        compared.append(
            _one(
                RunConfig(data, model, training),
                dataset,
                out,
                n=n,
                levels=levels,
                importance_samples=importance_samples,
                rulers=rulers,
                device=device,
                stage=stage,
                should_stop=should_stop,
            )
        )
        stage.done()
    _write(out, data, dataset, training, compared)
    return compared


def _check_reusable(path: Path, config: RunConfig) -> None:
    """Refuse, before any work, a folder that holds a run with other options."""
    if not (path / "config.json").exists():
        return
    there = RunFolder.open(path).facts
    wanted = {
        "data": dataclasses.asdict(config.data),
        "model": model_json(config.model),
        "training": dataclasses.asdict(config.training),
    }
    # Through JSON, as the folder's own went: tuples come back as lists.
    for name, value in json.loads(json.dumps(wanted)).items():
        if there[name] != value:
            raise ValueError(
                f"{path} holds a run with other {name} options. Give --out a new folder, or remove this one."
            )


def _one(
    config: RunConfig,
    data: Dataset,
    out: Path,
    *,
    n: int | None,
    levels: int | None,
    importance_samples: int,
    rulers: Sequence[Ruler],
    device: str,
    stage: Stage,
    should_stop: Callable[[], bool],
) -> Compared:
    kind, path = config.model.kind, out / config.model.kind
    if (path / "config.json").exists():
        fitted = resume_run(path, device=device, report=stage.report, should_stop=should_stop)
    else:
        fitted = train_run(config, path, device=device, report=stage.report, should_stop=should_stop)
    if not fitted.finished:
        raise Stopped(kind)
    chain = load_run(path).to(pick_device(device))
    found = measure(
        RunFolder.open(path),
        chain,
        data,
        n=n,
        levels=levels,
        importance_samples=importance_samples,
        rulers=rulers,
        curve=out / "curve.png",
        progress=stage.progress,
    )
    assert found.samples is not None
    save_picture(out / f"samples-{kind}.png", found.samples, chain.spec)
    return found


def rulers_of(data: Dataset, quality: int) -> list[Ruler]:
    """What ``quality`` samples are measured with: features of a classifier where there are labels, and
    principal components always. None where the data are too few, or ``quality`` is 0."""
    if quality == 0 or Ruler.room(data) < LEAST:
        return []
    first = Ruler.of(data, n=quality)
    if first.space.name == "components":
        return [first]
    return [first, Ruler.of(data, n=quality, features="components")]


def measure(
    folder: RunFolder,
    chain: Chain,
    data: Dataset,
    *,
    n: int | None = 1000,
    levels: int | None = None,
    importance_samples: int = 256,
    rulers: Sequence[Ruler] = (),
    curve: Path | None = None,
    progress: Progress = lambda done, total: None,
) -> Compared:
    """All that a comparison tells of a run, whose ``chain`` is on its device; ``data`` are the run's.

    See ``compare``. ``rulers`` measure its samples, the first one those of the samplers' ``curve`` as well.
    """
    weighed = importance_samples > 0 and chain.T <= IMPORTANCE_T
    result = evaluate(
        chain,
        data.test.x[:n],
        levels=(levels or default_levels(chain)) if isinstance(chain, MarginalChain) else None,
        bound="iwae" if weighed else "elbo",
        samples=importance_samples if weighed else None,
        progress=progress,
    )
    samples, rate = _timed_samples(chain)
    distances = measure_samples_by(chain, rulers, seed=_SAMPLE_SEED) if rulers else []
    timing = folder.records("timing.jsonl")
    figures = {
        "model": folder.name,
        "data": folder.config.data.source,
        "split": "test",
        **result.json(),
        "gaps": _gaps(chain, data, result, progress),
        "parameters": sum(p.numel() for p in chain.parameters()),
        "latent_dims": latent_dims(chain),
        "train_images_per_second": timing[-1]["images_per_second"] if timing else None,
        "sample_images_per_second": rate,
        "network_calls_per_sample": chain.T,
        **_distances(distances),
        "sampler_curve": _curve(chain, rulers[0], curve) if rulers and curve is not None else None,
    }
    return Compared(folder.name, chain, figures, samples)


def _gaps(chain: Chain, data: Dataset, result: Evaluation, progress: Progress) -> dict[str, Any] | None:
    """Where the ELBO loses, as JSON; None where q is fixed or there is no tighter bound."""
    if isinstance(chain, MarginalChain) or result.tighter is None or result.tighter.samples == 1:
        return None
    n = min(GAP_EXAMPLES, result.n)
    tighter = result.tighter.first(n)
    return bound_gaps(chain, data.test.x[:n], tighter=tighter, fitting=_FITTING, progress=progress).json()


def _curve(chain: Chain, ruler: Ruler, path: Path) -> dict[str, Any] | None:
    """Sample distance against network calls for each sampler of a DDPM, as JSON and as a picture."""
    if not isinstance(chain, DDPM):
        return None
    found = measure_samplers(chain, ruler, calls=CURVE_CALLS, seed=_SAMPLE_SEED)
    save_curve(path, found.curve)
    return found.json()


def _distances(samples: Sequence[MeasuredSamples]) -> dict[str, Any]:
    """The Fréchet distance and its floor, and all the others with what they are of."""
    if not samples:
        return {
            "sample_distance": None,
            "sample_distance_floor": None,
            "sample_quality": None,
            "sample_quality_also": [],
        }
    first, *others = samples
    return {
        "sample_distance": first.quality.sample.frechet,
        "sample_distance_floor": first.quality.floor.frechet,
        "sample_quality": first.json(),
        "sample_quality_also": [one.json() for one in others],
    }


@torch.no_grad()
def latent_dims(chain: Chain) -> int:
    """How many numbers the latents of one example are (of one level, where each has the data's size)."""
    device = next(chain.parameters()).device
    with own_randomness(device):
        shapes = [z.shape[1:] for _, z in chain.generate(1) if isinstance(z, Tensor)]
    if chain.summary.noising:
        shapes = shapes[:1]
    return sum(shape.numel() for shape in shapes)


def _timed_samples(chain: Chain) -> tuple[Tensor, float]:
    """64 samples (means of the last law), and images/s of drawing as many again and again for half a second.

    The first draw warms up and does not count, unless it alone takes longer.
    """
    device = next(chain.parameters()).device
    with own_randomness(device):
        reseed(device, _SAMPLE_SEED)
        start = time.perf_counter()
        # They are on the host when it returns, and so drawn.
        samples = draw(chain, _SAMPLES, final="mean")
        drawn, seconds = _SAMPLES, time.perf_counter() - start
        if seconds < 0.5:
            drawn, start = 0, time.perf_counter()
            while (seconds := time.perf_counter() - start) < 0.5 or not drawn:
                draw(chain, _SAMPLES, final="mean")
                drawn += _SAMPLES
        return samples, drawn / seconds


def _write(
    out: Path, data: DataConfig, dataset: Dataset, training: TrainingConfig, compared: list[Compared]
) -> None:
    with own_randomness(torch.device("cpu")):
        reseed(torch.device("cpu"), _SAMPLE_SEED)
        rows = {one.kind: _preview(one.chain) for one in compared}
    save_comparison(out / "samples.png", {"data": dataset.test.x[:_SAMPLES].to("cpu"), **rows}, dataset.spec)
    facts = {
        "data": {**dataset.describe(), "source": data.source},
        "budget": {
            "steps": training.steps,
            "batch_size": training.batch_size,
            "images_seen": training.steps * training.batch_size,
            "seed": training.seed,
        },
        "models": {one.kind: one.figures for one in compared},
    }
    write_text_atomically(out / "comparison.json", json.dumps(facts, indent=1) + "\n")


def _preview(chain: Chain) -> Tensor:
    with computing(chain.cpu()):
        return chain.preview(_SAMPLES)


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
    return facts, [Compared(kind, load_run(out / kind), figures) for kind, figures in models.items()]


def default_models() -> list[ModelConfig]:
    """VAE, hierarchical VAE and DDPM with their default options."""
    return [kind() for kind in MODELS.values()]
