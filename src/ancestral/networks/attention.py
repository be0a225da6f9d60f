"""Attention: the product itself, and self-attention over the pixels of an image, as the U-Net has it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ancestral._internal import checks
from ancestral.networks.mlp import zero_
from ancestral.networks.norms import group_norm
from ancestral.networks.recompute import Block


class SelfAttention(Block):
    """x + W softmax(q kᵀ / √d) v over the pixels of a normalised image; W starts at zero.

    (n, channels, H, W) to the same; ``heads`` must divide ``channels`` and d = channels / heads.
    """

    def __init__(self, channels: int, *, heads: int = 1) -> None:
        super().__init__()
        checks.integer("heads", heads, low=1)
        if channels % heads:
            raise ValueError(
                f"heads is {heads} at {channels} channels; it must divide them. Use 1, or channels that "
                f"are multiples of {heads}."
            )
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        zero_(self.out)

    def compute(self, x: Tensor) -> Tensor:
        """(n, channels, H, W) to (n, channels, H, W)."""
        n, channels, height, width = x.shape
        pixels = self.norm(x).permute(0, 2, 3, 1).reshape(n, height * width, channels)
        qkv = self.qkv(pixels).unflatten(2, (3, self.heads, channels // self.heads))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = attend(q, k, v).transpose(1, 2).reshape(pixels.shape)
        image: Tensor = self.out(mixed).unflatten(1, (height, width))
        return x + image.permute(0, 3, 1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v, each (n, heads, pixels, d)."""
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        # Here the fused kernel's backward is two to four times slower than the formula written out.
        weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1)
        return weights @ v
    return F.scaled_dot_product_attention(q, k, v)
