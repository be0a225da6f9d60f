"""Augmented training images: the right images, drawn as they should be, and of training alone."""

from __future__ import annotations

import pytest
import torch

from ancestral.data import Reading, content_hash, load_data
from ancestral.data.augment import flipped, shifted
from ancestral.data.dataset import Augmentation


def pictures(n: int, size: int = 16) -> torch.Tensor:
    """Images whose every pixel says where it was."""
    place = torch.arange(size * size, dtype=torch.int32).view(1, 1, size, size)
    return place.repeat(n, 1, 1, 1) * 3 + torch.arange(3, dtype=torch.int32).view(1, 3, 1, 1)


def test_half_are_mirrored_and_the_others_left():
    torch.manual_seed(0)
    x = pictures(2_000)
    out = flipped(x)
    mirrored = (out == x.flip(-1)).flatten(1).all(1)
    assert ((out == x).flatten(1).all(1) ^ mirrored).all()
    assert abs(int(mirrored.sum()) - 1_000) < 4 * 22.4


def test_each_is_moved_as_a_whole_with_its_edges_repeated():
    torch.manual_seed(0)
    x = pictures(2_000)
    padded = torch.nn.functional.pad(x.double(), (2, 2, 2, 2), mode="replicate").int()
    moves = {(i, j): padded[0, :, i : i + 16, j : j + 16] for i in range(5) for j in range(5)}
    out = shifted(x)
    found = [next(move for move, image in moves.items() if torch.equal(image, one)) for one in out]
    counts = torch.tensor([found.count(move) for move in moves])
    # 25 moves, each as likely: chi-squared with 24 degrees of freedom is below 51 but once in a thousand.
    assert float((counts - 80).square().sum() / 80) < 51


def test_only_what_is_trained_on_changes():
    plain = load_data("digits")
    data = load_data("digits", augment=("flip", "shift"))
    assert data.describe()["augment"] == ["flip", "shift"]
    assert plain.describe()["augment"] == []
    for name in ("train", "validation", "test"):
        assert torch.equal(data.split(name).x, plain.split(name).x)
    assert torch.equal(torch.cat(list(data.seen())), torch.cat(list(plain.seen())))
    index = torch.arange(len(data.train))
    torch.manual_seed(0)
    first, second = data.batch(index), data.batch(index)
    assert not torch.equal(first, plain.batch(index))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(data.batch(index), first)


def test_another_training_set_is_another_content():
    """So that a run cannot be resumed without its augmentation; the order of names says nothing."""
    chosen: list[tuple[Augmentation, ...]] = [(), ("flip",), ("flip", "shift"), ("shift", "flip")]
    *others, one, same = (content_hash(load_data("digits", augment=names)) for names in chosen)
    assert one == same
    assert len({*others, one}) == 3


def test_bits_are_drawn_from_the_changed_image():
    data = load_data("digits", binarize="dynamic", augment=("shift",))
    assert set(data.batch(torch.arange(50)).unique().tolist()) == {0, 1}


def test_refusals():
    with pytest.raises(ValueError, match="augment is flip and 'moons' holds vectors"):
        load_data("moons", augment=("flip",))
    with pytest.raises(ValueError, match="augment is 'filp'; it must be one of flip, shift"):
        load_data("digits", augment=("filp",), reading=Reading())  # type: ignore[arg-type]
