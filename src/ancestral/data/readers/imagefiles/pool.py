"""Many image files at once: on all cores, in order, with bounded memory.

The processes are plain ones that are spoken to through pipes, and not ``multiprocessing``'s: those run the
caller's script again, which fails where it has no ``if __name__ == "__main__"``, or fork a process in which
torch has started threads.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from types import TracebackType

from ancestral.data.readers.imagefiles.decode import Decoded, Form
from ancestral.data.readers.imagefiles.worker import Unread, attempt, read_answer

FEW = 256
"""Files up to this many are decoded here: a process would not have started before they are."""
_BATCH_FILES = 128
_BATCH_BYTES = 1 << 22
"""A batch ends at either; large files decode to much, so few of them make one."""

Batch = list[str]


class Pool:
    """Processes that decode. A context manager: on leaving, they are ended."""

    def __init__(self, files: int) -> None:
        count = _cores() if files > FEW else 0
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._all = [_start() for _ in range(count)]
        for process in self._all:
            self._idle.put(process)
        self._closed = False
        self._threads = ThreadPoolExecutor(count) if count else None

    def decode(
        self, files: Iterable[tuple[str, int]], form: Form
    ) -> Iterator[tuple[Batch, list[Decoded | Unread]]]:
        """Of files (path, bytes), batches of paths and what came of each, in their order."""
        if self._threads is None:
            for batch in _batches(files):
                yield batch, [attempt(path, form) for path in batch]
            return
        waiting: deque[tuple[Batch, Future[list[Decoded | Unread]]]] = deque()
        try:
            for batch in _batches(files):
                waiting.append((batch, self._threads.submit(self._ask, batch, form)))
                if len(waiting) > 2 * len(self._all):
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()

    def _ask(self, batch: Batch, form: Form) -> list[Decoded | Unread]:
        process = self._idle.get()
        try:
            if process.poll() is not None:  # ended for another reason than these files
                process = self._another(process)
            results = _answered(process, batch, form)
        except (EOFError, OSError):
            self._idle.put(self._another(process))
        else:
            self._idle.put(process)
            return results
        if len(batch) == 1:
            return [Unread("a process ended when it decoded it: it crashes Pillow, or takes too much memory")]
        # The file that ended the process is among them.
        return [self._ask([path], form)[0] for path in batch]

    def _another(self, process: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """A process in the place of one that has ended."""
        process.kill()
        if self._closed:
            self._idle.put(process)  # whoever waits for one would wait for ever
            raise EOFError
        other = _start()
        self._all.append(other)
        return other

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for process in self._all:
            process.kill()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        for process in self._all:
            process.kill()
            process.communicate()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _answered(process: subprocess.Popen[bytes], batch: Batch, form: Form) -> list[Decoded | Unread]:
    """What came of each file. Raises ``EOFError`` or ``OSError`` where the process has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"form": asdict(form), "paths": batch}).encode() + b"\n")
    process.stdin.flush()
    return read_answer(process.stdout)  # type: ignore[arg-type]


def _start() -> subprocess.Popen[bytes]:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.Popen(
        [sys.executable, "-c", "from ancestral.data.readers.imagefiles.worker import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # Pillow's libraries write about files that they read nevertheless
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )


def _batches(files: Iterable[tuple[str, int]]) -> Iterator[Batch]:
    batch: Batch = []
    total = 0
    for path, size in files:
        batch.append(path)
        total += size
        if len(batch) == _BATCH_FILES or total >= _BATCH_BYTES:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
