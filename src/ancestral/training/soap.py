"""Adam in the basis that gradients have of late (SOAP): an optimiser of matrices and convolutions' kernels.

AdamW gives each weight a step of its own size, which helps where the loss's steep and flat directions are
weights. In a network they are mixtures of them. SOAP (Vyas et al. 2024, "SOAP: improving and stabilizing
Shampoo using Adam", algorithm 3) keeps averages of G Gᵀ and Gᵀ G of a matrix's gradients G, and takes Adam's
step in the bases of their eigenvectors Q_L and Q_R:

    G′ = Q_Lᵀ G Q_R,    M′ ← β₁ M′ + (1 − β₁) G′,    V′ ← β₂ V′ + (1 − β₂) G′²,
    W ← W − rate · Q_L ( M′ / (√V′ + ε) ) Q_Rᵀ,

with the first and second moments free of bias as Adam's. The eigenvectors move slowly, and one step of
orthogonal iteration follows them every so often. Turning the weights' own basis turns the steps, which is not
so of Adam; the bounds on their size are Adam's, and so is the range of rates.
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


class Soap:
    """The optimiser of one bucket of matrices. Moments are laid out as the bucket, in the turned bases."""

    def __init__(self, bucket: Bucket, *, weight_decay: float, dtype: torch.dtype) -> None:
        self.bucket = bucket
        self.weight_decay = weight_decay
        self.dtype = dtype
        """Of the matrix products."""
        self.first = torch.zeros_like(bucket.average)
        self.second = torch.zeros_like(bucket.average)
        self._turned = torch.zeros_like(bucket.average)
        self._scratch = torch.zeros_like(bucket.average)
        places: dict[tuple[int, int], dict[str, Place]] = {}
        for name, place in bucket.places.items():
            places.setdefault(place.matrix, {})[name] = place
        self._alike = [
            _Alike(shape, alike, like=bucket.average, dtype=dtype) for shape, alike in places.items()
        ]
        self._calls = 0
        self._taken = torch.zeros((), device=bucket.average.device)

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """All that it keeps, as views, by what it is and the parameter's name."""
        for slot, buffer in (("turned_avg", self.first), ("turned_avg_sq", self.second)):
            for name, view in self.bucket.views(buffer).items():
                yield f"{slot}/{name}", view
        for alike in self._alike:
            yield from alike.named()

    def resume(self, steps: int, taken: Tensor) -> None:
        """Go on after so many steps, of which as many as ``taken``, (), were not skipped."""
        self._calls = steps
        self._taken.copy_(taken)
        for alike in self._alike:
            alike.cast()

    @torch.no_grad()
    def step(self, rate: float, skip: Tensor | None = None) -> None:
        """One step from the bucket's gradient; where ``skip`` is 1.0, nothing is changed."""
        weight, gradient = self.bucket.weight.detach(), self.bucket.gradient
        taken = torch.ones((), device=weight.device, dtype=weight.dtype)
        if skip is not None:
            taken = taken - skip
            # What is not finite would be so times 0 as well.
            gradient.masked_fill_(skip.bool(), 0.0)
        cast = gradient.to(self.dtype)
        for alike in self._alike:
            alike.average(cast, (1.0 - _FACTOR) * taken)
        if self._calls % EVERY == 0:
            self._follow(taken)
        self._calls += 1
        self._taken += taken
        self._turn(cast, self._turned)
        self.first.lerp_(self._turned, (1.0 - BETAS[0]) * taken)
        self.second.lerp_(self._turned.square_(), (1.0 - BETAS[1]) * taken)
        # Before the first step there is nothing to be free of bias of.
        count = self._taken.clamp(min=1.0)
        scale = torch.div(self.second, 1.0 - BETAS[1] ** count, out=self._scratch).sqrt_().add_(_EPSILON)
        self._turn(torch.div(self.first, scale, out=scale), self._turned, back=True)
        if self.weight_decay:
            weight.mul_(1.0 - rate * self.weight_decay * taken)
        weight.sub_(self._turned.mul_(rate * taken / (1.0 - BETAS[0] ** count)))

    def _follow(self, taken: Tensor) -> None:
        """Bring the bases up to date, and the first moment with them; the second one stays where it is."""
        plain = self._scratch
        # In full precision: the average would gather what rounding does to it.
        self._turn(self.first, plain, back=True, rounded=False)
        for alike in self._alike:
            # An orthogonal iteration starts from eigenvectors: of the first gradient, then of the first few.
            alike.follow(taken, anew=self._calls <= EVERY)
        self._turn(plain, self._turned, rounded=False)
        self.first.copy_(torch.where(taken > 0, self._turned, self.first))

    def _turn(self, given: Tensor, out: Tensor, *, back: bool = False, rounded: bool = True) -> None:
        """Write Q_Lᵀ · Q_R of every matrix of one buffer into another; ``back``, Q_L · Q_Rᵀ."""
        given = given.to(self.dtype) if rounded else given
        for alike in self._alike:
            alike.turn(given, out, back=back)


class _Alike:
    """Matrices of one shape in a bucket, with what is kept of each of their sides."""

    def __init__(
        self, shape: tuple[int, int], places: dict[str, Place], *, like: Tensor, dtype: torch.dtype
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.names = list(places)
        self.spans = [slice(place.offset, place.offset + place.size) for place in places.values()]
        self.sides: dict[str, tuple[Tensor, Tensor]] = {}
        """The average of G Gᵀ (rows) or Gᵀ G (columns), and its eigenvectors, each (matrices, side, side)."""
        for side, size in zip(("rows", "columns"), shape, strict=True):
            if size <= _LARGEST:
                average = like.new_zeros(len(places), size, size)
                self.sides[side] = average, torch.eye(size).to(like).repeat(len(places), 1, 1)
        self._cast: dict[str, Tensor] = {}
        self.cast()

    def cast(self) -> None:
        """Note the bases in the dtype of products, whenever they have changed."""
        self._cast = {side: basis.to(self.dtype) for side, (_, basis) in self.sides.items()}

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
            found = torch.linalg.eigh(average)[1].flip(-1) if anew else torch.linalg.qr(average @ basis)[0]
            basis.copy_(torch.where(taken > 0, found, basis))
        self.cast()

    def turn(self, given: Tensor, out: Tensor, *, back: bool) -> None:
        """Write the turned matrices of one buffer into another."""
        turned = self._stacked(given)
        for side, (_, exact) in self.sides.items():
            q = self._cast[side] if given.dtype == self.dtype else exact
            # Rows are turned from the left and columns from the right, and back by the inverse.
            q = q.mT if back == (side == "columns") else q
            turned = q @ turned if side == "rows" else turned @ q
        for span, matrix in zip(self.spans, turned, strict=True):
            out[span] = matrix.reshape(-1)

    def _stacked(self, buffer: Tensor) -> Tensor:
        """The matrices, (matrices, rows, columns)."""
        views = [buffer[span].view(self.shape) for span in self.spans]
        return views[0][None] if len(views) == 1 else torch.stack(views)
