"""Freed memory is kept where it can be, and the user's own settings stand."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from ancestral._internal.allocator import keep_freed_memory
print(keep_freed_memory())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(12_000_000).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def run(**environment: str) -> tuple[bool, int]:
    kept = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    kept.pop("GLIBC_TUNABLES", None)
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**kept, **environment},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    return out[0] == "True", int(out[1])


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_large_tensors_are_taken_from_memory_that_was_freed():
    """Twenty tensors of 48 MB, one after the other: 12,000 pages each, or none."""
    kept, faults = run()
    if not kept:
        pytest.skip("no glibc here")
    assert faults < 3_000
    left, theirs = run(MALLOC_ARENA_MAX="4")
    assert not left
    assert theirs > 10 * (faults + 1)


def test_another_system_is_left_alone(monkeypatch):
    from ancestral._internal import allocator

    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_freed_memory.__wrapped__() is False
