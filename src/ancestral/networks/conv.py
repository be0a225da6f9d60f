"""Convolutional networks without a time: an encoder, a decoder, and the blocks they share with the U-Net.

All of them keep images in channels-last memory, which is what CPU convolutions are fastest in: inputs
are put there once, at the entrance, and every layer hands it on. The norms are over groups of channels
of one example, never over a batch, so an example's output depends on that example alone.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ancestral._internal import checks
from ancestral.networks.dropout import Dropout
from ancestral.networks.mlp import zero_
from ancestral.networks.norms import group_norm, norm_silu
from ancestral.networks.recompute import Block

_SMALLEST_SIDE = 4


def channels_last_(module: nn.Module) -> None:
    """Put the weights of all convolutions in channels-last memory, where the images are."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def channels_last(x: Tensor) -> Tensor:
    """The images x, (n, C, H, W), in channels-last memory, without a copy where they are in it already."""
    if x.shape[1] == 1:
        # With one channel both orders are the same memory, and a convolution takes it for channels-first
        # and hands that on, unless the strides say otherwise.
        return x.contiguous().view(len(x), *x.shape[2:], 1).permute(0, 3, 1, 2)
    return x.contiguous(memory_format=torch.channels_last)


def halved(size: tuple[int, int]) -> tuple[int, int]:
    """The size after a convolution of stride 2: half of each side, rounded up."""
    return (size[0] + 1) // 2, (size[1] + 1) // 2


def check_size(size: tuple[int, int]) -> None:
    """Refuse an image size that is not two sides of at least 2."""
    if len(size) != 2:
        raise ValueError(f"size is {size!r}; it must be two whole numbers, (height, width).")
    for name, side in zip(("height", "width"), size, strict=True):
        checks.integer(f"the {name} of an image", side, low=1)
    if min(size) < 2:
        raise ValueError(
            f"images are {size[0]}×{size[1]}, and this network requires sides of at least 2. Use network mlp "
            f"(vae, hvae), or store the data as vectors: floats of shape (N, {size[0] * size[1]})."
        )


def check_image(x: Tensor, shape: tuple[int, int, int]) -> None:
    """Refuse images that are not (n, *shape)."""
    if x.dim() != 4 or x.shape[1:] != shape:
        raise ValueError(
            f"images are {tuple(x.shape)}; this network was built for (n, {', '.join(map(str, shape))})."
        )


class Pointwise(nn.Linear):
    """A 1×1 convolution, (n, in_channels, H, W) to (n, out_channels, H, W), as the matrix product it is.

    In channels-last memory the pixels are the rows of a matrix. On a CPU the convolution's kernels take two
    to four times as long, the more so backward.
    """

    def forward(self, x: Tensor) -> Tensor:
        """The image whose every pixel is W x + b."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ResidualBlock(Block):
    """shortcut(x) + conv_2(dropout(silu(norm_2(conv_1(silu(norm_1(x)))) (1 + scale) + shift))), 3×3 each.

    scale and shift are one number per example and channel, or both 0. conv_2 starts at zero, so the block
    starts as its shortcut (Ho et al. 2020, appendix B; the scale is Dhariwal & Nichol 2021, section 3.1).
    """

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels)
        self.dropout = Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        zero_(self.conv2)
        self.shortcut = nn.Identity() if in_channels == out_channels else Pointwise(in_channels, out_channels)

    def compute(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """(n, in_channels, H, W) to (n, out_channels, H, W).

        ``modulation`` is (n, 2 · out_channels): the scales, then the shifts.
        """
        h = norm_silu(self.norm2, self.conv1(norm_silu(self.norm1, x)), modulation)
        h = self.conv2(self.dropout(h))
        out: Tensor = h + self.shortcut(x)
        return out


class Upsample(nn.Module):
    """Every pixel doubled in both directions, then a 3×3 convolution, then cropped to the size asked for.

    Computed as one transposed convolution of stride 2: a doubled pixel meets a 3×3 kernel as a 4×4 one
    whose rows and columns are (k_0, k_0 + k_1, k_1 + k_2, k_2). That is exactly the same linear map for
    4/9 of the multiplications, and the doubled image is never written down.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(n, in_channels, h, w) to (n, out_channels, *size), where ``halved(size)`` is (h, w)."""
        assert halved(size) == tuple(x.shape[-2:]), (size, x.shape)
        # A transposed convolution reads its kernel from the far end.
        kernel = self.conv.weight.transpose(0, 1).flip(2, 3)
        kernel = F.pad(kernel, (0, 1)) + F.pad(kernel, (1, 0))
        kernel = F.pad(kernel, (0, 0, 0, 1)) + F.pad(kernel, (0, 0, 1, 0))
        out = F.conv_transpose2d(x, kernel, self.conv.bias, stride=2, padding=1)
        if out.shape[-2:] == size:
            return out
        # Padding by less than nothing: unlike a slice's, its gradient is in channels-last memory too.
        return F.pad(out, (0, size[1] - out.shape[-1], 0, size[0] - out.shape[-2]))


class ConvEncoder(nn.Module):
    """An image to a vector: (n, channels, H, W) to (n, out_features).

    A residual block at each size, halved by stride 2 while both sides are above 4; the first halving
    keeps ``width`` · 2 channels and the later ones ``width`` · 4.

    Raises ``ValueError`` for a side below 2.
    """

    def __init__(
        self,
        channels: int,
        size: tuple[int, int],
        out_features: int,
        *,
        width: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        checks.integer("out_features", out_features, low=1)
        sizes, widths = _plan(channels, size, width, dropout)
        self.shape = (channels, *sizes[0])
        self.first = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(w, w, dropout=dropout) for w in widths)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))
        self.norm = group_norm(widths[-1])
        self.last = nn.Linear(widths[-1] * sizes[-1][0] * sizes[-1][1], out_features)
        channels_last_(self)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, H, W) to (n, out_features)."""
        check_image(x, self.shape)
        h: Tensor = self.first(channels_last(x))
        for level, block in enumerate(self.blocks):
            h = block(h if level == 0 else self.shrink[level - 1](h))
        # Pixels before channels: in channels-last memory this order is flat without a copy.
        flat = norm_silu(self.norm, h).permute(0, 2, 3, 1).flatten(1)
        out: Tensor = self.last(flat)
        return out


class ConvDecoder(nn.Module):
    """A vector to an image: (n, in_features) to (n, channels, H, W); the encoder's sizes in reverse.

    Raises ``ValueError`` for a side below 2.
    """

    def __init__(
        self,
        in_features: int,
        channels: int,
        size: tuple[int, int],
        *,
        width: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        checks.integer("in_features", in_features, low=1)
        sizes, widths = _plan(channels, size, width, dropout)
        self.sizes, widths = sizes[::-1], widths[::-1]
        self.first = nn.Linear(in_features, widths[0] * self.sizes[0][0] * self.sizes[0][1])
        self.blocks = nn.ModuleList(ResidualBlock(w, w, dropout=dropout) for w in widths)
        self.grow = nn.ModuleList(Upsample(a, b) for a, b in pairwise(widths))
        self.norm = group_norm(widths[-1])
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)
        channels_last_(self)

    def forward(self, z: Tensor) -> Tensor:
        """(n, in_features) to (n, channels, H, W)."""
        height, width = self.sizes[0]
        h: Tensor = self.first(z).unflatten(1, (height, width, -1)).permute(0, 3, 1, 2)
        for level, block in enumerate(self.blocks):
            h = block(h if level == 0 else self.grow[level - 1](h, self.sizes[level]))
        out: Tensor = self.last(norm_silu(self.norm, h))
        return out


def _plan(
    channels: int, size: tuple[int, int], width: int, dropout: float
) -> tuple[list[tuple[int, int]], list[int]]:
    """The sizes an encoder goes through and its channels at each, after checking what the user gave."""
    checks.integer("channels", channels, low=1)
    check_size(size)
    checks.integer("width", width, low=1)
    checks.number("dropout", dropout, low=0.0, below=1.0)
    sizes = [(size[0], size[1])]
    while min(sizes[-1]) > _SMALLEST_SIDE:
        sizes.append(halved(sizes[-1]))
    return sizes, [width * min(2**level, 4) for level in range(len(sizes))]
