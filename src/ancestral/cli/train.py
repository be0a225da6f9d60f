"""``ancestral train``: a new run, or a resumed one."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ancestral._internal import checks, words
from ancestral.cli import peers
from ancestral.cli.options import DataOptions, Flag
from ancestral.cli.parsing import parse
from ancestral.cli.threads import ThreadOptions, use_threads
from ancestral.config import (
    MODELS,
    PATIENCE,
    DDPMConfig,
    Device,
    HVAEConfig,
    ModelConfig,
    RunConfig,
    TrainingConfig,
    VAEConfig,
)

if TYPE_CHECKING:
    from ancestral.experiments.runs import Fitted

_HELP = """usage: ancestral train {vae,hvae,ddpm} --data D --out RUN [options]
       ancestral train --resume RUN [--steps N] [--data D] [--threads N] [--device auto|cpu|cuda]

Train a model on data, into a new run folder; or resume a run from its newest checkpoint,
exactly as if it had never stopped; or, with --steps, extend it.

models:
  vae    a variational autoencoder
  hvae   a hierarchical VAE, with a top-down (ladder) or bottom-up (Markov) posterior
  ddpm   a denoising diffusion model

ancestral train vae --help (or hvae, ddpm) shows all options of a model and of its training;
ancestral train --resume --help those of resuming.
"""


@dataclass(frozen=True, kw_only=True)
class _Train(DataOptions):
    out: Path
    """The run's folder, which must be new or empty."""
    json: Flag = False
    """Print one JSON object about the finished run on standard output."""
    tensorboard: Flag = False
    """Write TensorBoard's events as well, into the run's folder (the extra tensorboard)."""
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)


@dataclass(frozen=True, kw_only=True)
class TrainVAE(_Train):
    """Train a variational autoencoder."""

    model: VAEConfig = field(default_factory=VAEConfig)


@dataclass(frozen=True, kw_only=True)
class TrainHVAE(_Train):
    """Train a hierarchical VAE."""

    model: HVAEConfig = field(default_factory=HVAEConfig)


@dataclass(frozen=True, kw_only=True)
class TrainDDPM(_Train):
    """Train a denoising diffusion model."""

    model: DDPMConfig = field(default_factory=DDPMConfig)


@dataclass(frozen=True, kw_only=True)
class Resume(ThreadOptions):
    """Resume a run from its newest checkpoint, with the options it was started with."""

    resume: Path
    """The run's folder."""
    data: str | None = None
    """Where the data are now, if they moved; their content must be the same."""
    steps: int | None = None
    """Extend the run to this number of steps in all. From here on the learning rate is the extended run's."""
    device: Device = "auto"
    """auto takes a GPU where there is one."""
    json: Flag = False
    """Print one JSON object about the finished run on standard output."""
    tensorboard: Flag = False
    """Write TensorBoard's events as well, into the run's folder (the extra tensorboard)."""


def _with_patience(arguments: list[str]) -> list[str]:
    """The arguments, with the default number behind a --stop-early that has none."""
    given: list[str] = []
    for index, argument in enumerate(arguments):
        given.append(argument)
        behind = arguments[index + 1 : index + 2]
        if argument in ("--stop-early", "--stop_early") and (not behind or behind[0].startswith("--")):
            given.append(str(PATIENCE))
    return given


def run(arguments: list[str]) -> None:
    """The command."""
    arguments = _with_patience(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP)
        return
    if any(argument == "--resume" or argument.startswith("--resume=") for argument in arguments):
        if not arguments[0].startswith("-"):
            raise ValueError(
                f"--resume continues a run as it was started, so {arguments[0]!r} and its options do "
                "not go with it. Use: ancestral train --resume RUN"
            )
        # Help comes without the value that --resume otherwise needs.
        helped = any(argument in ("-h", "--help") for argument in arguments)
        _resume(parse(Resume, ["--help"] if helped else arguments, prog="ancestral train"))
        return
    if arguments[0].startswith("-"):
        raise ValueError(
            f"the model comes first: ancestral train {{{','.join(MODELS)}}} --data D --out RUN. "
            f"It starts with {arguments[0]!r}."
        )
    if (meant := peers.meant(arguments[0], peers.MODELS, MODELS)) is not None:
        raise ValueError(
            f"the model is {arguments[0]!r}; it must be one of {', '.join(MODELS)}. Use {meant}."
        )
    checks.one_of("the model", arguments[0], MODELS)
    kinds: dict[str, type[TrainVAE] | type[TrainHVAE] | type[TrainDDPM]] = {
        "vae": TrainVAE,
        "hvae": TrainHVAE,
        "ddpm": TrainDDPM,
    }
    options: Any = parse(kinds[arguments[0]], arguments[1:], prog=f"ancestral train {arguments[0]}")
    _train(options, options.model)


def _train(options: _Train, model: ModelConfig) -> None:
    from ancestral.experiments.runs import train_run

    config = RunConfig(options.data_config, model, options.training)
    use_threads(options)
    _drive(
        model.kind,
        options.training,
        options.out,
        options,
        lambda **told: train_run(config, options.out, device=options.device, **told),
    )


def _resume(options: Resume) -> None:
    from ancestral.experiments.runs import RunFolder, resume_run

    folder = RunFolder.open(options.resume)
    use_threads(options, options.resume)
    _drive(
        folder.name,
        folder.planned(options.steps),
        options.resume,
        options,
        lambda **told: resume_run(
            options.resume, data=options.data, steps=options.steps, device=options.device, **told
        ),
    )


def _drive(
    title: str,
    training: TrainingConfig,
    out: Path,
    options: _Train | Resume,
    call: Callable[..., Fitted],
) -> None:
    from ancestral.cli.progress import reading_progress, stop_on_signal, training_progress

    steps = training.steps
    with contextlib.ExitStack() as stack:
        should_stop = stack.enter_context(stop_on_signal())
        reports = [stack.enter_context(training_progress(title, steps, training.batch_size))]
        if options.tensorboard:
            from ancestral.experiments.runs import TensorBoard

            reports.append(stack.enter_context(contextlib.closing(TensorBoard(out))))

        def report(record: dict[str, Any]) -> None:
            for one in reports:
                one(record)

        reading = stack.enter_context(reading_progress())
        fitted = call(report=report, reading=reading, should_stop=should_stop)
    best = _best(out)
    if options.json:
        print(
            json.dumps(
                {
                    "run": str(out),
                    "model": title,
                    "finished": fitted.finished,
                    "stopped_early": fitted.stopped_early,
                    "best": None if best is None else best.json(),
                    "images_per_second": fitted.images_per_second,
                    "last": fitted.records[-1] if fitted.records else None,
                }
            )
        )
    if fitted.stopped_early:
        print(
            f"{out}: stopped early after step {fitted.step} of {steps}, {fitted.best_step} was the best. Take "
            f"the other steps with: ancestral train --resume {out}",
            file=sys.stderr,
        )
    elif not fitted.finished:
        print(
            f"stopped after step {fitted.step}. Resume with: ancestral train --resume {out}", file=sys.stderr
        )
        raise KeyboardInterrupt
    elif not fitted.records:
        print(f"{out}: all {steps} steps are taken already.", file=sys.stderr)
    else:
        rate = words.rate(fitted.images_per_second, "images")
        head = f"{out}: trained to step {steps} at {rate}."
        if best is not None:
            head += f" Best checkpoint: step {best.step}, held-out {best.words}."
        print(f"{head} Next: ancestral evaluate {out}", file=sys.stderr)


def _best(out: Path) -> Any:
    """The best evaluation of a run, or None."""
    from ancestral.experiments.runs import RunFolder

    return RunFolder.open(out).best
