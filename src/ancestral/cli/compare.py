"""``ancestral compare``: VAE, hierarchical VAE and DDPM side by side on the same data."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ancestral._internal import checks
from ancestral.cli.options import CheckpointOption, DataOptions, Flag
from ancestral.cli.parsing import parse
from ancestral.cli.threads import use_threads
from ancestral.config import DDPMConfig, HVAEConfig, ModelConfig, TrainingConfig, VAEConfig


@dataclass(frozen=True, kw_only=True)
class Compare(DataOptions, CheckpointOption):
    """Train several models with the same budget and put them side by side on one ruler.

    An interrupted comparison is resumed when it is called again with the same options.
    """

    out: Path
    """The comparison's folder: a run folder per model, sample grids and comparison.json."""
    models: tuple[Literal["vae", "hvae", "ddpm"], ...] = ("vae", "hvae", "ddpm")
    """Which models."""
    n: int = 1000
    """How many test examples to evaluate (a fixed random choice); 0 for all."""
    grey_levels: int | None = None
    """Integer images: the number of grey levels, 0 … N − 1; by default what their type and values say."""
    levels: int | None = None
    """ddpm: random levels per example in the evaluation; by default all up to T = 100, and 16 above."""
    importance_samples: int = 32
    """Draws per example for log p(x) of the vae and hvae; 0 for none."""
    quality: int = 500
    """Samples of each model to measure against the same number of test examples (fewer where the data are
    fewer; a ddpm's from 50 of its levels, and from each sampler at 5, 10 and 20 network calls for
    curve.png); 0 for none."""
    seeds: int = 1
    """Train each model with this many seeds, from --seed on, and show the spread of the ELBO over them."""
    json: Flag = False
    """Print comparison.json on standard output in place of the table."""
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    hvae: HVAEConfig = field(default_factory=HVAEConfig)
    ddpm: DDPMConfig = field(default_factory=DDPMConfig)

    def __post_init__(self) -> None:
        self.check_threads()
        checks.integer("n", self.n, low=0)
        checks.integer("importance_samples", self.importance_samples, low=0)
        checks.integer("quality", self.quality, low=0)
        checks.integer("seeds", self.seeds, low=1, high=100)
        if self.levels is not None:
            checks.integer("levels", self.levels, low=1)
        if not self.models or len(set(self.models)) < len(self.models):
            raise ValueError(f"models is {' '.join(self.models) or 'empty'}; name each model once.")


def run(arguments: list[str]) -> None:
    """The command."""
    options = parse(Compare, arguments, prog="ancestral compare")
    from ancestral.cli.progress import reading_progress, stop_on_signal
    from ancestral.experiments.compare import Stopped, compare

    use_threads(options, options.out)
    chosen: dict[str, ModelConfig] = {"vae": options.vae, "hvae": options.hvae, "ddpm": options.ddpm}
    with stop_on_signal() as should_stop, contextlib.ExitStack() as stack:
        try:
            compared = compare(
                options.data_config,
                [chosen[name] for name in options.models],
                options.training,
                options.out,
                n=options.n or None,
                levels=options.levels,
                importance_samples=options.importance_samples,
                quality=options.quality,
                seeds=options.seeds,
                device=options.device,
                checkpoint=options.checkpoint,
                stages=_print_stages,
                reading=stack.enter_context(reading_progress()),
                watch=_watcher(stack, options.training.batch_size),
                should_stop=should_stop,
            )
        except Stopped as stopped:
            print(f"stopped while training {stopped}. The same command resumes it.", file=sys.stderr)
            raise KeyboardInterrupt from stopped
    facts = json.loads((options.out / "comparison.json").read_text(encoding="utf-8"))
    if options.json:
        print(json.dumps(facts))
    else:
        _print_table(compared, facts["data"]["notes"])
        for name in ("samples.png", "curve.png", "comparison.json"):
            if name == "curve.png" and not any(part.figures["sampler_curve"] for part in compared):
                continue
            print(f"written: {options.out / name}", file=sys.stderr)
    from ancestral.cli.progress import spoken
    from ancestral.experiments.report import report

    # Last, so that its path is what a reader is left with.
    page = report(options.out, device=options.device, told=spoken("report"))
    print(f"written: {page}", file=sys.stderr)


def _print_stages(stages: Any) -> None:
    """What is going to be done, and about how long it takes."""
    total = sum(stage.seconds for stage in stages)
    print(f"plan: about {_about(total)} on this machine", file=sys.stderr)
    for stage in stages:
        print(f"  {stage.model:<5} {stage.what:<28} {_about(stage.seconds)}", file=sys.stderr)


def _about(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _watcher(stack: contextlib.ExitStack, batch_size: int) -> Callable[[str, int], Any]:
    from ancestral.cli.progress import example_progress, training_progress
    from ancestral.experiments.compare import Watching

    def watch(kind: str, steps: int) -> Watching:
        _begin(f"{kind}: training for {steps:,} steps")
        live = stack.enter_context(contextlib.ExitStack())
        report = live.enter_context(training_progress(kind, steps, batch_size))
        evaluating: list[Callable[[int, int], None]] = []

        def progress(done: int, total: int) -> None:
            if not evaluating:
                # One live display at a time: the training bar ends where the evaluation's begins.
                live.close()
                _begin(f"{kind}: evaluating and drawing samples")
                evaluating.append(live.enter_context(example_progress(f"{kind}: evaluating")))
            evaluating[0](done, total)

        return Watching(report, progress, live.close)

    return watch


def _begin(stage: str) -> None:
    """A line for each stage where no terminal shows bars."""
    if not sys.stderr.isatty():
        print(f"{stage} …", file=sys.stderr, flush=True)


def _print_table(compared: list[Any], notes: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ancestral.data.density import not_comparable
    from ancestral.experiments.compare import differences
    from ancestral.experiments.comparison_table import NAMES, note, paired_lines, table

    one = compared[0].figures
    title = f"{one['data']}: {one['n']} test examples, D = {one['dims']}"
    # Names are the user's: nothing in them is markup.
    caption = note(compared)
    sheet = Table(
        title=Text(title), caption=None if caption is None else Text(caption), caption_justify="left"
    )
    sheet.add_column("Concept", no_wrap=True)
    for part in compared:
        sheet.add_column(NAMES[part.kind])
    for concept, entries in table(compared):
        sheet.add_row(concept, *map(Text, entries))
    Console(width=None if sys.stdout.isatty() else 140).print(sheet)
    for line in (*paired_lines(differences(compared)), *not_comparable(notes)):
        print(line)
