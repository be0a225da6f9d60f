"""Draws of a part of a block are those rows of the block's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, distributions

from ancestral._internal.block import block_size, of_block, part_of_block

N = 50
MEAN, P = torch.randn(N, 4), torch.rand(N, 4)


def draws(mean: Tensor, p: Tensor) -> list[Tensor]:
    n = len(mean)
    torch.manual_seed(3)
    return [
        torch.randn(n, 4),
        torch.randn((n, 1)),
        torch.randn(size=(n, 2)),
        torch.rand((n, 2), dtype=torch.float64),
        torch.rand(n),
        torch.randn_like(mean),
        torch.randint(0, 5, (n, 3)),
        torch.normal(mean, mean.abs() + 1),
        torch.bernoulli(p),
        torch.empty(n * 2, 3).normal_(),
        torch.zeros(n).exponential_(),
        distributions.Normal(mean, 1.0).sample(),
        distributions.Independent(distributions.Laplace(mean, 1.0), 1).rsample(),
        distributions.Bernoulli(p).sample(),
        distributions.Categorical(p.softmax(-1)).sample(),
        distributions.OneHotCategorical(p.softmax(-1)).sample(),
        of_block(lambda rows: torch.rand(3, rows).T, n),
    ]


@pytest.mark.parametrize(("first", "last"), [(0, 7), (7, 20), (49, 50), (3, 50), (0, 50)])
def test_parts_draw_what_the_block_draws(first, last):
    whole = draws(MEAN, P)
    with part_of_block(first, last - first, N):
        assert block_size(last - first) == N
        part = draws(MEAN[first:last], P[first:last])
    for index, (expected, found) in enumerate(zip(whole, part, strict=True)):
        each = len(found) // (last - first)
        assert torch.equal(expected[first * each : last * each], found), index
    assert block_size(3) == 3
