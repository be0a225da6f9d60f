"""Tables: columns, headers, numbers in text, labels, names."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import ancestral
from ancestral.data import Dataset, Reading, load_data
from ancestral.data.density import not_comparable
from inputs.cases import Cases

CASES = Cases("Tables and vectors")
ROWS = 60


def _csv(name: str, head: str, rows: list[str], end: str = "\n") -> str:
    Path(name).write_bytes((head + "".join(row + end for row in rows)).encode())
    return name


def _pairs(first: str = "{i}.5", second: str = "{i}") -> list[str]:
    return [f"{first},{second}".format(i=i) for i in range(ROWS)]


def _all(data: Dataset) -> np.ndarray:
    parts = [data.train, data.test, *([data.validation] if data.validation else [])]
    rows = torch.cat([part.x for part in parts]).double().numpy()  # type: ignore[arg-type]
    return rows[np.lexsort(rows.T[::-1])]


def _holds(source: str, *, columns: tuple[str, ...] = ("a", "b")) -> Dataset:
    """That a table holds the rows (i + 0.5, i)."""
    data = load_data(source)
    assert data.columns == columns
    expected = np.arange(ROWS)[:, None] + [0.5, 0.0]
    assert np.array_equal(_all(data), expected)
    return data


def _error(source: str, **reading: object) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        load_data(source, reading=Reading(**reading))  # type: ignore[arg-type]
    return str(caught.value)


def _unbounded(source: str) -> str:
    return "\n".join(not_comparable(load_data(source).notes))


# Layout -----------------------------------------------------------------------------------------------


@CASES.add("empty lines above the header", answer="passed over")
def blank_lines(folder: Path) -> None:
    _holds(_csv("t.csv", "\n \na,b\n", _pairs()))


@CASES.add("comment lines above the header and between rows", answer="passed over; a note with their number")
def comment_lines(folder: Path) -> None:
    _holds(_csv("t.csv", "# made by a logger\na,b\n", _pairs()))
    rows = [row + ("\n# pause" if i % 20 == 0 else "") for i, row in enumerate(_pairs())]
    data = _holds(_csv("u.csv", "a,b\n", rows))
    assert any("3 comment line" in note for note in data.notes)


@CASES.add("names in a comment line, as numpy.savetxt writes them", answer="the names of the columns")
def names_of_savetxt(folder: Path) -> None:
    x = np.arange(ROWS)[:, None] + [0.5, 0.0]
    np.savetxt("t.csv", x, fmt="%.4f", delimiter=",", header="a,b")
    _holds("t.csv")


@CASES.add("a separator behind the last column", answer="the empty column is left out, with a note")
def trailing_separator(folder: Path) -> None:
    data = _holds(_csv("t.csv", "a,b,\n", _pairs("{i}.5", "{i},")))
    assert any("empty column" in note for note in data.notes)
    _holds(_csv("u.csv", "a,b\n", _pairs("{i}.5", "{i},")))
    _holds(_csv("v.csv", "a,b,\n", _pairs()))


@CASES.add("a value in an empty column without a name", answer="an error with the row and the line")
def trailing_value(folder: Path) -> None:
    rows = [f"{i}.5,{i},{7 if i == 541 else ''}" for i in range(ROWS * 10)]
    told = _error(_csv("t.csv", "a,b,\n", rows))
    assert "row 542" in told
    assert "line 543" in told


@CASES.add("a line break in a name", answer="a space")
def line_break_in_a_name(folder: Path) -> None:
    head = '"height\n(cm)","weight\n(kg)"\n'
    _holds(_csv("t.csv", head, _pairs()), columns=("height (cm)", "weight (kg)"))


@CASES.add("line ends of old Macintoshes; a byte order mark; sep=; of spreadsheets", answer="read")
def line_ends(folder: Path) -> None:
    _holds(_csv("mac.csv", "a,b\r", _pairs(), "\r"))
    _holds(_csv("bom.csv", '\ufeff"a","b"\r\n', _pairs(), "\r\n"))
    _holds(_csv("sep.csv", "sep=;\na;b\n", [row.replace(",", ";") for row in _pairs()]))


@CASES.add("an index that pandas wrote (no name, or Unnamed: 0)", answer="left out, with a note")
def index_column(folder: Path) -> None:
    for head in (",a,b\n", "Unnamed: 0,a,b\n"):
        data = _holds(_csv("t.csv", head, [f"{i},{row}" for i, row in enumerate(_pairs())]))
        assert any("index" in note for note in data.notes)
    _holds(_csv("u.csv", "Unnamed: 0.1,,a,b\n", [f"{i},{i},{row}" for i, row in enumerate(_pairs())]))
    _holds(_csv("cars.csv", '"","a","b"\n', [f'"car {i}",{row}' for i, row in enumerate(_pairs())]))
    told = _error(_csv("v.csv", ",a,b\n", [f"{i}.25,{row}" for i, row in enumerate(_pairs())]))
    assert "no name" in told


@CASES.add("an index that pandas wrote into a Parquet file", answer="left out, with a note")
def index_in_parquet(folder: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": np.arange(ROWS) + 0.5, "b": np.arange(ROWS) * 1.0})
    frame.set_index(pd.Index([*range(5, ROWS + 4), 3], name="key")).to_parquet("t.parquet")
    data = _holds("t.parquet")
    assert any("'key'" in note for note in data.notes)


# Names or numbers ---------------------------------------------------------------------------------------


@CASES.add("a header of years, times or wavelengths", answer="the names of the columns, with a note")
def header_of_numbers(folder: Path) -> None:
    x = np.random.default_rng(0).normal(size=(150, 6))
    for names in (range(2015, 2021), [f"{t:.2f}" for t in np.arange(6) / 4], range(400, 460, 10)):
        header = ",".join(map(str, names))
        np.savetxt("t.csv", x, fmt="%.4f", delimiter=",", header=header, comments="")
        data = load_data("t.csv")
        assert data.columns == tuple(map(str, names))
        assert len(_all(data)) == 150
        assert np.abs(_all(data)).max() < 6
        assert any("taken for names" in note for note in data.notes)


@CASES.add("a first line of numbers far from all others", answer="an error that asks: --header yes or no")
def header_or_numbers(folder: Path) -> None:
    x = np.random.default_rng(0).normal(size=(150, 2))
    np.savetxt("t.csv", x, fmt="%.4f", delimiter=",", header="2015,2016", comments="")
    assert "--header" in _error("t.csv")
    assert load_data("t.csv", reading=Reading(header="yes")).columns == ("2015", "2016")
    data = load_data("t.csv", reading=Reading(header="no"))
    assert (data.columns, len(_all(data)), _all(data).max()) == (("column 1", "column 2"), 151, 2016)


@CASES.add("rows of whole numbers whose first is 1, 2, 3, 4, 5", answer="an error that asks")
def counting_row(folder: Path) -> None:
    x = np.random.default_rng(0).integers(1, 6, (150, 5))
    np.savetxt("t.csv", x, fmt="%d", delimiter=",", header="1,2,3,4,5", comments="")
    assert "--header" in _error("t.csv")


@CASES.add(
    "no header, and text in the last column",
    answer="no row is lost; the label is column 5, or its first value",
)
def no_header_with_text(folder: Path) -> None:
    x = np.random.default_rng(0).normal(5, 1, (150, 4)).round(1)
    kinds = ["setosa", "versicolor", "virginica"]
    rows = [",".join(f"{v:g}" for v in row) + f",{kinds[i // 50]}" for i, row in enumerate(x)]
    _csv("iris.csv", "", rows)
    for label in ("column 5", "setosa"):
        data = load_data("iris.csv", reading=Reading(label=label))
        assert data.class_names == tuple(kinds)
        assert data.columns == ("column 1", "column 2", "column 3", "column 4")
        assert len(_all(data)) == 150


@CASES.add("no header, whatever the numbers", answer="no row is lost")
def no_header(folder: Path) -> None:
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(80, d)) for d in (1, 2, 3, 5)]
    tables += [np.sort(rng.normal(size=(80, 4)), 1), rng.normal(size=(80, 3)) * [1, 1e-5, 1e6]]
    for x in tables:
        np.savetxt("t.csv", x, fmt="%.6g", delimiter=",")
        assert len(_all(load_data("t.csv"))) == 80


# Numbers in text ------------------------------------------------------------------------------------------


@CASES.add("+1.5, 1E+05, .5, 5., spaces around numbers", answer="read")
def ways_to_write_numbers(folder: Path) -> None:
    _holds(_csv("t.csv", "a,b\n", _pairs("+{i}.5")))
    _holds(_csv("u.csv", "a , b\n", _pairs(" {i}.5 ", "\u00a0{i}\u00a0")))
    rows = [f"{i}E+05,.{i + 1},{i}.,-{i}e-3" for i in range(ROWS)]
    x = _all(load_data(_csv("v.csv", "a,b,c,d\n", rows)))
    assert x[:, 0].max() == 59e5
    assert x[:, 3].min() == pytest.approx(-0.059)


@CASES.add("digits of other scripts; a minus sign of typography", answer="read, with a note")
def other_scripts(folder: Path) -> None:
    for zero in (0xFF10, 0x0660):
        rows = [f"{chr(zero + i % 10)},{i}" for i in range(ROWS)]
        data = load_data(_csv("t.csv", "a,b\n", rows))
        x = _all(data)
        assert np.array_equal(np.sort(x[:, 0]), np.sort(np.arange(ROWS) % 10))
        assert any("another script" in note for note in data.notes)
    assert _all(load_data(_csv("u.csv", "a,b\n", _pairs("\u2212{i}.5")))).min() == -59.5


@CASES.add("points between thousands, separated by semicolons", answer="an error with column, row and line")
def thousands(folder: Path) -> None:
    rows = [f"{(i * 97) % 1990 + 10:,};{i}".replace(",", ".") for i in range(ROWS)]
    told = _error(_csv("t.csv", "income;age\n", rows))
    assert "'income'" in told
    assert "'1.077' in row 12" in told
    assert "line 13" in told
    # Three decimals are three decimals.
    data = load_data(_csv("u.csv", "a;b\n", [f"{i / 7:.3f};{i}" for i in range(ROWS)]))
    assert _all(data)[:, 0].max() == pytest.approx(8.429)
    data = load_data(_csv("v.csv", "a;b\n", [f"{1 + i / 7:.3f};{i}" for i in range(ROWS)]))
    assert any("decimal points" in note for note in data.notes)


@CASES.add(
    "percent signs, units, decimal commas, dates, missing values", answer="an error with column, row and line"
)
def not_numbers(folder: Path) -> None:
    for text, why in (
        ("5%", "unit"),
        ("$5", "unit"),
        ("5 kg", "unit"),
        ("2024-01-01", "date"),
        ("NA", "no value"),
    ):
        rows = [f"{text if i == 7 else i};{i}" for i in range(ROWS)]
        told = _error(_csv("t.csv", "a;b\n", rows))
        assert "'a'" in told
        assert "row 8" in told
        assert "line 9" in told
        assert why in told
    assert "comma" in _error(_csv("u.csv", "a;b\n", [f"{i},5;{i}" for i in range(ROWS)]))


# Labels ---------------------------------------------------------------------------------------------------


def _classes(words: list[str]) -> Dataset:
    rng = np.random.default_rng(0)
    rows = [f"{rng.normal():.3f},{words[i % len(words)]}" for i in range(120)]
    return load_data(_csv("t.csv", "x,kind\n", rows), reading=Reading(label="kind"))


@CASES.add("classes called NA, None, null or nan", answer="classes, with a note and counts")
def classes_called_na(folder: Path) -> None:
    for words in (["AO", "NA", "ZA"], ["None", "mild", "severe"], ["nan", "null", "x"]):
        data = _classes(words)
        assert data.class_names == tuple(sorted(words))
        assert any("40 rows" in note for note in data.notes)


@CASES.add("classes 7 and 007, 1 and 01; codes with zeros in front", answer="separate classes, as written")
def codes(folder: Path) -> None:
    assert _classes(["7", "007", "01", "1"]).class_names == ("007", "01", "1", "7")
    assert _classes(["01001", "01003", "02013"]).class_names == ("01001", "01003", "02013")
    assert _classes(["10", "9", "-1"]).class_names == ("-1", "9", "10")


@CASES.add(
    "labels that are dates or ids (20240101, 2,000,000,000)", answer="the classes that occur, by these names"
)
def ids_for_labels(folder: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (300, 8, 8)).astype(np.uint8)
    for first in (20_240_101, 2_000_000_000, -1):
        y = first + np.arange(300) % 2
        np.savez("t.npz", x_train=x, y_train=y, x_test=x[:40], y_test=y[1:41])
        data = load_data("t.npz")
        assert data.class_names == (str(first), str(first + 1))
        assert data.train.labels is not None
        assert data.test.labels is not None
        assert data.train.labels.max() == 1
        assert data.test.labels.tolist() == ([1, 0] * 20)


@CASES.add("labels that are text, truth values or whole floats in a .npz", answer="classes by these names")
def other_labels(folder: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (100, 8, 8)).astype(np.uint8)
    odd = np.arange(100) % 2
    for y, names in (
        (np.where(odd, "dog", "cat"), ("cat", "dog")),
        (odd == 1, ("False", "True")),
        (odd * 2.0 + 5.0, ("5", "7")),
        (np.arange(100) % 3, None),
    ):
        np.savez("t.npz", x=x, y=y)
        assert load_data("t.npz").class_names == names
    np.savez("t.npz", x=x, y=odd + 0.5)
    assert "0.5" in _error("t.npz")


# Densities --------------------------------------------------------------------------------------------------


@CASES.add(
    "constant, 0/1, one-hot and integer columns, and copies in other units", answer="notes that name them"
)
def unbounded_table(folder: Path) -> None:
    rng = np.random.default_rng(0)
    n = 1500
    city, cm, male = np.eye(3)[rng.integers(0, 3, n)], rng.normal(170, 9, n), rng.integers(0, 2, n)
    x = np.c_[rng.integers(18, 90, n), male, 1 - male, city, cm, cm / 2.54, np.full(n, 3.0)]
    header = "age,male,female,rome,oslo,bonn,height_cm,height_in,flat"
    np.savetxt("t.csv", x, fmt="%.6g", delimiter=",", header=header, comments="")
    told = _unbounded("t.csv")
    for fact in (
        "constant: 'flat'",
        "only 0 and 1: 'male', 'female', 'rome', 'oslo', 'bonn'",
        "whole numbers: 'age'",
        "'height_in' is 0.3937 × 'height_cm'",
        "'rome', 'oslo', 'bonn' always add up to 1",
    ):
        assert fact in told


@CASES.add("pictures as floats k/16 or k/255 in .npy, .npz and .csv", answer="a note: store integers")
def pictures_as_floats(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for steps in (16, 255):
        x = rng.integers(0, steps + 1, (300, 64)) / steps
        x[:, :5] = 0.0
        np.save("t.npy", x.astype(np.float32))
        np.savez("t.npz", x=x)
        np.savetxt(
            "t.csv", x, fmt="%.6g", delimiter=",", header=",".join(f"p{i}" for i in range(64)), comments=""
        )
        for source in ("t.npy", "t.npz", "t.csv"):
            told = _unbounded(source)
            assert f"1/{steps}" in told
            assert "constant" in told


@CASES.add("sound columns: normal, rounded to 4 or 2 decimals, incomes, times", answer="no note")
def sound_columns(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for n in (40, 150, 2000):
        start = 1.7e9 + rng.uniform(0, 1e7, n)
        z = rng.normal(size=(n, 3))
        for x in (
            z,
            z.round(4),
            z.round(2),
            np.c_[np.exp(rng.normal(10, 1, n)).round(), z],
            np.c_[start, start + rng.gamma(2, 60, n)],
            np.c_[z[:, 0], z[:, 0] + 0.01 * z[:, 1]],
        ):
            np.save("t.npy", x)
            assert _unbounded("t.npy") == ""


# Units --------------------------------------------------------------------------------------------------------


def _elbo(x: np.ndarray) -> tuple[float, Dataset, torch.Tensor]:
    np.save("t.npy", x)
    data = load_data("t.npy")
    torch.manual_seed(0)
    chain = ancestral.build_chain(ancestral.VAEConfig(), data.spec, train=data.seen())
    with torch.no_grad():
        torch.manual_seed(1)
        for weight in chain.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return ancestral.evaluate(chain, data.test.x).elbo.mean, data, chain.sample(200)


@CASES.add("a column in units of 1e-15, 1e-34 or 1e12", answer="the ELBO shifts by −log of the unit")
def units(folder: Path) -> None:
    z = np.random.default_rng(0).normal(size=(600, 2))
    base, _, drawn = _elbo(z)
    for unit in (1e-9, 1e-15, 1e-34, 1e-100, 1e12):
        elbo, _, samples = _elbo(z * [1.0, unit])
        assert elbo == pytest.approx(base - math.log(unit), abs=1e-3)
        assert np.allclose(samples[:, 1].double() / unit, drawn[:, 1].double(), atol=1e-4)


@CASES.add(
    "a column with a large offset, such as times in seconds since 1970",
    answer="the same ELBO; samples with the offset",
)
def offsets(folder: Path) -> None:
    z = np.random.default_rng(0).normal(size=(600, 2))
    base, _, _ = _elbo(z)
    for offset in (1e3, 1e6, 1.7e9):
        elbo, data, samples = _elbo(z + np.array([0.0, offset]))
        assert elbo == pytest.approx(base, abs=1e-3)
        assert abs(float(samples.double()[:, 1].mean()) - offset) < 3.0
        assert np.allclose(np.sort(_all(data)[:, 1]), np.sort(z[:, 1] + offset), rtol=0, atol=1e-4)


@CASES.add("times and large whole numbers in a .csv", answer="every digit is read")
def digits_of_times(folder: Path) -> None:
    rows = [f"{1_700_000_000 + i / 4:.2f},{20_000_001 + i}" for i in range(ROWS)]
    x = _all(load_data(_csv("t.csv", "time,id\n", rows)))
    assert np.array_equal(x, np.c_[1_700_000_000 + np.arange(ROWS) / 4, 20_000_001 + np.arange(ROWS)])


# Parts and names ------------------------------------------------------------------------------------------------


@CASES.add("a folder with train.csv, val.csv and test.csv", answer="each is its part, validation too")
def validation_table(folder: Path) -> None:
    rows = _pairs()
    for name, some in (("train", rows[:40]), ("val", rows[40:47]), ("test", rows[47:])):
        _csv(f"{name}.csv", "a,b,kind\n", [f"{row},{'xy'[n % 2]}" for n, row in enumerate(some)])
    data = load_data(folder, reading=Reading(label="kind"))
    held = data.validation
    assert held is not None
    assert (len(data.train), len(held), len(data.test)) == (40, 7, 13)
    assert held.x[:, 1].tolist() == list(range(40, 47))
    assert held.labels is not None
    assert held.labels.tolist() == [0, 1, 0, 1, 0, 1, 0]


@CASES.add("a folder with Train.csv and TEST.csv", answer="the training and the test part")
def parts_of_tables(folder: Path) -> None:
    _csv("Train.csv", "a,b\n", _pairs())
    _csv("TEST.csv", "a,b\n", ["1000,1"])
    data = load_data(".")
    assert data.test.x.tolist() == [[1000.0, 1.0]]
    assert data.test_origin == "given with the data"


@CASES.add("names with $, [/s], <b> and back slashes", answer="shown as they are", slow=True)
def names_with_markup(folder: Path) -> None:
    from ancestral.cli import main

    names = ["price_$", "cost_$_per_$", "a$$b", "x^2_y^", "flow [/s]", "<b>&", "back\\slash", "\\frac"]
    x = np.random.default_rng(0).normal(size=(200, len(names)))
    Path("old [/a]").mkdir(parents=True)
    np.savetxt("old [/a]/x.csv", x, fmt="%.4f", delimiter=",", header=",".join(names), comments="")
    short = ["--steps", "20", "--batch-size", "16", "--evaluate-every", "0", "--sample-every", "0"]
    assert main(["train", "vae", "--data", "old [/a]/x.csv", "--out", "r [/b]", *short]) == 0
    assert main(["report", "r [/b]"]) == 0
    page = Path("r [/b]/report.html").read_text(encoding="utf-8")
    assert "flow [/s]" in page
    assert "old [/a]" in page
