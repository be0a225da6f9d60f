"""q(z|x) against the true p(z|x) where z is two numbers: on a grid, as figures and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral._internal.randomness import own_randomness, reseed
from ancestral.core import entrance, walk
from ancestral.core.chain import Chain
from ancestral.core.features import repeat_features
from ancestral.evaluation.loop import evaluation_mode
from ancestral.evaluation.pictures import save_figure

CELLS = 161
"""Points of a grid along each axis."""
_LOOKS = ((129, 60.0), (129, 25.0))
"""How the part of the plane to show is found: points along each axis, and how many nats below the highest
density of q or p is left out. A narrow law's slopes are seen from further away than its top."""
_START = 6.0
"""The first look reaches this many standard deviations of the prior, and as far as q's draws."""
_AT_ONCE = 8192
_SHARES = (0.5, 0.9, 0.99)
"""Of q's mass, within its contours."""


@dataclass(frozen=True)
class PosteriorGrid:
    """One example's log p(x, z) and log q(z|x) at the points of a grid."""

    axes: tuple[Tensor, Tensor]
    """The values of z's two entries, (cells,) each."""
    log_joint: Tensor
    """log p(x, z), (cells, cells), nats; the first entry of z along the rows."""
    log_q: Tensor
    """log q(z|x), likewise."""

    @property
    def log_likelihood(self) -> float:
        """log p(x) by quadrature, nats."""
        return float(torch.logsumexp(self.log_joint.flatten(), 0) + self._cell.log())

    @property
    def gap(self) -> float:
        """KL(q(z|x) ‖ p(z|x)) = log p(x) − ELBO by quadrature, nats."""
        q = self.log_q.exp()
        ratio = torch.where(q > 0, self.log_q - self.log_joint, 0.0)
        return float((q * ratio).sum() / q.sum()) + self.log_likelihood

    @property
    def share(self) -> float:
        """How much of q the grid holds; 1 where the figures are to be trusted."""
        return float(self.log_q.exp().sum() * self._cell)

    @property
    def _cell(self) -> Tensor:
        return (self.axes[0][1] - self.axes[0][0]) * (self.axes[1][1] - self.axes[1][0])

    def json(self) -> dict[str, float]:
        """As in the commands' JSON, in nats."""
        likelihood, gap = self.log_likelihood, self.gap
        return {"log_likelihood": likelihood, "elbo": likelihood - gap, "gap": gap}


def check_two_latents(chain: Chain) -> None:
    """Refuse a chain whose latents are not two numbers in all."""
    shape = tuple(chain.p_top(1).event_shape)
    if chain.T != 1 or shape != (2,):
        raise ValueError(
            "a picture of posteriors is for a vae of two latent numbers, and this is a "
            f"{type(chain).__name__} of {chain.T} level(s), the top one of shape {shape}. Train with "
            "--model.latent-dims 2."
        )


@torch.no_grad()
def posterior_grids(chain: Chain, x: entrance.Given, *, cells: int = CELLS) -> list[PosteriorGrid]:
    """q(z|x) and p(x, z) of each example of x, (n, *shape), on a grid that holds both of them.

    Densities are computed as the chain computes them, and summed in float64. Raises ``ValueError`` for a
    chain whose latents are not two numbers.
    """
    check_two_latents(chain)
    checks.integer("cells", cells, low=9)
    x = entrance.entered(chain, x)
    device = next(chain.parameters()).device
    with evaluation_mode(chain), own_randomness(device):
        reseed(device, 0)
        return [_grid(chain, one.to(device), cells) for one in x.split(1)]


def _grid(chain: Chain, x: Tensor, cells: int) -> PosteriorGrid:
    drawn = chain.q_top(repeat_features(chain.features(x), 64)).sample().double()
    low, high = drawn.amin(0).clamp(max=-_START), drawn.amax(0).clamp(min=_START)
    for points, depth in _LOOKS:
        low, high = _narrowed(_looked_at(chain, x, low, high, points), depth)
    return _looked_at(chain, x, low, high, cells)


def _looked_at(chain: Chain, x: Tensor, low: Tensor, high: Tensor, cells: int) -> PosteriorGrid:
    """Both laws between two corners, (2,) each."""
    steps = torch.linspace(0.0, 1.0, cells, dtype=low.dtype, device=low.device)
    first, second = low[0] + (high - low)[0] * steps, low[1] + (high - low)[1] * steps
    like = next(chain.parameters())
    joint, of_q = [], []
    for z in torch.cartesian_prod(first, second).to(like).split(_AT_ONCE):
        of_q.append(chain.q_top(repeat_features(chain.features(x), len(z))).log_prob(z))
        log_prior, log_likelihood = walk.log_joint(chain, x, [z])
        joint.append(log_prior + log_likelihood)
    log_joint, log_q = (torch.cat(parts).double().cpu().reshape(cells, cells) for parts in (joint, of_q))
    return PosteriorGrid((first.cpu(), second.cpu()), log_joint, log_q)


def _narrowed(grid: PosteriorGrid, depth: float) -> tuple[Tensor, Tensor]:
    """The corners of the part in which q or p is at most ``depth`` nats below its highest density."""
    kept = (grid.log_joint > grid.log_joint.max() - depth) | (grid.log_q > grid.log_q.max() - depth)
    low, high = [], []
    for axis, values in enumerate(grid.axes):
        inside = kept.any(dim=1 - axis).nonzero().flatten()
        low.append(values[max(int(inside[0]) - 1, 0)])
        high.append(values[min(int(inside[-1]) + 1, len(values) - 1)])
    return torch.stack(low), torch.stack(high)


def save_posteriors(path: Path, rows: Mapping[str, Sequence[PosteriorGrid]]) -> None:
    """Write a PNG: a row of panels per name, a column per example; p(z|x) shaded, q(z|x) in contours.

    The contours hold 50, 90 and 99 % of q. A column's panels show the same part of the plane.
    """
    from matplotlib.figure import Figure

    columns = max(len(grids) for grids in rows.values())
    figure = Figure(figsize=(2.6 * columns + 0.4, 2.7 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, grids) in zip(panels, rows.items(), strict=True):
        for column, (axes, grid) in enumerate(zip(line, grids, strict=False)):
            _draw(axes, grid)
            shown = [_shown(row[column]) for row in rows.values()]
            axes.set_xlim(min(s[0][0] for s in shown), max(s[0][1] for s in shown))
            axes.set_ylim(min(s[1][0] for s in shown), max(s[1][1] for s in shown))
        line[0].set_ylabel(name)
    save_figure(path, figure)


def _draw(axes: Any, grid: PosteriorGrid) -> None:
    first, second = (values.numpy() for values in grid.axes)
    p, q = (grid.log_joint - grid.log_joint.max()).exp(), (grid.log_q - grid.log_q.max()).exp()
    axes.pcolormesh(first, second, p.T.numpy(), cmap="Blues", shading="nearest", rasterized=True)
    levels = sorted({_threshold(q, share) for share in _SHARES})
    axes.contour(first, second, q.T.numpy(), levels=levels, colors="tab:red", linewidths=1.0)
    axes.set_title(f"gap {grid.gap:.3f} nats", fontsize=9)
    axes.tick_params(labelsize=7)


def _threshold(density: Tensor, share: float) -> float:
    """The density above which this share of the mass lies."""
    falling = density.flatten().sort(descending=True).values
    held = falling.cumsum(0) / falling.sum()
    return float(falling[int((held < share).sum().clamp(max=len(held) - 1))])


def _shown(grid: PosteriorGrid) -> list[tuple[float, float]]:
    """The least and the greatest value of each entry of z where q or p has nearly all of its mass."""
    limits = []
    for axis, values in enumerate(grid.axes):
        inside = torch.zeros(len(values), dtype=torch.bool)
        for log_density in (grid.log_joint, grid.log_q):
            density = (log_density - log_density.max()).exp()
            inside |= (density >= _threshold(density, 0.995)).any(dim=1 - axis)
        kept = values[inside]
        limits.append((float(kept[0]), float(kept[-1])))
    return limits
