"""Changes of training images that leave what they show: drawn anew for each batch, never in evaluation."""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT = 8
"""An image is moved by up to its side over this."""


def flipped(x: Tensor) -> Tensor:
    """Images (n, C, H, W), half of them mirrored from left to right."""
    chosen = torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5
    return torch.where(chosen, x.flip(-1), x)


def shifted(x: Tensor) -> Tensor:
    """Images (n, C, H, W), each moved by whole pixels, up to an eighth of its side, its edges repeated."""
    places = []
    for axis in (2, 3):
        size = x.shape[axis]
        by = torch.randint(-(size // SHIFT), size // SHIFT + 1, (len(x), 1), device=x.device)
        places.append((torch.arange(size, device=x.device) + by).clamp(0, size - 1))
    rows, columns = places
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return x.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


AUGMENTATIONS = {"flip": flipped, "shift": shifted}
"""By name, in the order in which they are applied."""
