"""``ancestral bench``: the machine, a model, a run."""

from __future__ import annotations

import json

import pytest

import ancestral.experiments.bench.ceilings
from ancestral.experiments.bench import Sizes
from ancestral.experiments.runs import load_run
from commands import call

SMALL = Sizes(matrix=64, images=2, channels=4, side=8, copied=1 << 16)
MODELS = {
    "vae": ("--model.width", 4),
    "hvae": ("--model.levels", 2, "--model.width", 4),
    "ddpm": ("--model.T", 12, "--model.channels", 4),
}
QUICK = ("--seconds", 0.01, "--device", "cpu")
TOP = ["machine", "ceilings", "training"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Operations of microseconds."""
    monkeypatch.setattr(ancestral.experiments.bench.ceilings, "CPU", SMALL)


def found(*arguments):
    answer = call("bench", *arguments, *QUICK, "--json")
    assert answer.status == 0, answer.err
    (line,) = answer.out.splitlines()
    return json.loads(line)


def test_the_machine_alone():
    facts = found()
    assert list(facts) == TOP
    assert facts["training"] is None
    assert facts["ceilings"]["products"]["fp32"] > 0


@pytest.mark.parametrize("kind", MODELS)
def test_a_model(kind, data):
    facts = found(kind, *MODELS[kind], "--data", data["images"], "--batch-size", 8)
    training = facts["training"]
    assert (training["model"], training["batch_size"]) == (kind, 8)
    assert training["bound"]["by"] in ("arithmetic", "memory", "host")
    assert training["flops_per_image"] > 0
    assert training["timed"] >= 5


def test_a_run_is_measured_as_it_was_trained_and_left_as_it_was(runs, tmp_path):
    run = runs["vae on images"]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    facts = found(run)
    assert facts["training"]["batch_size"] == 8
    assert facts["training"]["parameters"] == sum(p.numel() for p in load_run(run).parameters())
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_for_a_person(runs):
    answer = call("bench", runs["ddpm on vectors"], *QUICK)
    assert answer.status == 0
    for words in (
        "matrix product",
        "convolution, forward and backward",
        "images/s",
        "peak memory",
        "Bound by",
    ):
        assert words in answer.out
    assert "measuring" in answer.err


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["dpm"], "'ddpm'"),
        (["runs/none"], "neither a model"),
        (["--data", "digits"], "comes first"),
        (["--seconds", "0"], "above 0"),
        (["vae", "--data", "digits", "--seconds", "nan"], "finite"),
        (["--sconds", "1"], "--seconds"),
        (["vae", "--data", "digts"], "'digits'"),
        (["vae", "--data", "digits", "--batch-size", "100000"], "at most"),
    ],
)
def test_mistakes(arguments, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call("bench", *arguments)
    assert answer.status == 2
    assert near in answer.message
    assert answer.out == ""


def test_help_names_the_models_options():
    assert "arithmetic, memory or the host" in call("bench", "--help").out
    text = call("bench", "ddpm", "--help").out
    for option in ("--model.T", "--batch-size", "--seconds", "--data"):
        assert f"{option} " in text
