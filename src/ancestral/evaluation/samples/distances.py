"""Distances between two sets of feature vectors: Fréchet, kernel, and precision with recall.

All are symmetric in how they treat rows, take (n, d) features of any floating-point type and compute in
float64. A distance of finite sets is not 0 for equal laws: compare it with its floor (``quality``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ancestral._internal import checks
from ancestral.bounds.estimate import Estimate

_BLOCKS = 10
_BLOCK = 1000
"""The kernel distance is a mean over at least this many blocks, of at most so many examples each."""
_ENTRIES = 1 << 22
"""Pairwise distances in memory at once."""
_ROUNDING = 1e-12
"""Squared distances that differ by less than this, relative to the largest squared norm, are equal."""


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """The Fréchet distance of the Gaussians fitted to a, (n, d), and b, (m, d); see ``gaussian_frechet``.

    Covariances are the unbiased ones, of any rank: n may be smaller than d. With finite n it is biased
    upwards, the more so the larger d / n. ``ValueError`` for fewer than two rows, or values not finite.
    """
    a, b = _pair(a, b, least=2)
    return gaussian_frechet(a.mean(dim=0), _covariance(a), b.mean(dim=0), _covariance(b))


def gaussian_frechet(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> float:
    """‖μ_a − μ_b‖² + tr( Σ_a + Σ_b − 2 (Σ_a^½ Σ_b Σ_a^½)^½ )  (Heusel et al. 2017, eq. 6).

    A squared distance, in squared units of the features, as is usual under the name FID. Means are (d,),
    covariances (d, d), symmetric and positive semi-definite.
    """
    trace = covariance_a.double().trace() + covariance_b.double().trace()
    # With Σ = F Fᵀ, the trace of the root of Σ_a^½ Σ_b Σ_a^½ is the sum of the singular values of F_aᵀ F_b:
    # it needs no square root of a product, whose small eigenvalues would be lost to rounding.
    cross = torch.linalg.svdvals(_factor(covariance_a).T @ _factor(covariance_b)).sum()
    shift = (mean_a.double() - mean_b.double()).square().sum()
    # It is never negative; rounding of the difference can be.
    return max(0.0, float(shift + (trace - 2.0 * cross)))


def kernel_distance(a: Tensor, b: Tensor, *, blocks: int | None = None) -> Estimate:
    """The squared maximum mean discrepancy under k(x, y) = (x·y / d + 1)³ (Bińkowski et al. 2018, eq. 4).

    E k(x, x′) + E k(y, y′) − 2 E k(x, y), each over distinct examples: unbiased, so it can be negative.
    It is the mean over ``blocks`` disjoint runs of rows (at least ten of at most 1,000 where left out, and
    of at least two rows), whose spread gives the standard error. a is (n, d), b is (m, d), their rows in
    random order. ``ValueError`` for fewer than four rows, or values not finite.
    """
    a, b = _pair(a, b, least=4)
    fewest, most = min(len(a), len(b)), max(len(a), len(b))
    if blocks is None:
        blocks = min(max(_BLOCKS, math.ceil(most / _BLOCK)), fewest // 2)
    checks.integer("blocks", blocks, low=2, high=fewest // 2)
    pairs = zip(a.tensor_split(blocks), b.tensor_split(blocks), strict=True)
    return Estimate.of(torch.stack([_mmd(x, y) for x, y in pairs]))


def precision_recall(
    samples: Tensor, reference: Tensor, *, neighbours: int = 3, entries: int = _ENTRIES
) -> tuple[float, float]:
    """The share of samples inside the reference's manifold, and of the reference inside the samples'.

    The manifold of a set is the union of balls around its points that reach their ``neighbours``-th
    nearest other point (Kynkäänniemi et al. 2019, eq. 1–2). Precision falls when samples look like
    nothing in the data, recall when the data have what no sample looks like. Samples are (n, d), the
    reference (m, d). At most about ``entries`` distances are in memory at once. ``ValueError`` unless both
    have more than ``neighbours`` rows, all finite.
    """
    checks.integer("neighbours", neighbours, low=1)
    checks.integer("entries", entries, low=1)
    samples, reference = _pair(samples, reference, least=neighbours + 1)
    centre = reference.mean(dim=0)
    samples, reference = samples - centre, reference - centre
    slack = _ROUNDING * max(_squares(samples).max().item(), _squares(reference).max().item())

    def covered(points: Tensor, by: Tensor) -> float:
        reach = _radii(by, neighbours, entries) + slack
        inside = [(_squared(part, by) <= reach).any(dim=1) for part in _parts(points, len(by), entries)]
        return torch.cat(inside).double().mean().item()

    return covered(samples, reference), covered(reference, samples)


def _pair(a: Tensor, b: Tensor, *, least: int) -> tuple[Tensor, Tensor]:
    """Both in float64, once it is sure that they can be compared."""
    for features in (a, b):
        if features.ndim != 2 or len(features) < least:
            raise ValueError(
                f"features are {tuple(features.shape)}; they must be (n, d) with n at least {least}. "
                "Give more examples."
            )
        if not torch.isfinite(features).all():
            bad = int((~torch.isfinite(features)).any(dim=1).sum())
            raise ValueError(
                f"{bad} of {len(features)} examples have features that are not finite; all must be. None "
                "is left out to make a number: look at the samples."
            )
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"features of {a.shape[1]} and of {b.shape[1]} numbers; they must be of the same space."
        )
    return a.double(), b.double()


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(dim=0)
    return centred.T @ centred / (len(x) - 1)


def _factor(covariance: Tensor) -> Tensor:
    """F, (d, rank), with F Fᵀ = Σ. Eigenvalues that are 0 but for rounding are dropped, as their roots are
    not small."""
    covariance = covariance.double()
    values, vectors = torch.linalg.eigh(0.5 * (covariance + covariance.T))
    kept = values > len(values) * torch.finfo(values.dtype).eps * values.max().clamp(min=0.0)
    return vectors[:, kept] * values[kept].sqrt()


def _mmd(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate from one block, a scalar."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1.0).pow(3)

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2.0 * kernel(x, y).mean()


def _radii(x: Tensor, neighbours: int, entries: int) -> Tensor:
    """Squared distances of the points x, (n, d), to their k-th nearest other point, (n,)."""
    radii, first = [], 0
    for part in _parts(x, len(x), entries):
        squared = _squared(part, x)
        rows = torch.arange(len(part), device=x.device)
        squared[rows, first + rows] = math.inf
        radii.append(squared.kthvalue(neighbours, dim=1).values)
        first += len(part)
    return torch.cat(radii)


def _parts(points: Tensor, others: int, entries: int) -> tuple[Tensor, ...]:
    return points.split(max(1, entries // others))


def _squares(x: Tensor) -> Tensor:
    return x.square().sum(dim=1)


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances, (n, m), of points a, (n, d), and b, (m, d)."""
    return (_squares(a)[:, None] + _squares(b) - 2.0 * a @ b.T).clamp(min=0.0)
