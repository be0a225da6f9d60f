"""Data sets of Hugging Face's library, from folders made here; the hub itself is played by a stand-in."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ancestral.data import Dataset, Reading, load_data
from ancestral.data.readers import hub

datasets = pytest.importorskip("datasets")
huggingface_hub = pytest.importorskip("huggingface_hub")

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 6, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANCESTRAL_CACHE", str(tmp_path / "cache"))
    # Nothing here may leave the machine.
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: pytest.fail("asked the hub"))
    return tmp_path / "cache"


def png(array: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def saved(folder: Path, splits: dict[str, dict[str, list[Any]]], features: dict[str, Any]) -> Path:
    """As ``save_to_disk`` writes it."""
    kinds = datasets.Features(features)
    made = {name: datasets.Dataset.from_dict(columns, kinds) for name, columns in splits.items()}
    datasets.disable_progress_bars()
    datasets.DatasetDict(made).save_to_disk(folder)
    return folder


def as_parquet(folder: Path, **splits: dict[str, Any]) -> Path:
    folder.mkdir()
    for name, columns in splits.items():
        pq.write_table(pa.table(columns), folder / f"{name}.parquet")
    return folder


def image_folder(folder: Path, images: np.ndarray, *, names: tuple[str, ...] = ("cat", "dog")) -> Path:
    """Images in a folder for each class, every third of them to test on."""
    for number, image in enumerate(images):
        inside = folder / ("test" if number % 3 == 0 else "train") / names[number % 2]
        inside.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(inside / f"{number:02}.png")
    return folder


def read(folder: Path, column: str = "", **choices: Any) -> Dataset:
    return load_data(f"hf:{folder}{column}", validation=0, reading=Reading(**choices))


def message(source: object, **choices: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 — the words are the caller's to check
        load_data(f"hf:{source}", reading=Reading(**choices))
    return str(caught.value)


# Tables ---------------------------------------------------------------------------------------------


def test_a_folder_of_parquet_files_is_vectors(tmp_path: Path, place: Path) -> None:
    values = RNG.normal(size=(900, 2))
    halves = values[:600], values[600:]
    train, test = ({"a": part[:, 0], "n": np.arange(len(part)), "b": part[:, 1]} for part in halves)
    folder = as_parquet(tmp_path / "cloud", train=train, test=test)
    seen: list[tuple[int, int]] = []
    data = read(folder, progress=lambda done, total: seen.append((done, total)))
    assert (data.name, data.columns, data.test_origin) == ("cloud", ("a", "n", "b"), "given with the data")
    expected = np.stack([values[:600, 0], np.arange(600), values[:600, 1]], axis=1).astype(np.float32)
    assert np.array_equal(data.train.x.numpy(), expected)
    assert np.array_equal(data.test.x.numpy()[:, 2], values[600:, 1].astype(np.float32))
    assert seen[-1][0] == 900
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    # Read once, and anew where a file has changed or another column is asked for.
    (entry,) = place.iterdir()
    assert torch.equal(read(folder).train.x, data.train.x)
    assert list(place.iterdir()) == [entry]
    one = read(folder, ":b")
    assert (one.columns, one.train.x.shape) == (("b",), (600, 1))
    assert one.notes[0] == "of 'cloud' are read: train (600), test (300)."
    assert "'a', 'n'" in one.notes[1]
    as_parquet(tmp_path / "other", train=test)
    (tmp_path / "other" / "train.parquet").rename(folder / "train.parquet")
    assert len(read(folder).train) == 300


def test_columns_of_lists_are_vectors(tmp_path: Path) -> None:
    values = RNG.normal(size=(10, 4)).astype(np.float32)
    features = {"v": datasets.List(datasets.Value("float32")), "id": datasets.Value("string")}
    rows = {"v": values.tolist(), "id": ["x"] * 10}
    folder = saved(tmp_path / "s", {"train": rows, "test": rows}, features)
    for column in ("", ":v"):
        data = read(folder, column)
        assert data.columns == ("v 1", "v 2", "v 3", "v 4")
        assert np.array_equal(data.train.x.numpy(), values)
        assert np.array_equal(data.test.x.numpy(), values)
    rows["v"][3] = rows["v"][3][:2]
    folder = saved(tmp_path / "t", {"train": rows}, features)
    assert "column 'v' of 't' (train) holds a list of 2 numbers in row 4, and 4 in the first" in message(
        folder
    )
    rows["v"][3] = None
    folder = saved(tmp_path / "u", {"train": rows}, features)
    assert "column 'v' of 'u' (train) has no value in row 4" in message(folder)


def test_labels_by_name(tmp_path: Path) -> None:
    rows = {"x": [1.0, 2.0, 3.0, 4.0], "kind": ["b", "a", "b", "a"]}
    data = read(as_parquet(tmp_path / "d", train=rows), label="kind")
    assert (data.columns, data.class_names) == (("x",), ("a", "b"))
    for split in (data.train, data.test):
        assert split.labels is not None
        assert [rows["kind"][int(x) - 1] for x in split.x[:, 0]] == ["ab"[i] for i in split.labels]


# Images ---------------------------------------------------------------------------------------------


def test_an_image_folder(tmp_path: Path) -> None:
    data = read(image_folder(tmp_path / "pets", COLOUR))
    assert (data.name, data.class_names, data.spec.shape, data.spec.levels) == (
        "pets",
        ("cat", "dog"),
        (3, 6, 5),
        256,
    )
    assert (len(data.train), len(data.test)) == (8, 4)
    known = {image.tobytes(): number for number, image in enumerate(COLOUR)}
    for name, split in (("train", data.train), ("test", data.test)):
        numbers = [known[image.tobytes()] for image in split.x.permute(0, 2, 3, 1).contiguous().numpy()]
        assert split.labels is not None
        assert [number % 2 for number in numbers] == split.labels.tolist()
        assert all((number % 3 == 0) == (name == "test") for number in numbers)


@pytest.mark.parametrize("form", ["parquet", "disk"])
def test_images_within_a_table(form: str, tmp_path: Path) -> None:
    features = {"picture": datasets.Image(), "answer": datasets.ClassLabel(names=["no", "yes", "maybe"])}
    rows = {"picture": [png(image) for image in GREY], "answer": [2, 0] * 6}
    folder = tmp_path / "d"
    if form == "disk":
        saved(folder, {"train": rows}, features)
    else:
        folder.mkdir()
        datasets.Dataset.from_dict(rows, datasets.Features(features)).to_parquet(folder / "train.parquet")
    data = read(folder)
    assert (data.class_names, data.spec.shape) == (("no", "yes", "maybe"), (1, 6, 5))
    parts = [(split.x[:, 0], split.labels) for split in (data.train, data.test)]
    found = sorted((x.numpy().tobytes(), int(y)) for xs, ys in parts for x, y in zip(xs, ys, strict=True))  # type: ignore[arg-type]
    assert found == sorted(
        (image.tobytes(), answer) for image, answer in zip(GREY, rows["answer"], strict=True)
    )


def test_colour_may_come_late(tmp_path: Path, place: Path) -> None:
    cells = [png(image) for image in (*GREY, COLOUR[0])] * 30
    folder = saved(tmp_path / "d", {"train": {"image": cells}}, {"image": datasets.Image()})
    assert read(folder).spec.shape == (3, 6, 5)
    assert len(list(place.iterdir())) == 1
    assert read(folder, channels=1).spec.shape == (1, 6, 5)
    assert read(folder, channels=3, image_size=4).spec.shape == (3, 4, 4)


def test_bad_images(tmp_path: Path, place: Path) -> None:
    cells = [png(image) for image in GREY]
    cells[4], cells[7] = {"bytes": cells[4]["bytes"][:60], "path": None}, {"bytes": b"no image", "path": None}
    rows = {"image": cells, "kind": list(range(12))}
    features = {"image": datasets.Image(), "kind": datasets.Value("int64")}
    folder = saved(tmp_path / "d", {"train": rows}, features)
    assert "row 5 of 'd' (train) holds no image that can be read" in message(folder)
    assert list(place.iterdir()) == []
    data = read(folder, skip_bad=True, label="kind")
    (note,) = data.notes
    assert note.startswith("2 of 'd' (train) left out")
    assert "row 5 (" in note
    assert "row 8 (" in note
    for split in (data.train, data.test):
        assert split.labels is not None
        assert data.class_names is not None
        for image, label in zip(split.x, split.labels, strict=True):
            assert np.array_equal(image[0].numpy(), GREY[int(data.class_names[label])])


def test_images_of_several_sizes(tmp_path: Path) -> None:
    folder = saved(
        tmp_path / "d", {"train": {"image": [png(GREY[0]), png(GREY[0][:, :4])]}}, {"image": datasets.Image()}
    )
    told = message(folder)
    assert "row 2 of 'd' (train) is an image of 4×6 and those before are of 5×6" in told
    assert "--image-size 4" in told


# Choices and mistakes -------------------------------------------------------------------------------


def test_columns_that_are_not_clear(tmp_path: Path) -> None:
    features = {"left": datasets.Image(), "right": datasets.Image(), "word": datasets.Value("string")}
    rows = {
        "left": [png(image) for image in GREY],
        "right": [png(255 - image) for image in GREY],
        "word": ["x"] * 12,
    }
    folder = saved(tmp_path / "d", {"train": rows}, features)
    told = message(folder)
    assert "which column of 'd' is meant is not clear" in told
    assert "'left' (images), 'right' (images), 'word' (string)" in told
    left, right = read(folder, ":left"), read(folder, ":right")
    assert torch.equal(left.train.x, 255 - right.train.x)
    assert "column 'word' of 'd' is of string; it must be one of images" in message(f"{folder}:word")
    told = message(f"{folder}:lft")
    assert "'lft', and 'd' has no such column" in told
    assert "Did you mean 'left'?" in told
    assert "label is 'rigth', and 'd' has no such column" in message(folder, label="rigth")
    texts = as_parquet(tmp_path / "t", train={"word": ["x"] * 4})
    assert "it has 'word' (string)" in message(texts)
    assert "image_size is given, and 'n' is read as vectors ('x')" in message(
        as_parquet(tmp_path / "n", train={"x": [1.0] * 4}), image_size=8
    )


def test_splits(tmp_path: Path) -> None:
    rows = {"x": RNG.normal(size=8)}
    with_validation = as_parquet(tmp_path / "a", train=rows, validation=rows)
    data = load_data(f"hf:{with_validation}")
    assert data.notes[0] == "of 'a' are read: train (8), validation (8)."
    assert data.test_origin.startswith("held out")
    assert (len(data.validation), data.validation_origin) == (8, "given with the data")
    features = {"x": datasets.Value("float64")}
    alone = saved(tmp_path / "b", {"all": {"x": [1.0, 2.0, 3.0]}}, features)
    assert len(read(alone).train) == 2
    two = saved(tmp_path / "c", {"left": {"x": [1.0]}, "right": {"x": [1.0]}}, features)
    assert "'c' has the splits 'left', 'right', and none is called train" in message(two)
    lacking = saved(tmp_path / "d", {"train": {"x": [1.0, 2.0]}}, features)
    saved(tmp_path / "e", {"test": {"y": [1.0]}}, {"y": datasets.Value("float64")})
    (tmp_path / "e" / "test").rename(lacking / "test")
    (lacking / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert "'d' (test) lacks 'x', which the training split has" in message(lacking)


def test_missing_values_and_labels(tmp_path: Path) -> None:
    folder = as_parquet(tmp_path / "a", train={"x": [1.0, None, 2.0]})
    assert "column 'x' of 'a' (train) has no value in row 2" in message(folder)
    features = {"x": datasets.Value("float64"), "kind": datasets.ClassLabel(names=["a", "b"])}
    train, hidden = {"x": [1.0, 2.0, 3.0], "kind": [1, 0, 1]}, {"x": [1.0], "kind": [-1]}
    data = read(saved(tmp_path / "b", {"train": train, "test": hidden}, features))
    assert (data.class_names, data.test.labels) == (("a", "b"), None)
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [1, 0, 1]
    partly = saved(tmp_path / "c", {"train": {"x": [1.0, 2.0], "kind": [1, -1]}}, features)
    assert "the label 'kind' is missing in row 2 of the split train" in message(partly)


def test_no_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert f"there is no folder '{tmp_path}/no'" in message(f"{tmp_path}/no")
    (tmp_path / "empty").mkdir()
    assert "holds no files" in message(tmp_path / "empty")
    assert "hf: names nothing" in message("")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "train.parquet").write_bytes(b"PAR1 no table")
    told = message(broken)
    assert "cannot be read by datasets" in told
    assert "\n" not in told
    other = as_parquet(tmp_path / "other", train={"x": [1.0, 2.0]}, test={"y": [1.0]})
    assert "'other' (test) cannot be read by datasets: Couldn't cast y: double" in message(other)
    assert not capfd.readouterr().err


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'ancestral[hf]'" in message(tmp_path)


# The hub --------------------------------------------------------------------------------------------


def test_the_hub_is_asked_for_its_commit_and_read_at_it(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = as_parquet(tmp_path / "there", train={"x": RNG.normal(size=20), "y": RNG.normal(size=20)})
    asked: list[Any] = []
    state = SimpleNamespace(sha="abc")
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name, timeout: state)
    load = datasets.load_dataset_builder

    def load_dataset_builder(name: str, **options: Any) -> Any:
        asked.append((name, options))
        return load(str(folder))

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    data = load_data("hf:owner/name:y")
    assert (data.name, data.columns) == ("name", ("y",))
    assert asked == [("owner/name", {"revision": "abc"})]
    load_data("hf:owner/name:y")
    assert len(asked) == 1
    state.sha = "def"
    assert load_data("hf:owner/name").columns == ("x", "y")
    assert asked[1][1]["revision"] == "def"
    assert len(list(place.iterdir())) == 2


def failing(error: Exception) -> Any:
    def dataset_info(*_: Any, **__: Any) -> Any:
        raise error

    return dataset_info


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError("[Errno -2] Name or service not known"),
            "cannot be reached ([Errno -2] Name or service not known)",
        ),
        (RuntimeError("offline\nmode"), "cannot be reached (offline mode)"),
        (huggingface_hub.errors.HFValidationError("no"), "is no name of a data set on the hub"),
    ],
)
def test_the_hub_does_not_answer(error: Exception, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", failing(error))
    started = time.monotonic()
    told = message("owner/name")
    assert words in told
    assert "there is no folder 'owner/name' here" in told
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(("status", "words"), [(404, "no data set of that name"), (503, "cannot be reached")])
def test_the_hub_says_no(status: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = huggingface_hub.errors.HfHubHTTPError.__new__(huggingface_hub.errors.HfHubHTTPError)
    error.response = SimpleNamespace(status_code=status)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", failing(error))
    assert words in message("owner/name")


def test_it_leaves_the_librarys_settings(tmp_path: Path) -> None:
    datasets.enable_progress_bars()
    level = datasets.logging.get_verbosity()
    read(as_parquet(tmp_path / "d", train={"x": [1.0, 2.0, 3.0]}))
    assert not datasets.are_progress_bars_disabled()
    assert datasets.logging.get_verbosity() == level
    assert hub.KIND.matches("hf:x")
    assert not hub.KIND.matches("x")
