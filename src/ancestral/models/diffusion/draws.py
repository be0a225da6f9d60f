"""Which levels the examples of a batch are trained at, and what their terms are weighed by for it.

The levels above the first are N cells of equal width on [0, 1]. A place there is drawn for each example,

* "uniform": by itself;
* "even": the places of a batch evenly spread from one random offset, so that their average varies less
  (Kingma et al. 2021, appendix I.1);
* "importance": even in the distribution function of p_i ∝ √E[L_i²], L_i being the loss at cell i, which
  makes the variance of L_i / p_i least (Nichol & Dhariwal 2021, section 3.3), mixed with a tenth of the
  uniform law.

Terms are divided by the density of their place, so that each of the three is unbiased.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ancestral._internal import checks

SAMPLINGS = ("uniform", "even", "importance")
BINS = 100
"""Neighbouring cells share their history, in this many bins: a thousand levels would be seen too seldom."""
KEPT = 0.99
"""What is left of the history after a batch: it is of about the last hundred."""
UNIFORM = 0.1
"""The share of the uniform law, which bounds weights by 10."""


@dataclass(frozen=True)
class LevelDraw:
    """The levels of a batch."""

    first: Tensor
    """Whether an example is at the first level, which has no cell, (n,)."""
    cell: Tensor
    """The cell of each of the others, whole numbers in 0 … N − 1, (n,); 0 at the first level."""
    place: Tensor
    """Where in [0, 1] that is, (n,)."""
    weight: Tensor | None
    """1 / (N p), (n,), of mean 1 over the others; None where all are 1."""

    def weighed(self, costs: Tensor) -> Tensor:
        """Costs (n,) over the density they were drawn with, and 0 at the first level."""
        zero = torch.zeros_like(costs)
        return torch.where(self.first, zero, costs if self.weight is None else costs * self.weight.to(costs))


class LevelDraws(nn.Module):
    """Draws levels for training. For "importance" it keeps the loss's history, in buffers that are saved.

    ``cells`` is N, the number of levels above the first (at least 1).
    """

    squares: Tensor
    counts: Tensor

    def __init__(self, sampling: str, cells: int) -> None:
        super().__init__()
        checks.one_of("sampling", sampling, SAMPLINGS)
        self.sampling = sampling
        self.cells = cells
        if sampling == "importance":
            for name in ("squares", "counts"):
                self.register_buffer(name, torch.zeros(min(cells, BINS), dtype=torch.float64))

    def forward(self, n: int, *, first: float, device: torch.device) -> LevelDraw:
        """n levels: the first one with probability ``first``, each of the others from the law described."""
        if self.sampling == "uniform":
            spread = torch.rand(n, device=device)
        else:
            spread = (torch.arange(n, device=device) / n + torch.rand((), device=device)) % 1.0
        at_first = spread < first
        # With no level but the first there is no place left.
        place = ((spread - first) / (1.0 - first) if first < 1.0 else torch.zeros_like(spread)).clamp(min=0.0)
        if self.sampling != "importance":
            cell = (place * self.cells).floor().long().clamp(max=self.cells - 1)
            return LevelDraw(at_first, cell, place, None)
        p = self.probabilities()
        edges = p.cumsum(0)
        cell = torch.searchsorted(edges, place.to(p.dtype), right=True).clamp(max=self.cells - 1)
        within = ((place - (edges - p)[cell]) / p[cell]).clamp(0.0, 1.0)
        return LevelDraw(at_first, cell, (cell + within) / self.cells, 1.0 / (self.cells * p[cell]))

    def probabilities(self) -> Tensor:
        """p of each cell, (N,), float64; uniform until something was observed."""
        seen = self.counts > 0
        size = (self.squares / self.counts.where(seen, 1.0)).sqrt()
        # Where nothing was seen yet it may be as large as anywhere.
        size = size.where(seen, size.max()) + torch.finfo(size.dtype).tiny
        size = size[self._bins(torch.arange(self.cells, device=size.device))]
        return (1.0 - UNIFORM) * size / size.sum() + UNIFORM / self.cells

    def seen(self, draw: LevelDraw, costs: Tensor) -> dict[str, Tensor]:
        """What ``observe`` is to be given of a batch with these losses, (n,) and not weighed."""
        if self.sampling != "importance":
            return {}
        return {"bin": self._bins(draw.cell), "counted": ~draw.first, "cost": costs.detach()}

    @torch.no_grad()
    def observe(self, seen: dict[str, Tensor]) -> None:
        """Keep the losses of a batch, as what the next draws go by."""
        counted = seen["counted"].to(self.squares.dtype)
        squares = counted * seen["cost"].to(self.squares.dtype).square()
        self.squares.mul_(KEPT).index_add_(0, seen["bin"], squares)
        self.counts.mul_(KEPT).index_add_(0, seen["bin"], counted)

    def _bins(self, cells: Tensor) -> Tensor:
        return cells * min(self.cells, BINS) // self.cells
