"""What distributions have in common: factorised ones, sums over entries, and precision.

All but ``FullNormal`` are factorised over the entries of an example, and all are summed over them: the
batch is (n,), the event is everything after it, and ``log_prob`` is (n,). Arguments are not validated at
each call (it would cost a synchronisation with the device); shapes and bounds are checked where values
enter the library. A sum over the event is ``torch.einsum("n...->n", values)``: flattening would copy images in
channels-last memory.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

Shape = torch.Size | list[int] | tuple[int, ...]


class Factorised(Distribution):
    """A law over (n, …) that is a product over the entries of each example."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    closed_kl: ClassVar[tuple[type[Distribution], ...]] = ()
    """The distributions to which there is a KL in closed form."""
    _validate_args = False
    entries: constraints.Constraint = constraints.real
    """The values that an entry of an example may have."""

    @property
    def support(self) -> constraints.Constraint:
        """The values that an example may have."""
        return constraints.independent(self.entries, len(self.event_shape))


def full_precision(out: Tensor) -> Tensor:
    """A network's output in at least 32 bits: laws, KLs and likelihoods are never taken in bf16."""
    return out.float() if out.dtype in (torch.bfloat16, torch.float16) else out


def soft_clamp(u: Tensor, bound: float) -> Tensor:
    """bound · tanh(u / bound): the identity near 0, never beyond ±bound, with a gradient everywhere."""
    return bound * torch.tanh(u / bound)
