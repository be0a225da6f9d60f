"""Adam in the basis that gradients have of late (SOAP): an optimiser of matrices and convolutions' kernels.

AdamW gives each weight a step of its own size, which helps where the loss's steep and flat directions are
weights. In a network they are mixtures of them. SOAP (Vyas et al. 2024, "SOAP: improving and stabilizing
Shampoo using Adam", algorithm 3) keeps averages of G Gᵀ and Gᵀ G of a matrix's gradients G, and takes Adam's
step in the bases of their eigenvectors Q_L and Q_R:

    G′ = Q_Lᵀ G Q_R,    M′ ← β₁ M′ + (1 − β₁) G′,    V′ ← β₂ V′ + (1 − β₂) G′²,
    W ← W − rate · Q_L ( M′ / (√V′ + ε) ) Q_Rᵀ,

with the first and second moments free of bias as Adam's. The eigenvectors move slowly, and one step of
orthogonal iteration follows them every so often. The first gradient only gives them: in its own bases it is
diagonal, and Adam would make steps of what rounding leaves beside. The root mean square of a step is about
Adam's, and so is the range of rates; but to turn the weights' own basis is to turn the steps.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ancestral.training.flat import Bucket, Place

BETAS = (0.95, 0.99)
_FACTOR = 0.99
"""Decay of the averages of G Gᵀ and Gᵀ G."""
_EPSILON = 1e-8
EVERY = 10
"""Steps between those at which the bases are brought up to date."""
_LARGEST = 256
"""Sides of more rows or columns keep their own basis, as theirs would cost more than all else in a step."""
_ANEW = 5
"""Renewals that look for the eigenvectors anew, as orthogonal iteration starts from eigenvectors."""


class Soap:
    """The optimiser of one bucket of matrices. Moments are laid out as the bucket, in the turned bases.

    Products of matrices are in ``dtype`` where that is less than the weights' own; averages and bases are
    kept in the weights'. A kernel's columns are in the order they are stored in, as is what is kept of them.
    """

    def __init__(self, bucket: Bucket, *, weight_decay: float, dtype: torch.dtype) -> None:
        self.bucket = bucket
        self.weight_decay = weight_decay
        self.dtype = _of_products(bucket, dtype)
        self.first = torch.zeros_like(bucket.average)
        self.second = torch.zeros_like(bucket.average)
        self._turned = torch.zeros_like(bucket.average)
        self._scratch = torch.zeros_like(bucket.average)
        places: dict[tuple[int, int], dict[str, Place]] = {}
        for name, place in bucket.places.items():
            places.setdefault(place.matrix, {})[name] = place
        self._alike = [_Alike(shape, alike, like=bucket.average) for shape, alike in places.items()]
        self._calls = 0
        self._taken = bucket.average.new_zeros(())
        self._cast()

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """All that it keeps, as views, by what it is and the parameter's name."""
        for slot, buffer in (("turned_avg", self.first), ("turned_avg_sq", self.second)):
            for name, view in self.bucket.views(buffer).items():
                yield f"{slot}/{name}", view
        for alike in self._alike:
            yield from alike.named()

    def resume(self, *, steps: int, taken: Tensor, dtype: torch.dtype) -> None:
        """Go on in this dtype after so many steps, of which as many as ``taken``, (), were not skipped."""
        self.dtype = _of_products(self.bucket, dtype)
        self._calls = steps
        self._taken.copy_(taken)
        self._cast()

    @torch.no_grad()
    def step(self, rate: float, skip: Tensor | None = None) -> None:
        """One step from the bucket's gradient; where ``skip`` is 1.0, nothing is changed."""
        weight, gradient = self.bucket.weight.detach(), self.bucket.gradient
        taken = torch.ones_like(self._taken)
        if skip is not None:
            taken = taken - skip
            # What is not finite would be so times 0 as well.
            gradient.masked_fill_(skip.bool(), 0.0)
        # Before the first gradient there are no bases to take a step in.
        moved = taken * (self._taken > 0)
        self._turn(gradient, self._turned)
        self.first.lerp_(self._turned, (1.0 - BETAS[0]) * moved)
        self.second.lerp_(self._turned.square_(), (1.0 - BETAS[1]) * moved)
        count = (self._taken + taken - 1.0).clamp(min=1.0)
        scale = torch.div(self.second, 1.0 - BETAS[1] ** count, out=self._scratch).sqrt_().add_(_EPSILON)
        self._turn(torch.div(self.first, scale, out=scale), self._turned, back=True)
        if self.weight_decay:
            weight.mul_(1.0 - rate * self.weight_decay * moved)
        weight.sub_(self._turned.mul_(rate * moved / (1.0 - BETAS[0] ** count)))
        cast = gradient.to(self.dtype)
        for alike in self._alike:
            alike.average(cast, (1.0 - _FACTOR) * taken)
        if self._calls % EVERY == 0:
            self._follow(taken)
        self._calls += 1
        self._taken += taken

    def _follow(self, taken: Tensor) -> None:
        """Bring the bases up to date, and the first moment with them; the second one stays where it is."""
        plain = self._scratch
        # In full precision: the average would gather what rounding does to it.
        self._turn(self.first, plain, back=True, rounded=False)
        for alike in self._alike:
            alike.follow(taken, anew=self._calls < _ANEW * EVERY)
        self._cast()
        self._turn(plain, self._turned, rounded=False)
        self.first.copy_(torch.where(taken > 0, self._turned, self.first))

    def _turn(self, given: Tensor, out: Tensor, *, back: bool = False, rounded: bool = True) -> None:
        """Write Q_Lᵀ · Q_R of every matrix of one buffer into another; ``back``, Q_L · Q_Rᵀ."""
        cast = given.to(self.dtype) if rounded else given
        for alike in self._alike:
            # A matrix without turned sides is in no product, and not rounded either.
            alike.turn(cast if alike.sides else given, out, back=back)

    def _cast(self) -> None:
        """Note the bases in the dtype of products, whenever either has changed."""
        for alike in self._alike:
            alike.cast(self.dtype)


def _of_products(bucket: Bucket, dtype: torch.dtype) -> torch.dtype:
    """The dtype given, or the weights' where that is no less."""
    own = bucket.weight.dtype
    return dtype if dtype.itemsize < min(own.itemsize, 4) else own


class _Alike:
    """Matrices of one shape in a bucket, with what is kept of each of their sides."""

    def __init__(self, shape: tuple[int, int], places: dict[str, Place], *, like: Tensor) -> None:
        self.shape = shape
        self.names = list(places)
        self.spans = [slice(place.offset, place.offset + place.size) for place in places.values()]
        self.sides: dict[str, tuple[Tensor, Tensor]] = {}
        """The average of G Gᵀ (rows) or Gᵀ G (columns), and its eigenvectors, each (matrices, side, side)."""
        for side, size in zip(("rows", "columns"), shape, strict=True):
            if size <= _LARGEST:
                average = like.new_zeros(len(places), size, size)
                self.sides[side] = average, torch.eye(size).to(like).repeat(len(places), 1, 1)
        self._cast: dict[str, Tensor] = {}

    def cast(self, dtype: torch.dtype) -> None:
        """Note the bases in the dtype of products."""
        self._cast = {side: basis.to(dtype) for side, (_, basis) in self.sides.items()}

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """What is kept of each matrix, by what it is and the matrix's name."""
        for side, kept in self.sides.items():
            for slot, stack in zip(("factor", "basis"), kept, strict=True):
                for name, matrix in zip(self.names, stack, strict=True):
                    yield f"{side}_{slot}/{name}", matrix

    def average(self, gradient: Tensor, share: Tensor) -> None:
        """Move the averages by ``share`` of their distance to this gradient's."""
        g = self._stacked(gradient)
        for side, (average, _) in self.sides.items():
            product = g @ g.mT if side == "rows" else g.mT @ g
            average.lerp_(product.to(average), share)

    def follow(self, taken: Tensor, *, anew: bool) -> None:
        """The averages' eigenvectors, the largest first: found ``anew``, or one iteration from the last."""
        for average, basis in self.sides.values():
            if anew:
                # In double, as averages of few gradients are far from full rank; and of numbers, so that of
                # a run that diverges its loss tells.
                found = torch.linalg.eigh(average.double().nan_to_num())[1].flip(-1).to(basis)
            else:
                found = torch.linalg.qr(average @ basis)[0]
            basis.copy_(torch.where(taken > 0, found, basis))

    def turn(self, given: Tensor, out: Tensor, *, back: bool) -> None:
        """Write the turned matrices of one buffer into another."""
        turned = self._stacked(given)
        for side, (_, exact) in self.sides.items():
            q = self._cast[side] if given.dtype == self._cast[side].dtype else exact
            # Rows are turned from the left and columns from the right, and back by the inverse.
            q = q.mT if back == (side == "columns") else q
            turned = q @ turned if side == "rows" else turned @ q
        for span, matrix in zip(self.spans, turned, strict=True):
            out[span] = matrix.reshape(-1)

    def _stacked(self, buffer: Tensor) -> Tensor:
        """The matrices, (matrices, rows, columns)."""
        views = [buffer[span].view(self.shape) for span in self.spans]
        return views[0][None] if len(views) == 1 else torch.stack(views)
