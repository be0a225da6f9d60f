"""Hamiltonian Monte Carlo on all latents of a chain at once, for the laws p(z) p(x|z)^β.

Gradients are taken with respect to the latents only. (Duane et al. 1987; Neal 2011.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral.core.chain import Chain
from ancestral.core.walk import generated, log_joint

_JITTER = 0.2
"""Step sizes vary by so much, at random: a fixed number of equal steps can return to where it began."""


@dataclass(frozen=True)
class MarkovChains:
    """Where Markov chains are: k for each of n examples, one after another."""

    z: Tensor
    """All latents of a path as one row, (n · k, d)."""
    log_likelihood: Tensor
    """log p(x|z), (n · k,)."""


class Tempered:
    """log p(z) + β log p(x|z) of one batch of examples x, (n, *shape), as a function of flat latents."""

    def __init__(self, chain: Chain, x: Tensor) -> None:
        self.chain = chain
        self.x = x
        self.shapes = latent_shapes(chain)

    def draw(self, k: int) -> MarkovChains:
        """k draws of p(z) for each example."""
        with torch.no_grad():
            return self.at(prior_draw(self.chain, len(self.x) * k))

    def at(self, latents: Sequence[Tensor]) -> MarkovChains:
        """The state at given latents z_1 … z_T, (n · k, …) each."""
        flat = torch.cat([z.flatten(1) for z in latents], dim=1)
        with torch.no_grad():
            return MarkovChains(flat, log_joint(self.chain, self.x, self._split(flat))[1])

    def value(self, z: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
        """log p(z) + β log p(x|z), (m,), its gradient, (m, d), and log p(x|z), (m,)."""
        with torch.enable_grad():
            leaf = z.detach().requires_grad_(True)
            log_prior, log_likelihood = log_joint(self.chain, self.x, self._split(leaf))
            value = log_prior + beta * log_likelihood
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), gradient, log_likelihood.detach()

    def _split(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([shape.numel() for shape in self.shapes], dim=1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.shapes, strict=True)]


def transition(
    law: Tempered, state: MarkovChains, *, beta: float, step: Tensor, leapfrog: int
) -> tuple[MarkovChains, Tensor]:
    """One transition that leaves p(z) p(x|z)^β as it is; the new state, and how likely each move was.

    ``step`` is the step size of each Markov chain, (m,); it must not depend on the state. A trajectory that
    leaves what floating point can hold has density 0, and is refused like any other of density 0.
    """
    step = step * (1.0 + _JITTER * (2.0 * torch.rand_like(step) - 1.0))
    value, gradient, _ = law.value(state.z, beta)
    start = torch.randn_like(state.z)
    z, momentum = state.z, start + 0.5 * step[:, None] * gradient
    for _ in range(leapfrog):
        z = z + step[:, None] * momentum
        new_value, gradient, log_likelihood = law.value(z, beta)
        momentum = momentum + step[:, None] * gradient
    # The last kick was a whole one and should have been half.
    momentum = momentum - 0.5 * step[:, None] * gradient
    gain = new_value - value + 0.5 * (start.square() - momentum.square()).double().sum(dim=1)
    chance = gain.nan_to_num(nan=-torch.inf).exp().clamp(max=1.0)
    accepted = torch.rand_like(chance) < chance
    kept = MarkovChains(
        torch.where(accepted[:, None], z, state.z),
        torch.where(accepted, log_likelihood, state.log_likelihood),
    )
    return kept, chance


@torch.no_grad()
def prior_draw(chain: Chain, n: int) -> list[Tensor]:
    """n draws of z_1 … z_T from p, (n, …) each."""
    return generated(chain, n)[0]


def latent_shapes(chain: Chain) -> list[torch.Size]:
    """The shapes of z_1 … z_T of one example. ``ValueError`` unless they are real numbers."""
    drawn = prior_draw(chain, 1)
    for t, z in enumerate(drawn, 1):
        if not z.is_floating_point():
            raise ValueError(
                f"z_{t} of this {type(chain).__name__} is of type {z.dtype}; annealed importance sampling "
                "follows gradients and needs real latents. Use importance sampling (bound iwae)."
            )
    return [z.shape[1:] for z in drawn]


@contextlib.contextmanager
def frozen(chain: Chain) -> Iterator[None]:
    """The chain's weights without gradients meanwhile, so that no more is kept than those of z need."""
    wanted = [parameter for parameter in chain.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
