"""A U-Net: an image and a time to an image of the same size, for diffusion models (Ho et al. 2020).

Residual blocks at several resolutions, halving on the way down and doubling on the way up; each block on
the way up reads, concatenated, what its mirror image on the way down wrote. The time scales and shifts
the features in every block; self-attention relates far pixels at the small resolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ancestral._internal import checks
from ancestral.networks.attention import SelfAttention
from ancestral.networks.conv import (
    ResidualBlock,
    Upsample,
    channels_last,
    channels_last_,
    check_image,
    check_size,
    halved,
)
from ancestral.networks.mlp import zero_
from ancestral.networks.norms import group_norm, norm_silu
from ancestral.networks.time import TimeEmbedding, check_no_condition, check_time


class _Block(nn.Module):
    """A residual block modulated by the time, and self-attention after it where asked for."""

    def __init__(self, in_channels: int, out_channels: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.residual = ResidualBlock(in_channels, out_channels, dropout=dropout)
        self.attention = SelfAttention(out_channels, heads=heads) if heads else nn.Identity()

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        out: Tensor = self.attention(self.residual(x, modulation))
        return out


class UNet(nn.Module):
    """z (n, in_channels, H, W) and time (n,) to (n, out_channels, H, W). It starts as the constant 0.

    One level of ``blocks`` residual blocks, down and up, for each entry of ``channels``; each level has
    half the sides of the one before, rounded up, so any ``size`` works (28 → 14 → 7). ``attention``
    names the sides (the longer one, where they differ) of the levels with self-attention of ``heads``
    heads; the middle always has it. Channels that are multiples of 16 are fastest.

    Raises ``ValueError`` for more levels than the size can be halved, or attention where no level is.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        size: tuple[int, int],
        *,
        channels: Sequence[int],
        blocks: int = 2,
        attention: Sequence[int] = (),
        heads: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        checks.integer("in_channels", in_channels, low=1)
        checks.integer("out_channels", out_channels, low=1)
        checks.integer("blocks", blocks, low=1)
        checks.integer("heads", heads, low=1)
        checks.number("dropout", dropout, low=0.0, below=1.0)
        self.sizes = level_sizes(size, channels)
        self.shape = (in_channels, *self.sizes[0])
        self.blocks = blocks
        level_heads = [heads if at else 0 for at in attended(self.sizes, attention)]
        # One entry for each block on the way down.
        widths = [width for width in channels for _ in range(blocks)]
        heads_at = [at for at in level_heads for _ in range(blocks)]

        def block(inputs: int, outputs: int, at: int) -> _Block:
            return _Block(inputs, outputs, heads=at, dropout=dropout)

        self.time = TimeEmbedding(4 * channels[0])
        self.first = nn.Conv2d(in_channels, channels[0], 3, padding=1)
        self.down = nn.ModuleList(map(block, [channels[0], *widths[:-1]], widths, heads_at))
        self.shrink = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=2, padding=1) for width in channels[:-1]
        )
        self.middle = nn.ModuleList(block(channels[-1], channels[-1], at) for at in (heads, 0))
        self.up = nn.ModuleList(
            block(2 * w, w, at) for w, at in zip(widths[::-1], heads_at[::-1], strict=True)
        )
        self.grow = nn.ModuleList(Upsample(a, b) for a, b in pairwise(channels[::-1]))
        self.norm = group_norm(channels[0])
        self.last = nn.Conv2d(channels[0], out_channels, 3, padding=1)
        zero_(self.last)
        # One product for the scales and shifts of all blocks: on a CPU many small ones cost more.
        self.modulated = [2 * w for w in (*widths, channels[-1], channels[-1], *widths[::-1])]
        self.modulation = nn.Linear(self.time.features, sum(self.modulated))
        channels_last_(self)

    def forward(self, z: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """The network's value, (n, out_channels, H, W), for z (n, in_channels, H, W) and time (n,)."""
        check_image(z, self.shape)
        check_time(time, len(z))
        check_no_condition(condition)
        parts = iter(self.modulation(F.silu(self.time(time))).split(self.modulated, dim=1))
        h: Tensor = self.first(channels_last(z))
        skips: list[Tensor] = []
        for i, block in enumerate(self.down):
            level, place = divmod(i, self.blocks)
            if level and not place:
                h = self.shrink[level - 1](h)
            h = block(h, next(parts))
            skips.append(h)
        for block in self.middle:
            h = block(h, next(parts))
        for i, block in enumerate(self.up):
            level, place = divmod(i, self.blocks)
            if level and not place:
                h = self.grow[level - 1](h, self.sizes[-1 - level])
            h = block(torch.cat([h, skips.pop()], dim=1), next(parts))
        out: Tensor = self.last(norm_silu(self.norm, h))
        return out


def level_sizes(size: tuple[int, int], channels: Sequence[int]) -> list[tuple[int, int]]:
    """The size at each level, halved and rounded up from one to the next.

    Raises ``ValueError`` for no level, and for a level that would halve a side of 1.
    """
    check_size(size)
    if not channels:
        raise ValueError("channels is empty; give one number for each level, such as (32, 64).")
    for width in channels:
        checks.integer("an entry of channels", width, low=1)
    sizes = [(size[0], size[1])]
    while len(sizes) < len(channels) and min(sizes[-1]) > 1:
        sizes.append(halved(sizes[-1]))
    if len(sizes) < len(channels):
        raise ValueError(
            f"channels has {len(channels)} levels at size {size[0]}×{size[1]}; its shorter side can be "
            f"halved {len(sizes) - 1} times, so give at most {len(sizes)} levels."
        )
    return sizes


def attended(sizes: Sequence[tuple[int, int]], attention: Sequence[int]) -> list[bool]:
    """Whether each level has attention, given the sides named in ``attention``."""
    sides = [max(size) for size in sizes]
    for side in attention:
        if side not in sides:
            raise ValueError(
                f"attention names the side {side}, which no level has; the levels' sides are "
                f"{', '.join(map(str, sides))}. Name some of these, or none."
            )
    return [side in attention for side in sides]
