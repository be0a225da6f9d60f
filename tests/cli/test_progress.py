"""What a person sees while a model trains."""

from __future__ import annotations

import contextlib
import io

import pytest
from PIL import Image
from rich.console import Console

from ancestral.cli import progress
from ancestral.cli.progress import Board, training_progress
from commands import call

TRAIN = {
    "kind": "train",
    "step": 10,
    "loss": 123.456,
    "terms": {"reconstruction": 100.0, "prior": 23.456},
    "gradient_norm": 0.5,
}
HELD = {
    "kind": "validation",
    "step": 20,
    "elbo": {"mean": -99.0, "stderr": 1.0},
    "bits_per_dim": None,
    "n": 40,
}
NOTE = {"kind": "note", "step": 20, "text": "something odd"}


def drawn(board: Board) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(board)
    return console.file.getvalue()


def test_the_table_has_rate_time_left_loss_terms_gradient_and_held_out_elbo():
    times = iter([5.0, 7.0, 8.0])
    board = Board("vae", 110, 32, clock=lambda: next(times))
    board.see(TRAIN)
    assert "rate" not in drawn(board)
    board.see({**TRAIN, "step": 30, "skipped": 3})
    text = drawn(board)
    for words in (
        "320 examples/s",
        "10 steps/s",
        "0:00:08",
        "123.46",
        "reconstruction 100",
        "prior 23.46",
        "0.5",
        "3 steps",
        "30/110 steps",
    ):
        assert words in text
    board.see(HELD)
    assert "-99.0 ± 1.0 nats  (n = 40)  at step 20" in drawn(board)


def test_a_terminal_gets_the_table_and_notes_above_it():
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    with training_progress("vae", 40, 8, console=console) as report:
        for record in (TRAIN, HELD, NOTE):
            report(record)
    text = console.file.getvalue()
    assert "held-out ELBO" in text
    assert text.count("something odd") == 1
    assert "step     10/40" not in text


def test_elsewhere_each_record_is_a_line():
    console = Console(file=io.StringIO(), width=200)
    with training_progress("vae", 40, 8, console=console) as report:
        for record in (TRAIN, HELD, NOTE):
            report(record)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 3
    assert "loss 123.5" in lines[0]
    assert "held-out ELBO -99.0 ± 1.0 nats" in lines[1]
    assert "something odd" in lines[2]


@pytest.mark.parametrize("seconds", [0, 59, 61, 3600, 100_000])
def test_time_left(seconds):
    times = iter([0.0, 1.0])
    board = Board("vae", 1 + 2 * seconds, 1, clock=lambda: next(times))
    board.see({**TRAIN, "step": 1})
    board.see({**TRAIN, "step": 1 + seconds})
    if seconds:
        assert "0:00:01" in drawn(board)


def test_reading_is_a_bar_of_its_own_before_training(monkeypatch):
    shown: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def bar(title):
        shown.append((-1, -1))
        yield lambda done, total: shown.append((done, total))
        shown.append((-2, -2))

    monkeypatch.setattr(progress, "example_progress", bar)
    with progress.reading_progress() as reading:
        assert shown == []
        reading(1, 2)
        reading(2, 2)
        assert shown == [(-1, -1), (1, 2), (2, 2), (-2, -2)]
        # A second part, as of a data set that is looked at twice.
        reading(1, 3)
    assert shown[4:] == [(-1, -1), (1, 3), (-2, -2)]


def test_a_folder_is_told_of_while_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("ANCESTRAL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    for number in range(40):
        Image.new("L", (8, 8), number).save(tmp_path / "set" / f"{number}.png")
    told: list[tuple[int, int]] = []

    @contextlib.contextmanager
    def bar(title):
        yield lambda done, total: told.append((done, total))

    monkeypatch.setattr(progress, "example_progress", bar)
    small = ("--steps", 1, "--batch-size", 4, "--model.network", "mlp", "--device", "cpu")
    answer = call("train", "vae", "--data", tmp_path / "set", "--out", tmp_path / "run", *small)
    assert answer.status == 0, answer.err
    assert told[-1] == (40, 40)
    # What is in the cache is not read again.
    told.clear()
    assert call("evaluate", tmp_path / "run", "--n", 2).status == 0
    assert (40, 40) not in told


def test_without_a_terminal_a_line_comes_now_and_then(capsys):
    times = iter([0.0, 5.0, 21.0, 30.0, 42.0])
    lines = progress.Lines("ddpm: evaluating", clock=lambda: next(times))
    for done in (10, 50, 75, 105):
        lines.see(done, 1000)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "ddpm: evaluating: 50 of 1,000, about 0:06:39 left",
        "ddpm: evaluating: 105 of 1,000, about 0:05:58 left",
    ]


def test_a_fast_example_progress_says_nothing_without_a_terminal(capsys):
    with progress.example_progress("scoring") as bar:
        bar(1, 2)
        bar(2, 2)
    assert capsys.readouterr().err == ""


def test_a_slow_model_has_a_rate_with_digits():
    times = iter([0.0, 40.0])
    board = Board("ddpm", 100, 2, clock=lambda: next(times))
    board.see({**TRAIN, "step": 1})
    board.see({**TRAIN, "step": 21})
    assert "1.0 examples/s" in drawn(board)
    assert "0.50 steps/s" in drawn(board)
