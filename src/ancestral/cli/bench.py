"""``ancestral bench``: how fast this machine is, how fast a model trains on it, and what bounds it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ancestral._internal import checks, words
from ancestral.cli.options import DataOptions, Flag
from ancestral.cli.parsing import parse
from ancestral.cli.threads import ThreadOptions, use_threads
from ancestral.config import (
    MODELS,
    DDPMConfig,
    Device,
    HVAEConfig,
    RunConfig,
    TrainingConfig,
    VAEConfig,
)

if TYPE_CHECKING:
    from ancestral.experiments.bench import Ceilings, Machine, Measured

_HELP = """usage: ancestral bench [--seconds S] [--threads N] [--device auto|cpu|cuda] [--json]
       ancestral bench {vae,hvae,ddpm} --data D [options]
       ancestral bench RUN [--data D] [--seconds S] [--threads N] [--device auto|cpu|cuda] [--json]

Measure this machine's ceilings: matrix products, convolutions, memory, the cost of a call. With a model,
or a run's folder, take some training steps as well, from fresh weights and writing nothing: their time,
their share of the ceilings, and what bounds them: arithmetic, memory or the host.

options:
  --seconds S  time for the ceilings, and as much again for the steps (default: 8)
  --threads N  processor threads (default: the number of free cores)
  --device     auto takes a GPU where there is one
  --json       print one JSON object on standard output

ancestral bench vae --help (or hvae, ddpm) shows all options of a model and of its training.
"""


@dataclass(frozen=True, kw_only=True)
class Bench(ThreadOptions):
    """Measure this machine's ceilings."""

    seconds: float = 8.0
    """Time for the ceilings, and as much again for the steps."""
    device: Device = "auto"
    """auto takes a GPU where there is one."""
    json: Flag = False
    """Print one JSON object on standard output, and nothing else there."""

    def __post_init__(self) -> None:
        self.check_threads()
        _check(self.seconds)


@dataclass(frozen=True, kw_only=True)
class BenchRun(Bench):
    """Measure this machine's ceilings, and training steps of a run's model."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    data: str | None = None
    """Where the data are now, if they moved."""


@dataclass(frozen=True, kw_only=True)
class _BenchModel(DataOptions):
    seconds: float = 8.0
    """Time for the ceilings, and as much again for the steps."""
    json: Flag = False
    """Print one JSON object on standard output, and nothing else there."""
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        self.check_threads()
        _check(self.seconds)


@dataclass(frozen=True, kw_only=True)
class BenchVAE(_BenchModel):
    """Measure training steps of a variational autoencoder, beside this machine's ceilings."""

    model: VAEConfig = field(default_factory=VAEConfig)


@dataclass(frozen=True, kw_only=True)
class BenchHVAE(_BenchModel):
    """Measure training steps of a hierarchical VAE, beside this machine's ceilings."""

    model: HVAEConfig = field(default_factory=HVAEConfig)


@dataclass(frozen=True, kw_only=True)
class BenchDDPM(_BenchModel):
    """Measure training steps of a denoising diffusion model, beside this machine's ceilings."""

    model: DDPMConfig = field(default_factory=DDPMConfig)


def run(arguments: list[str]) -> None:
    """The command."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        print(_HELP)
    elif first in MODELS:
        kinds: dict[str, type[BenchVAE] | type[BenchHVAE] | type[BenchDDPM]] = {
            "vae": BenchVAE,
            "hvae": BenchHVAE,
            "ddpm": BenchDDPM,
        }
        options: Any = parse(kinds[first], arguments[1:], prog=f"ancestral bench {first}")
        _bench(options, lambda: RunConfig(options.data_config, options.model, options.training))
    elif any(argument.split("=")[0] == "--data" for argument in arguments) and first.startswith("-"):
        raise ValueError(
            f"a model or a run comes first: ancestral bench {{{','.join(MODELS)}}} --data D, or ancestral "
            f"bench RUN. It starts with {first!r}."
        )
    elif first and not first.startswith("-"):
        chosen = parse(BenchRun, arguments, prog="ancestral bench")
        _bench(chosen, lambda: _of_run(chosen))
    else:
        _bench(parse(Bench, arguments, prog="ancestral bench"), None)


def _check(seconds: float) -> None:
    checks.number("seconds", seconds, above=0.0, high=3600.0)


def _of_run(options: BenchRun) -> RunConfig:
    import dataclasses

    from ancestral.experiments.runs import RunFolder

    if not options.run.exists():
        near = checks.suggest(str(options.run), MODELS)
        raise ValueError(f"{options.run} is neither a model ({', '.join(MODELS)}) nor a run's folder.{near}")
    config = RunFolder.open(options.run).config
    if options.data is None:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, source=options.data))


def _bench(options: Bench | _BenchModel, config: Callable[[], RunConfig] | None) -> None:
    from ancestral.experiments.bench import measure_ceilings, measure_run, this_machine
    from ancestral.experiments.runs import pick_device

    use_threads(options)
    device = pick_device(options.device)
    # What can be refused is refused before anything is measured.
    chosen = None if config is None else config()
    machine = this_machine(device)
    print(f"measuring {machine} …", file=sys.stderr)
    ceilings = measure_ceilings(device, seconds=options.seconds)
    measured = None
    if chosen is not None:
        print(f"training {chosen.model.kind} on {chosen.data.source} …", file=sys.stderr)
        measured = measure_run(chosen, device, ceilings, seconds=options.seconds)
    if options.json:
        training = None if measured is None else measured.json()
        print(json.dumps({"machine": machine.json(), "ceilings": ceilings.json(), "training": training}))
    else:
        _print(machine, ceilings, measured)


def _print(machine: Machine, ceilings: Ceilings, measured: Measured | None) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110)
    sheet = Table(title=f"Ceilings: {machine}")
    for heading in ("what", "fp32", "bf16"):
        sheet.add_column(heading, justify="left" if heading == "what" else "right", no_wrap=True)
    rates = {
        "matrix product": ceilings.products,
        "convolution, forward": ceilings.convolutions,
        "convolution, forward and backward": ceilings.convolution_steps,
    }
    for name, rate in rates.items():
        sheet.add_row(name, *(_flops(rate[precision]) for precision in ("fp32", "bf16")))
    sheet.add_row("memory", f"{ceilings.bandwidth / 1e9:,.1f} GB/s", "")
    sheet.add_row("one call", f"{ceilings.call * 1e6:,.2f} µs", "")
    console.print(sheet)
    if measured is not None:
        console.print(_training_sheet(measured))
        console.print(measured.floors.sentence())


def _training_sheet(measured: Measured) -> Any:
    from rich.table import Table

    facts = measured.json()
    low, high = measured.spread
    sheet = Table(title=f"Training: {measured.model}, batch {measured.batch_size}, {measured.precision}")
    sheet.add_column("what", no_wrap=True)
    sheet.add_column("measured", no_wrap=True)
    for name, text in (
        ("parameters", f"{measured.parameters:,}"),
        ("arithmetic", f"{facts['flops_per_image'] / 1e9:,.4g} GFLOP an image"),
        (
            "step",
            f"{measured.step * 1e3:,.4g} ms ({low * 1e3:,.4g} … {high * 1e3:,.4g}), {facts['timed']} timed",
        ),
        ("rate", words.rate(measured.images_per_second, "images")),
        (
            "achieved",
            f"{_flops(measured.flops_per_second)}: {facts['share_of_products']:.1%} of the product's rate",
        ),
        ("arithmetic alone", f"{facts['share_of_ceiling']:.1%} of the step"),
        ("memory alone", f"{measured.floors.memory / measured.step:.1%} of the step"),
        ("host", f"{measured.floors.host / measured.step:.1%} of the step"),
        ("peak memory", f"{measured.memory / 2**20:,.0f} MiB beyond what was held before"),
    ):
        sheet.add_row(name, text)
    return sheet


def _flops(rate: float) -> str:
    return f"{rate / 1e12:,.2f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:,.1f} GFLOP/s"
