"""On a GPU: the tests that need one, and a few figures, in at most eight minutes; what passed and what not.

    make test-gpu

On a GPU machine without a network `make test-gpu PYTHON=python3` makes no environment and installs what lies
in wheels/ (`make wheels`); without make: `PYTHONPATH=src python3 benchmarks/gpu_check.py`.

The tests are those marked "gpu"; the figures are of ``gpu_figures.py``. Each part is a process that is ended
at its limit, and one for which no time is left is not run. After each part the outcome is written to
benchmarks/results/gpu_check.json. Where torch sees no GPU, everything is skipped and nothing is written. The
exit status is 1 where anything failed, else 0: the last lines say what was skipped or not run.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_outcome import NO_GPU, PARTS, Ended, Part, failed, machine, result, summary

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "gpu_check.json"
TOTAL = 455.0
"""Seconds of all parts; what is left of eight minutes is for starting and ending."""


def tests_of(lines: Iterable[str]) -> dict[str, tuple[str, str]]:
    """What became of each test, from the lines that ``gpu_tests.py`` wrote, whole or cut short."""
    out: dict[str, tuple[str, str]] = {}
    for line in lines:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue  # The last one, where the process was ended while it wrote.
        known = out.get(event["test"], ("", ""))[0]
        if event["event"] == "found":
            out.setdefault(event["test"], ("not run", "no time was left"))
        elif event["event"] == "started" and known in ("", "not run"):
            out[event["test"]] = ("not run", "it had begun when the time was over")
        elif event["event"] == "ended" and known != "failed":
            # A test that passes and whose tidying up fails has failed.
            out[event["test"]] = (event["outcome"], event["reason"])
    return out


def ended_tests(lines: Iterable[str], status: int | None, log: str) -> Ended:
    """``status`` is pytest's, None where it was ended at its limit."""
    tests = tests_of(lines)
    if status is None:
        return Ended("not run", "ended at its limit", tests=tests)
    if status not in (0, 1) or not tests:
        return Ended("failed", f"pytest ended with status {status}: {_tail(log)}", tests=tests)
    wrong = status == 1 and not any(outcome == "failed" for outcome, _ in tests.values())
    return Ended("failed" if wrong else "passed", _tail(log) if wrong else "", tests=tests)


def ended_figures(text: str, status: int | None, log: str) -> Ended:
    """``text`` is what ``gpu_figures.py`` wrote, "" where it wrote nothing."""
    if status is None:
        return Ended("not run", "ended at its limit")
    if not text:
        return Ended("failed", f"it ended with status {status}: {_tail(log)}")
    found = json.loads(text)
    failed = "; ".join(f"{what}: {why}" for what, why in found["failed"].items())
    outcome = "failed" if failed or status else "passed"
    return Ended(outcome, failed, figures=found["records"], left_out=found["left_out"])


def run(part: Part, seconds: float, *, dry: bool) -> Ended:
    """Run a part for at most ``seconds``; what it prints is printed when it has ended."""
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "out", Path(folder) / "log"
        out.touch()
        start = time.monotonic()
        with log.open("w", encoding="utf-8") as file:
            status = _status(_command(part, out, dry=dry), seconds, file)
        taken = time.monotonic() - start
        said = log.read_text(encoding="utf-8", errors="replace")
        print(said, flush=True)
        text = out.read_text(encoding="utf-8")
    ended = (
        ended_tests(text.splitlines(), status, said)
        if part.name == "tests"
        else ended_figures(text, status, said)
    )
    ended.seconds = taken
    return ended


def _command(part: Part, out: Path, *, dry: bool) -> list[str]:
    if part.name == "tests":
        workers = _workers() if torch.cuda.is_available() else 1
        return [sys.executable, str(HERE / "gpu_tests.py"), str(out), str(workers)]
    options = ["--dry-run"] if dry else []
    return [sys.executable, str(HERE / "gpu_figures.py"), part.name, str(out), *options]


def _workers() -> int:
    """Most of a test's time is a compiler's, on the CPU."""
    return max(min((os.cpu_count() or 1) // 2, 6), 1)


def _status(command: Sequence[str], seconds: float, log: Any) -> int | None:
    """The exit status, or None where it was ended, with all that it had started."""
    environment = {
        **os.environ,
        # Other plugins that happen to be installed have no say.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "TORCHINDUCTOR_COMPILE_THREADS": str(max((os.cpu_count() or 1) // _workers(), 1)),
    }
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=HERE.parent, process_group=0
    )
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # Workers of a part outlive it where it was ended.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: str) -> str:
    lines = [line for line in log.splitlines() if line.strip()]
    return " / ".join(lines[-3:])[-600:]


def main(arguments: list[str] | None = None) -> int:
    """Run the parts, write what they gave, and tell it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=TOTAL, help="of all parts together")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="tiny figures, on the CPU, to see that it works; writes nothing",
    )
    options = parser.parse_args(arguments)
    start, date = time.monotonic(), datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    gpu = torch.cuda.is_available()
    print("\n".join(f"{name}: {value}" for name, value in machine().items()))
    if not gpu and not options.dry_run:
        print(NO_GPU.format(torch=torch.__version__))
    ended: dict[str, Ended] = {}
    for part in PARTS:
        left = options.seconds - (time.monotonic() - start)
        if part.name != "tests" and not gpu and not options.dry_run:
            ended[part.name] = Ended("skipped", "needs a GPU")
        elif left < max(part.least, 1.0):
            ended[part.name] = Ended("not run", "no time was left")
        else:
            print(f"\n== {part.what}, at most {min(part.limit, left):.0f} s", flush=True)
            ended[part.name] = run(part, min(part.limit, left), dry=options.dry_run)
        if gpu and not options.dry_run:
            found = result(ended, command="make test-gpu", date=date)
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n" + summary(ended, gpu=gpu, dry=options.dry_run))
    return 1 if failed(ended) else 0


if __name__ == "__main__":
    sys.exit(main())
