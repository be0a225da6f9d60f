"""The number of threads is stored with a run and kept; slow steps are reported once."""

from __future__ import annotations

import json

import pytest
import torch

from ancestral._internal import cores
from ancestral.cli import threads
from ancestral.cli.threads import ThreadOptions, use_threads
from ancestral.experiments.runs.threads import Pace, slower, store_threads, stored_threads
from commands import call
from tiny import saved_images

SMALL = ("--batch-size", 4, "--model.network", "mlp", "--model.hidden", 4, "--device", "cpu")


@pytest.fixture(autouse=True)
def number():
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.fixture
def machine(monkeypatch):
    """A machine of 4 cores of which some are free, without environment variables."""
    for name in threads._SET:
        monkeypatch.delenv(name, raising=False)

    def of(*, usable: int = 4, free: int) -> None:
        monkeypatch.setattr(threads, "usable_cores", lambda: usable)
        monkeypatch.setattr(threads, "_usual", lambda: usable)
        monkeypatch.setattr(cores.Load, "free", lambda self: free)

    return of


@pytest.mark.parametrize(("free", "used"), [(4, 4), (3, 3), (1, 1)])
def test_a_new_run_takes_the_free_cores(free, used, machine, capsys):
    machine(free=free)
    use_threads(ThreadOptions())
    assert torch.get_num_threads() == used
    assert ("--threads N" in capsys.readouterr().err) == (free < 4)


def test_an_option_and_the_environment_decide(machine, monkeypatch, tmp_path):
    machine(free=1)
    (tmp_path / "threads.json").write_text('{"threads": 3}')
    use_threads(ThreadOptions(threads=2), tmp_path)
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    use_threads(ThreadOptions(), tmp_path)
    assert torch.get_num_threads() == 4


def test_a_run_keeps_its_number(machine, capsys, tmp_path):
    (tmp_path / "threads.json").write_text('{"threads": 3}')
    machine(free=4)
    use_threads(ThreadOptions(), tmp_path)
    assert torch.get_num_threads() == 3
    assert capsys.readouterr().err == ""
    machine(free=1)
    use_threads(ThreadOptions(), tmp_path)
    assert torch.get_num_threads() == 3
    assert "--threads 1 may be faster" in capsys.readouterr().err
    machine(usable=2, free=2)
    use_threads(ThreadOptions(), tmp_path)
    assert torch.get_num_threads() == 2
    told = capsys.readouterr().err
    assert "trained with 3 threads" in told
    assert "2 cores" in told
    assert "--threads 3" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("text", ["", "{}", '{"threads": 0}', '{"threads": "2"}', "[]", '{"threads": true}'])
def test_a_damaged_number_is_none(text, tmp_path):
    (tmp_path / "threads.json").write_text(text)
    assert stored_threads(tmp_path) is None


def test_a_comparison_has_its_runs_number(tmp_path):
    (tmp_path / "vae").mkdir()
    assert stored_threads(tmp_path) is None
    torch.set_num_threads(1)
    store_threads(tmp_path / "vae")
    assert stored_threads(tmp_path) == 1


def test_a_run_is_resumed_with_its_number_and_says_otherwise(tmp_path):
    data = saved_images(tmp_path)
    run = tmp_path / "run"
    options = ("--steps", 4, "--checkpoint-every", 2, *SMALL)
    answer = call("train", "vae", "--data", data, "--out", run, "--threads", 1, *options)
    assert answer.status == 0, answer.err
    assert json.loads((run / "threads.json").read_text()) == {"threads": 1}
    answer = call("train", "--resume", run, "--steps", 6, "--threads", 2, "--device", "cpu")
    assert answer.status == 0, answer.err
    assert "trained with 1 threads and is resumed with 2" in answer.message
    assert stored_threads(run) == 2
    answer = call("evaluate", run, "--n", 4, "--threads", 0)
    assert answer.status == 2
    assert "threads is 0" in answer.message


def pace(times, *, skip: int = 0) -> list[int]:
    """The steps at which slow steps are reported."""
    found = Pace(skip=skip)
    return [step for step, seconds in enumerate(times) if found.took(seconds) is not None]


def test_steps_that_stay_slow_are_reported_once():
    assert pace([0.1] * 500) == []
    assert pace([5.0] * 5 + [0.1] * 500) == []
    (step,) = pace([0.1] * 100 + [0.25] * 500)
    assert 125 <= step <= 170
    assert pace([0.1] * 100 + [0.15] * 500) == []
    # A short disturbance is none.
    assert pace([0.1] * 100 + [0.25] * 30 + [0.1] * 100 + [0.25] * 30 + [0.1] * 100) == []
    # The first steps may have fewer samples.
    assert pace([0.01] * 100 + [0.1] * 500, skip=100) == []
    assert Pace().took(1.0) is None


def test_the_line_names_the_option(tmp_path):
    assert "--threads 2" in slower(2.3, 4, tmp_path)
    assert str(tmp_path) in slower(2.3, 4, tmp_path)
    assert "2.3 times" in slower(2.3, 4, None)
    assert "--threads 1" in slower(2.3, 1, tmp_path)
