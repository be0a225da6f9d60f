"""Words of other tools are answered with the option that does the same here."""

from __future__ import annotations

import itertools

import pytest

from ancestral.cli import peers
from ancestral.cli.compare import Compare
from ancestral.cli.evaluate import Evaluate
from ancestral.cli.parsing import _offered
from ancestral.cli.sample import Sample
from ancestral.cli.score import Score
from ancestral.cli.train import Resume, TrainDDPM, TrainHVAE, TrainVAE
from commands import call

TRAIN = "train vae --data digits --out r"


@pytest.mark.parametrize(
    ("command", "word", "option"),
    [
        (TRAIN, "--lr 0.1", "--learning-rate"),
        (TRAIN, "--lr=0.1", "--learning-rate"),
        (TRAIN, "-lr 0.1", "--learning-rate"),
        (TRAIN, "--epochs 10", "--steps"),
        (TRAIN, "--num_epochs 10", "--steps"),
        (TRAIN, "--iterations 10", "--steps"),
        (TRAIN, "--batch 10", "--batch-size"),
        (TRAIN, "--bs 10", "--batch-size"),
        (TRAIN, "--gpu", "--device"),
        (TRAIN, "--cuda 0", "--device"),
        (TRAIN, "--output x", "--out"),
        (TRAIN, "-o x", "--out"),
        (TRAIN, "--latent_dim 3", "--model.latent-dims"),
        (TRAIN, "--num-workers 3", "--threads"),
        ("train vae --dataset digits --out r", "", "--data"),
        ("train ddpm --data digits --out r", "--timesteps 10", "--model.T"),
        ("train --resume r", "--epochs 3", "--steps"),
        ("compare --data digits --out r", "--iterations 3", "--steps"),
        ("sample r --out a.npy", "--num-samples 3", "--n"),
        ("sample r --out a.npy", "-n 3", "--n"),
        ("evaluate r", "--gpu", "--device"),
    ],
)
def test_the_option_is_named(command, word, option):
    answer = call(*command.split(), *word.split())
    assert answer.status == 2
    assert answer.out == ""
    assert f"Use {option}." in answer.message
    assert "All options: ancestral" in answer.message
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("eval r", "evaluate"),
        ("generate r", "sample"),
        ("fit vae", "train"),
        ("train diffusion", "ddpm"),
        ("train ladder", "hvae"),
    ],
)
def test_the_command_or_the_model_is_named(words, meant):
    answer = call(*words.split())
    assert answer.status == 2
    assert f"{meant}." in answer.message.split("Use ")[-1]


def test_every_option_that_is_suggested_is_there():
    kinds = (TrainVAE, TrainHVAE, TrainDDPM, Resume, Compare, Sample, Evaluate, Score)
    there = {name for kind in kinds for name in _offered(kind)}
    assert set(peers.OPTIONS) <= there, set(peers.OPTIONS) - there


def test_an_option_without_its_value_is_named():
    answer = call("data", "moons", "--label")
    assert answer.status == 2
    assert answer.err == "ancestral: --label is given without a value. All options: ancestral data --help\n"


def test_help_texts_are_wrapped_once(monkeypatch):
    """No line ends long before the frame where the next word would have fitted."""
    monkeypatch.setenv("COLUMNS", "100")
    for command in (["sample"], ["evaluate"], ["train", "vae"], ["data"], ["score"]):
        lines = [line.strip("│ ") for line in call(*command, "--help").out.splitlines()]
        for line, following in itertools.pairwise(lines):
            if not line or line[-1] in ")}╮╯" or following[:1] in "-╰" or line.startswith(("-", "usage")):
                continue
            first = following.split()[0] if following.split() else ""
            assert len(line) + 1 + len(first) > 60, line
