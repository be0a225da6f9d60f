"""What an objective is: a loss of a chain and a batch, with what it keeps from step to step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from torch import Tensor, nn

from ancestral.core import entrance
from ancestral.core.batch import Batch
from ancestral.core.chain import Chain


@dataclass(frozen=True)
class Loss:
    """What one training step minimises, and the parts it is made of."""

    value: Tensor
    """A scalar, the mean over the batch, in the units of nats per example."""
    terms: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars to log, by name."""
    seen: dict[str, Tensor] = field(default_factory=dict)
    """Detached tensors of the step for ``Objective.observe``, by name; most objectives need none."""


class Objective(nn.Module, ABC):
    """A training loss. The trainer holds it; a chain has no training plan.

    The loss is a function of weights and data, so that it can be compiled. What changes with the step is set
    by ``at_step`` before each step, and what is remembered from step to step is taken in by ``observe``, into
    buffers, which a checkpoint has in its section ``objective/``.
    """

    samples: int = 1
    """Paths (or random levels) per example in a step."""
    step: Tensor | None
    """The number of the training step, from 0, where the loss depends on it: a scalar, infinite until the first
    call of ``at_step``, which changes it in place. None elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("step", None, persistent=False)

    @property
    @abstractmethod
    def name(self) -> str:
        """What reports call the loss."""

    def check(self, chain: Chain) -> None:
        """Raise ``ValueError`` for a chain that cannot be trained with it."""

    def forward(self, chain: Chain, batch: Batch | entrance.Given) -> Loss:
        """The loss of a batch, or of examples x, (n, *shape), without labels.

        Checks them, as the training loop does not: it calls ``loss``.
        """
        return self.loss(chain, entrance.batch(chain, batch))

    @abstractmethod
    def loss(self, chain: Chain, batch: Batch) -> Loss:
        """The loss of a batch."""

    def at_step(self, step: int) -> None:
        """Set what depends on the step's number, from 0. Until the first call it is as after all warm-ups.

        What changes at every step is a tensor that is changed in place: compiled steps read it where it is.
        """
        if self.step is not None:
            self.step.fill_(step)

    def observe(self, seen: dict[str, Tensor]) -> None:
        """Remember what ``forward`` left in ``Loss.seen``, once for each training step."""
