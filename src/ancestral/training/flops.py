"""How much arithmetic a training step is: counted by torch, not estimated from the options."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ancestral.chain import Chain
from ancestral.randomness import own_randomness


def training_flops(chain: Chain, x: Tensor) -> float:
    """Floating-point operations of the loss and its gradient for one example.

    Counted while computing both for the examples x, (n, *shape): a multiply-add is two, and only
    matrix products, convolutions and attention count. The random state and gradients stay as they are.
    """
    trained = [p for p in chain.parameters() if p.requires_grad]
    with own_randomness(x.device), FlopCounterMode(display=False) as counter:
        loss = chain.training_loss(x).value
        torch.autograd.grad(loss, trained, allow_unused=True)
    return counter.get_total_flops() / len(x)
