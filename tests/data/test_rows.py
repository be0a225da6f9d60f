"""Examples that stay in their file: to every reader the same as those in memory, bit for bit."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ancestral.config import TrainingConfig, VAEConfig
from ancestral.data import Dataset, Examples, Rows, content_hash, load_data, rows, sources
from ancestral.evaluation import evaluate
from ancestral.experiments.build import build_chain
from ancestral.parts.scaling import Scaling
from ancestral.training import TrainingState, train

RNG = np.random.default_rng(11)
IMAGES = {
    "grey": RNG.integers(0, 256, (60, 4, 5), dtype=np.uint8),
    "one channel": RNG.integers(0, 256, (60, 4, 5, 1), dtype=np.uint8),
    "colour": RNG.integers(0, 256, (60, 4, 5, 3), dtype=np.uint8),
    "200 levels": RNG.integers(0, 200, (60, 4, 5, 4), dtype=np.int64),
    "16 bits": RNG.integers(0, 65536, (60, 4, 5)).astype(">u2"),
}
OTHERS = {
    "bool": RNG.integers(0, 2, (60, 4, 5), dtype=np.uint8).astype(bool),
    "float32": RNG.normal(size=(60, 3)).astype(np.float32),
    "float64": RNG.normal(size=(60, 3)),
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces and blocks of a few rows, so that splits straddle them."""
    monkeypatch.setattr(rows, "PIECE", 7 * 20)


def saved(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "a.npy", array)
    return folder / "a.npy"


def both(path: Path, **options: Any) -> tuple[Dataset, Dataset]:
    """What one file holds, in memory and mapped."""
    with pytest.MonkeyPatch.context() as patch:
        # The way in memory goes through the array in one piece, as if there were no pieces.
        patch.setattr(rows, "PIECE", 2**20)
        resident = load_data(path, **options)
        patch.setattr(sources, "MAPPED_ABOVE", 0)
        mapped = load_data(path, **options)
    for part in (resident.train, resident.test):
        assert isinstance(part.x, torch.Tensor)
    for part in (mapped.train, mapped.test):
        assert isinstance(part.x, Rows)
    return resident, mapped


def assert_same(one: Examples, two: Examples) -> None:
    """Whichever way they are read."""
    assert (one.shape, one.dtype, one.nbytes) == (two.shape, two.dtype, two.nbytes)
    assert torch.equal(one.to("cpu"), two.to("cpu"))
    assert torch.equal(one[3:9][1:].to("cpu"), two[3:9][1:].to("cpu"))
    assert torch.equal(one[:1000].to("cpu"), two[:1000].to("cpu"))
    index = torch.tensor([4, 0, len(one) - 1, 4])
    assert torch.equal(one.index_select(0, index), two.index_select(0, index))
    assert torch.equal(one[2:].index_select(0, index[:2] // 2), two[2:].index_select(0, index[:2] // 2))
    assert two.index_select(0, index).is_contiguous()


def assert_all_same(resident: Dataset, mapped: Dataset) -> None:
    assert resident.describe() == mapped.describe()
    assert resident.spec == mapped.spec
    assert content_hash(resident) == content_hash(mapped)
    for name in ("train", "test") + (("validation",) if resident.validation else ()):
        assert_same(resident.split(name).x, mapped.split(name).x)
    index = torch.tensor([7, 7, 1])
    batches = [torch.manual_seed(1) and data.batch(index) for data in (resident, mapped)]
    assert torch.equal(*batches)
    seen = [torch.manual_seed(2) and torch.cat(list(data.seen())) for data in (resident, mapped)]
    assert torch.equal(*seen)
    fitted = [Scaling(resident.spec).fit(torch.manual_seed(3) and d.seen()) for d in (resident, mapped)]
    for name, value in fitted[0].state_dict().items():
        assert torch.equal(value, fitted[1].state_dict()[name]), name


@pytest.mark.parametrize("validation", [0.0, 0.3])
@pytest.mark.parametrize("binarize", ["none", "dynamic", "threshold"])
@pytest.mark.parametrize("kind", IMAGES)
def test_images_are_the_same(tmp_path: Path, kind: str, binarize: str, validation: float) -> None:
    assert_all_same(*both(saved(tmp_path, IMAGES[kind]), binarize=binarize, validation=validation))


@pytest.mark.parametrize("kind", OTHERS)
def test_vectors_and_bits_are_the_same(tmp_path: Path, kind: str) -> None:
    assert_all_same(*both(saved(tmp_path, OTHERS[kind])))


def test_idx_is_the_same_with_its_labels(tmp_path: Path) -> None:
    x, labels = IMAGES["grey"], RNG.integers(0, 10, 60, dtype=np.uint8)
    for split in ("train", "t10k"):
        for array, what in ((x, "images-idx3"), (labels, "labels-idx1")):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (tmp_path / f"{split}-{what}-ubyte").write_bytes(head + array.tobytes())
    resident, mapped = both(tmp_path, validation=0.2)
    assert_all_same(resident, mapped)
    for name in ("train", "validation", "test"):
        ours, theirs = resident.split(name).labels, mapped.split(name).labels
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours, theirs)


def test_a_file_is_mapped_above_the_limit_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, IMAGES["grey"])
    for limit, kind in ((1200, torch.Tensor), (1199, Rows)):
        monkeypatch.setattr(sources, "MAPPED_ABOVE", limit)
        assert isinstance(load_data(path).train.x, kind)


def test_fortrans_order_is_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = load_data(saved(tmp_path, IMAGES["colour"]))
    monkeypatch.setattr(sources, "MAPPED_ABOVE", 0)
    turned = load_data(saved(tmp_path, np.asfortranarray(IMAGES["colour"])))
    assert isinstance(turned.train.x, torch.Tensor)
    assert content_hash(turned) == content_hash(straight)


def test_indices_out_of_range(tmp_path: Path) -> None:
    _, mapped = both(saved(tmp_path, IMAGES["grey"]))
    for bad in (-1, len(mapped.train)):
        with pytest.raises(IndexError, match="out of range"):
            mapped.batch(torch.tensor([0, bad]))
    with pytest.raises(IndexError, match="out of range"):
        mapped.train.x[:5].index_select(0, torch.tensor([5]))


@pytest.mark.parametrize("bad", [np.nan, 1e39])
def test_bad_entries_are_named_whichever_piece_they_are_in(tmp_path: Path, bad: float) -> None:
    x = OTHERS["float64"].copy()
    x[41, 2] = x[58, 0] = bad
    with pytest.raises(ValueError, match=r"row 41, column 2 \(counted from 0\), one of 2 entries"):
        load_data(saved(tmp_path, x))


def test_the_range_is_that_of_all_pieces(tmp_path: Path) -> None:
    x = np.zeros((60, 4, 5), dtype=np.int64)
    x[55, 3, 4] = 300
    assert load_data(saved(tmp_path, x)).spec.levels == 512
    x[2, 0, 0] = -3
    with pytest.raises(ValueError, match=r"holds -3; integer data count from 0\. Add 3"):
        load_data(saved(tmp_path, x))


def test_statistics_in_pieces_are_those_of_the_whole() -> None:
    x = torch.from_numpy(OTHERS["float64"]) * 3.0 + 100.0
    spec = load_data("moons").spec.__class__((3,), None)
    pieces = Scaling(spec).double().fit(x.split([1, 20, 39]))
    torch.testing.assert_close(pieces.shift, x.mean(dim=0), rtol=1e-14, atol=0)
    torch.testing.assert_close(pieces.scale, x.std(dim=0, unbiased=False), rtol=1e-13, atol=0)
    with pytest.raises(ValueError, match="there are no examples"):
        Scaling(spec).fit(iter(()))


@pytest.mark.parametrize("binarize", ["none", "dynamic"])
def test_training_and_evaluation_are_the_same(tmp_path: Path, binarize: Any) -> None:
    results = []
    for data in both(saved(tmp_path, IMAGES["colour"]), binarize=binarize):
        torch.manual_seed(0)
        config = VAEConfig(network="mlp", hidden=(8,), latent_dims=2)
        state = TrainingState(
            build_chain(config, data.spec, train=data.seen()), TrainingConfig(steps=9, batch_size=16)
        )
        losses = [float(record.loss) for record in train(state, data)]
        found = [evaluate(state.chain, data.split(name).x, batch_size=5).elbo for name in ("train", "test")]
        results.append((losses, found))
    assert results[0] == results[1]
