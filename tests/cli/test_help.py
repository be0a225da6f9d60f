"""Help: complete, at once, and for whoever misspells."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ancestral
from ancestral.cli import COMMANDS
from ancestral.config import (
    DataConfig,
    DDPMConfig,
    HVAEConfig,
    TrainingConfig,
    VAEConfig,
)
from commands import call

HELPS = [
    ["--help"],
    ["train", "--help"],
    ["train", "vae", "--help"],
    ["train", "hvae", "--help"],
    ["train", "ddpm", "--help"],
    ["train", "--resume", "--help"],
    ["recipe", "list", "--help"],
    ["recipe", "run", "--help"],
    *([command, "--help"] for command in COMMANDS if command != "train"),
]
ANSWER = """
import sys
from ancestral.cli import main
status = 0
for line in sys.argv[1:]:
    try:
        status = status or main(line.split())
    except SystemExit as end:
        status = status or end.code
heavy = {"torch", "numpy", "sklearn", "matplotlib", "pydantic", "PIL", "safetensors"} & set(sys.modules)
print("HEAVY", *sorted(heavy))
sys.exit(status)
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_help_needs_none_of_the_heavy_packages():
    """Which take a second and more to import: help comes in less."""
    ended = python("-c", ANSWER, *(" ".join(help) for help in HELPS), "--version")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "HEAVY"
    assert ended.stderr == ""


def test_mistakes_are_answered_without_them_too():
    wrong = "train vae --data digits --out r --steps 0"
    for mistake in ("trian", "train vea", "train vae --steps", "sample", "info --jsn x", wrong):
        ended = python("-c", ANSWER, mistake)
        assert ended.returncode == 2
        assert ended.stdout.splitlines() == ["HEAVY"]
        assert "Traceback" not in ended.stderr


def test_the_installed_command_is_this_one():
    command = Path(sys.executable).with_name("ancestral")
    ended = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout.split()) == (0, ["ancestral", ancestral.__version__])
    ended = subprocess.run([command, "trian"], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert ended.stderr.startswith("ancestral: the command is 'trian'")


def test_the_overview_names_each_command():
    for arguments in ([], ["-h"], ["--help"]):
        answer = call(*arguments)
        assert (answer.status, answer.err) == (0, "")
        assert all(f"  {name} " in answer.out for name in COMMANDS)


def option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def fields(kind: type) -> list[str]:
    """The names of a configuration's options; those of a part of it stand behind the part's name."""
    names = []
    for field in dataclasses.fields(kind):
        if isinstance(part := field.default_factory, type) and dataclasses.is_dataclass(part):
            names += [f"{field.name}.{name}" for name in fields(part)]
        else:
            names.append(field.name)
    return names


@pytest.mark.parametrize("kind", [VAEConfig, HVAEConfig, DDPMConfig])
def test_training_help_explains_every_option(kind, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    answer = call("train", kind.kind, "--help")
    assert (answer.status, answer.err) == (0, "")
    text = " ".join(answer.out.split())
    names = [
        option(name) for part in (DataConfig, TrainingConfig) for name in fields(part) if name != "source"
    ]
    names += [option(f"model.{name}") for name in fields(kind)]
    if kind is not DDPMConfig:
        assert {"--model.likelihood.kind", "--model.flow.transforms"} <= set(names)
    for name in (*names, "--data", "--out", "--device", "--json"):
        assert f"{name} " in text
    # Every option's docstring is there, as its explanation.
    assert text.count("(default:") >= len(names)
    assert "log-linear" in text or kind is not DDPMConfig


@pytest.mark.parametrize("command", ["sample", "evaluate", "compare", "info"])
def test_every_commands_help_explains_its_options(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    module = importlib.import_module(f"ancestral.cli.{command}")
    answer = call(command, "--help")
    assert (answer.status, answer.err) == (0, "")
    for name in fields(getattr(module, command.capitalize())):
        if name.split(".")[0] not in ("run", "training", "vae", "hvae", "ddpm"):
            assert f"{option(name)} " in answer.out
    if command == "compare":
        for name in ("--steps", "--vae.width", "--hvae.levels", "--ddpm.schedule", "--vae.likelihood.kind"):
            assert f"{name} " in answer.out
    else:
        assert " PATH " in answer.out


NEAR = [
    (["trian"], "'train'"),
    (["evalute", "run"], "'evaluate'"),
    (["train", "vea"], "'vae' or 'hvae'"),
    (["train", "dpm", "--data", "digits"], "'ddpm'"),
    (["train", "vae", "--data", "digts", "--out", "r"], "'digits'"),
    (["train", "vae", "--data", "swissroll", "--out", "r"], "'swiss-roll'"),
    (["train", "vae", "--data", "digits", "--out", "r", "--model.netwrok", "mlp"], "--model.network"),
    (["train", "vae", "--data", "digits", "--out", "r", "--model.network", "mpl"], "'mlp'"),
    (["train", "vae", "--data", "digits", "--out", "r", "--step", "3"], "--steps"),
    (["train", "vae", "--data", "digits", "--out", "r", "--batchsize", "3"], "--batch-size"),
    (["train", "vae", "--data", "digits", "--out", "r", "--lr", "3"], "--lr"),
    (["train", "ddpm", "--data", "digits", "--out", "r", "--model.schedule", "cosin"], "'cosine'"),
    (["train", "ddpm", "--data", "digits", "--out", "r", "--device", "gpu"], "cuda"),
    (["train", "ddpm", "--data", "digits", "--out", "r", "--binarise", "dynamic"], "--binarize"),
    (["sample", "r", "--out", "a.png", "--trajectroy"], "--trajectory"),
    (["evaluate", "r", "--split", "tset"], "'test'"),
    (["evaluate", "r", "--bounds-pictur", "3.png"], "--bounds-picture"),
    (["compare", "--data", "digits", "--out", "r", "--models", "vea"], "'vae'"),
    (["info", "r", "--jsn"], "--json"),
    (["recipe", "lst"], "'list'"),
    (["recipe", "run", "mnist-vae", "--data", "digits"], "'mnist-vae-1'"),
]


@pytest.mark.parametrize(("arguments", "near"), NEAR, ids=lambda value: str(value))
def test_what_is_misspelt_is_answered_with_what_is_near(arguments, near, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = call(*arguments)
    assert answer.status == 2
    assert near in answer.message
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert not list(tmp_path.iterdir())
