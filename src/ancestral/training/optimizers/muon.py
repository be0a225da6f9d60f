"""Momentum made orthogonal (Muon): an optimiser of matrices and convolutions' kernels.

AdamW gives each weight a step of its own size. Muon looks at a whole matrix: the momentum M = U S Vᵀ is
replaced by about U Vᵀ, so that all directions in which the loss falls are taken at the same pace, and not
only the few that dominate every gradient (Jordan et al. 2024). Five steps of Newton's and Schulz's iteration
do that with matrix products alone; they leave singular values between 0.7 and 1.2, which serves as well as 1.

The step is scaled by √max(rows, columns), which makes its root mean square the learning rate, as AdamW's is
where a weight's gradients agree; so one rate suits both. (Liu et al. 2025, "Muon is scalable", eq. 4, take
0.2 of it, what AdamW's is on average in language models; the models here were tried at both.)
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ancestral.training.flat import Bucket, Place

MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5


class Muon:
    """The optimiser of one bucket of matrices. ``momentum`` is laid out as the bucket."""

    def __init__(self, bucket: Bucket, *, weight_decay: float, dtype: torch.dtype) -> None:
        self.bucket = bucket
        self.weight_decay = weight_decay
        self.dtype = dtype
        """Of the iteration's matrix products."""
        self.momentum = torch.zeros_like(bucket.average)
        self._alike: dict[tuple[int, int], list[Place]] = {}
        for place in bucket.places.values():
            self._alike.setdefault(place.matrix, []).append(place)

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """All that it keeps, as views, by what it is and the parameter's name."""
        for name, view in self.bucket.views(self.momentum).items():
            yield f"momentum/{name}", view

    def resume(self, *, steps: int, taken: Tensor, dtype: torch.dtype) -> None:
        """Go on in this dtype; how many steps there were is nothing to it."""
        self.dtype = dtype

    @torch.no_grad()
    def step(self, rate: float, skip: Tensor | None = None) -> None:
        """One step from the bucket's gradient; where ``skip`` is 1.0, nothing is changed."""
        weight, gradient = self.bucket.weight.detach(), self.bucket.gradient
        taken = torch.ones((), device=weight.device)
        if skip is not None:
            taken = 1.0 - skip
            # What is not finite would be so times 0 as well.
            gradient.masked_fill_(skip.bool(), 0.0)
        self.momentum.lerp_(gradient, ((1.0 - MOMENTUM) * taken).to(weight.dtype))
        # Nesterov's: as if the next momentum were known already.
        ahead = gradient.lerp(self.momentum, MOMENTUM)
        if self.weight_decay:
            weight.mul_((1.0 - rate * self.weight_decay * taken).to(weight.dtype))
        for (rows, columns), places in self._alike.items():
            spans = [slice(place.offset, place.offset + place.size) for place in places]
            turned = orthogonalised(
                torch.stack([ahead[span].view(rows, columns) for span in spans]), dtype=self.dtype
            )
            turned *= -(max(rows, columns) ** 0.5) * rate * taken
            for span, change in zip(spans, turned, strict=True):
                weight[span] += change.reshape(-1)


def orthogonalised(matrices: Tensor, *, dtype: torch.dtype) -> Tensor:
    """About U Vᵀ of each of the matrices U S Vᵀ, (k, rows, columns), in their own dtype.

    The iteration X ← a X + (b A + c A²) X with A = X Xᵀ, from X of norm 1: it acts on singular values alone.
    """
    x = matrices / matrices.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None]
    wide = x.to(dtype) if x.shape[1] <= x.shape[2] else x.mT.to(dtype)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    out = wide if x.shape[1] <= x.shape[2] else wide.mT
    return out.to(matrices.dtype)
