"""silu of a modulated group norm, which is what every convolution here reads, for less memory.

    out = silu( norm(x) (1 + scale) + shift )

Written with three layers, autograd keeps x, norm(x) and the modulated value for the backward pass. Here x
alone is kept, and what is in between is computed again, in one pass, from the statistics of the norm:
norm(x) (1 + scale) + shift is an affine map of x with one factor and one offset per example and channel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ancestral._internal import checks

_GROUP_WIDTH = 16


def group_width(channels: int) -> int:
    """How many channels share one group of a GroupNorm: the largest divisor of ``channels`` up to 16.

    16 is what Wu & He 2018 (table 3) found best, and in channels-last memory it fills a vector register:
    narrower groups are several times slower. Where only divisors below 4 exist, all channels are one group.
    """
    checks.integer("channels", channels, low=1)
    width = max(d for d in range(1, _GROUP_WIDTH + 1) if channels % d == 0)
    return width if width >= 4 else channels


def group_norm(channels: int) -> nn.GroupNorm:
    """A GroupNorm with groups of ``group_width(channels)``."""
    return nn.GroupNorm(channels // group_width(channels), channels)


def norm_silu(norm: nn.GroupNorm, x: Tensor, modulation: Tensor | None = None) -> Tensor:
    """silu(norm(x) (1 + scale) + shift), (n, C, H, W), in the memory layout of x.

    ``modulation`` is (n, 2 C), the scales and then the shifts; None stands for zeros.
    """
    scale = shift = None
    if modulation is not None:
        scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
    # A compiler fuses the three and decides for itself what to keep.
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        h = norm(x)
        return F.silu(h if scale is None or shift is None else torch.addcmul(shift, h, 1 + scale))
    out: Tensor = _NormSilu.apply(x, norm.weight, norm.bias, scale, shift, norm.num_groups, norm.eps)
    return out


class _NormSilu(torch.autograd.Function):
    """The same with a backward pass that keeps x, the statistics and the modulation only."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        groups: int,
        eps: float,
    ) -> Tensor:
        n, channels, height, width = x.shape
        h, mean, rstd = torch.native_group_norm(x, weight, bias, n, channels, height * width, groups, eps)
        if scale is not None and shift is not None:
            torch.addcmul(shift, h, 1 + scale, out=h)
        ctx.save_for_backward(x, weight, bias, scale, mean, rstd, shift)
        ctx.groups = groups
        return F.silu(h, inplace=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, scale, mean, rstd, shift = ctx.saved_tensors
        n, channels, height, width = x.shape
        share = channels // ctx.groups
        # norm(x) = factor x + offset
        factor = rstd.repeat_interleave(share, dim=1) * weight
        offset = bias - mean.repeat_interleave(share, dim=1) * factor
        factor, offset = factor[:, :, None, None], offset[:, :, None, None]
        if scale is None:
            total_factor, total_offset = factor, offset
        else:
            total_factor, total_offset = factor * (1 + scale), offset * (1 + scale) + shift
        h = torch.addcmul(total_offset.to(x.dtype), x, total_factor.to(x.dtype))
        layout = torch.channels_last if h.is_contiguous(memory_format=torch.channels_last) else None
        g = gradients[0].contiguous(memory_format=layout or torch.contiguous_format)
        g = torch.ops.aten.silu_backward(g, h)
        scale_gradient = shift_gradient = None
        if scale is not None:
            shift_gradient = g.sum(dim=(2, 3), keepdim=True)
            along = h.copy_(x).mul_(g).sum(dim=(2, 3), keepdim=True)
            scale_gradient = (factor * along + offset * shift_gradient).to(scale.dtype)
            shift_gradient = shift_gradient.to(scale.dtype)
            g = g.mul_((1 + scale).to(g.dtype))
        of_x, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
            g, x, mean, rstd, weight, n, channels, height * width, ctx.groups, [True, True, True]
        )
        return of_x, of_weight, of_bias, scale_gradient, shift_gradient, None, None
