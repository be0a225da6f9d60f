"""Names, folders, words and machines that a command line meets."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
from pathlib import Path
from unittest import mock

import numpy as np

from ancestral.cli import main
from ancestral.experiments.runs.threads import stored_threads
from commands import Answer, call
from inputs.cases import Cases

CASES = Cases("The command line")
SHORT = (
    *("--steps", "2", "--batch-size", "8", "--evaluate-every", "0", "--sample-every", "0", "--device", "cpu"),
    *("--model.network", "mlp", "--model.hidden", "4"),
)


def _table(path: Path, *, rows: int = 60) -> None:
    rng = np.random.default_rng(0)
    numbers = zip(rng.normal(40, 9, rows), rng.integers(0, 2, rows), rng.integers(0, 3, rows), strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "age,smoker,cars\n" + "".join(f"{a:.3f},{b},{c}\n" for a, b, c in numbers), encoding="utf-8"
    )


def _trained(folder: Path, data: str = "people.csv", out: str = "run") -> None:
    _table(folder / data)
    answer = call("train", "vae", "--data", data, "--out", out, *SHORT)
    assert answer.status == 0, answer.err


def _shown(encoding: str, *arguments: str) -> tuple[Answer, str]:
    """The answer of a command in a terminal of this encoding that stops at other characters."""
    raw, error = io.BytesIO(), io.StringIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    with mock.patch.object(sys, "stdout", stream), contextlib.redirect_stderr(error):
        status = main(list(arguments))
    stream.flush()
    shown = raw.getvalue().decode(encoding)
    return Answer(status, shown, error.getvalue()), shown


@CASES.add("a terminal that shows ASCII only", answer="± is written as +-, other characters as escapes")
def ascii_terminal(folder: Path) -> None:
    _trained(folder, "größe.csv")
    answer, shown = _shown("ascii", "evaluate", "run", "--n", "10")
    assert answer.status == 0, answer.err
    assert "gr\\xf6\\xdfe.csv" in shown
    assert "+-" in shown
    # What comes after is there.
    assert "cost" in shown


@CASES.add(
    "a folder whose name is Latin-1 bytes", answer="the name is escaped; data, train, score and report work"
)
def latin_1_name(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    _table(folder / name / "people.csv")
    source = os.path.join(name, "people.csv")
    for command in (
        ("data", source),
        ("train", "vae", "--data", source, "--out", f"run-{name}", *SHORT),
        ("evaluate", f"run-{name}", "--n", "4"),
        ("score", f"run-{name}", "--out", f"{name}.csv", "--shown", "0"),
        ("sample", f"run-{name}", "--out", f"{name}.parquet", "--n", "3"),
        ("info", f"run-{name}"),
        ("report", f"run-{name}", "--quality", "0", "--n", "4"),
    ):
        answer, _ = _shown("utf-8", *command)
        assert answer.status == 0, (command, answer.err)
    page = (folder / f"run-{name}" / "report.html").read_text(encoding="utf-8")
    assert "caf\\udce9" in page


@CASES.add(
    "data that were moved after training",
    answer="an error that names `--data`; with it the figures are equal",
)
def moved_data(folder: Path) -> None:
    _trained(folder)
    before = call("evaluate", "run", "--n", "5", "--json")
    shutil.move("people.csv", "elsewhere.csv")
    for command in (
        ("evaluate", "run"),
        ("score", "run", "--out", "s.csv"),
        ("reconstruct", "run", "--out", "r.npz"),
        ("report", "run"),
        ("train", "--resume", "run", "--steps", "4"),
    ):
        answer = call(*command)
        assert answer.status == 2, command
        assert "people.csv" in answer.message
        assert "--data PATH" in answer.message
    assert not Path("s.csv").exists()
    after = call("evaluate", "run", "--data", "elsewhere.csv", "--n", "5", "--json")
    assert after.status == 0, after.err
    assert json.loads(before.out)["elbo"] == json.loads(after.out)["elbo"]


@CASES.add("a comparison's folder in place of a run's", answer="an error that lists its runs")
def comparison_in_place_of_a_run(folder: Path) -> None:
    _trained(folder, out="both/vae")
    shutil.copytree("both/vae", "both/hvae")
    Path("both/comparison.json").write_text("{}")
    for command in (
        ("evaluate", "both"),
        ("sample", "both", "--out", "a.npy"),
        ("score", "both", "--out", "s.csv"),
        ("info", "both"),
        ("train", "--resume", "both"),
        ("bench", "both"),
    ):
        answer = call(*command)
        assert answer.status == 2, command
        assert "both is a comparison" in answer.message.replace("it is", "both is")
        assert "both/hvae, both/vae" in answer.message
    Path("both/comparison.json").unlink()
    assert "both/hvae, both/vae" in call("evaluate", "both").message


@CASES.add(
    "samples of a table with 0/1 and 0/1/2 columns", answer="drawn rows, with integers in these columns"
)
def samples_of_whole_numbers(folder: Path) -> None:
    _trained(folder)
    assert call("sample", "run", "--out", "drawn.csv", "--n", "50").status == 0
    header, *rows = [line.split(",") for line in Path("drawn.csv").read_text().splitlines()]
    assert header == ["age", "smoker", "cars"]
    assert {row[1] for row in rows} <= {"0", "1"}
    assert {row[2] for row in rows} <= {"0", "1", "2"}
    assert len(rows) == 50
    assert call("sample", "run", "--out", "drawn.npy", "--n", "50").status == 0
    assert np.array_equal(np.load("drawn.npy"), np.array(rows, np.float32))


@CASES.add(
    "`--lr`, `--epochs`, `--batch`, `--bs`, `--iterations`, `--gpu` or `--output`",
    answer="an error that names the option of `ancestral`",
)
def words_of_other_tools(folder: Path) -> None:
    for word, option in (
        ("--lr", "--learning-rate"),
        ("--epochs", "--steps"),
        ("--batch", "--batch-size"),
        ("--bs", "--batch-size"),
        ("--iterations", "--steps"),
        ("--gpu", "--device"),
        ("--output", "--out"),
    ):
        answer = call("train", "vae", "--data", "digits", "--out", "r", word, "3")
        assert answer.status == 2
        assert f"{word} is no option of ancestral train vae. Use {option}." in answer.message
    assert list(folder.iterdir()) == []


@CASES.add("a run trained with another number of threads", answer="resumed with the stored number")
def stored_number_of_threads(folder: Path) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        _table(folder / "people.csv")
        assert (
            call("train", "vae", "--data", "people.csv", "--out", "run", "--threads", "1", *SHORT).status == 0
        )
        assert stored_threads(folder / "run") == 1
        with mock.patch.dict(os.environ):
            os.environ.pop("OMP_NUM_THREADS", None)
            os.environ.pop("MKL_NUM_THREADS", None)
            torch.set_num_threads(2)
            answer = call("train", "--resume", "run", "--steps", "4", "--device", "cpu")
        assert answer.status == 0, answer.err
        assert torch.get_num_threads() == 1
        assert "last bits" not in answer.err
    finally:
        torch.set_num_threads(before)
