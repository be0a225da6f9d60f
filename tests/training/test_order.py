"""The data order and the seeds: functions of (seed, position), with nothing to lose."""

from __future__ import annotations

import random

import pytest
import torch

from ancestral._internal.randomness import mixed, own_randomness, reseed
from ancestral.training.order import DataOrder

CPU = torch.device("cpu")


@pytest.mark.parametrize("n", [1, 2, 7, 50])
def test_every_epoch_is_a_permutation(n):
    taken = DataOrder(n, 3).take(0, 5 * n)
    for epoch in taken.split(n):
        assert sorted(epoch.tolist()) == list(range(n))


def test_epochs_and_seeds_differ():
    n = 50
    orders = {
        tuple(epoch.tolist()) for seed in range(4) for epoch in DataOrder(n, seed).take(0, 3 * n).split(n)
    }
    assert len(orders) == 12
    assert tuple(range(n)) not in orders


def test_an_order_is_a_function_of_the_position():
    """However it is walked: from anywhere, in batches of any size, across epochs, forwards or not."""
    n, total = 23, 23 * 6
    whole = DataOrder(n, 9).take(0, total)
    walker, rng = DataOrder(n, 9), random.Random(0)
    for _ in range(200):
        position = rng.randrange(total)
        count = rng.randint(1, min(3 * n, total - position))
        piece = whole[position : position + count]
        assert torch.equal(walker.take(position, count), piece)
        assert torch.equal(DataOrder(n, 9).take(position, count), piece)


def test_each_position_is_as_likely_to_hold_each_example():
    """Chi-square of first entries over 4,000 epochs of 8: 7 degrees of freedom, 99.99 % below 29.9."""
    n, epochs = 8, 4000
    taken = DataOrder(n, 0).take(0, n * epochs).view(epochs, n)
    for column in (0, 5):
        counts = torch.bincount(taken[:, column], minlength=n).double()
        assert float(((counts - epochs / n) ** 2 / (epochs / n)).sum()) < 29.9


def test_an_order_leaves_the_random_state_alone():
    before = torch.random.get_rng_state()
    DataOrder(10, 0).take(0, 100)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_mixed_seeds_are_distinct_and_in_range():
    parts = [(seed, purpose, at) for seed in range(12) for purpose in range(5) for at in range(0, 2000, 16)]
    seeds = [mixed(*part) for part in parts]
    assert len(set(seeds)) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Half of all bits are set, at each place: neighbours are unrelated.
    for bit in range(63):
        share = sum(seed >> bit & 1 for seed in seeds) / len(seeds)
        assert abs(share - 0.5) < 5 * 0.5 / len(seeds) ** 0.5
    assert mixed(1, 2) != mixed(2, 1)
    assert mixed(1) != mixed(1, 0)


def test_mixing_is_splitmix64():
    """The first outputs of SplitMix64 from state 0, of the generator's published test vectors."""
    golden = 0x9E3779B97F4A7C15
    outputs = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [mixed(i * golden & (1 << 64) - 1) for i in range(3)] == [value >> 1 for value in outputs]


def test_own_randomness_gives_the_state_back():
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    with own_randomness(CPU):
        reseed(CPU, 1, 2)
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.equal(first, expected)
    with own_randomness(CPU):
        reseed(CPU, 1, 2)
        assert torch.equal(torch.rand(3), first)


def test_own_randomness_gives_the_state_back_after_an_error():
    before = torch.random.get_rng_state()

    @own_randomness(CPU)
    def fail() -> None:
        torch.rand(3)
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert torch.equal(torch.random.get_rng_state(), before)
