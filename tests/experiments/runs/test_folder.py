"""A run's folder: what is in it, that it moves, and that what does not belong is refused by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ancestral.config import DataConfig, RunConfig, TrainingConfig
from ancestral.core.spec import DataSpec
from ancestral.evaluation import evaluate
from ancestral.experiments.build.settled import settled
from ancestral.experiments.runs import RunFolder, load_run, resume_run, train_run
from ancestral.experiments.runs.fitting import initial_chain
from ancestral.training import CheckpointError, load_checkpoint
from tiny import MODELS, TRAINING, blobs, images

# What is in it ------------------------------------------------------------------------------------------


def test_a_folder_holds_what_it_says(run):
    assert sorted(path.name for path in run.iterdir()) == [
        *("checkpoints", "config.json", "metrics.jsonl", "samples", "threads.json", "timing.jsonl")
    ]
    # Saved after 2, 4, 6 and 7 steps, pictured after 4 and 7.
    assert [path.name for path in RunFolder.open(run).checkpoints] == [f"step-{s:08d}" for s in (4, 6, 7)]
    assert sorted(path.name for path in (run / "samples").iterdir()) == [f"step-{s:08d}.png" for s in (4, 7)]
    assert RunFolder.open(run).step == 7
    assert RunFolder.open(run).spec == DataSpec((1, 8, 8), 17)


def test_the_configuration_comes_back_as_it_was(trained):
    path, config = trained
    found = RunFolder.open(path).config
    # With numbers for the defaults that depend on the data.
    assert found == replace(config, model=found.model)
    assert found.model == settled(config.model, images().spec, len(images().train))


def test_metrics_are_a_line_per_record(run):
    records = RunFolder.open(run).records()
    trained = [record for record in records if record["kind"] == "train"]
    held_out = [record for record in records if record["kind"] == "validation"]
    assert len(records) == len(trained) + len(held_out)
    assert [record["step"] for record in trained] == list(range(1, 8))
    assert [record["step"] for record in held_out] == [3, 6, 7]
    assert all(record["images_seen"] == 16 * record["step"] for record in records)
    assert all(sum(record["terms"].values()) == pytest.approx(record["loss"]) for record in trained)
    assert all("seconds" not in record for record in records)
    assert [record["step"] for record in RunFolder.open(run).records("timing.jsonl")] == list(range(1, 8))


def test_nothing_is_left_out_at_the_end(trained, tmp_path):
    """With 0 for "only at the end", and with spans that the end is no multiple of."""
    path, config = trained
    spans = {"log_every": 100, "evaluate_every": 0, "sample_every": 0, "checkpoint_every": 0}
    training = replace(config.training, **spans)
    train_run(replace(config, training=training), tmp_path / "run", device="cpu")
    whole, short = RunFolder.open(path), RunFolder.open(tmp_path / "run")
    last = [record for record in whole.records() if record["step"] == 7]
    assert [last[0], {**last[1], "best": None}] == short.records()
    name = "samples/step-00000007.png"
    assert [p.name for p in (tmp_path / "run" / "samples").iterdir()] == ["step-00000007.png"]
    assert (tmp_path / "run" / name).read_bytes() == (path / name).read_bytes()
    assert [p.name for p in short.checkpoints] == ["step-00000007"]


def test_weights_are_the_averaged_ones(run):
    chain = load_run(run)
    tensors, _ = load_checkpoint(RunFolder.open(run).checkpoints[-1])
    for name, parameter in chain.named_parameters():
        assert torch.equal(parameter, tensors[f"ema/{name}"])
        assert not torch.equal(parameter, tensors[f"model/{name}"])
    assert not chain.training


def test_the_first_weights_are_a_function_of_the_seed(trained):
    _, config = trained
    data = images()

    def first(seed: int) -> torch.Tensor:
        chain = initial_chain(replace(config, training=replace(config.training, seed=seed)), data)
        return torch.cat([p.detach().flatten() for p in chain.parameters()])

    before = torch.random.get_rng_state()
    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    assert torch.equal(torch.random.get_rng_state(), before)


# That it moves ------------------------------------------------------------------------------------------


def test_a_run_can_be_moved(trained, tmp_path):
    """Stopped, moved with its data, and gone on with: the same as if it had stayed."""
    path, config = trained
    data = tmp_path / "old" / "data.npz"
    data.parent.mkdir()
    shutil.copy(config.data.source, data)
    config = replace(config, data=replace(config.data, source=str(data)))
    stops = iter([False, False, True])
    first = train_run(config, tmp_path / "old" / "run", device="cpu", should_stop=lambda: next(stops))
    assert (first.step, first.finished) == (3, False)
    (tmp_path / "old").rename(tmp_path / "new")
    moved = tmp_path / "new" / "run"
    with pytest.raises(ValueError, match="no data source"):
        resume_run(moved, device="cpu")
    assert resume_run(moved, data=str(tmp_path / "new" / "data.npz"), device="cpu").finished
    assert (moved / "metrics.jsonl").read_bytes() == (path / "metrics.jsonl").read_bytes()
    x = images().test.x
    ours, theirs = load_run(moved), load_run(path)
    assert evaluate(ours, x).elbo == evaluate(theirs, x).elbo
    torch.manual_seed(1)
    sample = ours.sample(3)
    torch.manual_seed(1)
    assert torch.equal(theirs.sample(3), sample)
    assert str(tmp_path) not in (moved / "metrics.jsonl").read_text()


def test_other_data_are_not_gone_on_with(run, tmp_path):
    x = blobs(60)
    x[5, 0, 0] ^= 1
    np.savez(tmp_path / "other.npz", x=x, levels=17)
    with pytest.raises(ValueError, match=r"other.npz are not those that .*run was trained on"):
        resume_run(run, data=str(tmp_path / "other.npz"))


def test_a_finished_run_is_left_as_it_is(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    fitted = resume_run(run, device="cpu")
    assert (fitted.finished, fitted.step, fitted.records, fitted.images_per_second) == (True, 7, [], 0.0)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_without_its_newest_checkpoint_a_run_goes_on_from_the_one_before(run, trained):
    shutil.rmtree(RunFolder.open(run).checkpoints[-1])
    fitted = resume_run(run, device="cpu")
    assert {record["step"] for record in fitted.records} == {7}
    for name in ("metrics.jsonl", "checkpoints/step-00000007/state.safetensors", "samples/step-00000007.png"):
        assert (run / name).read_bytes() == (trained[0] / name).read_bytes()


def test_what_killed_processes_leave_is_not_read(run):
    shutil.copytree(run / "checkpoints" / "step-00000007", run / "checkpoints" / ".incomplete-step-00000099")
    (run / ".incomplete-config.json").write_text("{")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    assert RunFolder.open(run).step == 7
    assert len(RunFolder.open(run).records()) == 10


# New folders --------------------------------------------------------------------------------------------


def created(path: Path, training: TrainingConfig = TRAINING) -> RunFolder:
    return RunFolder.create(path, images(), training)


def test_a_new_run_takes_no_folder_that_is_in_use(run, tmp_path):
    with pytest.raises(ValueError, match=f"{run} holds another run.*ancestral train --resume {run}"):
        created(run)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="is a folder that is not empty"):
        created(tmp_path / "notes")
    with pytest.raises(ValueError, match="is not a folder"):
        created(tmp_path / "notes" / "a.txt")
    with pytest.raises(ValueError, match="cannot be written"):
        created(tmp_path / "notes" / "a.txt" / "run")
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"


def test_a_folder_whose_process_was_killed_at_once_is_free(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / ".incomplete-config.json").write_text('{"form')
    created(path)
    assert sorted(p.name for p in path.iterdir()) == ["config.json", "threads.json"]


@pytest.mark.parametrize("seed", [0, 2**62 + 1])
def test_training_options_come_back_as_they_were(seed, tmp_path):
    training = replace(TRAINING, seed=seed, learning_rate=1 / 3, weight_decay=1e-300)
    assert created(tmp_path / "a", training).training == training
    assert RunFolder.open(tmp_path / "a").training == training


# What does not belong -----------------------------------------------------------------------------------


def test_there_must_be_a_run(run, tmp_path):
    with pytest.raises(ValueError, match=r"no such folder\. Did you mean 'run'\?"):
        RunFolder.open(tmp_path / "rum")
    with pytest.raises(ValueError, match=rf"it is a folder of runs\. Give one of its runs: {run}\."):
        RunFolder.open(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        RunFolder.open(tmp_path / "empty")


def test_a_run_without_a_checkpoint_says_so(run):
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match=f"no checkpoint yet.*ancestral train --resume {run}"):
        load_run(run)


DELETE = object()
EDITS: list[tuple[list[str], Any, str]] = [
    (["format"], 2, "format 1"),
    (["extra"], 1, "must have the keys"),
    (["content"], DELETE, "must have the keys"),
    (["spec"], None, "spec is None"),
    (["spec", "shape"], "wide", "spec is"),
    (["spec", "shape"], [1, 8], "spec is"),
    (["spec", "levels"], 1.5, "spec is"),
    (["spec", "columns"], "x", "columns is 'x'"),
    (["spec", "columns"], [1, 2], "columns is"),
    (["spec", "class_names"], 3, "class_names is 3"),
    (["data"], None, r"'augment', 'binarize'.* missing"),
    (["data", "source"], 3, "data.source"),
    (["data", "binarize"], "sometimes", "data.binarize"),
    (["data", "validation"], 0.9, "validation is 0.9"),
    (["model"], [], "model.kind is None"),
    (["model", "kind"], DELETE, "model.kind is None"),
    (["model", "kind"], "vea", "model.kind is 'vea'.*Did you mean 'vae'"),
    (["model", "kind"], "ddpm", "unknown.*missing"),
    (["model", "hiden"], [3], r"'hiden' is unknown"),
    (["model", "hidden"], DELETE, r"'hidden' missing"),
    (["model", "hidden"], "16", "model.hidden"),
    (["model", "hidden"], ["16"], "model.hidden.0"),
    (["model", "hidden"], [0], "a number in hidden is 0"),
    (["model", "dropout"], "0", "model.dropout"),
    (["model", "likelihood"], "auto", "model.likelihood"),
    (["model", "likelihood", "kind"], DELETE, r"model.likelihood.*'kind' missing"),
    (["model", "likelihood", "sgima"], 1, r"model.likelihood.*'sgima' is unknown"),
    (["training"], None, "training: .*missing"),
    (["training", "steps"], "7", "training.steps"),
    (["training", "steps"], 7.5, "training.steps"),
    (["training", "steps"], True, "training.steps"),
    (["training", "steps"], 0, "steps is 0; it must be at least 1"),
    (["training", "lr"], 0.1, r"'lr' is unknown"),
    (["training", "ema"], DELETE, r"'ema' missing"),
]


@pytest.mark.parametrize(("where", "value", "message"), EDITS)
def test_an_edited_configuration_is_refused_by_name(where, value, message, run):
    path = run / "config.json"
    facts = json.loads(path.read_text())
    *outer, last = where
    place = facts
    for name in outer:
        place = place[name]
    if value is DELETE:
        del place[last]
    else:
        place[last] = value
    path.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=message) as caught:
        RunFolder.open(run)
    assert str(path) in str(caught.value)
    with pytest.raises(ValueError, match=message):
        resume_run(run)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"format": 1}', b"\xff"])
def test_a_configuration_that_is_none_is_refused(body, run):
    (run / "config.json").write_bytes(body)
    with pytest.raises(ValueError, match=r"config\.json"):
        RunFolder.open(run)


def test_a_checkpoint_of_another_model_is_refused_by_name(run, trained, tmp_path):
    _, config = trained
    for name, model in (
        ("wider", replace(MODELS["vae-mlp"], hidden=(20,))),
        ("deeper", replace(MODELS["vae-mlp"], hidden=(16, 16))),
        ("another", MODELS["ddpm"]),
    ):
        other = tmp_path / name
        train_run(RunConfig(config.data, model, replace(TRAINING, steps=1)), other, device="cpu")
        target = run / "checkpoints" / "step-00000007"
        shutil.rmtree(target)
        shutil.copytree(other / "checkpoints" / "step-00000001", target)
        for act in (load_run, resume_run):
            with pytest.raises(CheckpointError, match="of another model") as caught:
                act(run)
            assert str(target) in str(caught.value)


def test_a_damaged_checkpoint_is_refused_by_name(run):
    state = run / "checkpoints" / "step-00000007" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-4])
    for act in (load_run, resume_run):
        with pytest.raises(CheckpointError, match=r"cut short or edited.*go on from an older") as caught:
            act(run)
        assert str(state.parent) in str(caught.value)


def test_paths_in_a_folder_are_the_users_own(trained):
    path, config = trained
    facts = json.loads((path / "config.json").read_text())
    assert facts["data"] == json.loads(json.dumps(asdict(DataConfig(config.data.source, validation=0.2))))
    facts["data"]["source"] = ""
    assert str(path.parent) not in json.dumps(facts)
