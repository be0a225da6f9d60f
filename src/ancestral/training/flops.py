"""The arithmetic of a training step, counted as it runs: floating-point operations by kind.

A multiplication and an addition are two operations. Counted are products of matrices, convolutions and
attention, forward and backward; what works entry by entry is a small and bandwidth-bound rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ancestral.core.batch import Batch
from ancestral.core.chain import Chain
from ancestral.objectives import Objective

_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)


@dataclass(frozen=True)
class Work:
    """Floating-point operations by what they are of."""

    products: int
    """Of matrix products and attention."""
    convolutions: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.products + self.convolutions


def count_work(call: Callable[[], object]) -> Work:
    """The operations of one ``call``, on any device, with autograd's backward where it runs inside.

    Attention counts as its two products, and twice that backward, whichever kernel computes it: what a
    kernel recomputes to save memory is not work that was asked for. Kernels that torch does not
    dispatch operator by operator (a compiled region, a custom operator) are not seen.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_counts())
    with counter:
        call()
    counts = counter.get_flop_counts().get("Global", {})
    convolutions = sum(flops for operator, flops in counts.items() if "conv" in str(operator))
    return Work(sum(counts.values()) - convolutions, convolutions)


def training_work(chain: Chain, objective: Objective, batch: Batch | Tensor) -> Work:
    """The operations of a training step of an objective on a batch: loss and gradients.

    The optimiser works entry by entry and counts as none. Gradients that were there are left as they
    were; torch's random state moves on. The chain must be in training mode, or dropout is left out.
    """
    parameters = [p for p in chain.parameters() if p.requires_grad]
    return count_work(lambda: _gradients(objective.loss(chain, Batch.of(batch)).value, parameters))


def _gradients(loss: Tensor, parameters: Iterable[Tensor]) -> None:
    torch.autograd.grad(loss, list(parameters), allow_unused=True)


def _counts() -> dict[Any, Any]:
    """Counts by operator where torch has none or another: attention, and the gradients of convolutions."""
    counts: dict[Any, Any] = {torch.ops.aten.convolution_backward: _convolution_backward}
    for name in _ATTENTION:
        for suffix, count in (("", _attention_forward), ("_backward", _attention_backward)):
            # Which kernels there are depends on torch's version.
            operator = getattr(torch.ops.aten, name + suffix, None)
            if operator is not None:
                counts[operator] = count
    return counts


def _attention_forward(q: Any, k: Any, v: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
    return int(sdpa_flop_count(q, k, v))


def _attention_backward(
    grad: Any, q: Any, k: Any, v: Any, *rest: Any, out_shape: Any = None, **options: Any
) -> int:
    return 2 * int(sdpa_flop_count(q, k, v))


def _convolution_backward(
    grad: Any, x: Any, kernel: Any, *rest: Any, out_shape: Any = None, **options: Any
) -> int:
    """As many as forward for each gradient asked for; torch's own count ignores groups."""
    _, _, _, _, transposed, _, _, (of_x, of_kernel, _) = rest
    pixels = math.prod((x if transposed else grad)[2:])
    return 2 * x[0] * pixels * math.prod(kernel) * (of_x + of_kernel)
