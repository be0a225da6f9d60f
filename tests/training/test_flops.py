"""Floating-point operations against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ancestral
from ancestral.experiments.bench import Work, count_work, training_work
from ancestral.training.objective import objective_of
from tiny import MODELS, built, images


def backward_too(call):
    return lambda: call().sum().backward()


def test_a_product_and_its_gradients():
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    once = 2 * 3 * 5 * 7
    assert count_work(lambda: a @ b) == Work(once, 0)
    assert count_work(backward_too(lambda: a @ b)) == Work(3 * once, 0)


def test_a_linear_layer_with_bias_and_a_batched_product():
    layer, x = nn.Linear(5, 7), torch.randn(3, 5)
    # No gradient of the input is asked for: two products in all.
    assert count_work(backward_too(lambda: layer(x))) == Work(2 * (2 * 3 * 5 * 7), 0)
    a, b = torch.randn(4, 3, 5), torch.randn(4, 5, 7)
    assert count_work(lambda: torch.bmm(a, b)) == Work(4 * 2 * 3 * 5 * 7, 0)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_of_stride_two(groups):
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    once = 2 * 2 * (4 * 4) * 6 * (4 // groups) * 9
    assert count_work(lambda: layer(x)) == Work(0, once)
    assert count_work(backward_too(lambda: layer(x))) == Work(0, 3 * once)


def test_a_transposed_convolution():
    layer = nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1)
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    once = 2 * 2 * (5 * 5) * 4 * 6 * 16
    assert count_work(lambda: layer(x)) == Work(0, once)
    assert count_work(backward_too(lambda: layer(x))) == Work(0, 3 * once)


def test_attention_counts_alike_fused_and_written_out():
    q, k, v = (torch.randn(2, 3, 16, 8, requires_grad=True) for _ in range(3))
    once = 2 * (2 * 2 * 3 * 16 * 16 * 8)
    fused = backward_too(lambda: F.scaled_dot_product_attention(q, k, v))
    written = backward_too(lambda: (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v)
    assert count_work(fused) == count_work(written) == Work(3 * once, 0)


def test_precision_does_not_change_the_count():
    layer, x = nn.Conv2d(4, 6, 3), torch.randn(2, 4, 8, 8)

    def lower():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(x)

    assert count_work(lower) == count_work(lambda: layer(x)) != Work(0, 0)


def test_a_vae_by_hand():
    n, widths = 6, (64, 16, 8)
    config = ancestral.VAEConfig(
        latent_dims=4, network="mlp", hidden=(16,), likelihood=ancestral.LikelihoodConfig(sigma="shared")
    )
    chain = built(config, images()).train()
    x = images().train.x[:n]
    encoder = 2 * n * (widths[0] * widths[1] + widths[1] * widths[2])
    decoder = 2 * n * (4 * 16 + 16 * 64)
    # Forward and both gradients, but for the gradient of the data.
    expected = 3 * (encoder + decoder) - 2 * n * widths[0] * widths[1]
    assert training_work(chain, objective_of(chain), x) == Work(expected, 0)


@pytest.mark.parametrize("name", MODELS)
def test_work_is_the_sum_over_examples_and_leaves_gradients_alone(name):
    data = images()
    chain = built(MODELS[name], data).train()
    work = [training_work(chain, objective_of(chain), data.train.x[:n]).total for n in (2, 4, 8)]
    # What is not per example (kernels made of others) does not grow: exactly linear, and nearly through 0.
    assert work[2] - work[1] == 2 * (work[1] - work[0]) > 0
    assert all(p.grad is None for p in chain.parameters())
    assert count_work(lambda: None) == Work(0, 0)
