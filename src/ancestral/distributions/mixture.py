"""Mixtures: of discretised logistics over grey levels, and of diagonal normals over latents.

The former are for each entry of integer data (Salimans et al. 2017, PixelCNN++, eq. 2), the latter for all
entries of a latent together.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ancestral._internal.randomness import Noise
from ancestral.distributions.base import Factorised, Shape
from ancestral.distributions.discretized import DiscretizedLogistic


class DiscretizedLogisticMixture(Factorised):
    """Σ_k π_k DiscretizedLogistic(loc_k, scale_k) for each entry, over 0 … levels − 1.

    One logistic has one mode; pixels that may be either ink or paper have two, and levels that are more
    common than their neighbours (the 253 and 254 of scanned digits) want a narrow component each.

    ``logits`` (of π), ``loc`` and ``scale`` are (n, K, …), the latter two in the units of [−1, 1]. Entries
    are independent given the latents: unlike in PixelCNN++, a pixel's channels are not told of one another.
    """

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, levels: int) -> None:
        self.log_pi = logits.log_softmax(dim=1)
        self.parts = DiscretizedLogistic(loc, scale, levels)
        super().__init__(loc.shape[:1], loc.shape[2:])

    @property
    def entries(self) -> constraints.Constraint:  # type: ignore[override]
        """As ``Factorised``: the grey levels."""
        return self.parts.entries

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of integers (n, …) in 0 … levels − 1, summed to (n,)."""
        return torch.einsum("n...->n", self.log_prob_entries(value))

    def log_prob_entries(self, value: Tensor) -> Tensor:
        """Log probability of each entry, (n, …)."""
        return (self.log_pi + self.parts.log_prob_entries(value[:, None])).logsumexp(dim=1)

    @property
    def mean(self) -> Tensor:
        """The mean level, (n, …), in 0 … levels − 1 and not in general whole."""
        return (self.log_pi.exp() * self.parts.mean).sum(dim=1)

    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Integers, (*sample_shape, n, …): a component for each entry, then a draw of it."""
        size = torch.Size(sample_shape)
        draws = self.parts.sample(size)
        pi = self.log_pi.exp().movedim(1, -1)
        chosen = torch.multinomial(pi.reshape(-1, pi.shape[-1]), max(size.numel(), 1), replacement=True)
        index = chosen.T.reshape(*size, *pi.shape[:-1]).unsqueeze(len(size) + 1)
        return draws.gather(len(size) + 1, index).squeeze(len(size) + 1)

    def sample_from(self, noise: Noise) -> Tensor:
        """As ``sample``, (n, …), with random numbers of ``noise``."""
        draws, edges = self.parts.sample_from(noise), self.log_pi.exp().cumsum(dim=1)
        # Where rounding leaves the sum of all below 1, the last component has what is missing.
        chosen = (noise.uniform(self._extended_shape(), edges)[:, None] >= edges[:, :-1]).sum(dim=1)
        return draws.gather(1, chosen[:, None]).squeeze(1)


class NormalMixture(Distribution):
    """Σ_k π_k N(loc_k, diag scale_k²), the same for each of n examples.

    ``logits`` (of π) are (K,), ``loc`` and ``scale`` (K, …).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    closed_kl: ClassVar[tuple[type[Distribution], ...]] = ()
    """The distributions to which there is a KL in closed form."""

    def __init__(self, n: int, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.log_pi = logits.log_softmax(dim=0)
        self.loc = loc
        self.scale = scale
        super().__init__(torch.Size([n]), loc.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean, (n, …)."""
        return self._weighted(self.loc).expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, (n, …)."""
        second = self._weighted(self.scale.square() + self.loc.square())
        return (second - self._weighted(self.loc).square()).expand(self._extended_shape())

    def _weighted(self, values: Tensor) -> Tensor:
        """Σ_k π_k values_k."""
        return torch.tensordot(self.log_pi.exp(), values, dims=1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, (n,)."""
        scaled = (value[:, None] - self.loc) / self.scale
        entries = -0.5 * scaled.square() - self.scale.log() - 0.5 * math.log(2.0 * math.pi)
        each = entries.flatten(2).sum(dim=2) if entries.dim() > 2 else entries
        return (self.log_pi + each).logsumexp(dim=1)

    @torch.no_grad()
    def sample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """Samples, (*sample_shape, n, …)."""
        size = torch.Size(sample_shape) + self.batch_shape
        chosen = torch.multinomial(self.log_pi.exp(), size.numel(), replacement=True).reshape(size)
        eps = torch.randn(size + self.event_shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc[chosen] + self.scale[chosen] * eps

    def sample_from(self, noise: Noise) -> Tensor:
        """A sample, (n, …), with random numbers of ``noise``."""
        edges = self.log_pi.exp().cumsum(dim=0)
        chosen = (noise.uniform((*self.batch_shape, 1), edges) >= edges[:-1]).sum(dim=1)
        eps = noise.normal(self._extended_shape(), self.loc)
        return self.loc[chosen] + self.scale[chosen] * eps
