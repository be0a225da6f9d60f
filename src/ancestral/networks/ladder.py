"""Blocks of a ladder: a bottom-up pass that leaves features at each level, and a top-down stream.

Sizes are per level, the level nearest the data first. For images a stream is (n, width, H, W); for
vectors it is (n, width), and the same blocks are made of linear layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, cat, nn
from torch.nn import functional as F

from ancestral.networks.conv import channels_last, channels_last_, halved
from ancestral.networks.norms import group_norm, norm_silu
from ancestral.networks.recompute import Block

Size = tuple[int, int]
VECTOR: Size = (1, 1)
"""The size of a level without spatial extent; its blocks are linear layers."""


def level_sizes(size: Size, levels: int) -> list[Size]:
    """Sizes of ``levels`` latent levels for images of ``size``, the one nearest the data first.

    The first level is half the image's size; further ones are halved while a side is above 2, spread
    over the levels so that each size carries about as many.
    """
    sizes = [halved(size)]
    while min(sizes[-1]) > 2:
        sizes.append(halved(sizes[-1]))
    return [sizes[level * len(sizes) // levels if levels > len(sizes) else level] for level in range(levels)]


def mix(width_in: int, width_out: int, *, spatial: bool, kernel: int = 3, stride: int = 1) -> nn.Module:
    """A convolution for images, a linear layer for vectors."""
    if not spatial:
        return nn.Linear(width_in, width_out)
    return nn.Conv2d(width_in, width_out, kernel, stride=stride, padding=kernel // 2)


class Residual(Block):
    """u + second(silu(first(silu(norm(u))))), with the second layer zero at the start."""

    def __init__(self, width: int, *, spatial: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = group_norm(width) if spatial else nn.LayerNorm(width)
        self.first = mix(width, width, spatial=spatial)
        self.second = mix(width, width, spatial=spatial)
        self.dropout = nn.Dropout(dropout)
        zero(self.second)
        channels_last_(self)

    def compute(self, u: Tensor) -> Tensor:
        """(n, width, …) → (n, width, …)."""
        norm = self.norm
        v = self.first(norm_silu(norm, u) if isinstance(norm, nn.GroupNorm) else F.silu(norm(u)))
        out: Tensor = u + self.second(self.dropout(F.silu(v)))
        return out


def zero(layer: nn.Module) -> nn.Module:
    """The layer with all its parameters set to 0, so that its block starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _laid_out(stream: Tensor, dtype: torch.dtype) -> Tensor:
    """A stream in the memory order and precision of its surroundings.

    The top one, which is a parameter, has neither, and each further one has what the one above had.
    """
    return (channels_last(stream) if stream.dim() == 4 else stream).to(dtype)


class BottomUp(nn.Module):
    """The deterministic pass x → features of every level, nearest the data first."""

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        size: Size,
        sizes: Sequence[Size],
        spatial: bool,
        blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.entry = mix(channels, width, spatial=spatial)
        self.levels = nn.ModuleList()
        previous = size
        for here in sizes:
            layers: list[nn.Module] = []
            if here != previous:
                layers += [nn.SiLU(), mix(width, width, spatial=spatial, stride=2)]
            layers += [Residual(width, spatial=spatial, dropout=dropout) for _ in range(blocks)]
            self.levels.append(nn.Sequential(*layers))
            previous = here
        channels_last_(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(n, channels, …) → a list of (n, width, …), one for each level."""
        u = self.entry(channels_last(x) if x.dim() == 4 else x)
        features = []
        for level in self.levels:
            u = level(u)
            features.append(u)
        return features


class Posterior(nn.Module):
    """Features and stream of a level → how q departs from p there, (n, outputs, …); 0 at the start."""

    def __init__(self, width: int, outputs: int, *, spatial: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.join = mix(2 * width, width, spatial=spatial, kernel=1)
        self.block = Residual(width, spatial=spatial, dropout=dropout)
        self.out = zero(mix(width, outputs, spatial=spatial, kernel=1))
        channels_last_(self)

    def forward(self, stream: Tensor, features: Tensor) -> Tensor:
        """Two (n, width, …) → (n, outputs, …)."""
        joined = self.join(cat([_laid_out(stream, features.dtype), features], dim=1))
        out: Tensor = self.out(F.silu(self.block(joined)))
        return out


class TopDown(nn.Module):
    """One level of generation: takes z in, moves the stream to the size of the level below."""

    def __init__(
        self,
        width: int,
        latent: int,
        *,
        spatial: bool,
        size_below: Size,
        blocks: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.entry = mix(latent, width, spatial=spatial, kernel=1)
        self.size_below = size_below if spatial else None
        self.blocks = nn.Sequential(
            *(Residual(width, spatial=spatial, dropout=dropout) for _ in range(blocks))
        )
        channels_last_(self)

    def forward(self, stream: Tensor, z: Tensor) -> Tensor:
        """(n, width, …) and (n, latent, …) → (n, width, …) at the size of the level below."""
        entered = self.entry(channels_last(z) if z.dim() == 4 else z)
        u = _laid_out(stream, entered.dtype) + entered
        if self.size_below is not None and tuple(u.shape[-2:]) != self.size_below:
            u = F.interpolate(u, size=self.size_below, mode="nearest")
        out: Tensor = self.blocks(u)
        return out


class Head(nn.Module):
    """The stream → parameters of a law, (n, outputs, …); ``start_at_zero`` makes it 0 at the start."""

    def __init__(
        self, width: int, outputs: int, *, spatial: bool, kernel: int = 1, start_at_zero: bool = True
    ) -> None:
        super().__init__()
        self.out = mix(width, outputs, spatial=spatial, kernel=kernel)
        if start_at_zero:
            zero(self.out)
        channels_last_(self)

    def forward(self, stream: Tensor) -> Tensor:
        """(n, width, …) → (n, outputs, …)."""
        out: Tensor = self.out(F.silu(stream))
        return out
