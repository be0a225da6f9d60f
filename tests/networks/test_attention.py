from __future__ import annotations

import math

import pytest
import torch

from ancestral.networks.attention import SelfAttention, attend


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_by_hand(heads, perturb):
    layer = perturb(SelfAttention(8, heads=heads).double())
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    d = 8 // heads
    for i in range(2):
        pixels = layer.norm(x)[i].reshape(8, 15).T
        q, k, v = (
            pixels @ w.T + b for w, b in zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True)
        )
        mixed = torch.empty(15, 8, dtype=torch.float64)
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            scores = (q[:, part] @ k[:, part].T / math.sqrt(d)).exp()
            mixed[:, part] = (scores / scores.sum(dim=1, keepdim=True)) @ v[:, part]
        expected = x[i] + (mixed @ layer.out.weight.T + layer.out.bias).T.reshape(8, 3, 5)
        torch.testing.assert_close(layer(x)[i], expected, atol=1e-12, rtol=0)


def test_attention_in_bf16_is_the_same_formula():
    q, k, v = torch.randn(3, 2, 2, 20, 8).bfloat16()
    exact = attend(q.double(), k.double(), v.double())
    rough = attend(q, k, v)
    assert rough.dtype == torch.bfloat16
    assert (rough.double() - exact).norm() < 0.01 * exact.norm()


def test_attention_starts_as_the_identity_and_mixes_pixels(perturb):
    layer = SelfAttention(8)
    x = torch.randn(1, 8, 4, 4)
    assert torch.equal(layer(x), x)
    perturb(layer)
    moved = x.clone()
    moved[..., 0, 0] += 1
    assert ((layer(moved) - layer(x))[..., 3, 3] != 0).any()
