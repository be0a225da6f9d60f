"""Which names are those of a part of the data."""

from __future__ import annotations

import pytest

from ancestral.data.readers.splits import part_of, parts_of


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (
            "train",
            "train Train TRAIN training trainset train_set Training-Data TrainingSet trn train2017 train_1",
        ),
        ("test", "test Test testing testset test_images t10k tst TEST test1 testSet"),
        ("validation", "val valid validation Val valset dev eval evaluation val2017 VALID devset"),
    ],
)
def test_names_of_a_part(part, names):
    assert {name: part_of(name) for name in names.split()} == dict.fromkeys(names.split(), part)


@pytest.mark.parametrize("name", ["cat", "trains", "tester", "value", "device", "steam_train", "0", "", "é"])
def test_other_names(name):
    assert part_of(name) is None


def test_siblings_that_differ_in_the_part_only():
    assert parts_of(["seg_test", "seg_train", "notes"]) == {"train": ["seg_train"], "test": ["seg_test"]}
    assert parts_of(["steam_train", "test_tube", "car"]) == {}
    assert parts_of(["Test", "train", "Training"]) == {"train": ["Training", "train"], "test": ["Test"]}
