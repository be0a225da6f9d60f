"""Folders of images: what becomes of what lies in them."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from ancestral.data import Reading, load_data
from ancestral.data.readers import folder as folders


@pytest.fixture(autouse=True)
def place(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("ANCESTRAL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def put(tmp_path):
    """Write a grey image of one value; returns the folder."""

    def put(name: str, value: int = 0, size: tuple[int, int] = (4, 4), mode: str = "L"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, value).convert(mode).save(path)
        return tmp_path / "set"

    return put


def values(split) -> list[int]:
    return sorted(int(image.flatten()[0]) for image in split.x[:])


def everything(data):
    parts = [part for part in (data.train, data.validation, data.test) if part is not None]
    return sorted(value for part in parts for value in values(part))


def test_images_in_a_folder(put):
    for value in range(12):
        folder = put(f"{value:02}.png", 20 * value)
    data = load_data(folder)
    assert (data.name, data.spec.shape, data.spec.levels) == ("set", (1, 4, 4), 256)
    assert everything(data) == list(range(0, 240, 20))
    assert data.train.labels is None
    assert data.notes == ()


def test_folders_are_classes_and_numbers_are_ordered_as_numbers(put):
    for label in (10, 9, 2):
        for number in range(5):
            folder = put(f"{label}/{number}.png", label)
    data = load_data(folder, validation=0)
    assert data.class_names == ("2", "9", "10")
    for split in (data.train, data.test):
        assert [int(data.class_names[label]) for label in split.labels] == [
            int(x[0, 0, 0]) for x in split.x[:]
        ]


def test_the_first_examples_are_of_all_classes_alike(put):
    """What is told of the first n would else be told of one class."""
    for number in range(12):
        for label, count in (("a", 12), ("b", 4)):
            if number < count:
                put(f"train/{label}/{number:02}.png", number)
                folder = put(f"test/{label}/{number:02}.png", number)
    data = load_data(folder, validation=0)
    assert data.test.labels[:4].tolist().count(1) == 1
    assert data.test.labels[:8].tolist().count(1) == 2
    for label in (0, 1):
        kept = [
            int(x.flatten()[0])
            for x, one in zip(data.test.x[:], data.test.labels, strict=True)
            if one == label
        ]
        assert kept == sorted(kept)


def test_train_and_test_are_honoured_with_one_count_of_the_classes(put):
    for number in range(6):
        put(f"train/cat/{number}.png", number)
        put(f"train/dog/{number}.png", 100 + number)
    folder = put("test/dog/1.png", 200)
    put("valid/dog/1.png", 250)
    data = load_data(folder)
    assert data.test_origin == data.validation_origin == "given with the data"
    assert values(data.test) == [200]
    assert data.test.labels.tolist() == data.validation.labels.tolist() == [1]
    assert values(data.validation) == [250]
    assert values(data.train) == [*range(6), *range(100, 106)]
    assert "train to train on (12 files), valid as the validation part (1 files)" in data.notes[0]
    assert load_data(folder, validation=0).validation is None
    assert any("not used" in note for note in load_data(folder, validation=0).notes)


def test_one_image_in_colour_makes_all_colour_unless_grey_is_asked_for(put):
    for number in range(9):
        folder = put(f"{number}.png", number, mode="RGB" if number == 7 else "L")
    assert load_data(folder).spec.shape == (3, 4, 4)
    assert load_data(folder, reading=Reading(channels=1)).spec.shape == (1, 4, 4)
    (folder / "7.png").unlink()
    assert load_data(folder).spec.shape == (1, 4, 4)
    assert load_data(folder, reading=Reading(channels=3)).spec.shape == (3, 4, 4)


def test_sizes_must_agree_or_be_made_to(put):
    for number in range(6):
        folder = put(f"{number}.png", 50 + number, (6, 4) if number < 3 else (9, 8))
    with pytest.raises(
        ValueError, match=r"3\.png' is an image of 9×8 and .*0\.png' one of 6×4.*--image-size 4"
    ):
        load_data(folder)
    data = load_data(folder, reading=Reading(image_size=4))
    assert data.spec.shape == (1, 4, 4)
    assert everything(data) == [50, 51, 52, 53, 54, 55]


def test_a_corrupt_file_stops_with_its_name_or_is_left_out_and_listed(put):
    for number in range(8):
        folder = put(f"{number}.png", number)
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:-30])
    (folder / "5.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"3\.png' cannot be read as an image.*--skip-bad"):
        load_data(folder)
    assert not any(os.scandir(os.environ["ANCESTRAL_CACHE"])), "nothing is left half-written"
    data = load_data(folder, reading=Reading(skip_bad=True))
    assert everything(data) == [0, 1, 2, 4, 5, 6, 7]
    note = data.notes[0]
    assert note.startswith("2 of 9 files left out")
    assert "3.png" in note
    assert "5.jpg" in note


def test_what_is_no_image_is_passed_over_and_counted(put):
    for number in range(6):
        folder = put(f"a/{number}.png", number)
    for name in ("a/readme.txt", "a/.hidden.png", ".git/1.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"?")
    data = load_data(folder)
    assert everything(data) == list(range(6))
    assert any("1 .txt" in note for note in data.notes)


def test_images_beside_folders_of_images_have_no_labels(put):
    for number in range(6):
        put(f"a/{number}.png", number)
    data = load_data(put("b.png", 9))
    assert data.train.labels is None
    assert any("not taken as classes" in note for note in data.notes)


def test_read_once_until_the_folder_changes(put, monkeypatch):
    for number in range(6):
        folder = put(f"{number}.png", number)
    told = []
    load_data(folder, reading=Reading(progress=lambda *pair: told.append(pair)))
    assert told[-1] == (6, 6)

    real = folders.Pool
    monkeypatch.setattr(folders, "Pool", lambda files: pytest.fail("decoded again"))
    assert everything(load_data(folder)) == list(range(6))
    monkeypatch.setattr(folders, "Pool", real)
    put("5.png", 99)
    assert everything(load_data(folder)) == [0, 1, 2, 3, 4, 99]
    (folder / "5.png").unlink()
    assert everything(load_data(folder)) == [0, 1, 2, 3, 4]


def test_an_empty_part_and_an_empty_folder_are_refused(put):
    for number in range(6):
        folder = put(f"train/{number}.png", number)
    (folder / "test").mkdir()
    with pytest.raises(ValueError, match="test' holds no image"):
        load_data(folder)
    shutil.rmtree(folder / "train")
    with pytest.raises(ValueError, match="no data of a known kind"):
        load_data(folder)


def test_a_column_of_labels_is_not_for_images(put):
    with pytest.raises(ValueError, match="label is given"):
        load_data(put("1.png"), reading=Reading(label="class"))


def test_pixels_are_those_of_the_files(tmp_path):
    generator = np.random.default_rng(0)
    expected = generator.integers(0, 256, (20, 5, 7, 3), np.uint8)
    for number, pixels in enumerate(expected):
        Image.fromarray(pixels).save(tmp_path / f"{number:02}.png")
    data = load_data(tmp_path, validation=0)
    found = np.concatenate([split.x[:].permute(0, 2, 3, 1).numpy() for split in (data.train, data.test)])
    assert {image.tobytes() for image in found} == {image.tobytes() for image in expected}
