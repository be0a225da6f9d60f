"""What a person sees while waiting, always on standard error: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import signal
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any


def describe(record: dict[str, Any], steps: int) -> str:
    """One line for a record of metrics.jsonl."""
    head = f"step {record['step']:>6}/{steps}"
    if record["kind"] == "train":
        terms = "  ".join(f"{name} {value:.4g}" for name, value in record["terms"].items() if value)
        skipped = f"  skipped {record['skipped']}" if record.get("skipped") else ""
        return (
            f"{head}  loss {record['loss']:.4g}  ({terms})  gradient {record['gradient_norm']:.3g}{skipped}"
        )
    if record["kind"] == "note":
        return f"{head}  {record['text']}"
    bits = record["bits_per_dim"]
    figure = (
        f"{record['elbo']['mean']:.4g} ± {record['elbo']['stderr']:.2g} nats"
        if bits is None
        else f"{bits['mean']:.4f} ± {bits['stderr']:.4f} bits/dim"
    )
    return f"{head}  held-out ELBO {figure}  (n = {record['n']})"


@contextlib.contextmanager
def training_progress(title: str, steps: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A report for ``fit`` that shows its records."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task(title, total=steps)

        def report(record: dict[str, Any]) -> None:
            bar.update(task, completed=record["step"])
            # In a terminal the bar shows that it goes on; elsewhere every record is a line.
            if record["kind"] != "train" or not console.is_terminal or record["step"] == steps:
                console.print(f"{title}: {describe(record, steps)}")

        yield report


@contextlib.contextmanager
def example_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress function for ``evaluate``: (examples done, examples in all)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def spoken(title: str) -> Callable[[str], None]:
    """Tells what is done next: on one line that is written over in a terminal, and not at all elsewhere."""
    if not sys.stderr.isatty():
        return lambda what: None
    return lambda what: print(f"\r\x1b[K{title}: {what} …", end="\r", file=sys.stderr, flush=True)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C (or SIGTERM) has asked to stop; a second one stops at once."""
    asked: list[int] = []

    def handle(number: int, frame: types.FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("ancestral: stopping after this step; once more to stop at once.", file=sys.stderr)

    kept = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
