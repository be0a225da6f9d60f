"""Gradient checkpointing: blocks that keep their inputs only, and compute the rest again when it is needed.

A training step keeps what every layer saw until the backward pass has been there. A block that is
recomputed keeps its inputs alone and runs a second time in the backward pass: the same gradients, for
one forward pass more and far less memory (Chen et al. 2016).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Block(nn.Module):
    """A module with ``compute`` in the place of ``forward``, which may be recomputed in the backward pass.

    Setting ``recompute`` is all it takes, on any module that has it; blocks are leaves in this, none holds
    another. It is no part of the weights and makes no difference without a gradient or in evaluation.
    """

    recompute: bool = False
    """Whether the backward pass computes this block again, and so what lies inside it is not kept."""

    def compute(self, *inputs: Any) -> Tensor:
        """The block's value."""
        raise NotImplementedError

    def forward(self, *inputs: Any) -> Tensor:
        """The block's value; how much of it is kept for the backward pass is ``recompute``'s."""
        if not (self.recompute and self.training and torch.is_grad_enabled()):
            return self.compute(*inputs)
        out: Tensor = checkpoint(
            self.compute, *inputs, use_reentrant=False, preserve_rng_state=self.draws_randomly
        )
        return out

    @property
    def draws_randomly(self) -> bool:
        """Whether a second run must draw the same random numbers as the first: keeping them costs time."""
        return any(isinstance(module, nn.Dropout) and module.p > 0 for module in self.modules())
