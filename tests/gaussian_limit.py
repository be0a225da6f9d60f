"""The bound on Gaussian data with the exact denoiser, in continuous time and of T levels, in closed form.

For u ~ N(m, C) with eigenvalues v of C, and s = e^γ = σ²/α², the squared error of the noise that is expected
along an axis for a given u, at distance d from m on it, is

    E(ε − E[ε|z])² = (v / (v + s))² + d² s / (v + s)²,     which is v / (v + s) over the data,

and its integral over γ is γ − log(v + s) + (v − d²) / (v + s). Worked out here apart from the library's own.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def terms(ends: Tensor, mean: Tensor, covariance: Tensor, u: Tensor | None = None) -> dict[str, Tensor]:
    """The expected costs between γ_0 and γ_1 = ``ends``: of each u, (n, D), or () over all data.

    p(x|z_0) has the variance σ_0².
    """
    values, vectors = torch.linalg.eigh(covariance)
    D = len(mean)
    if u is None:
        off, square = values, mean.square().sum() + values.sum()
    else:
        off, square = ((u - mean) @ vectors).square(), u.square().sum(dim=1)
    low, high = ends.exp()[:, None]
    error = ((values / (values + low)).square() + off * low / (values + low).square()).sum(dim=-1)
    width = ends[1] - ends[0] - ((values + high) / (values + low)).log()
    moved = (values - off) * (1.0 / (values + high) - 1.0 / (values + low))
    bar = torch.sigmoid(-ends)
    return {
        # û − u = −(σ/α) (ε̂ − ε), so that its square over σ² is the noise's over α².
        "reconstruction": 0.5 * D * torch.log(2.0 * math.pi * (1.0 - bar[0])) + 0.5 * error / bar[0],
        "matching": 0.5 * (width + moved).sum(dim=-1),
        "prior": 0.5 * (bar[1] * square - D * (bar[1] + torch.log1p(-bar[1]))),
    }


def cost(ends: Tensor, mean: Tensor, covariance: Tensor, u: Tensor | None = None) -> Tensor:
    """Their sum, which is −ELBO."""
    return torch.stack(list(terms(ends, mean, covariance, u).values())).sum(dim=0)


def least_second_moment(ends: Tensor, covariance: Tensor) -> float:
    """Of the matching term's estimate from one t, over all ways between the ends: (∫ √E[e²] dγ)².

    e = ½ Σ a χ² with a = v / (v + s) along the axes.
    """
    gamma = torch.linspace(float(ends[0]), float(ends[1]), 20_001)
    return float(torch.trapezoid(second_moment_at(gamma, covariance).sqrt(), gamma)) ** 2


def second_moment_at(gamma: Tensor, covariance: Tensor) -> Tensor:
    """E[e²] at each γ."""
    values = torch.linalg.eigvalsh(covariance)
    a = values / (values + gamma.exp()[:, None])
    return 0.25 * (a.sum(dim=1).square() + 2.0 * a.square().sum(dim=1))


def cost_of_levels(gamma: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """−ELBO, expected over the data, of a chain with the levels γ_1 … γ_T, (T,), and the variances β_t."""
    D, values = len(mean), torch.linalg.eigvalsh(covariance)
    bar = torch.sigmoid(-gamma)
    before = torch.cat([torch.ones(1), bar[:-1]])
    # Of u given z_t, the variance along each axis is v s / (v + s).
    s = gamma.exp()[:, None]
    remains = (values * s / (values + s)).sum(dim=1)
    beta = 1.0 - bar / before
    fit = 0.5 * before * beta / (1.0 - bar).square() * remains
    ratio = ((1.0 - before) / (1.0 - bar))[1:]
    total = 0.5 * D * torch.log(2.0 * math.pi * beta[0]) + fit.sum()
    total = total + 0.5 * D * (ratio - 1.0 - ratio.log()).sum()
    square = mean.square().sum() + values.sum()
    return float(total + 0.5 * (bar[-1] * square - D * (bar[-1] + torch.log1p(-bar[-1]))))
