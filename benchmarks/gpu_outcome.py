"""What became of a check on a GPU: each part, test and figure, told and written. For gpu_check.py."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

TOLD = ("triton", "numpy", "pytest", "pytest-xdist", "diffusers", "pydantic")
NO_GPU = (
    "No GPU: torch {torch} sees no CUDA device here. Nothing can be checked on a GPU; all of it is skipped."
)
OUTCOMES = ("passed", "failed", "skipped", "not run")


@dataclass(frozen=True)
class Part:
    """A process of its own; "tests" is ``gpu_tests.py``, and the others are parts of ``gpu_figures.py``."""

    name: str
    what: str
    limit: float
    """Seconds after which it is ended."""
    least: float
    """Seconds below which it is not begun."""


PARTS = (
    Part("tests", "tests", limit=200, least=0),
    Part("vae", "VAE training", limit=60, least=25),
    Part("ddpm", "DDPM training", limit=150, least=60),
    Part("equal", "compiled steps equal plain ones", limit=90, least=40),
    Part("sampling", "DDPM sampling", limit=120, least=45),
)


@dataclass
class Ended:
    """How a part ended."""

    outcome: str
    """Of ``OUTCOMES``; of the tests it is "passed" where their process ended as it should."""
    reason: str = ""
    seconds: float = 0.0
    figures: list[dict[str, Any]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Peers that did not run, and why."""
    tests: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Outcome and reason by name."""


def machine() -> dict[str, Any]:
    """What the check runs on."""
    out: dict[str, Any] = {
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "gpu": None,
    }
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        out["gpu"] = found.name
        out["memory_GiB"] = round(found.total_memory / 2**30, 1)
        out["capability"] = f"{found.major}.{found.minor}"
        out["cudnn"] = torch.backends.cudnn.version()
    for name in TOLD:
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = None
    return out


def counts(tests: dict[str, tuple[str, str]]) -> dict[str, int]:
    """How many tests had each outcome."""
    return {outcome: sum(found == outcome for found, _ in tests.values()) for outcome in OUTCOMES}


def failed(ended: dict[str, Ended]) -> bool:
    """Whether anything did."""
    return any(one.outcome == "failed" or counts(one.tests)["failed"] for one in ended.values())


def summary(ended: dict[str, Ended], *, gpu: bool, dry: bool = False) -> str:
    """What passed, what failed, and what was skipped or not run, in lines."""
    lines = []
    for part in PARTS:
        one = ended.get(part.name, Ended("not run"))
        told = f"{one.outcome} in {one.seconds:.0f} s" if one.seconds else one.outcome
        if part.name == "tests":
            number = counts(one.tests)
            told = ", ".join(f"{number[outcome]} {outcome}" for outcome in OUTCOMES)
            if one.outcome == "failed":
                told = f"failed; {told}"
        lines.append(f"{part.what}: {told}{f' ({one.reason})' if one.reason else ''}")
        lines += _tests_told(one.tests)
        lines += [f"  {_figure(record)}" for record in one.figures]
        lines += [f"  skipped: {peer} ({why})" for peer, why in one.left_out.items()]
    if dry:
        lines.append("A dry run: the figures are of a CPU and mean nothing.")
    elif not gpu:
        lines.append(NO_GPU.format(torch=torch.__version__))
    elif failed(ended):
        lines.append("Something failed, see above.")
    elif any(
        one.outcome != "passed" or counts(one.tests)["not run"] or counts(one.tests)["skipped"]
        for one in (ended.get(part.name, Ended("not run")) for part in PARTS)
    ):
        lines.append("What ran has passed; some was skipped or not run, see above.")
    else:
        lines.append("Everything passed.")
    return "\n".join(lines)


def _tests_told(tests: dict[str, tuple[str, str]]) -> list[str]:
    """Those that failed by name; of others that did not pass, how many for each reason."""
    lines = [
        f"  failed: {name} ({reason})" for name, (outcome, reason) in tests.items() if outcome == "failed"
    ]
    rest = [pair for pair in tests.values() if pair[0] in ("skipped", "not run")]
    lines += [f"  {outcome}: {rest.count((outcome, why))} ({why})" for outcome, why in dict.fromkeys(rest)]
    return lines


def _figure(record: dict[str, Any]) -> str:
    if "peer" not in record:
        return (
            f"{record['name']}: losses {record['losses_apart']:.2g} apart, {record['allowed']:g} is allowed"
        )
    pace = record.get("steps_per_second")
    steps = f", {pace[0]:,.1f} against {pace[1]:,.1f} steps/s" if pace else ""
    return (
        f"{record['name']} / {record['peer']}: {record['ratio']:.2f}, {record['ours']:,.0f} against "
        f"{record['theirs']:,.0f} images/s{steps}"
    )


def result(ended: dict[str, Ended], *, command: str, date: str) -> dict[str, Any]:
    """All of it, for the file."""
    parts = []
    for part in PARTS:
        one = ended.get(part.name, Ended("not run", "no time was left"))
        parts.append(
            {
                "part": part.name,
                "outcome": one.outcome,
                "reason": one.reason,
                "seconds": round(one.seconds, 1),
                "limit": part.limit,
                "left_out": one.left_out,
            }
        )
    tests = ended["tests"].tests if "tests" in ended else {}
    return {
        "command": command,
        "date": date,
        "machine": machine(),
        "parts": parts,
        "tests": {
            outcome: {name: why for name, (found, why) in tests.items() if found == outcome}
            for outcome in OUTCOMES
        },
        "figures": [record for one in ended.values() for record in one.figures],
    }
