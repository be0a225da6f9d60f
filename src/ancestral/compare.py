"""One budget, one ruler: train several models on the same data, evaluate all alike, put them side by side."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ancestral.chain import Chain, MarginalChain
from ancestral.config import (
    MODELS,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
)
from ancestral.data import Dataset, load_data
from ancestral.evaluation import Evaluation, default_levels, evaluate, save_comparison, save_picture
from ancestral.evaluation.bounds import Progress
from ancestral.randomness import own_randomness, reseed
from ancestral.runs import RunFolder, load_run, pick_device, resume_run, train_run
from ancestral.runs.fitting import initial_chain
from ancestral.runs.folder import model_json
from ancestral.training.checkpoint import write_text_atomically
from ancestral.training.loop import check_fits

_IMPORTANCE_T = 10
"""Importance sampling is for chains up to this T: over a thousand levels its weights are useless."""
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
    evaluation: Evaluation
    figures: dict[str, Any]
    """Its entry in comparison.json."""


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
    device: str = "auto",
    watch: Watch = lambda kind, steps: Stage(),
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Compared]:
    """Train each model for the same steps and batches, and evaluate all on the same held-out examples.

    Writes ``out``/KIND (run folders), ``out``/samples-KIND.png, ``out``/samples.png and, last,
    ``out``/comparison.json. Runs that are there already with the same options are gone on with, so an
    interrupted comparison loses nothing. ``n`` limits the test examples (None for all).
    """
    # All that can be refused is refused before the first minute of training.
    for model in models:
        _check_reusable(out / model.kind, RunConfig(data, model, training))
    dataset = load_data(data.source, binarize=data.binarize, validation=data.validation)
    for model in models:
        check_fits(initial_chain(RunConfig(data, model, training), dataset), dataset, training)
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
    result = evaluate(
        chain,
        data.test.x[:n],
        levels=(levels or default_levels(chain)) if isinstance(chain, MarginalChain) else None,
        importance_samples=importance_samples if chain.T <= _IMPORTANCE_T else 0,
        progress=stage.progress,
    )
    samples, rate = _timed_samples(chain)
    save_picture(out / f"samples-{kind}.png", samples, chain.spec)
    figures = {
        "model": kind,
        "data": config.data.source,
        "split": "test",
        **result.json(),
        "parameters": sum(p.numel() for p in chain.parameters()),
        "latent_dims": latent_dims(chain),
        "train_images_per_second": RunFolder.open(path).records("timing.jsonl")[-1]["images_per_second"],
        "sample_images_per_second": rate,
        "network_calls_per_sample": chain.T,
    }
    return Compared(kind, chain, result, figures)


@torch.no_grad()
def latent_dims(chain: Chain) -> int:
    """How many numbers the latents of one example are (of one level, where each has the data's size)."""
    device = next(chain.parameters()).device
    with own_randomness(device):
        shapes = [z.shape[1:] for _, z in chain.generate(1) if isinstance(z, torch.Tensor)]
    if isinstance(chain, MarginalChain):
        shapes = shapes[:1]
    return sum(shape.numel() for shape in shapes)


def _timed_samples(chain: Chain) -> tuple[torch.Tensor, float]:
    """64 samples (means of the last law), and images/s of drawing as many again and again for half a second.

    The first draw warms up and does not count, unless it alone takes longer.
    """
    device = next(chain.parameters()).device
    with own_randomness(device):
        reseed(device, _SAMPLE_SEED)
        start = time.perf_counter()
        # Copying to the host waits for the device.
        samples = chain.sample(_SAMPLES, final="mean").cpu()
        drawn, seconds = _SAMPLES, time.perf_counter() - start
        if seconds < 0.5:
            drawn, start = 0, time.perf_counter()
            while (seconds := time.perf_counter() - start) < 0.5 or not drawn:
                chain.sample(_SAMPLES, final="mean").cpu()
                drawn += _SAMPLES
        return samples, drawn / seconds


def _write(
    out: Path, data: DataConfig, dataset: Dataset, training: TrainingConfig, compared: list[Compared]
) -> None:
    with own_randomness(torch.device("cpu")):
        reseed(torch.device("cpu"), _SAMPLE_SEED)
        rows = {one.kind: one.chain.cpu().preview(_SAMPLES) for one in compared}
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


def table(compared: list[Compared]) -> list[tuple[str, list[str]]]:
    """The lecture notes' comparison with measured entries: (concept, one entry per model)."""
    return [
        (concept, [entry(one) for one in compared])
        for concept, entry in (
            ("Inference type", _inference),
            ("Latent space", _latent_space),
            ("Training loss", lambda one: one.chain.loss_name),
            ("Sampling path", _sampling_path),
            ("Generation speed", lambda one: f"{one.figures['sample_images_per_second']:,.0f} images/s"),
            ("Posterior approximation", _posterior),
            ("Reparameterisation", _reparameterisation),
            ("ELBO (nats)", lambda one: _with_error(one.evaluation.elbo, 2)),
            ("  reconstruction", lambda one: f"{one.evaluation.reconstruction:.2f}"),
            ("  matching", lambda one: "–" if one.chain.T == 1 else f"{one.evaluation.matching:.2f}"),
            ("  prior matching", lambda one: f"{one.evaluation.prior:.2f}"),
            ("bits/dim", lambda one: _with_error(one.evaluation.bits_per_dim, 3)),
            ("log p(x) (nats)", lambda one: _with_error(one.evaluation.log_likelihood, 2)),
            ("KL per latent", _alive),
            ("Parameters", lambda one: f"{one.figures['parameters']:,}"),
            ("Training speed", lambda one: f"{one.figures['train_images_per_second']:,.0f} images/s"),
        )
    ]


def _with_error(estimate: Any, digits: int) -> str:
    return "–" if estimate is None else f"{estimate.mean:.{digits}f} ± {estimate.stderr:.{digits}f}"


def _inference(one: Compared) -> str:
    return (
        "fixed noising, learned denoising"
        if isinstance(one.chain, MarginalChain)
        else "variational inference"
    )


def _latent_space(one: Compared) -> str:
    dims, data = one.figures["latent_dims"], one.evaluation.dims
    if isinstance(one.chain, MarginalChain):
        return f"{one.chain.T} levels of {dims}, as the data"
    if one.chain.T == 1:
        return f"{dims} numbers (data: {data})"
    return f"{one.chain.T} levels, {dims} numbers (data: {data})"


def _sampling_path(one: Compared) -> str:
    return "one-shot decoding" if one.chain.T == 1 else f"sequential, {one.chain.T} steps"


def _posterior(one: Compared) -> str:
    if isinstance(one.chain, MarginalChain):
        return "predefined forward + learned reverse"
    if one.chain.T == 1:
        return "Gaussian q(z|x)"
    return "Gaussian per level, " + ("top-down" if type(one.chain).__name__ == "LadderHVAE" else "bottom-up")


def _reparameterisation(one: Compared) -> str:
    return "used, forward and reverse" if isinstance(one.chain, MarginalChain) else "used"


def _alive(one: Compared) -> str:
    if one.chain.T == 1 or one.chain.T > _IMPORTANCE_T:
        return "–"
    costs = " ".join(f"{cost:.1f}" for cost in one.evaluation.kl_per_latent)
    return f"{costs} ({one.evaluation.alive} of {one.chain.T} alive)"


def default_models() -> list[ModelConfig]:
    """VAE, hierarchical VAE and DDPM with their default options."""
    return [kind() for kind in MODELS.values()]
