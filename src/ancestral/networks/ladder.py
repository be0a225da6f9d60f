"""Blocks of a ladder: a bottom-up pass that leaves features at each level, and a top-down stream.

Sizes are per level, the level nearest the data first. For images a stream is (n, width, H, W); for
vectors it is (n, width), and the same blocks are made of linear layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, cat, nn
from torch.nn import functional as F

from ancestral.networks.conv import channels_last, channels_last_, halved
from ancestral.networks.dropout import Dropout
from ancestral.networks.norms import group_norm, norm_silu
from ancestral.networks.recompute import Block

Size = tuple[int, int]
VECTOR: Size = (1, 1)
"""The size of a level without spatial extent; its blocks are linear layers."""


def level_sizes(size: Size, levels: int, *, per_size: Sequence[int] | None = None) -> list[Size]:
    """Sizes of ``levels`` latent levels for images of ``size``, the one nearest the data first.

    The first level is half the image's size; further ones are halved while a side is above 2, spread
    over the levels so that each size carries about as many. ``per_size`` says instead how many there are
    at the image's own size, at half of it, at a quarter, …; it may go down to 1×1.
    """
    if per_size is not None:
        return _counted(size, per_size)
    sizes = [halved(size)]
    while min(sizes[-1]) > 2:
        sizes.append(halved(sizes[-1]))
    return [sizes[level * len(sizes) // levels if levels > len(sizes) else level] for level in range(levels)]


def _counted(size: Size, per_size: Sequence[int]) -> list[Size]:
    sizes: list[Size] = []
    here = size
    for place, count in enumerate(per_size):
        sizes += [here] * count
        if max(here) == 1 and any(per_size[place + 1 :]):
            raise ValueError(
                f"levels_per_size is {tuple(per_size)}, and images of {size[0]}×{size[1]} are a single pixel "
                f"after {place} halvings; give at most {place + 1} numbers."
            )
        here = halved(here)
    return sizes


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
        self.dropout = Dropout(dropout)
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


def laid_out(stream: Tensor, dtype: torch.dtype) -> Tensor:
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
            while here != previous:
                layers += [nn.SiLU(), mix(width, width, spatial=spatial, stride=2)]
                previous = halved(previous)
            layers += [Residual(width, spatial=spatial, dropout=dropout) for _ in range(blocks)]
            self.levels.append(nn.Sequential(*layers))
        channels_last_(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(n, channels, …) → a list of (n, width, …), one for each level."""
        u = self.entry(channels_last(x) if x.dim() == 4 else x)
        features = []
        for level in self.levels:
            u = level(u)
            features.append(u)
        return features


class PosteriorNetwork(nn.Module):
    """Features and stream of a level → how q departs from p there, (n, outputs, …); 0 at the start."""

    def __init__(self, width: int, outputs: int, *, spatial: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.join = mix(2 * width, width, spatial=spatial, kernel=1)
        self.block = Residual(width, spatial=spatial, dropout=dropout)
        self.out = zero(mix(width, outputs, spatial=spatial, kernel=1))
        channels_last_(self)

    def forward(self, stream: Tensor, features: Tensor) -> Tensor:
        """Two (n, width, …) → (n, outputs, …)."""
        joined = self.join(cat([laid_out(stream, features.dtype), features], dim=1))
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
        u = laid_out(stream, entered.dtype) + entered
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


@dataclass(frozen=True)
class Parts:
    """The networks of a ladder, the level nearest the data first."""

    bottom_up: nn.Module
    head: nn.Module
    posteriors: list[nn.Module]
    top_downs: list[nn.Module]
    priors: list[nn.Module]
    """For all levels but the top one."""
    start: Tensor
    """The stream above the top level, where its learning starts: (width, …)."""
    latent_shapes: list[tuple[int, ...]]


def basic_parts(
    channels: int,
    outputs: int,
    *,
    size: Size,
    sizes: Sequence[Size],
    latents: Sequence[int],
    width: int,
    said: Sequence[int] | None = None,
    blocks: int = 1,
    dropout: float = 0.0,
) -> Parts:
    """All parts of a ladder made of the blocks above, ending in ``outputs`` numbers an entry.

    ``sizes`` are those of the levels and ``latents`` the channels (or numbers) of z_1 … z_T, of which the
    posteriors say ``said`` numbers each, by default twice as many; levels of size ``VECTOR`` are vectors.
    """
    said = [2 * latent for latent in latents] if said is None else said
    spatial = size != VECTOR

    def shape(features: int, here: Size) -> tuple[int, ...]:
        return (features, *here) if spatial else (features,)

    return Parts(
        BottomUp(channels, width, size=size, sizes=sizes, spatial=spatial, blocks=blocks, dropout=dropout),
        Head(width, outputs, spatial=spatial, kernel=3),
        posteriors=[PosteriorNetwork(width, outputs, spatial=spatial, dropout=dropout) for outputs in said],
        top_downs=[
            TopDown(width, latent, spatial=spatial, size_below=below, blocks=blocks, dropout=dropout)
            for latent, below in zip(latents, [size, *sizes[:-1]], strict=True)
        ],
        priors=[Head(width, 2 * latent, spatial=spatial) for latent in latents[:-1]],
        start=torch.zeros(shape(width, sizes[-1])),
        latent_shapes=[shape(latent, here) for latent, here in zip(latents, sizes, strict=True)],
    )
