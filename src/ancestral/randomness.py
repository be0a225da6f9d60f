"""Random numbers as functions of (seed, purpose, position), so that a resumed run draws the same ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

_MASK = (1 << 64) - 1


def mixed(*parts: int) -> int:
    """One 63-bit seed from several whole numbers; near ones give unrelated seeds.

    The finaliser of SplitMix64 (Steele et al. 2014), applied once per part.
    """
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def reseed(device: torch.device, *parts: int) -> None:
    """Set the generators that laws and layers draw from, on the CPU and on ``device``.

    Not ``torch.manual_seed``: without a GPU that formats a stack trace at each call, which takes longer
    than a small model's step.
    """
    seed = mixed(*parts)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Give the caller's random state back afterwards, whatever is seeded or drawn inside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
