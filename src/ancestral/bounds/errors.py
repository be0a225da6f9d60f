"""The error that random draws add to a mean over examples, told apart from the spread of the examples.

A bound estimated from random levels is the mean of R ≥ 2 *replicates* for each image: independent estimates,
each with its own z_1 and strata. Draws in strata are not independent, so the usual formula would overstate
their error; but the replicates' sums over a group of images are, and they differ by nothing else than the
draws. For groups g with sums S_g1 … S_gR of their replicates, over N images, the variance of the mean given
these images is

    V = Σ_g s²(S_g1 … S_gR) / (R N²),    s² the sample variance,    without bias.

Over the population of images the spread of the images' true bounds is added to V: that of their estimates
less what the draws add to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DrawError:
    """What random draws add to the variance of sums over images, in nats², estimated without bias."""

    of_sum: float
    """The variance of the sum of all images' bounds, given the images."""
    of_each: float
    """The sum of the variances of the images' bounds: the same where no draws are shared."""

    @staticmethod
    def of(totals: Tensor, group: int) -> DrawError:
        """From (n, R) bounds of n images by R replicates; ``group`` successive images share their draws."""
        totals, R = totals.double(), totals.shape[1]
        sums = torch.stack([part.sum(dim=0) for part in totals.split(group)])
        return DrawError(float(sums.var(dim=1).sum()) / R, float(totals.var(dim=1).sum()) / R)

    @staticmethod
    def together(parts: Iterable[DrawError]) -> DrawError:
        """Of all batches."""
        parts = list(parts)
        return DrawError(sum(part.of_sum for part in parts), sum(part.of_each for part in parts))

    def stderrs(self, totals: Tensor) -> tuple[float, float]:
        """Of the mean of (n,) bounds: over the population of images, and given these images.

        The former is unknown, NaN, for a single image.
        """
        n = len(totals)
        given = self.of_sum / n**2
        if n == 1:
            return math.nan, math.sqrt(given)
        # The sample variance expects, beside that of the true bounds, each one's error less what they share.
        added = self.of_each / n - (self.of_sum - self.of_each) / (n * (n - 1))
        images = max(0.0, float(totals.double().var()) - added) / n
        return math.sqrt(images + given), math.sqrt(given)
