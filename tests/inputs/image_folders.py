"""Folders of images: which parts and classes they hold, and what else lies in them."""

from __future__ import annotations

import os
import socket
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ancestral.data import Dataset, Reading, load_data
from inputs.cases import Cases

CASES = Cases("Folders of images")
SKIP = Reading(skip_bad=True)


def put(folder: str, n: int, first: int = 0) -> None:
    """Write n images, each of one value, counted on from ``first``, of which each name of a file is its value."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for value in range(first, first + n):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(f"{folder}/{value:03}.png")


def values(split: object) -> list[int]:
    """The value of each image of a split, in order of size."""
    return sorted(int(image.flatten()[0]) for image in split.x)  # type: ignore[attr-defined]


def everything(data: Dataset) -> list[int]:
    parts = [part for part in (data.train, data.validation, data.test) if part is not None]
    return sorted(value for part in parts for value in values(part))


def notes(data: Dataset) -> str:
    return "\n".join(data.describe()["notes"])


def rejected(source: str, *words: str, reading: Reading | None = None) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        load_data(source, reading=reading)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@CASES.add(
    "parts named Train and Test, training and testing, TRAIN and test_set, train2017 and val2017",
    answer="read as those parts, never as classes; a note with the names and counts",
)
def split_folders_by_other_names(folder: Path) -> None:
    names = {
        "a": ("Train", "Test"),
        "b": ("training", "testing"),
        "c": ("TRAIN", "test_set"),
        "d": ("train2017", "val2017"),
        "e": ("seg_train/seg_train", "seg_test/seg_test"),
    }
    for name, (train, other) in names.items():
        for first, kind in ((0, "cat"), (100, "dog")):
            put(f"{name}/{train}/{kind}", 10, first)
            put(f"{name}/{other}/{kind}", 3, first + 50)
        data = load_data(name)
        assert data.class_names == ("cat", "dog")
        part = data.validation if name == "d" else data.test
        assert values(part) == [50, 51, 52, 150, 151, 152]
        assert not {50, 51, 52, 150, 151, 152} & {*values(data.train)}
        assert train.split("/")[0] in notes(data)
        assert "(20 files)" in notes(data)
        assert "(6 files)" in notes(data)


@CASES.add("parts within the folder of each class: cat/train, cat/test, dog/train, …", answer="read as parts")
def parts_within_classes(folder: Path) -> None:
    for first, kind in ((0, "cat"), (100, "dog")):
        put(f"a/{kind}/train", 10, first)
        put(f"a/{kind}/Test", 3, first + 50)
    data = load_data("a")
    assert data.class_names == ("cat", "dog")
    assert values(data.test) == [50, 51, 52, 150, 151, 152]
    put("a/cat", 1, 99)
    rejected("a", "Test", "train", "outside")


@CASES.add("one folder around the parts", answer="the parts are read")
def a_folder_around(folder: Path) -> None:
    put("a/photos/train/cat", 10)
    put("a/photos/test/cat", 3, 50)
    data = load_data("a")
    assert (values(data.test), data.class_names) == ([50, 51, 52], ("cat",))


@CASES.add("a folder valid, val or dev beside train", answer="the validation part; a note with its count")
def a_validation_folder(folder: Path) -> None:
    for name, word in (("a", "valid"), ("b", "Val"), ("c", "dev")):
        put(f"{name}/train", 20)
        put(f"{name}/{word}", 5, 100)
        data = load_data(name)
        assert values(data.validation) == [100, 101, 102, 103, 104]
        assert data.validation_origin == "given with the data"
        assert data.test_origin.startswith("held out")
        assert f"{word} as the validation part (5 files)" in notes(data)
        none = load_data(name, validation=0)
        assert none.validation is None
        assert 100 not in everything(none)
        assert "not used" in notes(none)


@CASES.add(
    "a folder named for a part that leaves open what it means: test beside cat and dog, train beside car",
    answer="rejected with the choices",
)
def open_parts(folder: Path) -> None:
    for name, kinds in (
        ("a", ("cat", "dog", "test")),
        ("b", ("train", "car")),
        ("c", ("Train", "training", "test")),
    ):
        for kind in kinds:
            put(f"{name}/{kind}", 5)
    rejected("a", "'test'", "cat", "rename", "a/test")
    rejected("b", "'train'", "car", "rename", "b/train")
    rejected("c", "Train", "training", "Keep one")


@CASES.add("a test part without class folders", answer="the training part keeps its classes; a note")
def a_test_part_without_classes(folder: Path) -> None:
    put("a/train/cat", 10)
    put("a/train/dog", 10, 100)
    put("a/test", 5, 200)
    data = load_data("a")
    assert data.class_names == ("cat", "dog")
    assert {0, 1} == {*data.train.labels.tolist()}
    assert data.test.labels is None
    assert "test part of 'a' has no labels" in notes(data)
    # The folder that some tools want around images without classes is no class.
    put("b/train/cat", 10)
    put("b/train/dog", 10, 100)
    put("b/test/unknown", 5, 200)
    data = load_data("b")
    assert (data.class_names, data.test.labels) == (("cat", "dog"), None)
    assert "unknown" in notes(data)


@CASES.add(
    "a test part with a class that training lacks", answer="read; a note with the number of its images"
)
def a_class_of_the_test_part_only(folder: Path) -> None:
    put("a/train/cat", 10)
    put("a/test/cat", 5, 100)
    put("a/test/fox", 3, 200)
    data = load_data("a")
    assert data.class_names == ("cat", "fox")
    assert (
        "3 images of the test part of 'a' are of classes that the training part does not have: fox"
        in notes(data)
    )


@CASES.add(
    "train.csv and test.csv beside train/ and test/ with images", answer="the images; a note on the tables"
)
def tables_beside_images(folder: Path) -> None:
    put("a/train", 20)
    put("a/test", 5, 100)
    Path("a/train.csv").write_text("id,label\n" + "".join(f"{i},{i % 3}\n" for i in range(20)))
    Path("a/test.csv").write_text("id,label\n" + "".join(f"{i},0\n" for i in range(5)))
    data = load_data("a")
    assert (data.spec.shape, values(data.test)) == ((1, 4, 4), [100, 101, 102, 103, 104])
    assert "a/test.csv" in notes(data)
    assert load_data("a/train.csv").spec.shape == (2,)


@CASES.add("train.csv beside images in the same folder", answer="rejected with both choices")
def a_table_among_images(folder: Path) -> None:
    put("a", 20)
    Path("a/train.csv").write_text("id,label\n" + "".join(f"{i},{i % 3}\n" for i in range(20)))
    rejected("a", "both images and tables", "a/train.csv")


@CASES.add("a stray .idx file among images", answer="the images; the file is counted as not read")
def a_stray_idx_file(folder: Path) -> None:
    put("a", 20)
    Path("a/labels.idx").write_text("0,1,1,0\n")
    data = load_data("a")
    assert everything(data) == list(range(20))
    assert "1 .idx" in notes(data)


@CASES.add("a folder with a built-in's name", answer="the built-in; a note that names ./digits")
def a_namesake(folder: Path) -> None:
    put("digits", 20)
    data = load_data("digits")
    assert data.spec.shape == (1, 8, 8)
    assert "./digits" in notes(data)
    assert everything(load_data("./digits")) == list(range(20))
    assert "./digits" not in notes(load_data("./digits"))


@CASES.add("class names in two Unicode forms", answer="one class; a note with the counts")
def two_unicode_forms(folder: Path) -> None:
    one, other = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    put(f"a/train/{one}", 10)
    put(f"a/test/{other}", 5, 100)
    data = load_data("a")
    assert data.class_names == (one,)
    assert data.test.labels.tolist() == [0] * 5
    put(f"b/{one}", 7)
    put(f"b/{other}", 5, 100)
    put("b/thé", 5, 200)
    data = load_data("b")
    assert data.class_names == (one, "thé")
    assert "5 and 7 images are one class" in notes(data)


@CASES.add("a link that leads nowhere, or in a circle", answer="rejected by name; left out with --skip-bad")
def lost_links(folder: Path) -> None:
    for name, to in (("a", "/nowhere/gone.png"), ("b", "zz.png")):
        put(name, 20)
        os.symlink(to, f"{name}/zz.png")
        rejected(name, "zz.png", "--skip-bad")
        data = load_data(name, reading=SKIP)
        assert everything(data) == list(range(20))
        assert "zz.png" in notes(data)


@CASES.add("a link to a folder above it", answer="rejected by name; left out with --skip-bad")
def a_circle_of_folders(folder: Path) -> None:
    put("b/cat", 10)
    put("b/dog", 10, 100)
    os.symlink("..", "b/cat/again")
    rejected("b", "cat/again", "holds it")
    data = load_data("b", reading=SKIP)
    assert everything(data) == [*range(10), *range(100, 110)]
    assert data.class_names == ("cat", "dog")


@CASES.add("a link to the folder of a class, or from test to train", answer="rejected with both names")
def linked_classes(folder: Path) -> None:
    put("a/cat", 10)
    put("a/dog", 10, 100)
    os.symlink("cat", "a/kitty")
    rejected("a", "a/kitty/000.png", "a/cat/000.png", "same file")
    data = load_data("a", reading=SKIP)
    assert everything(data) == [*range(10), *range(100, 110)]
    put("b/train", 10)
    os.symlink("train", "b/test")
    rejected("b", "b/test/000.png", "b/train/000.png")
    # Links within one class are the same images, which are read once; those to other places are followed.
    put("elsewhere/cat", 10)
    os.makedirs("c")
    os.symlink("../elsewhere/cat", "c/cat")
    os.symlink("000.png", "elsewhere/cat/again.png")
    data = load_data("c")
    assert everything(data) == list(range(10))
    assert "1 links to images that are read already" in notes(data)


@CASES.add("a FIFO, a socket or a device with the name of an image", answer="rejected by name; never opened")
def no_files(folder: Path) -> None:
    put("a", 20)
    os.mkfifo("a/pipe.png")
    rejected("a", "pipe.png", "named pipe", "--skip-bad")
    assert everything(load_data("a", reading=SKIP)) == list(range(20))
    os.remove("a/pipe.png")
    with socket.socket(socket.AF_UNIX) as plug:
        plug.bind("a/plug.png")
        rejected("a", "plug.png", "socket")
        assert "plug.png" in notes(load_data("a", reading=SKIP))
    os.remove("a/plug.png")
    os.symlink("/dev/zero", "a/zero.png")
    rejected("a", "zero.png", "device")


@CASES.add("a cache that cannot be written", answer="the error names its folder and ANCESTRAL_CACHE")
def no_cache(folder: Path) -> None:
    put("a", 20)
    Path("taken").write_text("")
    for place in ("taken", "taken/cache"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ANCESTRAL_CACHE", place)
            rejected("a", f"{place}'", "cannot be written", "ANCESTRAL_CACHE=")


@CASES.add("an image file with broken EXIF", answer="its pixels are read")
def broken_exif(folder: Path) -> None:
    import struct

    turn = struct.pack("<HHII", 0x0112, 3, 1, 6)
    rational = struct.pack("<HHII", 0x011B, 10, 1, 38)
    head = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + turn + rational + struct.pack("<I", 0)
    os.makedirs("a")
    pixels = np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)
    for number, exif in enumerate(
        (head + struct.pack("<ii", -1, 0), head + struct.pack("<II", 0, 0), head[:26], b"")
    ):
        for copy in range(3):
            Image.fromarray(pixels).save(f"a/{number}-{copy}.png", exif=exif)
    data = load_data("a", validation=0)
    found = {image.numpy().tobytes() for split in (data.train, data.test) for image in split.x}
    assert found == {pixels.tobytes(), np.rot90(pixels, -1).tobytes()}


@CASES.add(
    "TIFF stacks and an animation", answer="each page is an example; a note counts the frames not read"
)
def several_pages(folder: Path) -> None:
    os.makedirs("a")
    for number in range(4):
        pages = [Image.fromarray(np.full((4, 4), 10 * page + number, np.uint8)) for page in range(20)]
        pages[0].save(f"a/{number}.tif", save_all=True, append_images=pages[1:])
    pages[0].save("a/film.gif", save_all=True, append_images=pages[1:])
    data = load_data("a")
    assert everything(data) == sorted([10 * page + number for page in range(20) for number in range(4)] + [3])
    assert "4 files hold 80 pages" in notes(data)
    assert "1 files hold 19 more frames, which are not read" in notes(data)
