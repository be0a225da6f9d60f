"""Run the tests that need a GPU, and write what becomes of each, line by line: for gpu_check.py.

    python benchmarks/gpu_tests.py EVENTS [WORKERS]

A line of EVENTS is a JSON object: {"event": "found" | "started" | "ended", "test": name}, an ended one with
"outcome" and "reason". What was written stays, however the run ends.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent


class Recorder:
    """A plugin of pytest; with pytest-xdist it is in the process that hands the tests out."""

    def __init__(self, events: Path) -> None:
        self.events = events

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._found(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: Iterable[str]) -> None:
        self._found(ids)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write("ended", report.nodeid, outcome="failed", reason=_last_line(report.longreprtext))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write("started", nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Of the three phases the call says how it ended, and any that did not pass.
        if report.when == "call" or not report.passed:
            reason = ""
            if report.skipped and isinstance(report.longrepr, tuple):
                reason = report.longrepr[2].removeprefix("Skipped: ")
            elif report.failed:
                reason = _last_line(report.longreprtext)
            self._write("ended", report.nodeid, outcome=report.outcome, reason=reason)

    def _found(self, tests: Iterable[str]) -> None:
        for test in tests:
            self._write("found", test)

    def _write(self, event: str, test: str, **more: Any) -> None:
        with self.events.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, "test": test, **more}) + "\n")


def _last_line(text: str) -> str:
    """What the error says: the last of pytest's lines that begin with E, or the last line."""
    lines = [line for line in text.splitlines() if line.strip()]
    said = [line.removeprefix("E").strip() for line in lines if line.startswith("E  ")]
    return (said or lines or ["?"])[-1][:500]


def files() -> list[str]:
    """Those with GPU tests: others may import what is not installed on a GPU machine."""
    found = (ROOT / "tests").rglob("test_*.py")
    return sorted(str(path) for path in found if "mark.gpu" in path.read_text(encoding="utf-8"))


def main() -> int:
    """Run them; the exit status is pytest's."""
    events, workers = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1
    # Warnings are shown and are no errors: the packages there are not those of constraints.txt.
    options = ["-m", "gpu", "-q", "-W", "default", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    if workers > 1 and importlib.util.find_spec("xdist") is not None:
        # One test at a time to each: they take from milliseconds to a minute.
        options += ["-p", "xdist.plugin", "-n", str(workers), "--maxschedchunk", "1"]
    return int(pytest.main([*options, *files()], plugins=[Recorder(events)]))


if __name__ == "__main__":
    sys.exit(main())
