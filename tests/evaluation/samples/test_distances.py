"""Distances of feature sets: closed forms, brute force, unbiasedness, and sets whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ancestral.evaluation.samples.distances import (
    frechet_distance,
    gaussian_frechet,
    kernel_distance,
    precision_recall,
)
from toys import randn, spd

pytestmark = pytest.mark.usefixtures("float64")


def rotation(dims: int, seed: int) -> Tensor:
    return torch.linalg.qr(randn(dims, dims, seed=seed)).Q


# Fréchet ---------------------------------------------------------------------------------------------


def test_frechet_of_normals_on_the_line():
    """(μ_a − μ_b)² + (σ_a − σ_b)²."""
    found = gaussian_frechet(*(torch.tensor(v) for v in ([1.0], [[4.0]], [3.5], [[0.25]])))
    assert found == pytest.approx(2.5**2 + 1.5**2, rel=1e-12)


def test_frechet_of_covariances_with_the_same_axes():
    """Σ (√λ_a − √λ_b)² + ‖μ_a − μ_b‖², eigenvalue by eigenvalue, zeros among them."""
    axes = rotation(4, 0)
    a, b = torch.tensor([4.0, 1.0, 0.0, 0.0]), torch.tensor([1.0, 9.0, 2.0, 0.0])
    mean = randn(4, seed=1)
    found = gaussian_frechet(mean, axes @ a.diag() @ axes.T, torch.zeros(4), axes @ b.diag() @ axes.T)
    expected = (a.sqrt() - b.sqrt()).square().sum() + mean.square().sum()
    assert found == pytest.approx(float(expected), rel=1e-10)


def test_frechet_in_the_plane():
    """For 2×2, tr √M = √(tr M + 2 √det M), with M = Σ_a Σ_b, which do not commute."""
    a, b = spd(2, 0), spd(2, 1)
    assert not torch.allclose(a @ b, b @ a)
    root = ((a @ b).trace() + 2.0 * (a.det() * b.det()).sqrt()).sqrt()
    expected = a.trace() + b.trace() - 2.0 * root
    assert gaussian_frechet(torch.zeros(2), a, torch.zeros(2), b) == pytest.approx(float(expected), rel=1e-10)


def test_frechet_by_the_eigenvalues_of_the_product():
    """tr (Σ_a^½ Σ_b Σ_a^½)^½ is the sum of the roots of the eigenvalues of Σ_a Σ_b, no symmetry needed."""
    a, b, mean = spd(12, 2), spd(12, 3), randn(12, seed=4)
    roots = torch.linalg.eigvals(a @ b).real.sqrt()
    expected = mean.square().sum() + a.trace() + b.trace() - 2.0 * roots.sum()
    assert gaussian_frechet(mean, a, torch.zeros(12), b) == pytest.approx(float(expected), rel=1e-10)


def test_frechet_of_sets_uses_their_mean_and_unbiased_covariance():
    a, b = randn(30, 5, seed=5), 2.0 * randn(40, 5, seed=6) + 1.0
    expected = gaussian_frechet(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T))
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("n", [2, 7, 50, 400])
def test_frechet_of_a_set_and_itself_is_zero(n):
    """Also where there are fewer examples than features, or features that never vary."""
    x = randn(n, 50, seed=7)
    x[:, 40:] = 3.0
    found = frechet_distance(x, x.clone())
    assert 0.0 <= found < 1e-10


def test_frechet_of_few_examples_of_many_features():
    """Exact where covariances have no full rank: the sets live in a few dimensions, rotated among many."""
    a, b = randn(20, 3, seed=8), randn(25, 3, seed=9) * torch.tensor([1.0, 2.0, 0.5])
    small = frechet_distance(a, b)
    into = rotation(100, 10)[:3]
    assert frechet_distance(a @ into, b @ into) == pytest.approx(small, rel=1e-9)
    # Without a direction in common, nothing of the spread is shared: the traces add up.
    apart = rotation(100, 10)[3:6]
    expected = torch.cov(a.T).trace() + torch.cov(b.T).trace() + a.mean(0).square().sum()
    expected = expected + b.mean(0).square().sum()
    assert frechet_distance(a @ into, b @ apart) == pytest.approx(float(expected), rel=1e-9)


def test_frechet_does_not_see_rotations_and_shifts_and_is_squared():
    a, b = randn(60, 8, seed=11) @ spd(8, 12), randn(60, 8, seed=13)
    found = frechet_distance(a, b)
    turn, shift = rotation(8, 14), 5.0 * randn(8, seed=15)
    assert frechet_distance(a @ turn + shift, b @ turn + shift) == pytest.approx(found, rel=1e-9)
    assert frechet_distance(3.0 * a, 3.0 * b) == pytest.approx(9.0 * found, rel=1e-9)


def test_frechet_takes_float32_and_computes_in_float64():
    a, b = randn(300, 10, seed=16).float(), randn(300, 10, seed=17).float()
    assert frechet_distance(a + 1000.0, b + 1000.0) == pytest.approx(frechet_distance(a, b), rel=1e-2)
    assert frechet_distance(a, b) == frechet_distance(a.double(), b.double())


# Kernel ----------------------------------------------------------------------------------------------


def test_kernel_is_the_mean_over_blocks_of_a_sum_over_pairs():
    """Every example counts, blocks of unequal size too."""
    a, b = randn(11, 4, seed=0), randn(8, 4, seed=1) + 0.5

    def k(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 4 + 1.0) ** 3

    def within(x: Tensor) -> float:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
        return sum(k(x[i], x[j]) for i, j in pairs) / len(pairs)

    values = []
    for x, y in ((a[:4], b[:3]), (a[4:8], b[3:6]), (a[8:], b[6:])):
        across = sum(k(u, v) for u in x for v in y) / (len(x) * len(y))
        values.append(within(x) + within(y) - 2.0 * across)
    found = kernel_distance(a, b, blocks=3)
    assert found.mean == pytest.approx(sum(values) / 3, rel=1e-10)
    assert found.stderr == pytest.approx(float(torch.tensor(values).std()) / math.sqrt(3), rel=1e-10)


@pytest.mark.parametrize(("mean", "spread"), [(0.0, 1.0), (0.3, 1.2)], ids=["the same law", "another law"])
def test_kernel_is_unbiased_with_an_honest_standard_error(mean, spread):
    """On the line the distance is 3 Δ₁² + 3 Δ₂² + Δ₃², with Δ_k the difference of the k-th moments.

    Over 400 repetitions the mean is within four standard errors of it, 0 for the same law, and the told
    standard error is that of the repetitions.
    """
    moments = (mean, mean**2 + spread**2, mean**3 + 3.0 * mean * spread**2)
    expected = 3.0 * moments[0] ** 2 + 3.0 * (moments[1] - 1.0) ** 2 + moments[2] ** 2
    draws = torch.randn(400, 2, 200, 1, generator=torch.Generator().manual_seed(2))
    found = [kernel_distance(a, mean + spread * b) for a, b in draws]
    means, errors = (torch.tensor([getattr(one, name) for one in found]) for name in ("mean", "stderr"))
    assert abs(float(means.mean()) - expected) < 4.0 * float(means.std()) / math.sqrt(400)
    assert float(errors.square().mean().sqrt()) == pytest.approx(float(means.std()), rel=0.15)


def test_kernel_does_not_see_rotations():
    a, b, turn = randn(50, 6, seed=3), randn(50, 6, seed=4) + 1.0, rotation(6, 5)
    found, turned = kernel_distance(a, b), kernel_distance(a @ turn, b @ turn)
    assert turned.mean == pytest.approx(found.mean, rel=1e-10)
    assert turned.stderr == pytest.approx(found.stderr, rel=1e-10)
    assert found.mean > 5.0 * found.stderr


def test_kernel_blocks():
    assert kernel_distance(randn(4, 2, seed=6), randn(4, 2, seed=7)).stderr > 0
    with pytest.raises(ValueError, match=r"blocks is 3; it must be from 2 to 2"):
        kernel_distance(randn(5, 2, seed=6), randn(4, 2, seed=7), blocks=3)


# Precision and recall --------------------------------------------------------------------------------


def brute_force(samples: Tensor, reference: Tensor, k: int) -> tuple[float, float]:
    def covered(points: Tensor, by: Tensor) -> float:
        inside = 0
        for point in points:
            for i, centre in enumerate(by):
                others = sorted(float((other - centre).norm()) for j, other in enumerate(by) if j != i)
                if float((point - centre).norm()) <= others[k - 1]:
                    inside += 1
                    break
        return inside / len(points)

    return covered(samples, reference), covered(reference, samples)


@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_and_recall_by_brute_force(neighbours):
    samples, reference = 1.3 * randn(40, 3, seed=0), randn(30, 3, seed=1)
    expected = brute_force(samples, reference, neighbours)
    assert 0.1 < min(expected) < max(expected) < 1.0
    assert expected[0] != expected[1]
    assert precision_recall(samples, reference, neighbours=neighbours) == expected


def test_a_set_and_itself_have_both():
    x = randn(50, 4, seed=2)
    x[10:20] = x[0]  # the balls of copies have no radius, and still hold the copies
    assert precision_recall(x, x.clone()) == (1.0, 1.0)
    assert precision_recall(x[torch.randperm(50)] + 1e6, x + 1e6) == (1.0, 1.0)


def test_copies_are_inside_balls_without_a_radius():
    """Whatever rounding makes of distances that are 0, in parts of any size."""
    x = randn(51, 37, seed=14).repeat(2, 1)
    for entries in (100, 500, 1000, 3000):
        for _ in range(5):
            samples = x[torch.randperm(len(x))]
            assert precision_recall(samples, x, neighbours=1, entries=entries) == (1.0, 1.0)


def test_sets_far_apart_have_neither():
    assert precision_recall(randn(50, 4, seed=3) + 100.0, randn(60, 4, seed=4)) == (0.0, 0.0)


def two_modes(n: int, *, seed: int) -> Tensor:
    """The first half of the points around 0, the others far away."""
    x = randn(n, 2, seed=seed)
    x[n // 2 :] += 100.0
    return x


def test_a_dropped_mode_lowers_recall_only():
    reference = two_modes(400, seed=5)
    whole = precision_recall(two_modes(400, seed=6), reference)
    assert min(whole) > 0.9
    precision, recall = precision_recall(randn(400, 2, seed=6), reference)
    assert precision > 0.9
    assert 0.4 < recall <= 0.5


def test_an_invented_mode_lowers_precision_only():
    precision, recall = precision_recall(two_modes(400, seed=7), randn(400, 2, seed=8))
    assert recall > 0.9
    assert 0.4 < precision <= 0.5


@pytest.mark.parametrize("entries", [1, 100, 30 * 7, 10**9])
def test_precision_and_recall_do_not_depend_on_the_memory_allowed(entries):
    samples, reference = 1.3 * randn(40, 3, seed=9), randn(30, 3, seed=10)
    assert precision_recall(samples, reference, entries=entries) == precision_recall(samples, reference)


def test_precision_and_recall_do_not_see_rotations_shifts_and_units():
    samples, reference = 1.3 * randn(200, 5, seed=11), randn(200, 5, seed=12)
    found, turn = precision_recall(samples, reference), rotation(5, 13)
    for factor in (1e-3, 1e3):
        moved = [factor * (x @ turn + 3.0) for x in (samples, reference)]
        assert precision_recall(*moved) == found


# Mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance, precision_recall])
def test_what_cannot_be_compared_is_refused(distance):
    x = randn(10, 3, seed=0)
    for bad in (math.nan, math.inf):
        broken = x.clone()
        broken[4, 1] = broken[7, 0] = bad
        for pair in ((broken, x), (x, broken)):
            with pytest.raises(ValueError, match="2 of 10 examples have features that are not finite"):
                distance(*pair)
    with pytest.raises(ValueError, match="features of 3 and of 2 numbers"):
        distance(x, x[:, :2])
    with pytest.raises(ValueError, match=r"features are \(1, 3\); they must be \(n, d\) with n at least"):
        distance(x[:1], x)


def test_too_few_for_the_neighbours():
    with pytest.raises(ValueError, match="n at least 4"):
        precision_recall(randn(3, 2, seed=0), randn(9, 2, seed=1))
