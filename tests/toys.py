"""Gaussian chains whose every law is known in closed form, for tests of the mathematics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ancestral.core.chain import BottomUpChain, Chain
from ancestral.core.marginal import MarginalChain
from ancestral.core.spec import DataSpec
from ancestral.models.diffusion.schedules import Schedule, posterior


@dataclass(frozen=True)
class Affine:
    """The law N(weight v + bias, covariance) of one block of variables given others, v."""

    weight: Tensor
    bias: Tensor
    covariance: Tensor

    def __call__(self, given: Tensor, *, mean: Tensor | float = 1.0, scale: Tensor | float = 1.0):
        """The law given v, (n, …); ``mean`` and ``scale`` other than 1 make it wrong by those factors."""
        loc = mean * (given @ self.weight.T + self.bias)
        return MultivariateNormal(loc, scale_tril=scale * torch.linalg.cholesky(self.covariance))


class Joint:
    """A Gaussian law over named blocks, built block by block and conditioned at will."""

    def __init__(self, name: int, mean: Tensor, covariance: Tensor) -> None:
        self.mean, self.covariance = mean, covariance
        self.blocks = {name: torch.arange(len(mean))}

    def extend(self, name: int, given: Sequence[int], law: Affine) -> Joint:
        """The same law with one more block, which ``law`` gives from the blocks ``given``."""
        where = self._where(given)
        out = Joint(name, self.mean, self.covariance)
        out.blocks = {**self.blocks, name: len(self.mean) + torch.arange(len(law.bias))}
        cross = law.weight @ self.covariance[where]
        corner = law.weight @ cross[:, where].T + law.covariance
        out.mean = torch.cat([self.mean, law.weight @ self.mean[where] + law.bias])
        out.covariance = torch.cat(
            [torch.cat([self.covariance, cross.T], dim=1), torch.cat([cross, corner], dim=1)]
        )
        return out

    def marginal(self, name: int) -> Affine:
        """The law of one block, as a function of nothing."""
        a = self.blocks[name]
        return Affine(torch.zeros(len(a), 0), self.mean[a], self.covariance[a][:, a])

    def conditional(self, name: int, given: Sequence[int]) -> Affine:
        """The law of one block given others (in the order of ``given``), by Schur complement."""
        a, b = self.blocks[name], self._where(given)
        weight = torch.linalg.solve(self.covariance[b][:, b], self.covariance[b][:, a]).T
        rest = self.covariance[a][:, a] - weight @ self.covariance[b][:, a]
        return Affine(weight, self.mean[a] - weight @ self.mean[b], 0.5 * (rest + rest.T))

    def _where(self, names: Sequence[int]) -> Tensor:
        return torch.cat([self.blocks[name] for name in names])


class _Off(Chain):
    """A chain whose q is wrong by the factors ``off_mean`` and ``off_scale``; exact where both are 1."""

    def __init__(self, T: int, dims: int, *, off_mean: float, off_scale: float) -> None:
        super().__init__(T, DataSpec((dims,)))
        self.off_mean = nn.Parameter(torch.tensor(off_mean))
        self.off_scale = nn.Parameter(torch.tensor(off_scale))

    def q(self, law: Affine, given: Tensor) -> MultivariateNormal:
        """``law``, wrong as this chain is wrong."""
        return law(given, mean=self.off_mean, scale=self.off_scale)


class TopDownGaussian(_Off):
    """p and a q drawn from the top, read off a joint law over x (block 0) and z_1 … z_T."""

    def __init__(self, joint: Joint, T: int, *, off_mean: float = 1.0, off_scale: float = 1.0) -> None:
        super().__init__(T, len(joint.blocks[0]), off_mean=off_mean, off_scale=off_scale)
        self.joint = joint

    def q_top(self, h):
        return self.q(self.joint.conditional(self.T, [0]), h)

    def q_step(self, state, h, t):
        return self.q(self.joint.conditional(t - 1, [t, 0]), torch.cat([state, h], dim=1))

    def p_top(self, n):
        return self.joint.marginal(self.T)(torch.zeros(n, 0))

    def p_step(self, state, t):
        return self.joint.conditional(t - 1, [t])(state)


class BottomUpGaussian(_Off, BottomUpChain):
    """The same p with a q drawn from the data upwards."""

    def __init__(self, joint: Joint, T: int, *, off_mean: float = 1.0, off_scale: float = 1.0) -> None:
        super().__init__(T, len(joint.blocks[0]), off_mean=off_mean, off_scale=off_scale)
        self.joint = joint

    def q_first(self, h):
        return self.q(self.joint.conditional(1, [0]), h)

    def q_up(self, z, t):
        return self.q(self.joint.conditional(t, [t - 1]), z)

    p_top, p_step = TopDownGaussian.p_top, TopDownGaussian.p_step


class NoisedGaussian(_Off, MarginalChain):
    """Gaussian data under a schedule's closed forms as q; p is the true reverse process.

    p comes from the joint law of single noising steps, q from ``schedules``: only if the two agree does
    log p(x, z) − log q(z|x) equal log p(x).
    """

    def __init__(
        self, schedule: Schedule, mean: Tensor, covariance: Tensor, *, off_mean=1.0, off_scale=1.0
    ) -> None:
        super().__init__(schedule.T, len(mean), off_mean=off_mean, off_scale=off_scale)
        self.log_alpha_bar = schedule.log_alpha_bar
        self.joint = noised(Joint(0, mean, covariance), schedule.betas, first=0)
        laws = [self.joint.conditional(t - 1, [t]) for t in range(1, self.T + 1)]
        self.weights = torch.stack([law.weight for law in laws])
        self.biases = torch.stack([law.bias for law in laws])
        self.roots = torch.linalg.cholesky(torch.stack([law.covariance for law in laws]))

    def _isotropic(self, loc: Tensor, variance: Tensor) -> MultivariateNormal:
        root = (self.off_scale * variance.sqrt())[..., None, None] * torch.eye(loc.shape[-1])
        return MultivariateNormal(self.off_mean * loc, scale_tril=root)

    def q_marginal(self, h, t):
        bar = self.log_alpha_bar[t]
        return self._isotropic((0.5 * bar).exp()[..., None] * h, -torch.expm1(bar))

    def q_top(self, h):
        return self.q_marginal(h, torch.tensor(self.T))

    def q_step(self, state, h, t):
        t = torch.as_tensor(t)
        law = posterior(self.log_alpha_bar[t - 1], self.log_alpha_bar[t])
        return self._isotropic(law.c0[..., None] * h + law.ct[..., None] * state, law.variance)

    def p_top(self, n):
        return self.joint.marginal(self.T)(torch.zeros(n, 0))

    def p_step(self, state, t):
        i = torch.as_tensor(t) - 1
        loc = (self.weights[i] @ state[..., None])[..., 0] + self.biases[i]
        return MultivariateNormal(loc, scale_tril=self.roots[i])


def noised(joint: Joint, betas: Tensor, *, first: int) -> Joint:
    """``joint`` with blocks ``first`` + 1, + 2, … by one forward step each, N( √(1 − β) v, β I )."""
    for i, beta in enumerate(betas.tolist()):
        eye = torch.eye(len(joint.blocks[first]))
        step = Affine(math.sqrt(1.0 - beta) * eye, torch.zeros(len(eye)), beta * eye)
        joint = joint.extend(first + i + 1, [first + i], step)
    return joint


def spd(dims: int, seed: int) -> Tensor:
    """A positive-definite matrix, (dims, dims), well away from diagonal and from the identity."""
    a = torch.randn(dims, dims, generator=torch.Generator().manual_seed(seed))
    return a @ a.T / dims + 0.3 * torch.eye(dims)


def randn(*shape: int, seed: int) -> Tensor:
    """Fixed normal numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """The layer v ↦ weight v + bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


def gaussian_head(weight: Tensor, bias: Tensor, sigma: Tensor) -> nn.Linear:
    """A layer whose output a family reads as N(weight v + bias, sigma²): mu, then log sigma.

    The families keep log sigma within ±7 by 7 tanh(· / 7); this undoes it.
    """
    raw = 7.0 * torch.atanh(sigma.log() / 7.0)
    return linear(torch.cat([weight, torch.zeros_like(weight)]), torch.cat([bias, raw]))
