"""``ancestral report``: what is known of a run or a comparison, on one page."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ancestral._internal import checks
from ancestral.cli.options import CheckpointOption, Flag, say_checkpoint
from ancestral.cli.parsing import parse
from ancestral.cli.threads import ThreadOptions, use_threads
from ancestral.config import Device


@dataclass(frozen=True, kw_only=True)
class Report(ThreadOptions, CheckpointOption):
    """Write a page to look at: bounds, samples, reconstructions, and how to get them again."""

    run: Annotated[Path, tyro.conf.Positional]
    """A run's folder, or that of a comparison."""
    out: Path | None = None
    """The .html file; by default report.html in the folder."""
    n: int | None = None
    """A run's: how many test examples to evaluate (a fixed random choice), by default 1000; 0 for all."""
    importance_samples: int | None = None
    """A run's: draws per example for log p(x) of a vae or hvae, by default 64; 0 for none."""
    quality: int | None = None
    """A run's: the samples to measure against the same number of test examples, by default 500; 0 for none."""
    data: str | None = None
    """Where the data are now, if they moved."""
    device: Device = "auto"
    """auto takes a GPU where there is one."""
    json: Flag = False
    """Print one JSON object on standard output."""

    def __post_init__(self) -> None:
        self.check_threads()
        if self.out is not None:
            checks.suffix("--out", self.out, (".html",))
        for name in ("n", "importance_samples", "quality"):
            if (value := getattr(self, name)) is not None:
                checks.integer(name, value, low=0)


def run(arguments: list[str]) -> None:
    """The command."""
    options = parse(Report, arguments, prog="ancestral report")
    from ancestral.cli.progress import example_progress, spoken
    from ancestral.experiments.report import report
    from ancestral.experiments.runs import RunFolder
    from ancestral.experiments.runs.measuring import Plan

    use_threads(options, options.run)
    given = {name: getattr(options, name) for name in ("n", "importance_samples", "quality")}
    given = {name: value for name, value in given.items() if value is not None}
    if given.get("n") == 0:
        given["n"] = None
    with example_progress("measuring") as progress:
        written = report(
            options.run,
            out=options.out,
            source=options.data,
            plan=Plan(**given) if given else None,
            device=options.device,
            checkpoint=options.checkpoint,
            progress=progress,
            told=spoken("report"),
        )
    size = written.stat().st_size
    facts: dict[str, Any] = {"report": str(written), "bytes": size}
    # A comparison's own file says which checkpoints it is of.
    if not (options.run / "comparison.json").is_file():
        folder = RunFolder.open(options.run, checkpoint=options.checkpoint)
        say_checkpoint(folder)
        facts["checkpoint"] = folder.chosen.json()
    if options.json:
        print(json.dumps(facts))
    print(f"written: {written} ({size / 1e6:.1f} MB)", file=sys.stderr)
