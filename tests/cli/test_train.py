"""``ancestral train``: its options reach the run, its answers are what was asked for."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from ancestral.cli.progress import stop_on_signal
from ancestral.config import (
    DataConfig,
    DDPMConfig,
    HVAEConfig,
    LikelihoodConfig,
    RunConfig,
    TrainingConfig,
    VAEConfig,
)
from ancestral.data import load_data
from ancestral.experiments.build.settled import settled
from ancestral.experiments.runs import RunFolder, train_run
from commands import call

FAST = ("--steps", 2, "--batch-size", 8, "--device", "cpu")
TRAINING = TrainingConfig(
    steps=2,
    batch_size=7,
    seed=5,
    learning_rate=0.01,
    warmup=1,
    optimizer="muon",
    weight_decay=0.5,
    clip=2.0,
    ema=0.5,
    precision="bf16",
    log_every=1,
    evaluate_every=1,
    sample_every=2,
    checkpoint_every=1,
    keep=1,
    recompute=True,
)
TRAINING_OPTIONS = (
    "--steps 2 --batch-size 7 --seed 5 --learning-rate 0.01 --warmup 1 --optimizer muon --weight-decay 0.5 "
    "--clip 2 --ema 0.5 --precision bf16 --log-every 1 --evaluate-every 1 --sample-every 2 "
    "--checkpoint-every 1 --keep 1 --recompute --binarize threshold --validation 0.25"
)
MODELS = {
    "vae": (
        VAEConfig(
            latent_dims=3,
            network="mlp",
            hidden=(6, 5),
            activation="relu",
            dropout=0.1,
            beta=0.5,
            free_bits=0.25,
            training_samples=2,
            likelihood=LikelihoodConfig("gaussian", "shared", 0.5),
        ),
        "--model.latent-dims 3 --model.network mlp --model.hidden 6 5 --model.activation relu "
        "--model.dropout 0.1 --model.beta 0.5 --model.free-bits 0.25 "
        "--model.training-samples 2 --model.likelihood.kind gaussian "
        "--model.likelihood.sigma shared --model.likelihood.value 0.5",
    ),
    "hvae": (
        HVAEConfig(
            levels=2,
            posterior="bottom-up",
            latent_dims=(4, 3),
            hidden=(),
            width=4,
            dropout=0.1,
            beta=0.5,
            free_bits=0.25,
            training_samples=2,
            likelihood=LikelihoodConfig("bernoulli"),
        ),
        "--model.levels 2 --model.posterior bottom-up --model.latent-dims 4 3 --model.hidden --model.width 4 "
        "--model.dropout 0.1 --model.beta 0.5 --model.free-bits 0.25 "
        "--model.training-samples 2 --model.likelihood.kind bernoulli",
    ),
    "ddpm": (
        DDPMConfig(
            T=9,
            first_log_snr=5.0,
            last_log_snr=-5.0,
            prediction="noise",
            variance="posterior",
            loss="min-snr",
            gamma=3.0,
            channels=(4, 8),
            blocks=1,
            attention=(4,),
            dropout=0.1,
        ),
        "--model.T 9 --model.first-log-snr 5 --model.last-log-snr -5 "
        "--model.prediction noise --model.variance posterior --model.loss min-snr --model.gamma 3 "
        "--model.channels 4 8 --model.blocks 1 --model.attention 4 --model.dropout 0.1",
    ),
}
WEIGHTED = (
    HVAEConfig(levels=2, width=4, latent_dims=(2,), training_samples=3, objective="dreg"),
    "--model.levels 2 --model.width 4 --model.latent-dims 2 --model.training-samples 3 "
    "--model.objective dreg",
)
TRANSFORMER = (
    DDPMConfig(
        T=9,
        schedule="sigmoid",
        network="transformer",
        width=8,
        blocks=2,
        heads=2,
        patch=4,
        positions="learned",
    ),
    "--model.T 9 --model.schedule sigmoid --model.network transformer --model.width 8 --model.blocks 2 "
    "--model.heads 2 --model.patch 4 --model.positions learned",
)


@pytest.mark.parametrize(
    ("kind", "model", "options"),
    [*((kind, *given) for kind, given in MODELS.items()), ("ddpm", *TRANSFORMER), ("hvae", *WEIGHTED)],
)
def test_every_option_reaches_the_run(kind, model, options, data, tmp_path):
    out = tmp_path / "new" / "run"
    path = data["images"]
    answer = call("train", kind, "--data", path, "--out", out, *TRAINING_OPTIONS.split(), *options.split())
    assert answer.status == 0, answer.err
    given = RunConfig(DataConfig(path, "threshold", 0.25), model, TRAINING)
    found = RunFolder.open(out).config
    # A number where the default follows from the data (tests/experiments/test_settled.py).
    if model.dropout is None:
        given = replace(given, model=replace(model, dropout=found.model.dropout))
    if getattr(found.model, "likelihood", None) is not None and found.model.likelihood.uniform is not None:
        given = replace(given, model=replace(given.model, likelihood=found.model.likelihood))
    assert found == given
    train_run(given, tmp_path / "python", device="auto")
    for name in ("metrics.jsonl", "samples/step-00000002.png", "checkpoints/step-00000002/state.safetensors"):
        assert (tmp_path / "python" / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.parametrize("kind", MODELS)
def test_defaults_are_the_configs(kind, data, tmp_path):
    """Of everything but what makes it quick."""
    quick = {"vae": ["--model.width", 4], "hvae": ["--model.width", 4], "ddpm": ["--model.channels", 4]}[kind]
    answer = call("train", kind, "--data", data["images"], "--out", tmp_path / "run", *FAST, *quick)
    assert answer.status == 0, answer.err
    model = {"vae": VAEConfig(width=4), "hvae": HVAEConfig(width=4), "ddpm": DDPMConfig(channels=(4,))}[kind]
    expected = RunConfig(DataConfig(data["images"]), model, TrainingConfig(steps=2, batch_size=8))
    x = load_data(data["images"])
    model = settled(model, x.spec, len(x.train))
    plan = replace(expected.training, learning_rate=2e-3)
    assert RunFolder.open(tmp_path / "run").config == replace(expected, model=model, training=plan)


def train(out: Path, data: str, *options: object):
    command = ("train", "vae", "--data", data, "--out", out, *FAST, "--model.network", "mlp", *options)
    answer = call(*command)
    assert answer.status == 0, answer.err
    return answer


def test_json_is_one_object(data, tmp_path):
    answer = train(tmp_path / "run", data["images"], "--json", "--log-every", 1)
    (line,) = answer.out.splitlines()
    found = json.loads(line)
    keys = {"run", "model", "finished", "images_per_second", "last", "stopped_early", "best"}
    assert found.keys() == keys
    assert (found["stopped_early"], found["best"]["step"]) == (False, 2)
    assert (found["run"], found["model"], found["finished"]) == (str(tmp_path / "run"), "vae", True)
    assert found["images_per_second"] > 0
    assert found["last"] == RunFolder.open(tmp_path / "run").records()[-1]
    again = json.loads(call("train", "--resume", tmp_path / "run", "--json").out)
    assert again == {**found, "images_per_second": 0.0, "last": None}


def test_progress_is_on_standard_error(data, tmp_path):
    answer = train(tmp_path / "run", data["images"], "--log-every", 1)
    assert answer.out == ""
    lines = answer.err.splitlines()
    assert [line.split("loss")[0].split() for line in lines[:2]] == [
        ["vae:", "step", f"{i}/2"] for i in (1, 2)
    ]
    assert "held-out ELBO" in lines[2]
    assert "bits/dim" in lines[2]
    assert lines[3].startswith(f"{tmp_path / 'run'}: trained to step 2 at ")
    assert lines[3].endswith(f"Next: ancestral evaluate {tmp_path / 'run'}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_stops_at_once(number, capsys):
    before = signal.getsignal(number)
    with stop_on_signal() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
        assert "stopping after this step; once more to stop at once" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


def test_a_finished_run_says_so(data, tmp_path):
    train(tmp_path / "run", data["images"])
    answer = call("train", "--resume", tmp_path / "run")
    assert (answer.status, answer.out) == (0, "")
    assert answer.err == f"{tmp_path / 'run'}: all 2 steps are taken already.\n"


def test_data_without_validation_are_trained_on(data, tmp_path):
    train(tmp_path / "run", data["vectors"], "--validation", 0)
    kinds = {record["kind"] for record in RunFolder.open(tmp_path / "run").records()}
    assert kinds == {"train"}


def test_resume_takes_the_data_where_they_are_now(data, tmp_path):
    old, new = tmp_path / "old.npz", tmp_path / "new.npz"
    old.write_bytes(Path(data["images"]).read_bytes())
    train(tmp_path / "run", str(old))
    old.rename(new)
    answer = call("train", "--resume", tmp_path / "run")
    assert answer.status == 2
    assert f"there is no data source '{old}'" in answer.message
    assert "'new.npz'" in answer.message
    assert call("train", f"--resume={tmp_path / 'run'}", "--data", new).status == 0
    answer = call("train", "--resume", tmp_path / "run", "--data", data["vectors"])
    assert answer.status == 2
    assert "are not those that" in answer.message
