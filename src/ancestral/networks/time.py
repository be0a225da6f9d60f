"""Networks that read a time: its sinusoidal embedding, and a residual MLP modulated by it.

A time is one number in [0, 1] per example, 0 at the data and 1 at the noise; what it means (t / T, a
noise level, …) is the caller's business.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ancestral._internal import checks
from ancestral.networks.dropout import Dropout
from ancestral.networks.mlp import zero_
from ancestral.networks.recompute import Block

TIME_SCALE = 1000.0
"""Times in [0, 1] are stretched to the 0 … 1000 the embedding's usual frequencies were chosen for."""


def sinusoids(time: Tensor, features: int, *, max_period: float = 10_000.0) -> Tensor:
    """(sin(1000 t ω_i), cos(1000 t ω_i)), ω_i = max_period^(−i / (features/2)), for i = 0 … features/2 − 1.

    ``time`` is (n,) and the result (n, features), sines first, in the dtype of ``time`` (Vaswani et al.
    2017, section 3.5, with the time of Ho et al. 2020).
    """
    half = features // 2
    index = torch.arange(half, dtype=time.dtype, device=time.device)
    angles = (TIME_SCALE * time)[:, None] * torch.exp(index * (-math.log(max_period) / half))
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeEmbedding(nn.Module):
    """Sinusoids of a time, then a two-layer MLP: (n,) to (n, features).

    The sinusoids are computed in the module's own precision, but in float32 at least and whatever
    autocast says: in half precision 1000 t would be off by whole units. ``features`` must be even.
    """

    def __init__(self, features: int, *, max_period: float = 10_000.0) -> None:
        super().__init__()
        checks.integer("features of a time embedding", features, low=2)
        checks.number("max_period", max_period, above=1.0)
        if features % 2:
            raise ValueError(
                f"features of a time embedding is {features}; it must be even, a sine and a cosine for "
                f"each frequency. Use {features + 1}."
            )
        self.features = features
        self.max_period = max_period
        self.inner = nn.Linear(features, features)
        self.outer = nn.Linear(features, features)

    def forward(self, time: Tensor) -> Tensor:
        """Embed ``time``, (n,), as (n, features)."""
        weight = self.inner.weight
        exact = time.to(torch.promote_types(weight.dtype, torch.float32))
        waves = sinusoids(exact, self.features, max_period=self.max_period).to(weight.dtype)
        out: Tensor = self.outer(F.silu(self.inner(waves)))
        return out


class _TimeBlock(Block):
    """h + W_2 dropout(silu(W_1 (LayerNorm(h) (1 + scale) + shift)))."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        # The modulation is the affine part of the norm.
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.inner = nn.Linear(width, width)
        self.dropout = Dropout(dropout)
        self.outer = nn.Linear(width, width)

    def compute(self, h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        modulated = torch.addcmul(shift, self.norm(h), 1 + scale)
        out: Tensor = self.outer(self.dropout(F.silu(self.inner(modulated))))
        return h + out


class TimeMLP(nn.Module):
    """A residual MLP of a vector and a time: z (n, features_in) and time (n,) to (n, features_out).

    ``depth`` blocks of width ``hidden``, each scaled and shifted after its LayerNorm by the embedding of
    the time (Peebles & Xie 2023, section 3.2). It starts as the constant 0.
    """

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        hidden: int,
        depth: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        checks.integer("features_in", features_in, low=1)
        checks.integer("features_out", features_out, low=1)
        checks.integer("depth", depth, low=1)
        checks.number("dropout", dropout, low=0.0, below=1.0)
        checks.integer("hidden", hidden, low=1)
        self.time = TimeEmbedding(hidden + hidden % 2)
        # One product for the scales and shifts of all blocks: on a CPU many small ones cost more.
        self.modulation = nn.Linear(self.time.features, 2 * depth * hidden)
        self.first = nn.Linear(features_in, hidden)
        self.blocks = nn.ModuleList(_TimeBlock(hidden, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.last = nn.Linear(hidden, features_out)
        zero_(self.last)

    def forward(self, z: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """The network's value, (n, features_out), for z (n, features_in) and time (n,)."""
        check_time(time, len(z))
        check_no_condition(condition)
        parts = self.modulation(F.silu(self.time(time))).chunk(2 * len(self.blocks), dim=1)
        h: Tensor = self.first(z)
        for i, block in enumerate(self.blocks):
            h = block(h, parts[2 * i], parts[2 * i + 1])
        out: Tensor = self.last(F.silu(self.norm(h)))
        return out


def check_no_condition(condition: object) -> None:
    """Raise ``ValueError`` for a condition: a network without one must not ignore it."""
    if condition is not None:
        raise ValueError(
            "a condition is given to a network that has none. Leave it out, or use a network with conditions."
        )


def check_time(time: Tensor, n: int) -> None:
    """Refuse a time that is not (n,) real numbers."""
    if time.shape != (n,) or not time.is_floating_point():
        raise ValueError(
            f"time is {tuple(time.shape)} of {time.dtype}; it must be ({n},) real numbers in [0, 1], one "
            "for each example."
        )
