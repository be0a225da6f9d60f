"""What a bound on log p(x) is: an object that bounds the examples of a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral.bounds.errors import DrawError
from ancestral.bounds.estimate import Estimate
from ancestral.bounds.pieces import Done
from ancestral.core import entrance
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain
from ancestral.data import Examples, Split


@dataclass(frozen=True, eq=False)
class Bounded:
    """A lower bound on log p(x) of some examples. ``joined`` puts the batches together."""

    nats: Tensor
    """The bound of each example, (n,)."""
    replicates: Tensor | None
    """Independent estimates whose mean ``nats`` is, (n, R); None where there is one."""
    draw_error: DrawError | None
    """What the random draws add to the error, where the bound reports it."""

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """All the parts' examples, in their order, on the CPU."""
        return cls(
            **{field.name: _joined([getattr(part, field.name) for part in parts]) for field in fields(cls)}
        )

    @property
    def estimate(self) -> Estimate:
        """The mean over examples, with the error of the draws alone where it is known."""
        if self.draw_error is None:
            return Estimate.of(self.nats)
        return Estimate(float(self.nats.double().mean()), *self.draw_error.stderrs(self.nats))

    @property
    def stderr_each(self) -> Tensor:
        """The standard error of each example's bound from its own draws, (n,); NaN for a single draw."""
        if self.replicates is None or self.replicates.shape[1] == 1:
            return torch.full_like(self.nats.double(), torch.nan)
        return self.replicates.double().std(dim=1) / self.replicates.shape[1] ** 0.5


def _joined(parts: list[Any]) -> Any:
    """Of one field: rows of tensors, sums of errors and ``Summed``, and what all parts have in common."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts).cpu()
    if isinstance(first, DrawError):
        return DrawError.together(parts)
    together = getattr(type(first), "joined", None)
    return first if together is None else together(parts)


@dataclass(frozen=True, eq=False)
class Summed:
    """A sum over examples, of which there are too many numbers to keep for each."""

    total: Tensor
    n: int

    @staticmethod
    def of(values: Tensor) -> Summed:
        """Of (n, …) values."""
        return Summed(values.double().sum(dim=0).cpu(), len(values))

    @staticmethod
    def joined(parts: list[Summed]) -> Summed:
        """Of all parts' examples."""
        return Summed(torch.stack([part.total for part in parts]).sum(dim=0), sum(part.n for part in parts))

    @property
    def mean(self) -> Tensor:
        """Over examples."""
        return self.total / self.n


class Bound(ABC):
    """A lower bound on log p(x), in expectation. A new one is a file with a subclass."""

    name: ClassVar[str]
    """As in the commands' JSON."""
    in_blocks: ClassVar[bool] = False
    """Whether a block of examples is computed whole, in pieces that limit the memory by themselves."""

    def check(self, chain: Chain) -> None:  # noqa: B027
        """Raise ``ValueError`` for a chain that does not have this bound, before any work."""

    def planned(self, chain: Chain, x: Split | Examples, *, seed: int) -> Bound:
        """The bound with what depends on all examples together, such as a proposal measured on some of them."""
        return self

    def unconditional(self, chain: Chain) -> None:
        """Raise ``ValueError`` for a chain with conditions, for a bound that is not computed with them."""
        if chain.conditional:
            raise ValueError(
                f"the bound {self.name} is not computed for chains with conditions, and {type(chain).__name__} "
                "is one. Use bound elbo or iwae."
            )

    @abstractmethod
    def of(self, chain: Chain, batch: Batch, *, done: Done) -> Bounded:
        """The bound of one batch on the chain's device. ``done`` receives the share of the work that is done."""

    def __call__(
        self, chain: Chain, batch: Batch | entrance.Given, *, done: Done = lambda share: None
    ) -> Bounded:
        """As ``of``, after a check; examples x, (n, *shape), are a batch without labels."""
        return self.of(chain, entrance.batch(chain, batch), done=done)

    def of_block(self, parts: list[Any]) -> Any:
        """The bound of a whole block, from those of its parts in their order."""
        return type(parts[0]).joined(parts)

    @abstractmethod
    def calls(self, chain: Chain) -> int:
        """Generative steps p(z_{t−1}|z_t) computed for one example."""

    def json(self) -> dict[str, Any]:
        """How the bound is estimated, as in the commands' JSON."""
        return {"name": self.name}

    @property
    @abstractmethod
    def words(self) -> str:
        """The same for a person."""


@dataclass(frozen=True)
class DrawnBound(Bound):
    """A bound from ``samples`` draws for each example, of T generative steps each."""

    samples: int = 1

    def __post_init__(self) -> None:
        checks.integer("samples", self.samples, low=1)

    def calls(self, chain: Chain) -> int:
        """As ``Bound``."""
        return chain.T * self.samples

    def json(self) -> dict[str, Any]:
        """As ``Bound``."""
        return {"name": self.name, "samples": self.samples}
