"""Tables: what is read from CSV and Parquet is what the csv module and pyarrow's own reader find there."""

from __future__ import annotations

import csv
import gzip
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ancestral.data import Dataset, Reading, load_data
from ancestral.data.readers import tables
from ancestral.parts.scaling import Scaling

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(50, 3)) * [1.0, 1e-3, 1e5] + [0.0, 5e-3, -7.0]
NAMES = ("height", "mass, kg", 'the "third"')
PLAIN = "a,b\n" + "".join(f"{i},{i / 8}\n" for i in range(10))
"""Ten rows of two columns."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANCESTRAL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def as_csv(path: Path, values: np.ndarray, *, names: Any = NAMES, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(names)
        writer.writerows(values.tolist())
    return path


def as_parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def all_rows(data: Dataset) -> np.ndarray:
    """The rows of all splits, sorted as a file of unknown order would be."""
    parts = [part.x for part in (data.train, data.validation, data.test) if part is not None]
    return np.unique(torch.cat(parts).numpy(), axis=0)


def message(path: Path, **choices: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 — the words are the caller's to check
        load_data(path, reading=Reading(**choices))
    return str(caught.value)


# What is read ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_csv_file_is_what_the_csv_module_reads(delimiter: str, tmp_path: Path) -> None:
    path = as_csv(tmp_path / "people.csv", VALUES, delimiter=delimiter)
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file, delimiter=delimiter)
    data = load_data(path)
    assert (data.name, data.columns, data.notes) == ("people", tuple(header), ())
    assert data.spec.shape == (3,)
    assert data.spec.levels is None
    assert np.array_equal(all_rows(data), np.unique(np.array(rows, np.float32), axis=0))


def test_all_forms_hold_the_same(tmp_path: Path) -> None:
    names = ("a", "b", "c")
    plain = as_csv(tmp_path / "1.csv", VALUES, names=names)
    forms = [
        plain,
        as_csv(tmp_path / "2.tsv", VALUES, names=names, delimiter="\t"),
        written(tmp_path / "3.csv.gz", gzip.compress(plain.read_bytes())),
        written(tmp_path / "4.csv", b"\xef\xbb\xbf" + plain.read_bytes().replace(b"\r\n", b"\n")),
        written(tmp_path / "5.csv", plain.read_bytes().replace(b",", b" ,  ").replace(b"\n", b"\n\n")),
        as_parquet(tmp_path / "6.parquet", **dict(zip(names, VALUES.T, strict=True))),
        as_parquet(tmp_path / "7.PARQUET", **dict(zip(names, VALUES.T.astype(np.float32), strict=True))),
    ]
    for path in forms:
        data = load_data(path)
        assert data.columns == names
        assert torch.equal(data.train.x, load_data(plain).train.x), path


def test_the_first_line_may_be_data(tmp_path: Path) -> None:
    data = load_data(written(tmp_path / "t.csv", PLAIN.partition("\n")[2]))
    assert data.columns == ("column 1", "column 2")
    assert len(all_rows(data)) == 10
    assert "no line of names" in data.notes[0]


@pytest.mark.parametrize("first", [0, 1])
def test_columns_may_be_called_by_their_numbers(first: int, tmp_path: Path) -> None:
    """As pandas does with an array."""
    data = load_data(as_csv(tmp_path / "t.csv", VALUES, names=range(first, first + 3)))
    assert data.columns == tuple(str(first + i) for i in range(3))
    assert len(all_rows(data)) == len(VALUES)
    assert data.notes == ("the first line of t.csv, which counts the columns, is taken for their names.",)


def test_whole_numbers_and_truth_are_numbers(tmp_path: Path) -> None:
    text = "a,yes\n" + "".join(f"{i},{'TRUE' if i % 3 else 'False'}\n" for i in range(9))
    expected = np.array([(i, bool(i % 3)) for i in range(9)], np.float32)
    assert np.array_equal(all_rows(load_data(written(tmp_path / "t.csv", text))), expected)
    nullable = pa.array([bool(i % 3) for i in range(9)])
    path = as_parquet(tmp_path / "t.parquet", a=pa.array(range(9), pa.uint8()), yes=nullable)
    assert np.array_equal(all_rows(load_data(path)), expected)


def test_parquets_other_numbers(tmp_path: Path) -> None:
    whole = list(range(6))
    path = as_parquet(
        tmp_path / "t.parquet",
        half=pa.array(np.arange(6, dtype=np.float16)),
        decimal=pa.array(whole).cast(pa.decimal128(22, 2)),
        coded=pa.array(whole, pa.int64()).dictionary_encode(),
        written=pa.array([str(value) for value in whole]),
    )
    assert np.array_equal(all_rows(load_data(path)), np.repeat(np.arange(6.0)[:, None], 4, axis=1))


def test_what_pandas_calls_its_rows_is_no_column(tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "t.parquet", a=list(range(9)), __index_level_0__=list(range(9)))
    data = load_data(path)
    assert data.columns == ("a",)
    assert "__index_level_0__" in data.notes[0]


# Labels ---------------------------------------------------------------------------------------------


def labelled(data: Dataset) -> list[tuple[float, str]]:
    """The first entry of each training example and the name of its class."""
    assert data.train.labels is not None
    assert data.class_names is not None
    firsts = data.train.x[:, 0].tolist()
    return [(x, data.class_names[i]) for x, i in zip(firsts, data.train.labels.tolist(), strict=True)]


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (["wolf", "cat", "dog"], ("cat", "dog", "wolf")),
        ([2, 0, 10], ("0", "2", "10")),
        ([-1, 1], ("-1", "1")),
        ([1.0, 3.0], ("1", "3")),
    ],
)
def test_a_label_is_taken_out(form: str, classes: list[Any], names: tuple[str, ...], tmp_path: Path) -> None:
    kinds = [classes[i % len(classes)] for i in range(30)]
    path = tmp_path / f"t.{form}"
    if form == "parquet":
        column = pa.array(kinds)
        as_parquet(path, x=np.arange(30.0), kind=column.dictionary_encode() if names[0] == "cat" else column)
    else:
        written(path, "x,kind\n" + "".join(f"{i},{kind}\n" for i, kind in enumerate(kinds)))
    data = load_data(path, reading=Reading(label="kind"))
    assert (data.columns, data.class_names) == (("x",), names)
    whole = [str(int(kind)) if isinstance(kind, float) else str(kind) for kind in kinds]
    assert all(name == whole[int(x)] for x, name in labelled(data))


def test_classes_are_those_of_both_splits(tmp_path: Path) -> None:
    written(tmp_path / "d" / "train.csv", "x,kind\n" + "1,b\n2,c\n" * 5)
    written(tmp_path / "d" / "test.csv", "kind,x\na,7\nc,8\n")
    data = load_data(tmp_path / "d", reading=Reading(label="kind"))
    assert (data.name, data.class_names) == ("d", ("a", "b", "c"))
    assert data.test.labels is not None
    assert (data.test.x.tolist(), data.test.labels.tolist()) == ([[7.0], [8.0]], [0, 2])
    assert set(labelled(data)) == {(1.0, "b"), (2.0, "c")}


def test_a_test_split_may_lack_the_label(tmp_path: Path) -> None:
    written(tmp_path / "d" / "train.csv", "x,kind\n" + "1,b\n2,c\n" * 5)
    written(tmp_path / "d" / "test.csv", "x\n7\n8\n")
    data = load_data(tmp_path / "d", reading=Reading(label="kind"))
    assert data.train.labels is not None
    assert data.test.labels is None


# Splits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("csv", "csv"), ("parquet", "parquet"), ("csv.gz", "parquet")])
def test_a_folder_comes_with_its_split(first: str, second: str, tmp_path: Path) -> None:
    """Columns go by their names, whatever their order."""
    folder = tmp_path / "cohort"
    folder.mkdir()
    for suffix, part, order in ((first, "train", (0, 1, 2)), (second, "test", (2, 0, 1))):
        rows = VALUES[:40] if part == "train" else VALUES[40:]
        columns = {NAMES[i]: rows[:, i] for i in order}
        path = folder / f"{part}.{suffix}"
        if suffix == "parquet":
            as_parquet(path, **columns)
        else:
            as_csv(folder / "other", np.stack(list(columns.values()), axis=1), names=list(columns))
            content = (folder / "other").read_bytes()
            written(path, gzip.compress(content) if suffix.endswith("gz") else content)
    data = load_data(folder, validation=0)
    assert (data.name, data.columns, data.test_origin) == ("cohort", NAMES, "given with the data")
    assert np.array_equal(data.train.x.numpy(), VALUES[:40].astype(np.float32))
    assert np.array_equal(data.test.x.numpy(), VALUES[40:].astype(np.float32))


def test_a_folder_that_does_not_fit(tmp_path: Path) -> None:
    written(tmp_path / "train.csv", PLAIN)
    written(tmp_path / "test.csv", "a,c\n1,2\n")
    assert "'train.csv' and 'test.csv' must have the same columns" in (told := message(tmp_path))
    assert "'b', 'c'" in told
    written(tmp_path / "test.csv", "a,b\n1,\n")
    assert "column 'b' of 'test.csv' has no value in row 1" in message(tmp_path)
    written(tmp_path / "train.tsv", PLAIN)
    assert "train.csv, train.tsv, which are several files for the split train" in message(tmp_path)


# Large tables ---------------------------------------------------------------------------------------


def test_a_large_table_is_read_once(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = as_csv(tmp_path / "t.csv", np.c_[np.arange(40_000) % 5, RNG.normal(size=40_000)], names="ab")
    reading = Reading(label="a")
    small = load_data(path, reading=reading)
    assert not place.exists()
    monkeypatch.setattr(tables, "CACHED_ABOVE", 2**16)
    steps: list[tuple[int, int]] = []
    first = load_data(
        path, reading=Reading(label="a", progress=lambda done, total: steps.append((done, total)))
    )
    assert steps == sorted(steps) != []
    (entry,) = place.iterdir()
    for data in (first, load_data(path, reading=reading)):
        assert torch.equal(data.train.x, small.train.x)
        assert torch.equal(data.train.labels, small.train.labels)  # type: ignore[arg-type]
        assert (data.columns, data.class_names, data.notes) == (small.columns, small.class_names, small.notes)
    assert [other.name for other in place.iterdir()] == [entry.name]
    # Another choice and another content are other entries.
    assert load_data(path).columns == ("a", "b")
    os.utime(path, ns=(1, 1))
    load_data(path, reading=reading)
    assert len(list(place.iterdir())) == 3


def test_nothing_is_left_of_a_large_table_that_is_refused(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CACHED_ABOVE", 2**16)
    path = written(tmp_path / "t.csv", "a,b\n" + "1,2\n" * 2_000_000 + "1,x\n")
    assert "column 'b' of 't.csv' holds 'x' in row 2000001" in message(path)
    assert list(place.iterdir()) == []


# Mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1,", "column 'b' of 't.csv' has no value in row 11;"),
        ("NA,1", "column 'a' of 't.csv' has no value in row 11 (it holds 'NA')"),
        ("nan,1", "column 'a' of 't.csv' has no value in row 11 (it holds 'NaN')"),
        ("?,1", "column 'a' of 't.csv' has no value in row 11 (it holds '?')"),
        ("-inf,1", "column 'a' of 't.csv' holds -inf in row 11, which is not a finite number"),
        ("1,1e39", "column 'b' of 't.csv' holds 1e+39 in row 11, which is not a finite number"),
        ("1,red", "column 'b' of 't.csv' holds 'red' in row 11, which is text.*--label 'b'"),
        ("1,true", "column 'b' of 't.csv' holds 'true' in row 11, which is text"),
        ("2020-01-31,1", "column 'a' of 't.csv' holds '2020-01-31' in row 11, which looks like a date"),
        ("1,31.1.2020 10:00", "column 'b' .* looks like a date"),
        ('"1,234.5",1', "column 'a' of 't.csv' holds '1,234.5' in row 11, a number with a comma"),
        ("1,2,3", "line 12 of 't.csv' has 3 fields ('1,2,3'), and its header has 2"),
        ("\n\n1", "line 14 of 't.csv' has 1 field ('1'), and its header has 2"),
        ('"x\ny\nz",1\n5', "line 15 of 't.csv' has 1 field ('5'), and its header has 2"),
        (b"1,\xe9", "'t.csv' is not UTF-8: line 12 holds the byte 0xe9.*Latin-1.*Save it as UTF-8"),
    ],
)
def test_a_line_that_is_none(line: str | bytes, words: str, tmp_path: Path) -> None:
    added = line.encode() if isinstance(line, str) else line
    told = message(written(tmp_path / "t.csv", PLAIN.encode() + added + b"\n" + b"1,2\n" * 3))
    for word in words.split(".*"):
        assert word in told


def test_truth_among_numbers_and_numbers_among_truth(tmp_path: Path) -> None:
    """Also where one batch is all of one and the next of the other."""
    ones, truths = "1,1\n" * 1_500_000, "1,true\n" * 1_500_000
    told = message(written(tmp_path / "t.csv", f"a,b\n{ones}{truths}"))
    assert "column 'b' of 't.csv' holds 'true' in row 1500001" in told
    told = message(written(tmp_path / "t.csv", f"a,b\n{truths}{ones}"))
    assert re.search("column 'b' of 't.csv' holds '1' in row 1500001, which is not true or false", told)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "'t.csv' is empty"),
        ("\n \n", "'t.csv' is empty"),
        ("a,b\n", "'t.csv' has columns and no rows"),
        ("a,b,a\n1,2,3\n", "'t.csv' has several columns of the name 'a'"),
        ("a,,b\n0,1,2\n", "column 2 of 't.csv' has no name in the header"),
        ("a\n1\n\n3\n", "column 'a' of 't.csv' has no value in row 2"),
        (PLAIN.encode("utf-16"), "'t.csv' is written in UTF-16. Save it as UTF-8"),
        (PLAIN.encode("utf-16-be"), "'t.csv' holds zero bytes.*Save it as UTF-8"),
        ("näme,b\n1,2\n".encode("latin-1"), "'t.csv' is not UTF-8: line 1 holds the byte 0xe4"),
        ("a,b\n1," + "2" * (3 << 20) + "\n", "line of more than 1 MiB"),
    ],
)
def test_a_file_that_is_no_table(content: str | bytes, words: str, tmp_path: Path) -> None:
    told = message(written(tmp_path / "t.csv", content))
    for word in words.split(".*"):
        assert word in told


def test_a_damaged_gzip(tmp_path: Path) -> None:
    packed = gzip.compress(
        b"a,b\n" + b"".join(b"%d,%d\n" % tuple(pair) for pair in RNG.integers(0, 99, (90_000, 2)))
    )
    for name, content in (
        ("short", packed[: len(packed) // 2]),
        ("header", packed[:9]),
        ("none", b"a,b\n1,2\n"),
    ):
        path = written(tmp_path / f"{name}.csv.gz", content)
        assert f"{name}.csv.gz' is a truncated or damaged gzip file" in message(path)


def test_labels_that_are_none(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", PLAIN)
    assert "label is 'kind', and 't.csv' has no such column; it has 'a', 'b'" in message(path, label="kind")
    assert "Did you mean 'height'?" in message(as_csv(tmp_path / "u.csv", VALUES), label="heigth")
    assert "the label 'b' holds real numbers, such as 0.125" in message(path, label="b")
    assert "no column beside the label 'a'" in message(written(tmp_path / "t.csv", "a\n1\n2\n"), label="a")
    path = written(tmp_path / "t.csv", "a,b\n1,x\n2,\n")
    assert "column 'b' of 't.csv' has no value in row 2" in message(path, label="b")
    path = written(tmp_path / "t.csv", "a,b\n" + "".join(f"1,id{i}\n" for i in range(10_001)))
    assert "the label 'b' of 't.csv' holds more than 10,000 different values" in message(path, label="b")


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array([[1.0, 2.0]] * 9), "column 'b' of 't.parquet' is nested (list<"),
        (pa.array([{"x": 1}] * 9), "column 'b' of 't.parquet' is nested (struct<"),
        (
            pa.array([0] * 9, pa.timestamp("ms")),
            "column 'b' of 't.parquet' holds dates or times (timestamp[ms])",
        ),
        (pa.array([b"x"] * 9), "column 'b' of 't.parquet' has type binary"),
        (pa.array([1, 2, None] * 3), "column 'b' of 't.parquet' has no value in row 3"),
        (pa.nulls(9), "column 'b' of 't.parquet' has no value in row 1"),
        (
            pa.array([1.0, np.nan, 2.0] * 3),
            "column 'b' of 't.parquet' has no value in row 2 (it holds 'NaN')",
        ),
        (pa.array(["red"] * 9).dictionary_encode(), "column 'b' of 't.parquet' holds 'red' in row 1"),
    ],
)
def test_parquet_columns_that_are_no_numbers(column: Any, words: str, tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "t.parquet", a=np.arange(9.0), b=column)
    assert words in message(path)
    if not words.endswith("row 1"):
        with pytest.raises(ValueError, match="'b'"):
            load_data(path, reading=Reading(label="b"))


def test_a_damaged_parquet_file(tmp_path: Path) -> None:
    whole = as_parquet(tmp_path / "t.parquet", a=RNG.normal(size=5_000)).read_bytes()
    for content in (b"", b"a,b\n1,2\n", whole[:-100], whole[: len(whole) // 2], b"PAR1" + whole[500:]):
        assert "t.parquet' is no Parquet file, or a damaged one" in message(
            written(tmp_path / "t.parquet", content)
        )
    cut = whole[:200] + b"\xff" * 20_000 + whole[20_200:]
    assert "t.parquet" in message(written(tmp_path / "t.parquet", cut))


def test_notes(tmp_path: Path) -> None:
    text = "a,b,c\n" + "".join(f"{i / 7},5,{2**54 + 2**40 * i}\n" for i in range(9))
    rounded, constant = load_data(written(tmp_path / "t.csv", text)).notes[:2]
    assert "more digits than 64 bits hold, in 't.csv': 'c'" in rounded
    assert "constant: 'b'" in constant


def test_columns_that_32_bits_would_round_are_read_in_64(tmp_path: Path) -> None:
    for values in ([2**24 + i for i in range(9)], [1e5 + i / 99 for i in range(9)]):
        data = load_data(written(tmp_path / "t.csv", "a\n" + "".join(f"{v!r}\n" for v in values)))
        assert data.spec.double
        assert sorted(all_rows(data).ravel().tolist()) == values
    for values in ([2**24 + 2 * i for i in range(9)], [10 + i / 99 for i in range(9)]):
        data = load_data(written(tmp_path / "t.csv", "a\n" + "".join(f"{v!r}\n" for v in values)))
        assert data.train.x.dtype == torch.float32


# On to the model ------------------------------------------------------------------------------------


def test_the_networks_see_standardised_columns_and_samples_are_in_the_tables_units(tmp_path: Path) -> None:
    data = load_data(as_csv(tmp_path / "t.csv", VALUES), validation=0)
    scaling = Scaling(data.spec).fit(data.seen())
    u = scaling(data.train.x)
    assert torch.allclose(u.mean(0), torch.zeros(3), atol=1e-4)
    assert torch.allclose(u.std(0, correction=0), torch.ones(3), atol=1e-3)
    assert torch.allclose(scaling.inverse(u), data.train.x, rtol=1e-5)


def test_columns_and_classes_are_told(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", "x,kind\n" + "1,b\n2,c\n" * 5)
    described = load_data(path, reading=Reading(label="kind")).describe()
    assert (described["columns"], described["class_names"], described["labels"]) == (["x"], ["b", "c"], 2)
