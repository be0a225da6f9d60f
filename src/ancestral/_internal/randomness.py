"""Random numbers as functions of (seed, purpose, position), so that a resumed run draws the same ones."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

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


class Noise(ABC):
    """Random numbers that do not come from torch's global generators."""

    @abstractmethod
    def normal(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Independent N(0, 1) numbers of this shape, with the dtype and device of ``like``."""

    @abstractmethod
    def uniform(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Independent numbers in [0, 1) of this shape, with the dtype and device of ``like``."""

    @abstractmethod
    def seed(self) -> int:
        """A seed for whatever can only draw from torch's global generators."""

    def sample(self, distribution: Distribution) -> Tensor:
        """A sample of the distribution's batch and event shape.

        Our distributions have a method ``sample_from(noise)``. Any other one draws from torch's global
        generators, which are seeded for it and restored afterwards.
        """
        own = getattr(distribution, "sample_from", None)
        if own is not None:
            drawn: Tensor = own(self)
            return drawn
        with torch.random.fork_rng():
            torch.manual_seed(self.seed())
            return distribution.sample()


class GeneratorNoise(Noise):
    """Random numbers of one generator, drawn on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def normal(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """As ``Noise``."""
        device = self.generator.device
        return torch.randn(shape, generator=self.generator, dtype=like.dtype, device=device).to(like.device)

    def uniform(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """As ``Noise``."""
        device = self.generator.device
        return torch.rand(shape, generator=self.generator, dtype=like.dtype, device=device).to(like.device)

    def seed(self) -> int:
        """As ``Noise``."""
        device = self.generator.device
        return int(torch.randint(2**62, (), generator=self.generator, device=device))


class RowNoise(Noise):
    """Random numbers for rows ``first`` … ``first + n − 1`` of a sample: each row has a generator.

    A row's numbers are a function of (seed, row) and of what was drawn for it before, never of the other
    rows: however a sample is cut into batches, its noise is the same. The first axis of what is drawn must
    be n. What can only draw from torch's global generators (``seed``) depends on ``first`` as well.
    """

    def __init__(self, seed: int, first: int, n: int) -> None:
        self._generators = [
            torch.Generator().manual_seed(mixed(seed, row)) for row in range(first, first + n)
        ]

    def normal(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """As ``Noise``."""
        out = self._empty(shape, like)
        for row, generator in zip(out, self._generators, strict=True):
            row.normal_(generator=generator)
        return out.to(like.device)

    def uniform(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """As ``Noise``."""
        out = self._empty(shape, like)
        for row, generator in zip(out, self._generators, strict=True):
            row.uniform_(generator=generator)
        return out.to(like.device)

    def seed(self) -> int:
        """As ``Noise``."""
        return int(torch.randint(2**62, (), generator=self._generators[0]))

    def _empty(self, shape: Sequence[int], like: Tensor) -> Tensor:
        return torch.empty(tuple(shape), dtype=like.dtype, pin_memory=like.device.type == "cuda")
