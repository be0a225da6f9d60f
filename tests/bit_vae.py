"""A VAE of three bits and two latents, with log p(x) by quadrature."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ancestral.core.chain import Chain
from ancestral.core.spec import DataSpec
from ancestral.core.walk import log_joint
from ancestral.distributions import Bernoulli, DiagonalNormal, standard_normal
from toys import randn


class BitVAE(Chain):
    """Three bits from two latents; q is wide."""

    def __init__(self) -> None:
        super().__init__(1, DataSpec((3,), 2))
        self.weight = nn.Parameter(2.0 * randn(3, 2, seed=3))
        self.bias = nn.Parameter(randn(3, seed=4))

    def features(self, x: Tensor) -> Tensor:
        return 0.4 * (2.0 * x.to(self.weight.dtype) - 1.0) @ self.weight

    def q_top(self, h: Tensor) -> DiagonalNormal:
        return DiagonalNormal(h, torch.full_like(h, 0.9))

    def p_top(self, n: int) -> DiagonalNormal:
        return standard_normal(n, (2,), self.bias)

    def p_step(self, state: Tensor, t: int) -> Bernoulli:
        return Bernoulli(state @ self.weight.T + self.bias)


@torch.no_grad()
def by_quadrature(vae: BitVAE, x: Tensor) -> Tensor:
    """log p(x) of each x, (n,)."""
    axis = torch.linspace(-9.0, 9.0, 361)
    z = torch.cartesian_prod(axis, axis)
    log_prior, _ = log_joint(vae, x[:1].expand(len(z), 3), [z])
    each = torch.stack([vae.p_step(z, 1).log_prob(row.expand(len(z), 3)) for row in x])
    return torch.logsumexp(each + log_prior, dim=1) + 2.0 * math.log(float(axis[1] - axis[0]))
