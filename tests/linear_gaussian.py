"""A linear-Gaussian VAE with few operations, whose log p(x), posterior and best diagonal q are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ancestral.core.chain import Chain
from ancestral.core.spec import DataSpec
from ancestral.distributions import DiagonalNormal, standard_normal


class LinearVAE(Chain):
    """z ~ N(0, I), x = weight z + noise ε; q(z|x) = N(mu, e^{2 s}) with features mu and s.

    mu is the posterior's mean, moved by ``shift``; e^s is the best of a diagonal q, times ``width``.
    """

    def __init__(self, weight: Tensor, noise: float, *, shift: float = 0.0, width: float = 1.0) -> None:
        super().__init__(1, DataSpec((len(weight),)))
        self.weight = nn.Parameter(weight)
        self.noise = noise
        self.shift = shift
        self.width = width

    def features(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        mean = x @ self.gain.T + self.shift
        return mean, {"s": (0.5 * self.best_variance.log() + math.log(self.width)).expand_as(mean)}

    def q_top(self, h: tuple[Tensor, dict[str, Tensor]]) -> DiagonalNormal:
        return DiagonalNormal(h[0], h[1]["s"].exp())

    def p_top(self, n: int) -> DiagonalNormal:
        return standard_normal(n, (self.weight.shape[1],), self.weight)

    def p_step(self, state: Tensor, t: int) -> DiagonalNormal:
        return DiagonalNormal(state @ self.weight.T, torch.full((len(state), 1), self.noise))

    @property
    def precision(self) -> Tensor:
        """Of p(z|x)."""
        weight = self.weight.detach()
        return torch.eye(weight.shape[1]) + weight.T @ weight / self.noise**2

    @property
    def gain(self) -> Tensor:
        """E(z|x) is gain x."""
        return torch.linalg.solve(self.precision, self.weight.detach().T) / self.noise**2

    @property
    def best_variance(self) -> Tensor:
        """Of the diagonal Gaussian q nearest to p(z|x) in KL(q ‖ p)."""
        return 1.0 / self.precision.diag()

    @property
    def law(self) -> MultivariateNormal:
        """p(x)."""
        noise = self.noise**2 * torch.eye(len(self.weight))
        return MultivariateNormal(torch.zeros(len(noise)), (self.weight @ self.weight.T + noise).detach())

    @property
    def family_gap(self) -> float:
        """log p(x) − ELBO of the best diagonal q: ½ (Σ log precision_ii − log det precision)."""
        return float(0.5 * (self.precision.diag().log().sum() - torch.logdet(self.precision)))

    @property
    def gap(self) -> float:
        """log p(x) − ELBO of q as it is."""
        moved = torch.full((self.weight.shape[1],), self.shift)
        cost = 0.5 * (moved @ self.precision @ moved)
        wide = self.weight.shape[1] * (0.5 * (self.width**2 - 1.0) - math.log(self.width))
        return self.family_gap + float(cost) + wide
