"""How long the command line takes to answer: help, and the first training step on digits.

    .venv/bin/python benchmarks/startup.py

In turns with what cannot be less: an interpreter that does nothing, and one that imports torch.
"""

from __future__ import annotations

import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import ancestral
from ancestral.experiments.bench.machine import this_machine

RESULTS = Path(__file__).resolve().parent / "results" / "startup.json"
ROUNDS = 7
COMMAND = Path(sys.executable).with_name("ancestral")


def seconds(*command: object) -> float:
    """Of a process, from its start to its end."""
    start = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return time.perf_counter() - start


def first_step(kind: str) -> float:
    """Seconds until ``ancestral train`` tells of its first step."""
    place = tempfile.mkdtemp()
    options = ["--data", "digits", "--out", f"{place}/run", "--log-every", "1", "--steps", "1000"]
    start = time.perf_counter()
    process = subprocess.Popen([COMMAND, "train", kind, *options], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "step      1/" in line:
            break
    found = time.perf_counter() - start
    process.kill()
    process.communicate()
    shutil.rmtree(place)
    return found


def record(name: str, peer: str, version: str, pairs: list[tuple[float, float]]) -> dict[str, object]:
    """A line of docs/speed.md from rounds of (ours, theirs) in seconds."""
    ratios = [theirs / ours for ours, theirs in pairs]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "name": f"Starting: {name}",
        "peer": peer,
        "peer_version": version,
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "ours": ours,
        "theirs": theirs,
        "unit": "s",
        "rounds": len(pairs),
        "machine": str(this_machine(torch.device("cpu"))),
        "our_version": ancestral.__version__,
        "command": "python benchmarks/startup.py",
    }


def main() -> None:
    """Measure and write the results."""
    nothing, importing = [sys.executable, "-c", "pass"], [sys.executable, "-c", "import torch"]
    python = platform.python_version()
    records = [
        record(
            "ancestral --help",
            "an interpreter that does nothing",
            python,
            [(seconds(COMMAND, "--help"), seconds(*nothing)) for _ in range(ROUNDS)],
        )
    ]
    for kind in ("vae", "hvae", "ddpm"):
        pairs = [(first_step(kind), seconds(*importing)) for _ in range(ROUNDS)]
        records.append(
            record(
                f"train {kind} --data digits, to its first step",
                "import torch",
                str(torch.__version__),
                pairs,
            )
        )
    RESULTS.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
