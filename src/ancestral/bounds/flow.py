"""The density that an ODE carries from noise to z_1, by an adaptive solver and the trace of its Jacobian.

Along dz/dλ = F(z, λ), from level 1 to level T, a density changes by the divergence of F (Song et al. 2021,
eq. 39):

    log p_ODE(z_1) = log p(z_T) + ∫_{λ_1}^{λ_T} tr ∂F/∂z dλ

The integral is an adaptive solver's (Dormand–Prince of order 5, from ``torchdiffeq``), within its tolerances.
The trace is exact for few dimensions, else Hutchinson's E[vᵀ (∂F/∂z) v] with entries of v = ±1, drawn once
for a solution: each v gives an unbiased estimate of the integral, and their spread its error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution

from ancestral._internal import checks
from ancestral.bounds.pieces import Done

TRACES = ("auto", "exact", "hutchinson")
EXACT_DIMS = 20
"""Up to so many dimensions the trace is exact by default, at one backward pass for each."""


class OdeField(Protocol):
    """An ODE in λ, one number that falls from ``start`` at level 1 to ``end`` at level T."""

    start: float
    end: float

    def __call__(self, z: Tensor, log_snr: Tensor, /) -> Tensor:
        """dz/dλ at z, (n, …)."""


@dataclass(frozen=True)
class Solver:
    """How the ODE is solved: each image's local error is at most atol + rtol · |value|, root mean square."""

    rtol: float = 1e-4
    atol: float = 1e-4
    trace: str = "auto"
    """exact, hutchinson, or auto: exact for at most 20 dimensions."""
    probes: int = 4
    """Of Hutchinson's estimate, for each image and solution."""

    def __post_init__(self) -> None:
        checks.number("rtol", self.rtol, above=0.0)
        checks.number("atol", self.atol, above=0.0)
        checks.one_of("trace", self.trace, TRACES)
        checks.integer("probes", self.probes, low=1)

    def exact(self, dims: int) -> bool:
        """Whether the trace of so many dimensions is taken exactly."""
        return self.trace == "exact" or (self.trace == "auto" and dims <= EXACT_DIMS)


@dataclass(frozen=True)
class Density:
    """log p_ODE of n points."""

    by_probe: Tensor
    """Nats, (n, probes): independent unbiased estimates, but for the solver's error; (n, 1) where exact."""
    evaluations: int
    """How often the solver asked for F."""

    @property
    def mean(self) -> Tensor:
        """(n,)."""
        return self.by_probe.mean(dim=1)

    @property
    def variance(self) -> Tensor | None:
        """Of ``mean``, from the probes, (n,); None for one probe or an exact trace."""
        m = self.by_probe.shape[1]
        return self.by_probe.var(dim=1) / m if m > 1 else None


@torch.no_grad()
def log_density(
    flow: OdeField,
    z: Tensor,
    top: Distribution,
    *,
    solver: Solver = Solver(),
    done: Done = lambda share: None,
) -> Density:
    """log p_ODE at z, (n, …), points at level 1, where ``top`` is p(z_T).

    ``done`` is told the share of the way from level 1 to T.
    """
    odeint = needs_torchdiffeq()
    exact = solver.exact(z[0].numel())
    moving = _Moving(flow, _basis(z) if exact else _signs(z, solver.probes), summed=exact, done=done)
    ends = torch.tensor([flow.start, flow.end], dtype=z.dtype, device=z.device)
    begin = (z, z.new_zeros(len(z), 1 if exact else solver.probes))
    states, gains = odeint(
        moving,
        begin,
        ends,
        rtol=solver.rtol,
        atol=solver.atol,
        method="dopri5",
        options={"norm": _worst_image},
    )
    return Density(top.log_prob(states[-1])[:, None] + gains[-1], moving.evaluations)


class _Moving:
    """(z, gain of log density) as they move: F, and the trace of its Jacobian as each probe sees it."""

    def __init__(self, flow: OdeField, probes: Tensor, *, summed: bool, done: Done) -> None:
        self.flow, self.probes, self.summed, self.done = flow, probes, summed, done
        self.evaluations = 0
        self.furthest = 0.0

    def __call__(self, log_snr: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        self.evaluations += 1
        with torch.enable_grad():
            z = state[0].detach().requires_grad_()
            moved = self.flow(z, log_snr)
            traces = [
                (torch.autograd.grad(moved, z, v, retain_graph=True)[0] * v).flatten(1).sum(dim=1)
                for v in self.probes
            ]
        trace = torch.stack(traces, dim=1)
        # A step that is tried again is behind what was seen before.
        way = (float(log_snr) - self.flow.start) / (self.flow.end - self.flow.start)
        self.furthest = max(self.furthest, min(way, 1.0))
        self.done(self.furthest)
        return moved.detach(), trace.sum(dim=1, keepdim=True) if self.summed else trace


def _basis(z: Tensor) -> Tensor:
    """(D, n, …): the unit vectors, for each example."""
    D = z[0].numel()
    eye = torch.eye(D, dtype=z.dtype, device=z.device).reshape(D, 1, *z.shape[1:])
    return eye.expand(D, *z.shape)


def _signs(z: Tensor, probes: int) -> Tensor:
    """(probes, n, …) independent signs."""
    return torch.randint(0, 2, (probes, *z.shape), device=z.device).to(z.dtype) * 2.0 - 1.0


def _worst_image(state: tuple[Tensor, Tensor]) -> Tensor:
    """The root mean square over an image's numbers, of the worst image: none hides among the others."""
    z, gain = state
    return torch.maximum(z.flatten(1).square().mean(dim=1).max().sqrt(), gain.abs().max())


def needs_torchdiffeq() -> Callable[..., tuple[Tensor, Tensor]]:
    """Its ``odeint``; ``ValueError`` says what to install where it is missing."""
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise ValueError(
            "the likelihood of an ODE needs torchdiffeq, which is not installed. Install it: "
            "pip install 'ancestral[ode]'."
        ) from error
    solve: Callable[..., tuple[Tensor, Tensor]] = odeint
    return solve
