"""Contenders side by side: each in a process of its own, taken in turns, round by round.

A contender is a function of a benchmark's module that makes a ``Contender``; ``Worker`` runs it in a new
process that waits while another's round is timed, so that libraries do not disturb one another and each
one's memory is its own. ``rounds`` takes them in turns (A B C A B C …), and ``compare`` gives the median
over the rounds of ours / theirs, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
ROOM = {"parameters": 0.05, "flops": 0.10}
"""How far apart, as shares, two models may be that are compared."""


@dataclass(frozen=True)
class Contender:
    """One side, made in its own process."""

    images: int
    """Of one step."""
    step: Callable[[], object]
    version: str
    parameters: int
    flops: float
    """Floating-point operations an image, counted (``ancestral.experiments.bench.count_work``)."""
    device: str = "cpu"


@dataclass
class Side:
    """What was measured of a contender."""

    label: str
    facts: dict[str, Any]
    """``version``, ``parameters``, ``flops``."""
    rates: list[float] = field(default_factory=list)
    """Images/s of each round."""
    memory: float = 0.0
    """The most bytes held beyond what was held after importing, while stepping."""

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)


class Worker:
    """A contender's process. ``make`` is ``module:function``, called with ``options``."""

    def __init__(self, label: str, make: str, options: dict[str, Any]) -> None:
        self.label = label
        command = [sys.executable, str(HERE / "worker.py"), make, json.dumps(options)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *_paths()])}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.side = Side(label, self._answer())

    def ask(self, **question: Any) -> dict[str, Any]:
        """Have steps taken: ``steps`` of them, or as many as fit in ``seconds``."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def round(self, steps: int) -> float:
        """Images/s over ``steps`` steps."""
        found = self.ask(steps=steps)
        return float(found["images"] / found["seconds"])

    def close(self) -> None:
        """End the process."""
        # Closes both ends: the process ends when its questions do.
        self.process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.label}: its process ended with status {self.process.wait()}; see above.")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _paths() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def rounds(workers: list[Worker], options: argparse.Namespace) -> list[Side]:
    """Warm all up, then take ``options.rounds`` rounds in turns; each has steps for ``options.seconds``."""
    steps = {}
    for worker in workers:
        steps[worker.label] = _warmed(worker, options)
    for number in range(options.rounds):
        for worker in workers:
            worker.side.rates.append(worker.round(steps[worker.label]))
        print(f"round {number + 1}/{options.rounds}: {_line(workers)}", file=sys.stderr, flush=True)
    for worker in workers:
        worker.side.memory = worker.ask(steps=1)["memory"]
        worker.close()
    return [worker.side for worker in workers]


def _warmed(worker: Worker, options: argparse.Namespace) -> int:
    """How many steps take ``options.seconds``, after at most ``options.warm_up`` of them, twice.

    The first step may compile: neither its time nor its memory is looked at.
    """
    steps = 1
    for reset in (False, False, True):
        found = worker.ask(steps=min(steps, options.warm_up), reset=reset)
        steps = max(round(options.seconds * found["steps"] / found["seconds"]), 1)
    return steps


Candidate = tuple[str, str, dict[str, Any]]
"""A label, a maker and its options, of which "best" says what is on (``peers.variants``)."""


def fastest(candidates: list[Candidate], options: argparse.Namespace) -> Worker:
    """The candidate with the most images/s: of those that are not compiled, or that one compiled.

    One that cannot run here (a compiler that fails, say) is told and left out.
    """
    plain = [candidate for candidate in candidates if not candidate[2]["best"]["compiled"]]
    tried = [(_tried(candidate, options), candidate) for candidate in plain]
    best = max(tried, key=lambda pair: pair[0], default=(0.0, candidates[-1]))
    compiled = {**best[1][2]["best"], "compiled": True}
    for candidate in candidates:
        if candidate[2]["best"] == compiled:
            best = max(best, (_tried(candidate, options), candidate), key=lambda pair: pair[0])
    if not best[0]:
        sys.exit("none of the variants ran; see above.")
    return Worker(*best[1])


def _tried(candidate: Candidate, options: argparse.Namespace) -> float:
    """Images/s of a candidate; 0 where it does not run."""
    try:
        worker = Worker(*candidate)
        worker.ask(steps=max(options.warm_up // 3, 1))
        rate = max(worker.round(max(options.warm_up // 3, 1)) for _ in range(2))
    except SystemExit as failed:
        print(f"left out: {failed}", file=sys.stderr)
        return 0.0
    worker.close()
    print(f"tried {candidate[0]}: {rate:,.1f} images/s", file=sys.stderr, flush=True)
    return rate


def _line(workers: list[Worker]) -> str:
    return ", ".join(f"{worker.label} {worker.side.rates[-1]:,.1f}" for worker in workers) + " images/s"


def check_same_size(ours: Side, theirs: Side, *, parameters: bool = True) -> None:
    """Refuse to compare models that are not the same size (``ROOM``), and print what they are."""
    for what in ("parameters", "flops") if parameters else ("flops",):
        mine, its = ours.facts[what], theirs.facts[what]
        ratio = mine / its
        print(
            f"{what}: {ours.label} {mine:,.0f}, {theirs.label} {its:,.0f}, ratio {ratio:.3f}", file=sys.stderr
        )
        assert abs(ratio - 1.0) <= ROOM[what], f"{what} differ by more than {ROOM[what]:.0%}: {ratio:.3f}"


def spread_of(ratios: list[float]) -> dict[str, float]:
    """Their median, lowest and highest."""
    return {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def compare(name: str, ours: Side, theirs: Side, **more: Any) -> dict[str, Any]:
    """One record: ours beside theirs, by the ratio of their rates in each round."""
    ratios = [a / b for a, b in zip(ours.rates, theirs.rates, strict=True)]
    record = {
        "name": name,
        "peer": theirs.label,
        "peer_version": theirs.facts["version"],
        **spread_of(ratios),
        "ours": ours.rate,
        "theirs": theirs.rate,
        "unit": "images/s",
        "machine": ours.facts["machine"],
        **_both(ours, theirs),
        "rounds": len(ratios),
        **more,
    }
    print(told(record), flush=True)
    return record


def compare_memory(name: str, ours: Side, theirs: Side, **more: Any) -> dict[str, Any]:
    """One record of peak memory: less is better."""
    ratio = ours.memory / theirs.memory if theirs.memory else float("nan")
    record = {
        "name": name,
        "peer": theirs.label,
        "peer_version": theirs.facts["version"],
        **spread_of([ratio]),
        "ours": ours.memory / 2**20,
        "theirs": theirs.memory / 2**20,
        "unit": "MiB",
        "machine": ours.facts["machine"],
        **_both(ours, theirs),
        "rounds": 1,
        **more,
    }
    print(told(record), flush=True)
    return record


def _both(ours: Side, theirs: Side) -> dict[str, Any]:
    return {
        "our_version": ours.facts["version"],
        "parameters": [ours.facts["parameters"], theirs.facts["parameters"]],
        "flops": [ours.facts["flops"], theirs.facts["flops"]],
    }


def told(record: dict[str, Any]) -> str:
    """A record in one line."""
    return (
        f"{record['name']}: ancestral / {record['peer']} {record['ratio']:.2f} "
        f"({record['low']:.2f} … {record['high']:.2f}), {record['ours']:,.1f} against "
        f"{record['theirs']:,.1f} {record['unit']}"
    )


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """The options that every paired benchmark has."""
    out = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--rounds", type=int, default=9, help="rounds of each, in turns")
    out.add_argument("--seconds", type=float, default=8.0, help="how long one round of one contender takes")
    out.add_argument("--warm-up", type=int, default=10, help="steps of each that are not timed")
    out.add_argument("--quick", action="store_true", help="a few steps, to see that it works; writes nothing")
    out.add_argument("--out", type=Path, help=f"where to write (by default benchmarks/results/{name}.json)")
    out.set_defaults(name=name)
    return out


def parsed(out: argparse.ArgumentParser, arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked; with --quick, so few steps that only their working is seen."""
    options = out.parse_args(arguments)
    if options.rounds < 1 or options.warm_up < 1 or options.seconds <= 0:
        out.error("--rounds and --warm-up must be at least 1, and --seconds above 0")
    options.command = " ".join(["python", f"benchmarks/{options.name}.py", *(arguments or sys.argv[1:])])
    if options.quick:
        options.rounds, options.warm_up, options.seconds = 2, 1, 0.01
    elif options.out is None:
        options.out = RESULTS / f"{options.name}.json"
    return options


def write(records: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write the records where the options say, if anywhere; those of an earlier run keep their command."""
    if options.out is None:
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    marked = [{"command": options.command, **record} for record in records]
    options.out.write_text(json.dumps(marked, indent=1) + "\n", encoding="utf-8")


def made(make: str, options: dict[str, Any]) -> Contender:
    """Call ``module:function``."""
    module, _, function = make.partition(":")
    contender: Contender = getattr(importlib.import_module(module), function)(**options)
    return contender
