"""A share of the uniform distribution mixed into a distribution over grey levels."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from ancestral._internal.randomness import Noise
from ancestral.distributions.base import Factorised, Shape
from ancestral.distributions.discretized import Discretized
from ancestral.distributions.mixture import DiscretizedLogisticMixture


class WithUniform(Factorised):
    """(1 − share) · part + share · uniform, for each entry, over the grey levels 0 … levels − 1.

    No entry has a probability below share / levels, so that no single one costs more than
    log(levels / share) nats, however sure ``part`` is of another grey level.
    """

    def __init__(self, part: Discretized | DiscretizedLogisticMixture, share: float, levels: int) -> None:
        self.part = part
        self.share = share
        self.levels = levels
        self.entries = constraints.integer_interval(0, levels - 1)
        super().__init__(part.batch_shape, part.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of integers (n, …) in 0 … levels − 1, summed to (n,)."""
        return torch.einsum("n...->n", self.log_prob_entries(value))

    def log_prob_entries(self, value: Tensor) -> Tensor:
        """Log probability of each entry, (n, …)."""
        part = self.part.log_prob_entries(value)
        least = part.new_tensor(math.log(self.share / self.levels))
        return torch.logaddexp(part + math.log1p(-self.share), least)

    @property
    def mean(self) -> Tensor:
        """The mean grey level, (n, …), in 0 … levels − 1 and not in general whole."""
        return (1.0 - self.share) * self.part.mean + self.share * 0.5 * (self.levels - 1)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Integers, (*sample_shape, n, …)."""
        draws = self.part.sample(sample_shape)
        return self._mixed(draws, torch.rand(draws.shape, device=draws.device))

    def sample_from(self, noise: Noise) -> Tensor:
        """As ``sample``, (n, …), with random numbers of ``noise``."""
        draws = self.part.sample_from(noise)
        like = torch.empty((), dtype=torch.float32, device=draws.device)
        return self._mixed(draws, noise.uniform(self._extended_shape(), like))

    def _mixed(self, draws: Tensor, u: Tensor) -> Tensor:
        """Where u, uniform on [0, 1), is below the share, the grey level that it then is of."""
        level = (u * (self.levels / self.share)).clamp(max=self.levels - 1).to(draws.dtype)
        return torch.where(u < self.share, level, draws)


def with_uniform(
    part: Discretized | DiscretizedLogisticMixture, share: float, levels: int
) -> Discretized | DiscretizedLogisticMixture | WithUniform:
    """``part`` with a share of the uniform distribution; itself where the share is 0."""
    return WithUniform(part, share, levels) if share > 0.0 else part
