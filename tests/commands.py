"""The command line, called in this process, or in one of its own that can be interrupted and killed."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from ancestral.cli import main

PATIENCE = 120.0
"""Seconds after which a process that should have come to something is given up."""
PRELOAD = [
    "ancestral.experiments.recipes",
    "ancestral.cli.recipe",
    "ancestral.experiments.runs",
    "ancestral.cli.train",
    "torch._dynamo",
    "PIL.Image",
    "pydantic",
    "rich.progress",
]


@dataclass(frozen=True)
class Answer:
    """What a command left: its exit status and what it wrote."""

    status: int | None
    out: str
    err: str

    @property
    def message(self) -> str:
        """Standard error in one line, without the frames that are drawn around messages."""
        return " ".join(self.err.translate(str.maketrans("│╭╮╰╯─", "      ")).split())


def call(*arguments: object) -> Answer:
    """Run ``ancestral`` with these arguments in this process. Defects, as any exception, come through."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: object = main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code
    assert status is None or isinstance(status, int)
    return Answer(status, out.getvalue(), err.getvalue())


def start(*arguments: object, log: Path) -> BaseProcess:
    """Run ``ancestral`` with these arguments in a new process that writes to ``log``.

    It is forked from a server that has imported everything already: an interpreter that begins from
    nothing takes longer to import torch than the tests take.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    process = context.Process(target=_main, args=([str(argument) for argument in arguments], str(log)))
    process.start()
    return process


def _main(arguments: list[str], log: str) -> None:
    import torch

    torch.set_num_threads(1)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.exit(main(arguments))


def wait_for(process: BaseProcess, condition: Callable[[], bool]) -> bool:
    """Wait until a condition holds; False where the process ended before it did."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if not process.is_alive():
            return condition()
        assert time.monotonic() < end, "nothing happened for too long"
        time.sleep(0.0005)
    return True


def finished(process: BaseProcess) -> int | None:
    """Wait for the end of a process; its exit status, negative for a signal."""
    process.join(PATIENCE)
    assert not process.is_alive(), "the process did not end"
    return process.exitcode
