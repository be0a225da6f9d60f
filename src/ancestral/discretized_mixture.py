"""Mixtures of logistic laws over the levels of integer data (Salimans et al. 2017, PixelCNN++, eq. 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from ancestral.discretized import DiscretizedLogistic
from ancestral.distributions import Factorised, Shape, sum_event


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
        super().__init__(torch.Size((len(loc), *loc.shape[2:])))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability of integers (n, …) in 0 … levels − 1, summed to (n,)."""
        return sum_event(self.log_prob_entries(value))

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
