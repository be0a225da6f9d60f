"""A learned noise schedule: end points by the bound, and what lies between by the variance of its estimate.

    γ(u) = γ_0 + (γ_1 − γ_0) s(u),   s(0) = 0,   s(1) = 1,   s′ > 0,        γ = −log SNR,  u in [0, 1]

The slope s′ is linear between its values at evenly spread knots, e^w over the sum that makes s(1) = 1: s is
rising, smooth, and starts as s(u) = u.

In continuous time the bound depends on γ_0 and γ_1 alone (Kingma et al. 2021, eq. 18): they have its
gradient, and w has none of it. Its estimate from a random u is L = γ′(u) e(γ(u)) for some e, of which w
decides the variance, that is E[L²] (ibid., section 4 and appendix I.2). With p(γ) = 1 / γ′, the density of γ
for a uniform u,

    E[L²] = ∫ E[e²] γ′² du = ∫ E[e²] / p(γ) dγ,   so   ∇_w E[L²] = −E[ L² ∇_w log p(γ) ]   at fixed γ, where
    −∇_w log p(γ) = ∇_w s′(u) / s′ − (s″ / s′²) ∇_w s(u).

So the gradient that lowers the variance needs no gradient of L: one backward pass does for all. With T levels
the bound and this gradient are those of continuous time up to terms of order 1 / T.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ancestral._internal import checks
from ancestral.models.diffusion.noising import Gamma


@dataclass(frozen=True)
class Shape:
    """s and its derivatives at some u, float64, (n,) each."""

    value: Tensor
    slope: Tensor
    curve: Tensor
    """s″."""


class LearnedSchedule(Gamma):
    """T noise levels with learned log-SNR, which starts falling evenly from ``first`` to ``last``.

    ``knots`` is the number of pieces of s′. Parameters: ``ends``, the moves of γ_0 and of log(γ_1 − γ_0) in
    units of the initial γ_1 − γ_0 and of 1; and ``log_slopes``, the w above.
    """

    def __init__(self, T: int, *, first: float = 9.0, last: float = -9.0, knots: int = 32) -> None:
        super().__init__(T, first=first, last=last)
        checks.integer("knots", knots, low=1)
        self.knots = knots
        self.ends = nn.Parameter(torch.zeros(2))
        self.log_slopes = nn.Parameter(torch.zeros(knots + 1))

    @property
    def learned(self) -> bool:
        """As ``Noising``."""
        return True

    def gamma(self, u: Tensor) -> Tensor:
        """γ at u, float64, (n,), with a gradient for the ends only."""
        move, stretch = self.ends.double()
        return self.start + self.width * (move + stretch.exp() * self.shape(u).value.detach())

    def slope(self, u: Tensor) -> Tensor:
        """dγ/du at u, float64, (n,), with a gradient for the ends only."""
        return self.width * self.ends[1].double().exp() * self.shape(u).slope.detach()

    def shape(self, u: Tensor) -> Shape:
        """s at u in [0, 1], with a gradient for ``log_slopes``."""
        knots, slopes = self.knots, self.log_slopes.double().exp()
        rises = 0.5 * (slopes[1:] + slopes[:-1]) / knots
        reached = torch.cat([torch.zeros_like(rises[:1]), rises.cumsum(0)])
        scaled = u.double() * knots
        piece = scaled.floor().long().clamp(0, knots - 1)
        r = scaled - piece
        left, turn = slopes[piece], slopes[piece + 1] - slopes[piece]
        value = reached[piece] + (left + 0.5 * r * turn) * r / knots
        total = reached[-1]
        return Shape(value / total, (left + r * turn) / total, turn * knots / total)

    def variance_loss(self, u: Tensor, squares: Tensor) -> Tensor:
        """A scalar 0 whose gradient in ``log_slopes`` is that of log E[L²].

        ``u`` and ``squares``, (n,): the places of a batch's terms, and L² of each over the density that its u
        was drawn with (0 for what is not such a term). The logarithm, so that its size is not the loss's.
        """
        s, squares = self.shape(u), squares.detach().double()
        slope, curve = s.slope.detach(), s.curve.detach()
        score = s.slope / slope - curve / slope.square() * s.value
        mean = (squares * score).sum() / squares.sum().clamp(min=torch.finfo(torch.float64).tiny)
        return mean - mean.detach()
