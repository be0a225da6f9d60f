from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ancestral.networks import TimeEmbedding, TimeMLP


def waves_seen(embedding: TimeEmbedding, time: torch.Tensor, autocast: bool = False) -> torch.Tensor:
    """What the embedding's MLP is given."""
    seen: list[torch.Tensor] = []
    handle = embedding.inner.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        embedding(time)
    handle.remove()
    return seen[0]


def formula(time: list[float], features: int, max_period: float) -> torch.Tensor:
    half = features // 2
    rows = []
    for t in time:
        angles = [1000 * t / max_period ** (i / half) for i in range(half)]
        rows.append([math.sin(a) for a in angles] + [math.cos(a) for a in angles])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("max_period", [10_000.0, 100.0])
def test_sinusoids_are_their_formula(max_period):
    time = [0.0, 0.001, 0.3, 0.9995, 1.0]
    expected = formula(time, 12, max_period)
    t = torch.tensor(time, dtype=torch.float64)
    embedding = TimeEmbedding(12, max_period=max_period)
    in_double = waves_seen(TimeEmbedding(12, max_period=max_period).double(), t)
    torch.testing.assert_close(in_double, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(waves_seen(embedding, t).double(), expected, atol=2e-4, rtol=0)
    # In bf16, 1000 t alone would be off by up to 2 radians.
    under_autocast = waves_seen(embedding, t.float(), autocast=True)
    assert under_autocast.dtype == torch.float32
    torch.testing.assert_close(under_autocast.double(), expected, atol=2e-4, rtol=0)


def test_embedding_is_a_two_layer_mlp_of_the_sinusoids():
    embedding = TimeEmbedding(6).double()
    t = torch.rand(4, dtype=torch.float64)
    h = formula(t.tolist(), 6, 10_000.0) @ embedding.inner.weight.T + embedding.inner.bias
    expected = (h * torch.sigmoid(h)) @ embedding.outer.weight.T + embedding.outer.bias
    torch.testing.assert_close(embedding(t), expected)


def test_neighbouring_times_of_a_thousand_are_told_apart():
    embedding = TimeEmbedding(32)
    waves = waves_seen(embedding, torch.arange(1, 1001) / 1000)
    steps = (waves[1:] - waves[:-1]).norm(dim=1)
    assert steps.min() > 0.5


@pytest.mark.parametrize(("dims", "hidden", "depth"), [(2, 16, 1), (6, 15, 3), (1, 1, 2)])
def test_time_mlp_starts_at_zero_then_depends_on_both(dims, hidden, depth, perturb):
    net = TimeMLP(dims, dims + 1, hidden=hidden, depth=depth)
    z, t = torch.randn(5, dims), torch.rand(5)
    assert torch.equal(net(z, t), torch.zeros(5, dims + 1))
    if hidden > 1:  # a LayerNorm of one entry says nothing about it
        perturb(net)
        assert (net(z, t) != net(z + 1, t)).any()
        assert (net(z, t) != net(z, t / 2)).any()


def test_time_mlp_gradients_reach_every_parameter(unreached):
    net = TimeMLP(2, 2, hidden=16, depth=2)
    z, t = torch.randn(8, 2), torch.rand(8)
    assert unreached(net, lambda: net(z, t)) == []


def test_time_mlp_block_by_hand(perturb):
    net = perturb(TimeMLP(3, 2, hidden=8, depth=1).double())
    z, t = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, dtype=torch.float64)

    def silu(x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(x)

    def normed(x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(dim=1, keepdim=True)
        return centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt()

    def linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return x @ layer.weight.T + layer.bias

    modulation = linear(net.modulation, silu(net.time(t)))
    scale, shift = modulation[:, :8], modulation[:, 8:]
    h = linear(net.first, z)
    block = net.blocks[0]
    h = h + linear(block.outer, silu(linear(block.inner, normed(h) * (1 + scale) + shift)))
    expected = linear(net.last, silu(normed(h) * net.norm.weight + net.norm.bias))
    torch.testing.assert_close(net(z, t), expected)


def test_one_example_knows_nothing_of_the_others(perturb):
    net = perturb(TimeMLP(2, 2, hidden=16, depth=2).double())
    z, t = torch.randn(6, 2, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    alone = torch.cat([net(z[i : i + 1], t[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(net(z, t), alone, atol=1e-12, rtol=0)


def test_bf16_autocast_is_close(perturb):
    net = perturb(TimeMLP(6, 6, hidden=64, depth=2))
    z, t = torch.randn(64, 6), torch.rand(64)
    exact = net(z, t)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(z, t)
    assert rough.dtype == torch.bfloat16
    assert (rough.float() - exact).norm() < 0.03 * exact.norm()


def test_user_mistakes():
    with pytest.raises(ValueError, match=r"is 7; it must be even.*Use 8"):
        TimeEmbedding(7)
    with pytest.raises(ValueError, match="max_period is 1"):
        TimeEmbedding(8, max_period=1)
    net = TimeMLP(2, 2, hidden=8, depth=1)
    with pytest.raises(ValueError, match=r"time is \(3,\) of torch.int64"):
        net(torch.randn(3, 2), torch.arange(3))
    with pytest.raises(ValueError, match=r"it must be \(3,\) real numbers"):
        net(torch.randn(3, 2), torch.rand(3, 1))
    with pytest.raises(ValueError, match="depth is 0"):
        TimeMLP(2, 2, hidden=8, depth=0)
