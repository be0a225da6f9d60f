"""From what an encoder says to a law of z: the posteriors q there are, for any level of any chain.

* ``DiagonalPosterior``: N(mu, sigma²), the entries independent (Kingma & Welling 2014).
* ``FullPosterior``: N(mu, L Lᵀ).
* ``FlowPosterior``: N(mu, sigma²) whose noise goes through a normalising flow (``distributions.flow``).

Each reads (n, outputs, …) and gives a law over (n, latent, …), in the units of the level's prior where a
ladder gives one. All start from the diagonal law: an encoder that ends in 0 gives q = p in a ladder,
whichever it is. On images a level's law is over the channels of each position, with a matrix or context of
its own, and positions are independent given the levels above: a covariance between them would be too large.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ancestral._internal import checks
from ancestral.distributions import DiagonalNormal, FullNormal, full_precision, gaussian, refine
from ancestral.distributions.flow import FlowNormal, NormalizingFlow

LARGEST_FULL = 512
"""Entries that a full covariance is taken over at most: the encoder says d (d + 3) / 2 numbers for d."""


class Posterior(nn.Module, ABC):
    """Maps what an encoder says, (n, ``outputs``, …), to q's law over (n, ``latent``, …).

    The first 2 · latent outputs are mu and log sigma of a diagonal normal; ``extra`` follow them.
    """

    def __init__(self, latent: int, *, extra: int = 0) -> None:
        super().__init__()
        checks.integer("the size of a latent", latent, low=1)
        self.latent = latent
        self.outputs = 2 * latent + extra

    @property
    def name(self) -> str:
        """What the family is called in tables: by default, the name of the class."""
        return type(self).__name__

    def forward(self, params: Tensor, prior: DiagonalNormal | None = None) -> Distribution:
        """The law. With ``prior``, N(mu_p, sigma_p²), ``params`` say how z departs from it, in its units."""
        if params.shape[1] != self.outputs:
            raise ValueError(
                f"an encoder gives {params.shape[1]} outputs for a {type(self).__name__} of {self.latent} "
                f"latents; it must give {self.outputs}."
            )
        split = [2 * self.latent, self.outputs - 2 * self.latent]
        own, extra = params.split(split, dim=1)
        return self.law(gaussian(own) if prior is None else refine(prior, own), extra)

    @abstractmethod
    def law(self, diagonal: DiagonalNormal, extra: Tensor) -> Distribution:
        """The law around a diagonal one, from the outputs beyond its own."""


class DiagonalPosterior(Posterior):
    """N(mu, sigma²), the entries independent."""

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return "diagonal Gaussian"

    def law(self, diagonal: DiagonalNormal, extra: Tensor) -> Distribution:
        """The diagonal law itself."""
        return diagonal


class FullPosterior(Posterior):
    """N(mu, L Lᵀ) with L = diag(sigma) (1 + N) and N below the diagonal: mu, log sigma, then N row by row."""

    places: Tensor

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return "Gaussian with a full covariance"

    def __init__(self, latent: int) -> None:
        if latent > LARGEST_FULL:
            raise ValueError(
                f"a full covariance of {latent} latents takes {latent * (latent + 3) // 2} outputs of the "
                f"encoder; it is for at most {LARGEST_FULL} latents. Use fewer, or q iaf."
            )
        super().__init__(latent, extra=latent * (latent - 1) // 2)
        # Of each entry of 1 + N, among the numbers 0 and 1 and those that the encoder gives.
        places = torch.eye(latent, dtype=torch.long)
        rows, columns = torch.tril_indices(latent, latent, -1)
        places[rows, columns] = 2 + torch.arange(len(rows))
        self.register_buffer("places", places.flatten(), persistent=False)

    def law(self, diagonal: DiagonalNormal, extra: Tensor) -> Distribution:
        """The law with N from ``extra``."""
        below = full_precision(extra).to(diagonal.loc.dtype).movedim(1, -1)
        zero = below.new_zeros(*below.shape[:-1], 1)
        numbers = torch.cat([zero, zero + 1.0, below], dim=-1)
        unit = numbers.index_select(-1, self.places).unflatten(-1, (self.latent, self.latent))
        return FullNormal(diagonal.loc, diagonal.scale.movedim(1, -1).unsqueeze(-1) * unit)


class FlowPosterior(Posterior):
    """N(mu, sigma²) whose noise goes through ``flow``: mu, log sigma, then what the flow is told of x."""

    def __init__(self, latent: int, flow: NormalizingFlow) -> None:
        super().__init__(latent, extra=flow.context)
        self.flow = flow

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return self.flow.name

    def law(self, diagonal: DiagonalNormal, extra: Tensor) -> Distribution:
        """The bent law."""
        return FlowNormal(diagonal, self.flow, extra)


def centre(law: Distribution) -> Tensor:
    """A z in the middle of q, (n, …): its mean, or of a flow, which has none in closed form, where ε is 0."""
    return law.centre if isinstance(law, FlowNormal) else law.mean
