"""What a model is given: batches, bits, splits, devices, and the hash that recognises the data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ancestral.data import Dataset, Split, assemble, content_hash, load_data
from ancestral.data.bits import BIT_SEEDS, draw_bits, threshold_bits
from ancestral.data.raw import Raw

ALL = ("none", "dynamic", "threshold")


def grey(*, levels: int = 17, n: int = 200) -> Raw:
    rng = np.random.default_rng(levels)
    return Raw("grey", rng.integers(0, levels, (n, 3, 3)), rng.integers(0, 5, n), levels=levels)


# Batches ----------------------------------------------------------------------------------------------


def test_a_slice_of_a_split_keeps_examples_and_labels_together() -> None:
    split = Split(torch.arange(10.0).reshape(5, 2), torch.arange(5))
    some = split[1:3]
    assert torch.equal(some.x, split.x[1:3])
    assert torch.equal(some.labels, torch.tensor([1, 2]))
    assert split[:2].labels is not None
    assert Split(split.x)[:2].labels is None


def test_batch_is_the_rows_asked_for() -> None:
    data = assemble(grey())
    index = torch.tensor([5, 0, 5, len(data.train) - 1])
    batch = data.batch(index)
    assert batch.is_contiguous()
    assert batch.dtype == torch.uint8
    for row, i in zip(batch, index.tolist(), strict=True):
        assert torch.equal(row, data.train.x[i])
    batch.zero_()
    assert data.train.x.any(), "a batch is a copy"
    with pytest.raises(IndexError):
        data.batch(torch.tensor([len(data.train)]))


@pytest.mark.parametrize("levels", [2, 3, 17, 256, 1001])
def test_bits_have_probability_k_over_levels_minus_1(levels: int) -> None:
    draws = 200_000
    for k in {0, 1, levels // 2, levels - 2, levels - 1}:
        dtype = torch.uint8 if levels <= 256 else torch.int32
        bits = draw_bits(torch.full((draws,), k, dtype=dtype), levels=levels)
        assert bits.dtype == torch.uint8
        assert bits.max() <= 1
        p = k / (levels - 1)
        tolerance = 5 * (p * (1 - p) / draws) ** 0.5  # 0 for the two ends: they are certain
        assert abs(bits.double().mean().item() - p) <= tolerance + 1e-12


def test_bits_of_neighbours_are_independent() -> None:
    bits = draw_bits(torch.full((100_000, 2), 128, dtype=torch.uint8), levels=257).double()
    assert abs(torch.corrcoef(bits.T)[0, 1].item()) < 0.016


def test_dynamic_batches_differ_and_follow_the_seed() -> None:
    data = assemble(grey(), binarize="dynamic")
    index = torch.arange(100)
    torch.manual_seed(1)
    first, second = data.batch(index), data.batch(index)
    torch.manual_seed(1)
    again = data.batch(index)
    assert not torch.equal(first, second)
    assert torch.equal(first, again)
    assert first.unique().tolist() == [0, 1]
    assert data.train.x.max() == 16, "the training split keeps its grey levels"
    assert (data.spec.levels, data.source_levels) == (2, 17)


def test_dynamic_batches_average_to_the_grey_levels() -> None:
    data = assemble(grey(), binarize="dynamic")
    index, draws = torch.arange(50), 2_000
    mean = torch.stack([data.batch(index) for _ in range(draws)]).double().mean(dim=0)
    p = data.train.x[:50].double() / 16
    spread = (p * (1 - p) / draws).sqrt()
    assert ((mean - p).abs() <= 5 * spread + 1e-12).all()


@pytest.mark.parametrize("binarize", ["none", "threshold"])
def test_other_batches_draw_nothing(binarize: Any) -> None:
    data = assemble(grey(), binarize=binarize)
    before = torch.get_rng_state()
    data.batch(torch.arange(10))
    assert torch.equal(torch.get_rng_state(), before)


# Held-out bits ----------------------------------------------------------------------------------------


def test_threshold() -> None:
    assert threshold_bits(torch.arange(17, dtype=torch.uint8), levels=17).tolist() == [0] * 9 + [1] * 8
    assert threshold_bits(torch.arange(256).to(torch.uint8), levels=256).tolist() == [0] * 128 + [1] * 128
    plain, cut = assemble(grey()), assemble(grey(), binarize="threshold")
    for name in ("train", "validation", "test"):
        assert torch.equal(cut.split(name).x, (plain.split(name).x > 8).to(torch.uint8))
    index = torch.arange(7)
    assert torch.equal(cut.batch(index), cut.train.x[:7])


def test_held_out_bits_are_fixed_whatever_the_global_seed() -> None:
    torch.manual_seed(1)
    one = assemble(grey(), binarize="dynamic")
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = assemble(grey(), binarize="dynamic")
    for name in ("train", "validation", "test"):
        bits = one.split(name)
        assert torch.equal(bits.x, two.split(name).x)
        assert bits.x.dtype == torch.uint8
        assert bits.x.unique().tolist() == [0, 1]
        assert bits.labels is not None
    assert torch.equal(torch.get_rng_state(), state), "loading leaves the global random state alone"


def test_held_out_bits_are_draws_with_the_stated_seed() -> None:
    plain, dynamic = assemble(grey(n=5_000)), assemble(grey(n=5_000), binarize="dynamic")
    for name in ("validation", "test"):
        k = plain.split(name).x
        bits = dynamic.split(name).x
        generator = torch.Generator().manual_seed(BIT_SEEDS[name])
        assert torch.equal(bits, draw_bits(k, levels=17, generator=generator))
        p = k.double() / 16
        spread = (p * (1 - p)).sum().sqrt() / p.numel()
        assert (bits.double().mean() - p.mean()).abs() < 5 * spread


@pytest.mark.parametrize("binarize", ALL)
def test_every_split_has_the_values_of_the_spec(binarize: Any) -> None:
    data = assemble(grey(), binarize=binarize)
    assert data.spec.levels is not None
    for name in ("train", "validation", "test"):
        split = data.split(name)
        assert split.x.max() < data.spec.levels
        assert tuple(split.x.shape[1:]) == data.spec.shape


def test_split_names() -> None:
    data = assemble(grey(), validation=0)
    assert data.split("test") is data.test
    assert data.split("train") is data.train
    with pytest.raises(ValueError, match=r"no validation split.*validation = 0.*train or test"):
        data.split("validation")
    with pytest.raises(
        ValueError, match=r"split is 'tests'; .* train, validation, test.*Did you mean 'test'"
    ):
        data.split("tests")


# Devices and identity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["digits", "moons", "swiss-roll"])
def test_to_a_device(source: str) -> None:
    data = load_data(source)
    moved = data.to("cpu")
    assert content_hash(moved) == content_hash(data)
    assert moved.describe() == data.describe()
    elsewhere = data.to(torch.device("meta"))
    assert elsewhere.validation is not None
    for split in (elsewhere.train, elsewhere.validation, elsewhere.test):
        assert split.x.device.type == "meta"
        assert split.labels is None or split.labels.device.type == "meta"


def test_hash_is_stable() -> None:
    data = load_data("digits")
    assert content_hash(data) == content_hash(load_data("digits"))
    assert len(content_hash(data)) == 16
    int(content_hash(data), 16)
    assert content_hash(replace(data, name="another place")) == content_hash(data)


def changed(data: Dataset) -> dict[str, Dataset]:
    """The same data with one thing changed, by what it is."""
    assert data.train.labels is not None
    pixel = data.train.x.clone()
    pixel[3, 0, 1, 2] ^= 1
    label = data.train.labels.clone()
    label[0] += 1
    last = data.test.x.clone()
    last[-1, 0, -1, -1] ^= 1
    turned = data.train.x.transpose(2, 3)
    assert data.validation is not None
    return {
        "a pixel": replace(data, train=Split(pixel, data.train.labels)),
        "a label": replace(data, train=Split(data.train.x, label)),
        "no labels": replace(data, train=Split(data.train.x)),
        "a test pixel": replace(data, test=Split(last, data.test.labels)),
        "pixels turned": replace(data, train=Split(turned, data.train.labels)),
        "no validation": replace(data, validation=None),
        "the validation split as test": replace(data, validation=data.test, test=data.validation),
        "levels": replace(data, spec=replace(data.spec, levels=18)),
    }


def test_hash_changes_with_anything_a_run_reads() -> None:
    data = assemble(grey())
    others = changed(data)
    others |= {binarize: assemble(grey(), binarize=binarize) for binarize in ("dynamic", "threshold")}
    hashes = {content_hash(data)} | {content_hash(other) for other in others.values()}
    assert len(hashes) == 1 + len(others)


def test_hash_sees_where_one_split_ends_and_the_next_begins() -> None:
    points = Raw("points", np.random.default_rng(0).normal(size=(20, 3)))
    data = assemble(points)
    assert data.validation is not None
    last = data.train.x[-1:]
    moved = replace(
        data, train=Split(data.train.x[:-1]), validation=Split(torch.cat([last, data.validation.x]))
    )
    assert content_hash(moved) != content_hash(data)
