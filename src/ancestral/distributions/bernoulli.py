"""Bernoulli distributions over the entries of an example."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

from ancestral._internal.randomness import Noise
from ancestral.distributions.base import Factorised, Shape

_TOGETHER = 8
"""Factors of which one logarithm is taken: 7 to 14 are as fast, 4 are not, and 2^8 is far from overflow."""


class Bernoulli(Factorised):
    """Each entry 0 or 1, P(1) = sigmoid(logits); values may be integers of any kind."""

    entries = constraints.boolean

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape[:1], logits.shape[1:])

    @property
    def mean(self) -> Tensor:
        """P(1) of each entry, (n, …)."""
        return torch.sigmoid(self.logits)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Zeros and ones, (n, …), as integers of 8 bits."""
        return torch.bernoulli(self.mean.expand(self._extended_shape(torch.Size(sample_shape)))).to(
            torch.uint8
        )

    def sample_from(self, noise: Noise) -> Tensor:
        """As ``sample``, (n, …), with random numbers of ``noise``."""
        return (noise.uniform(self._extended_shape(), self.logits) < self.mean).to(torch.uint8)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability, (n,)."""
        return -torch.einsum(
            "n...->n",
            F.binary_cross_entropy_with_logits(self.logits, value.to(self.logits.dtype), reduction="none"),
        )

    def log_prob_repeated(self, value: Tensor) -> Tensor:
        """As ``log_prob``, (n · k,), of values (n, …) that each stand for k rows of logits in a row.

        log P = Σ x l − softplus(l): the values enter by one product, and are never copied.
        """
        logits = self.logits.reshape(len(value), -1, value[0].numel())
        linear = torch.bmm(logits, value.reshape(len(value), -1, 1).to(logits.dtype))[:, :, 0]
        return (linear - _softplus_sum(logits)).flatten()


def _softplus_sum(u: Tensor) -> Tensor:
    """Σ softplus(u) over the last axis.

    In a graph that is not differentiated, with one logarithm for eight entries: Σ log(1 + e^{−|u|}) is the
    logarithm of a product of factors within (1, 2]. Step by step, every factor would pass through memory.
    """
    if torch.is_grad_enabled() or not torch.compiler.is_compiling():
        return F.softplus(u).sum(dim=-1)
    rows = u.shape[-1] // _TOGETHER
    whole = rows * _TOGETHER
    factors = (1.0 + torch.exp(-u[..., :whole].abs())).unflatten(-1, (_TOGETHER, rows))
    logarithms = factors.prod(dim=-2).log().sum(dim=-1)
    return logarithms + u[..., :whole].clamp(min=0).sum(dim=-1) + F.softplus(u[..., whole:]).sum(dim=-1)
