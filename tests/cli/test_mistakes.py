"""A user's mistake is one clear message and status 2, and nothing is left on the disk."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ancestral.cli
import ancestral.experiments.runs
from ancestral.config import DDPMConfig, HVAEConfig, TrainingConfig, VAEConfig
from commands import Answer, call

TRAINING: dict[str, list[object]] = {
    "--steps": [0, -1, 1.5, "many"],
    "--batch-size": [0, -8, 2.5],
    "--seed": [-1, 2**63],
    "--learning-rate": [0, -1e-3, 11, "nan", "inf"],
    "--warmup": [-1],
    "--weight-decay": [-0.1, "nan", "inf"],
    "--clip": [0, -1, "nan", "inf"],
    "--skip": [-1, "nan", "inf"],
    "--ema": [-0.1, 1, 2, "nan"],
    "--log-every": [0, -1],
    "--evaluate-every": [-1],
    "--sample-every": [-1],
    "--checkpoint-every": [-1],
    "--keep": [0, -1],
    "--stop-early": [-1, 1.5],
    "--validation": [-0.1, 0.6, "nan"],
}
MODELS: dict[str, dict[str, list[object]]] = {
    "vae": {
        "latent-dims": [0, -1, 2**20 + 1],
        "hidden": [0, -3, 2**20 + 1],
        "width": [0, -1, 2**14 + 1],
        "dropout": [-0.1, 1, "nan"],
        "beta": [-1, "nan", "inf"],
        "free-bits": [-1, "nan", "inf"],
        "kl-warmup": [-1],
        "training-samples": [0, 100_001],
        "backward-samples": [0, -1],
        "samples-warmup": [-1],
        "first-samples": [0],
        "likelihood.value": [0, -1, "nan", "inf"],
    },
    "hvae": {
        "levels": [1, 0, -1, 1001],
        "levels-per-size": [-1],
        "latent-dims": [0, -1],
        "hidden": [0],
        "first-hidden": [0],
        "width": [0],
        "blocks": [0, 1001],
        "dropout": [1],
        "beta": [-1],
        "free-bits": [-1],
        "kl-warmup": [-1],
        "training-samples": [0],
        "backward-samples": [0],
        "samples-warmup": [-1],
        "first-samples": [0],
        "likelihood.value": [0],
    },
    "ddpm": {
        "T": [0, -1, 10**7],
        "first-log-snr": [31, "nan"],
        "last-log-snr": [-31, "inf"],
        "gamma": [0, -1, "nan"],
        "fourier": [-5, 13],
        "channels": [0, -1],
        "blocks": [0, 1001],
        "attention": [0, -8],
        "heads": [0, 1025],
        "patch": [0, 1025],
        "width": [0],
        "dropout": [1],
    },
}
OTHERS: dict[str, dict[str, list[object]]] = {
    "sample": {
        "--n": [0, -1, 10**8],
        "--seed": [-1],
        "--steps": [0, -1, 13],
        "--eta": [-0.5, 2, "nan"],
        "--batch-size": [0, -1],
    },
    "evaluate": {
        "--ode.rtol": [0, -1],
        "--ode.atol": [0],
        "--ode.probes": [0],
        "--n": [0, -1],
        "--seed": [-1],
        "--samples": [0, -1],
        "--levels": [0, -1, "some"],
        "--ais-temperatures": [0],
        "--ais-leapfrog": [0],
        "--ais-simulated": [-1],
        "--fit-steps": [0],
        "--quality": [-1, 7],
        "--batch-size": [0, -1],
    },
    "compare": {
        "--n": [-1],
        "--levels": [0],
        "--importance-samples": [-1],
        "--quality": [-1, 7],
        "--steps": [0],
        "--vae.width": [0],
    },
}


def pairs(options: dict[str, list[object]], *, prefix: str = "") -> list[tuple[str, object]]:
    return [(prefix + name, value) for name, values in options.items() for value in values]


def refused(answer: Answer, *parts: object) -> None:
    """One message of these parts, status 2, no traceback, nothing on standard output."""
    assert answer.status == 2
    assert answer.out == ""
    assert "Traceback" not in answer.err
    for part in parts:
        assert str(part) in answer.message, answer.message


def names(option: str) -> str:
    """What an option is called in messages: by its last part, as in Python."""
    return option.removeprefix("--").split(".")[-1].replace("-", "_")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder to be in, which a mistake must leave empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("option", "value"), pairs(TRAINING))
def test_a_number_for_training(option, value, data, here):
    answer = call("train", "vae", "--data", data["images"], "--out", "r", option, value)
    refused(answer, value if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else value)
    assert names(option) in answer.message or option in answer.message
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("kind", "option", "value"),
    [(kind, *pair) for kind, options in MODELS.items() for pair in pairs(options, prefix="--model.")],
)
def test_a_number_for_a_model(kind, option, value, data, here):
    answer = call("train", kind, "--data", data["images"], "--out", "r", option, value)
    refused(answer, f"{names(option)} is {value}" if "Error parsing model:" not in answer.message else value)
    assert names(option) in answer.message
    assert "must be" in answer.message
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [(command, *pair) for command, options in OTHERS.items() for pair in pairs(options)],
)
def test_a_number_for_another_command(command, option, value, data, runs, here):
    start = {
        "sample": ("sample", runs["ddpm on images"], "--out", "a.png"),
        "evaluate": ("evaluate", runs["ddpm on images"]),
        "compare": ("compare", "--data", data["images"], "--out", "c"),
    }[command]
    answer = call(*start, option, value)
    refused(answer, value)
    assert names(option) in answer.message or option in answer.message
    assert not list(here.iterdir())


def test_every_number_is_among_them():
    """Of the options with bounds: those that are numbers, or lists of them."""

    def numeric(kind: type) -> set[str]:
        fields = dataclasses.fields(kind)
        kinds = ("int", "float", "tuple[int")
        return {f.name.replace("_", "-") for f in fields if str(f.type).startswith(kinds)}

    assert {name.removeprefix("--") for name in TRAINING} == numeric(TrainingConfig) | {"validation"}
    for kind, config in (("vae", VAEConfig), ("hvae", HVAEConfig), ("ddpm", DDPMConfig)):
        assert MODELS[kind].keys() - {"likelihood.value"} == numeric(config)


# Options that do not fit the data, or one another -----------------------------------------------------------

MISFITS = [
    ("images", "vae --model.likelihood.kind bernoulli", "these are integers of 17 levels"),
    ("images", "vae --batch-size 39", "batch_size is 39 and the data have 38 training examples"),
    ("images", "ddpm --model.schedule linear --model.T 5", "beta_2 is 1.015; every beta_t must be in (0, 1)"),
    ("images", "ddpm --model.loss simple", "variance is 'learned' and the loss is simple"),
    ("images", "ddpm --model.loss hybrid --model.variance beta", "Use variance 'learned', or loss 'simple'"),
    ("images", "ddpm --model.attention 7", "the levels' sides are 8, 4"),
    ("images", "ddpm --model.channels 4 4 4 4 4", "give at most 4 levels"),
    ("images", "ddpm --model.channels", "channels is empty"),
    ("images", "ddpm --model.patch 2", "patch is 2 and network is 'unet'"),
    ("images", "ddpm --model.network transformer --model.patch 3", "Use one of 1, 2, 4, 8"),
    ("images", "ddpm --model.network transformer --model.width 30", "Use a width that is a multiple of 4"),
    ("images", "ddpm --model.first-log-snr -9", "log-SNR must fall"),
    ("images", "hvae --model.latent-dims 3 2", "latent_dims has 2 sizes for 3 levels"),
    ("vectors", "vae --model.network conv", "use network mlp (or auto)"),
    ("vectors", "vae --binarize dynamic", "real-valued vectors; only integer images can be binarised"),
    ("vectors", "vae --model.likelihood.kind discretized-logistic", "likelihood on real-valued data"),
    ("vectors", "vae --model.likelihood.kind logistic-mixture", "likelihood on real-valued data"),
    (
        "images",
        "ddpm --model.width 8",
        "width is 8 and network is 'unet' on images, which has no such",
    ),
    (
        "vectors",
        "ddpm --model.channels 8",
        "the data are vectors, whose network is a residual mlp, which",
    ),
    ("images", "ddpm --model.gamma 3", "gamma is 3.0 and loss is 'vlb'"),
    (
        "images",
        "ddpm --model.schedule cosine --model.last-log-snr -5",
        "last_log_snr is -5.0 and schedule is 'cosine', which has no such option; leave it out, or use",
    ),
    ("images", "vae --model.hidden 8", "hidden is (8,) and network is 'auto', for images conv, which has no"),
    ("images", "vae --model.network mlp --model.width 8", "width is 8 and network is 'mlp'"),
    ("vectors", "vae --model.width 8", "width is 8 and the data are vectors, whose network is an mlp"),
    ("images", "hvae --model.hidden 8", "hidden is (8,) and posterior is 'top-down'"),
    ("images", "hvae --model.posterior bottom-up --model.blocks 2", "blocks is 2 and posterior is"),
    (
        "images",
        "vae --binarize threshold --model.likelihood.sigma shared",
        "the data have 2 levels, whose likelihood is bernoulli, which has no such option",
    ),
    ("images", "vae --model.likelihood.components 4", "likelihood.kind is 'auto', which has one"),
    (
        "images",
        "vae --model.likelihood.kind logistic-mixture --model.likelihood.sigma shared",
        "whose sigmas are predicted",
    ),
]


@pytest.mark.parametrize(("source", "options", "message"), MISFITS)
def test_what_does_not_fit_is_refused_before_anything_is_written(source, options, message, data, here):
    answer = call("train", *options.split(), "--data", data[source], "--validation", 0.2, "--out", "r")
    refused(answer, message)
    assert not list(here.iterdir())


def test_a_device_that_is_not_there(data, here, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for command in ("train vae", "compare"):
        options = ("--data", data["images"], "--out", "r", "--batch-size", 8)
        answer = call(*command.split(), *options, "--device", "cuda")
        refused(answer, "device is 'cuda' and torch sees no CUDA device here; use auto or cpu")
        assert not list(here.iterdir())


def test_data_that_are_not_there(here):
    refused(call("train", "vae", "--data", "nowhere.npy", "--out", "r"), "'nowhere.npy'", "no such file")
    refused(call("compare", "--data", "nowhere", "--out", "r"), "'nowhere'", "no such file")
    refused(call("train", "vae", "--out", "r"), "--data")
    refused(call("train", "vae", "--data", "digits"), "--out")
    assert not list(here.iterdir())


@pytest.mark.parametrize("command", ["sample {} --out a.png", "evaluate {}", "info {}", "train --resume {}"])
def test_a_run_that_is_not_there(command, here):
    refused(call(*command.format("nowhere").split()), "there is no run at nowhere: no such folder")
    (here / "runs").mkdir()
    refused(call(*command.format("runs").split()), "there is no run at runs: it has no config.json")
    assert [path.name for path in here.iterdir()] == ["runs"]


SAMPLERS = [
    ("--eta 0.5", "eta is 0.5 and the sampler is ancestral: only ddim has an eta"),
    ("--sampler heun --eta 0", "eta is 0 and the sampler is heun"),
    ("--sampler ddim --steps 13", "steps is 13; it must be from 1 to 12"),
    ("--sampler dpm++2m --steps 12 --spacing diffusers", "spacing is 12; it must be from 1 to 11"),
    ("--spacing snr", "the sampler is ancestral, whose steps are even in t"),
    ("--sampler dpm", "dpm++2m"),
]


@pytest.mark.parametrize(("options", "message"), SAMPLERS)
def test_what_a_sampler_cannot_do(options, message, runs, here):
    refused(call("sample", runs["ddpm on images"], "--out", "a.png", *options.split()), message)
    assert not list(here.iterdir())


def test_a_place_that_cannot_be_written(data, runs, here):
    (here / "file").write_text("mine")
    options = ("--data", data["images"], "--batch-size", 8)
    refused(call("train", "vae", *options, "--out", "file"), "file is not a folder")
    refused(call("train", "vae", *options, "--out", "file/r"), "file/r cannot be written")
    refused(call("train", "vae", *options, "--out", here), "is a folder that is not empty")
    there = runs["vae on images"]
    refused(call("train", "vae", *options, "--out", there), f"ancestral train --resume {there}")
    refused(call("compare", *options, "--out", "file"), "file/vae cannot be written")
    answer = call("sample", there, "--out", "file/a.png")
    assert answer.status == 1
    assert answer.err.splitlines()[-1].startswith("ancestral: file: ")
    refused(
        call("sample", there, "--out", "a.jpg"),
        "--out is a.jpg; it must end in .png, .npy, .npz, .csv or .parquet",
    )
    assert [path.name for path in here.iterdir()] == ["file"]
    assert (here / "file").read_text() == "mine"


def test_the_model_comes_first(here):
    refused(call("train", "--data", "digits", "--out", "r", "vae"), "the model comes first", "'--data'")
    refused(call("train", "vae", "--resume", "r"), "'vae' and its options do not go with it")
    refused(call("train", "--resume", "r", "--batch-size", 3), "--batch-size")
    refused(call("train", "--resume", "r", "--steps", 3), "there is no run at r")
    assert not list(here.iterdir())


# Failures that are no mistakes --------------------------------------------------------------------------


class OutOfMemoryError(RuntimeError):
    """As torch's own."""


FAILURES: list[tuple[BaseException, int, str]] = [
    (MemoryError(), 1, "out of memory"),
    (OutOfMemoryError("CUDA out of memory"), 1, "out of memory"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), 1, "out of memory"),
    (OSError(28, "No space left on device", "r/metrics"), 1, "r/metrics: No space left on device"),
    (PermissionError(13, "Permission denied", "r"), 1, "r: Permission denied"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (ValueError("x is 3; it must be 4."), 2, "x is 3; it must be 4."),
]


@pytest.mark.parametrize(("error", "status", "message"), FAILURES, ids=lambda value: type(value).__name__)
def test_failures_are_one_line(error, status, message, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ancestral.experiments.runs, "train_run", fail)
    answer = call("train", "vae", "--data", "digits", "--out", "r")
    assert (answer.status, answer.out) == (status, "")
    (line,) = answer.err.splitlines()
    assert line.startswith(f"ancestral: {message}")


def test_a_defect_shows_itself(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(ancestral.experiments.runs, "train_run", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        call("train", "vae", "--data", "digits", "--out", "r")


def test_a_reader_that_leaves_is_no_failure_to_speak_of():
    """As in ``ancestral --help | head -1``: standard output is closed before it is written to."""
    reading, writing = os.pipe()
    os.close(reading)
    program = "import sys; from ancestral.cli import main; sys.exit(main(['train', 'vae', '--help']))"
    for code in (program, program.replace("'train', 'vae', ", "")):
        command = [sys.executable, "-c", code]
        ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=120)
        assert ended.stderr == b""
        assert ended.returncode == 1
    os.close(writing)
