"""What a person sees while waiting, always on standard error: live in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ancestral._internal import words

if TYPE_CHECKING:
    from rich.console import Console

_EVERY = 20.0
"""Seconds between two lines of progress where there is no terminal."""


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
    return f"{head}  held-out ELBO {held_out(record)}"


def held_out(record: dict[str, Any]) -> str:
    """The figure of a validation record."""
    from ancestral.bounds import Estimate

    bits = record["bits_per_dim"]
    figure = f"{Estimate.from_json(record['elbo'])} nats"
    if bits is not None:
        figure += f", {Estimate.from_json(bits):.4f} bits/dim"
    best = record.get("best")
    rest = f"  best: step {best['step']}" if best is not None and best["step"] != record["step"] else ""
    return f"{figure}  (n = {record['n']}){rest}"


class Board:
    """What is known of a training in progress, as a table that rich can draw: ``see`` takes the records."""

    def __init__(self, title: str, steps: int, batch_size: int, *, clock: Callable[[], float]) -> None:
        self.title = title
        self.steps = steps
        self.batch_size = batch_size
        self.clock = clock
        self.step = 0
        self.started: tuple[float, int] | None = None
        """When the first record came, and its step: what went before is loading, and steps of another
        call."""
        self.rate: float | None = None
        """Steps per second."""
        self.rows: dict[str, str] = {}

    def see(self, record: dict[str, Any]) -> None:
        """Take in a record of metrics.jsonl."""
        self.step = max(self.step, record["step"])
        now = self.clock()
        if self.started is None:
            self.started = (now, record["step"])
        elif now > self.started[0] and self.step > self.started[1]:
            self.rate = (self.step - self.started[1]) / (now - self.started[0])
        if record["kind"] == "train":
            self.rows["loss"] = f"{record['loss']:.5g}"
            self.rows["terms"] = "  ".join(f"{name} {value:.4g}" for name, value in record["terms"].items())
            self.rows["gradient norm"] = f"{record['gradient_norm']:.3g}"
            if record.get("skipped"):
                self.rows["skipped"] = f"{record['skipped']} steps"
        elif record["kind"] == "validation":
            self.rows["held-out ELBO"] = f"{held_out(record)}  at step {record['step']}"

    def __rich__(self) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        sheet = Table.grid(padding=(0, 2))
        sheet.add_column(style="bold", no_wrap=True)
        sheet.add_column()
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            ProgressBar(total=self.steps, completed=self.step, width=40),
            f"{self.step:,}/{self.steps:,} steps",
        )
        sheet.add_row(Text(self.title), bar)
        if self.rate is not None:
            sheet.add_row(
                "rate",
                f"{words.rate(self.rate * self.batch_size, 'examples')}  {words.rate(self.rate, 'steps')}",
            )
            sheet.add_row("time left", _duration((self.steps - self.step) / self.rate))
        for name, text in self.rows.items():
            sheet.add_row(name, Text(text))
        return sheet


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


@contextlib.contextmanager
def training_progress(
    title: str, steps: int, batch_size: int, *, console: Console | None = None
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A report for ``fit`` that shows its records: a live table in a terminal, elsewhere a line for each."""
    from rich.console import Console
    from rich.live import Live

    console = console or Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not console.is_terminal:
        yield lambda record: console.print(f"{title}: {describe(record, steps)}")
        return
    board = Board(title, steps, batch_size, clock=time.monotonic)
    live = Live(board, console=console, refresh_per_second=4)

    def report(record: dict[str, Any]) -> None:
        # Not before there is something to see: until then the data may be read, which has a bar of its own.
        if not live.is_started:
            live.start()
        board.see(record)
        if record["kind"] == "note":
            console.print(f"{title}: {describe(record, steps)}")

    try:
        yield report
    finally:
        live.stop()


@contextlib.contextmanager
def reading_progress() -> Iterator[Callable[[int, int], None]]:
    """A progress function for data that take long to read: a bar from its first call to its last."""
    with contextlib.ExitStack() as stack:
        bars: list[Callable[[int, int], None]] = []

        def progress(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(example_progress("reading")))
            bars[0](done, total)
            if done >= total:
                stack.close()
                bars.clear()

        yield progress


@contextlib.contextmanager
def example_progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress function for ``evaluate``: (examples done, examples in all).

    A bar in a terminal; elsewhere a line now and then, where it takes long.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(title, clock=time.monotonic).see
        return
    columns = (TextColumn(title, markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class Lines:
    """How far something has come, as a line on standard error every ``_EVERY`` seconds."""

    def __init__(self, title: str, *, clock: Callable[[], float]) -> None:
        self.title = title
        self.clock = clock
        self.began = self.told = clock()

    def see(self, done: int, total: int) -> None:
        """Take in the examples done and the examples in all."""
        now = self.clock()
        if now - self.told < _EVERY or not done:
            return
        self.told = now
        left = _duration((now - self.began) / done * (total - done))
        print(f"{self.title}: {done:,} of {total:,}, about {left} left", file=sys.stderr, flush=True)


def spoken(title: str) -> Callable[[str], None]:
    """A function that says what is done next: on one line that is written over in a terminal, elsewhere on a line
    every ``_EVERY`` seconds."""
    if sys.stderr.isatty():
        return lambda what: print(f"\r\x1b[K{title}: {what} …", end="\r", file=sys.stderr, flush=True)
    told = time.monotonic()

    def say(what: str) -> None:
        nonlocal told
        if time.monotonic() - told >= _EVERY:
            told = time.monotonic()
            print(f"{title}: {what} …", file=sys.stderr, flush=True)

    return say


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
