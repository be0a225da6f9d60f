"""Closed-form KL divergences, (n,), in nats. A distribution lists its own in ``closed_kl``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import register_kl

from ancestral.distributions.normal import DiagonalNormal, FullNormal


@register_kl(DiagonalNormal, DiagonalNormal)
def _kl_diagonal_normal(q: DiagonalNormal, p: DiagonalNormal) -> Tensor:
    # With r = log(var_q / var_p): ½ (e^r − 1 − r + (Δμ/σ_p)²); expm1 keeps e^r − 1 − r exact near r = 0.
    log_ratio = 2.0 * (q.scale / p.scale).log()
    shift = (q.loc - p.loc) / p.scale
    return 0.5 * torch.einsum("n...->n", torch.expm1(log_ratio) - log_ratio + shift.square())


@register_kl(FullNormal, DiagonalNormal)
def _kl_full_diagonal(q: FullNormal, p: DiagonalNormal) -> Tensor:
    # In p's own units, where p is N(0, I): the diagonal as between diagonal laws, and what lies beside it.
    factor = q.factor / p.scale.movedim(1, -1).unsqueeze(-1)
    log_ratio = 2.0 * factor.diagonal(dim1=-2, dim2=-1).log()
    shift = ((q.loc - p.loc) / p.scale).movedim(1, -1)
    beside = factor.tril(-1).square().sum(dim=-1)
    return 0.5 * torch.einsum("n...->n", torch.expm1(log_ratio) - log_ratio + shift.square() + beside)
