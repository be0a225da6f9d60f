"""Memory: what is held, what a step keeps and must move."""

from __future__ import annotations

import mmap
import sys

import pytest
import torch
from torch import nn

from ancestral.experiments.bench import step_cost
from ancestral.experiments.bench.memory import held, parameter_traffic, peak, reset_peak, saved_bytes
from tiny import MODELS, TRAINING, built, images

CPU = torch.device("cpu")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is reset through /proc")
def test_the_peak_is_seen_and_forgotten():
    reset_peak(CPU)
    before, size = peak(CPU), 1 << 27
    # Mapped by hand: the C library may keep what a tensor leaves (``allocator``).
    with mmap.mmap(-1, size) as large:
        for _ in range(size >> 20):
            large.write(b"1" * (1 << 20))
        assert held(CPU) - before > 0.9 * size
    assert peak(CPU) - before > 0.9 * size
    reset_peak(CPU)
    assert peak(CPU) - before < 0.5 * size


def test_what_is_kept_for_the_backward_pass():
    layer = nn.Linear(5, 7, bias=False)
    x = torch.randn(3, 5)
    with saved_bytes(layer) as saved:
        y = layer(x)
        # exp keeps its result, twice asked for but there once; the weight is a parameter.
        z = y.exp()
        (z * z).sum()
    assert saved[0] == 4 * (3 * 5 + 3 * 7)


def test_parameters_are_moved_by_each_part_of_a_step():
    chain = built(MODELS["vae-mlp"], images())
    count = sum(p.numel() for p in chain.parameters())
    # Forward, backward; gradient written, read; AdamW reads and writes three; the average is two more.
    assert parameter_traffic(chain, averaged=False) == 10 * 4 * count
    assert parameter_traffic(chain, averaged=True) == 12 * 4 * count


def test_a_steps_cost_leaves_the_caller_as_it_was():
    data = images()
    chain = built(MODELS["ddpm"], data)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    work, moved = step_cost(chain, data, TRAINING, CPU)
    assert torch.equal(torch.rand(2), expected)
    assert work.convolutions > work.products > 0
    assert moved > parameter_traffic(chain, averaged=True)
