"""Ladder blocks: sizes, starting points, and that every input and parameter counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ancestral.networks.ladder import (
    VECTOR,
    BottomUp,
    Head,
    PosteriorNetwork,
    Residual,
    TopDown,
    level_sizes,
)


@pytest.mark.parametrize(
    ("size", "levels", "expected"),
    [
        ((8, 8), 2, [(4, 4), (2, 2)]),
        ((8, 8), 3, [(4, 4), (4, 4), (2, 2)]),
        ((28, 28), 3, [(14, 14), (7, 7), (4, 4)]),
        ((28, 28), 4, [(14, 14), (7, 7), (4, 4), (2, 2)]),
        ((32, 20), 2, [(16, 10), (8, 5)]),
    ],
)
def test_level_sizes_halve_and_spread(size, levels, expected):
    assert level_sizes(size, levels) == expected


def test_more_levels_than_sizes_share_them_evenly():
    sizes = level_sizes((8, 8), 8)
    assert sizes == [(4, 4)] * 4 + [(2, 2)] * 4


@pytest.mark.parametrize("spatial", [True, False])
def test_residual_starts_as_the_identity_and_then_is_not(spatial):
    block = Residual(16, spatial=spatial)
    u = torch.randn(3, 16, 5, 5) if spatial else torch.randn(3, 16)
    assert torch.equal(block(u), u)
    nn.init.normal_(block.second.weight)
    assert not torch.allclose(block(u), u)


def test_posterior_starts_at_no_departure_from_the_prior_and_reads_both_inputs():
    net = PosteriorNetwork(16, 8, spatial=True)
    stream, features = torch.randn(2, 16, 4, 4), torch.randn(2, 16, 4, 4)
    assert torch.equal(net(stream, features), torch.zeros(2, 8, 4, 4))
    nn.init.normal_(net.out.weight)
    base = net(stream, features)
    assert not torch.allclose(net(stream + 1, features), base)
    assert not torch.allclose(net(stream, features.flip(0)), base)


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (7, 5)])
def test_bottom_up_gives_each_level_its_size(size):
    sizes = level_sizes(size, 3)
    net = BottomUp(2, 16, size=size, sizes=sizes, spatial=True)
    features = net(torch.randn(3, 2, *size))
    assert [tuple(f.shape) for f in features] == [(3, 16, *here) for here in sizes]


def test_bottom_up_of_vectors_has_the_width_at_every_level():
    net = BottomUp(6, 16, size=VECTOR, sizes=[VECTOR] * 3, spatial=False)
    assert [tuple(f.shape) for f in net(torch.randn(5, 6))] == [(5, 16)] * 3


def test_top_down_grows_to_the_level_below_and_takes_z_in():
    net = TopDown(16, 4, spatial=True, size_below=(7, 7))
    stream, z = torch.randn(2, 16, 4, 4), torch.randn(2, 4, 4, 4)
    out = net(stream, z)
    assert out.shape == (2, 16, 7, 7)
    assert not torch.allclose(net(stream, z + 1), out)


def test_examples_do_not_see_each_other():
    net = BottomUp(1, 16, size=(8, 8), sizes=level_sizes((8, 8), 2), spatial=True).double()
    for block in net.modules():
        if isinstance(block, Residual):
            nn.init.normal_(block.second.weight)
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    for whole, alone in zip(net(x), net(x[2:3]), strict=True):
        assert torch.allclose(whole[2:3], alone, atol=1e-12)


def test_head_starts_at_zero_only_when_asked():
    u = torch.randn(2, 16, 4, 4)
    assert torch.equal(Head(16, 3, spatial=True)(u), torch.zeros(2, 3, 4, 4))
    assert Head(16, 3, spatial=True, start_at_zero=False)(u).abs().max() > 0
