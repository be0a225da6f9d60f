"""Columns of whole numbers: which the training data have, and samples written as they are.

The density of a vector is over real numbers. A sample of a column whose training values are all whole numbers is
rounded when it is written to a file, and limited to the range of the training values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ancestral.data import Dataset
from ancestral.data.rows import pieces

Whole = Sequence[tuple[int, int] | None]
"""The least and the greatest training value of each column of whole numbers; None for other columns."""
_EXACT = {torch.float32: 2.0**24, torch.float64: 2.0**53}
"""Whole numbers up to here are exact in these types."""


def whole_columns(data: Dataset) -> list[tuple[int, int] | None] | None:
    """The range of each column of whole numbers in the training examples; None for images."""
    if data.spec.is_image:
        return None
    low = torch.full(data.spec.shape, torch.inf, dtype=data.train.x.dtype)
    high, whole = -low, torch.ones(data.spec.shape, dtype=torch.bool)
    for piece in pieces(data.train.x):
        whole &= (piece == piece.round()).all(0)
        low, high = torch.minimum(low, piece.amin(0)), torch.maximum(high, piece.amax(0))
    exact = _EXACT[low.dtype]
    whole &= (low >= -exact) & (high <= exact)
    ends = zip(whole.tolist(), low.tolist(), high.tolist(), strict=True)
    return [(int(a), int(b)) if here else None for here, a, b in ends]


def rounded(samples: np.ndarray, whole: Whole) -> tuple[np.ndarray, list[int]]:
    """Samples (n, D) with whole numbers in the columns of ``whole``, and the number of values that were outside
    the training range in each column."""
    out, outside = samples.copy(), [0] * len(whole)
    for index, ends in enumerate(whole):
        if ends is None:
            continue
        nearest = np.round(samples[:, index])
        out[:, index] = np.clip(nearest, *ends)
        outside[index] = int(np.sum(nearest != out[:, index]))
    # Without the sign of a negative zero.
    return out + 0.0, outside
