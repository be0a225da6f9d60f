"""Normal distributions: diagonal, and with a full covariance."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ancestral._internal.randomness import Noise
from ancestral.distributions.base import Factorised, Shape, full_precision, soft_clamp

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class DiagonalNormal(Factorised):
    """N(loc, scale²) for each entry, with ``loc`` and ``scale`` broadcast to (n, …).

    Unlike ``Independent(Normal)``, its KL stays exact when two laws nearly coincide, as the thousand
    small matching terms of a DDPM do.
    """

    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc = loc
        self.scale = scale
        shape = torch.broadcast_shapes(loc.shape, scale.shape)
        super().__init__(shape[:1], shape[1:])

    @property
    def mean(self) -> Tensor:
        """The mean, (n, …)."""
        return self.loc.expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, (n, …)."""
        return self.scale.square().expand(self._extended_shape())

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """loc + scale · ε with ε ~ N(0, I), the reparameterisation trick (Kingma & Welling 2014)."""
        eps = torch.randn(
            self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype, device=self.loc.device
        )
        return torch.addcmul(self.loc, self.scale, eps)

    def sample_from(self, noise: Noise) -> Tensor:
        """A sample, (n, …), with random numbers of ``noise``."""
        return torch.addcmul(self.loc, self.scale, noise.normal(self._extended_shape(), self.loc))

    def redrawn(self, value: Tensor) -> Tensor:
        """The draw ``value`` once more, with the ε that it was made from, as a function of loc and scale."""
        return torch.addcmul(self.loc, self.scale, ((value - self.loc) / self.scale).detach())

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, (n,)."""
        scaled = (value - self.loc) / self.scale
        return torch.einsum("n...->n", -0.5 * scaled.square() - self.scale.log() - _HALF_LOG_2PI)


DiagonalNormal.closed_kl = (DiagonalNormal,)


class FullNormal(Distribution):
    """N(loc, L Lᵀ) over the first axis of each example, independent between the positions behind it.

    ``loc`` is (n, d, …) and ``factor``, L, lower-triangular with a positive diagonal, (n, …, d, d): one
    matrix for each position of an image, or one for a vector.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = True
    closed_kl: ClassVar[tuple[type[Distribution], ...]] = (DiagonalNormal,)
    """The distributions to which there is a KL in closed form."""

    def __init__(self, loc: Tensor, factor: Tensor) -> None:
        self.loc = loc
        self.factor = factor
        super().__init__(loc.shape[:1], loc.shape[1:], validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean, (n, d, …)."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance of each entry, (n, d, …)."""
        return self.factor.square().sum(dim=-1).movedim(-1, 1)

    def rsample(self, sample_shape: Shape = torch.Size()) -> Tensor:  # noqa: B008
        """loc + L ε with ε ~ N(0, I)."""
        eps = torch.randn(
            torch.Size(sample_shape) + self.factor.shape[:-1], dtype=self.loc.dtype, device=self.loc.device
        )
        return self._from(eps, 1 + len(sample_shape))

    def sample_from(self, noise: Noise) -> Tensor:
        """A sample, (n, d, …), with random numbers of ``noise``."""
        return self._from(noise.normal(self.factor.shape[:-1], self.loc), 1)

    def redrawn(self, value: Tensor) -> Tensor:
        """The draw ``value`` once more, with the ε that it was made from, as a function of loc and factor."""
        return self._from(self._noise(value).detach(), 1)

    def _from(self, eps: Tensor, axis: int) -> Tensor:
        # Not as a matrix product, which autocast would take in bf16.
        return self.loc + (self.factor * eps.unsqueeze(-2)).sum(dim=-1).movedim(-1, axis)

    def _noise(self, value: Tensor) -> Tensor:
        shift = (value - self.loc).movedim(1, -1).unsqueeze(-1)
        return torch.linalg.solve_triangular(self.factor, shift, upper=False).squeeze(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, (n,)."""
        eps = self._noise(value)
        log_scale = self.factor.diagonal(dim1=-2, dim2=-1).log()
        return torch.einsum("n...->n", -0.5 * eps.square() - log_scale - _HALF_LOG_2PI)


def standard_normal(n: int, shape: tuple[int, ...], like: Tensor) -> DiagonalNormal:
    """N(0, I) for a batch of n latents of the given shape, with the dtype and device of ``like``."""
    zero = torch.zeros((), dtype=like.dtype, device=like.device)
    return DiagonalNormal(zero.expand(n, *shape), torch.ones_like(zero).expand(n, *shape))


def gaussian(params: Tensor) -> DiagonalNormal:
    """N(mu, sigma²) from a network's output (n, 2d, …): mu, then log sigma, softly kept within ±7."""
    mu, log_sigma = full_precision(params).chunk(2, dim=1)
    return DiagonalNormal(mu, soft_clamp(log_sigma, 7.0).exp())


def refine(prior: DiagonalNormal, change: Tensor) -> DiagonalNormal:
    """N( mu + sigma Δmu, (sigma e^Δ)² ) from a law N(mu, sigma²) and Δmu, Δ in (n, 2d, …)."""
    shift, log_ratio = full_precision(change).chunk(2, dim=1)
    return DiagonalNormal(prior.loc + prior.scale * shift, prior.scale * soft_clamp(log_ratio, 7.0).exp())
