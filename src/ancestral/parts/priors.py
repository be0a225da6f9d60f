"""Priors p(z_T): modules that return the distribution of the top latent for a batch of n."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ancestral._internal import checks
from ancestral.distributions import DiagonalNormal, NormalMixture, standard_normal


class Prior(nn.Module, ABC):
    """p(z_T) over latents of ``shape``, without the batch."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    @abstractmethod
    def forward(self, n: int) -> Distribution:
        """p(z_T) for a batch of n: batch shape (n,), event shape ``shape``."""


class StandardNormalPrior(Prior):
    """N(0, I)."""

    zero: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        # Carries the dtype and the device, and is not part of a checkpoint.
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    def forward(self, n: int) -> DiagonalNormal:
        """As ``Prior``."""
        return standard_normal(n, self.shape, self.zero)


def prior_of(given: Prior | None, shape: tuple[int, ...]) -> Prior:
    """The prior of a chain whose top latent has this shape: N(0, I) where none is given.

    ``ValueError`` for a prior over latents of another shape.
    """
    if given is None:
        return StandardNormalPrior(shape)
    if given.shape != tuple(shape):
        raise ValueError(
            f"the prior is over latents of shape {given.shape}, and the chain's z_T has {tuple(shape)}. Make the "
            "prior with that shape."
        )
    return given


class GaussianMixturePrior(Prior):
    """Σ_k π_k N(μ_k, diag σ_k²) with learned weights, means and scales for ``components`` Gaussians.

    It starts with equal weights, unit scales and means drawn from N(0, ``spread``² I). A posterior's KL to it
    has no closed form and is estimated by its log-ratio.
    """

    def __init__(self, shape: tuple[int, ...], *, components: int = 10, spread: float = 1.0) -> None:
        super().__init__(shape)
        checks.integer("components", components, low=1)
        checks.number("spread", spread, above=0.0)
        self.logits = nn.Parameter(torch.zeros(components))
        self.means = nn.Parameter(spread * torch.randn(components, *self.shape))
        self.log_scales = nn.Parameter(torch.zeros(components, *self.shape))

    def forward(self, n: int) -> NormalMixture:
        """As ``Prior``."""
        return NormalMixture(n, self.logits, self.means, self.log_scales.exp())
