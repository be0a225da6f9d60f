"""``ancestral info``: what a run is, from its folder alone."""

from __future__ import annotations

import json
import shutil

import pytest

from ancestral.experiments.runs import RunFolder, load_run
from commands import call

KEYS = {
    *("run", "kind", "version", "step", "steps", "extended", "finished", "checkpoints", "parameters"),
    *("images_per_second", "loss", "held_out_elbo", "held_out_bits_per_dim"),
    *("checkpoint", "best", "stopped_early"),
    *("data", "example", "model", "training"),
}


@pytest.mark.parametrize("name", ["vae on images", "hvae on vectors", "ddpm on images"])
def test_facts(name, runs):
    run = runs[name]
    answer = call("info", run, "--json")
    assert answer.status == 0
    (line,) = answer.out.splitlines()
    found = json.loads(line)
    folder = RunFolder.open(run)
    assert found.keys() == KEYS
    assert found["kind"] == name.split()[0]
    assert (found["step"], found["steps"], found["finished"], found["checkpoints"]) == (3, 3, True, 1)
    assert found["parameters"] == sum(p.numel() for p in load_run(run).parameters())
    trained = [record for record in folder.records() if record["kind"] == "train"]
    held_out = [record for record in folder.records() if record["kind"] == "validation"]
    assert found["loss"] == trained[-1]["loss"]
    assert found["held_out_elbo"] == held_out[-1]["elbo"]
    assert found["held_out_bits_per_dim"] == held_out[-1]["bits_per_dim"]
    assert (found["held_out_bits_per_dim"] is None) == name.endswith("vectors")
    example = {"shape": list(folder.spec.shape), "levels": folder.spec.levels}
    assert found["example"] == {
        **example,
        "source_levels": folder.spec.levels,
        "columns": None,
        "class_names": None,
        "whole": None if folder.spec.is_image else [None] * folder.spec.dims,
    }
    for part in ("data", "model", "training"):
        assert found[part] == folder.facts[part]


def test_facts_for_a_person(runs):
    answer = call("info", runs["vae on images"])
    assert answer.status == 0
    lines = [line.split() for line in answer.out.splitlines()]
    for line in (
        ["kind", "vae"],
        ["step", "3"],
        ["finished", "True"],
        ["latent_dims", "3"],
        ["batch_size", "8"],
    ):
        assert line in lines


def test_a_run_that_has_just_begun(runs, tmp_path):
    run = shutil.copytree(runs["vae on images"], tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    (run / "metrics.jsonl").unlink()
    (run / "timing.jsonl").unlink()
    found = json.loads(call("info", run, "--json").out)
    assert (found["step"], found["finished"], found["checkpoints"]) == (0, False, 0)
    assert (found["parameters"], found["loss"], found["images_per_second"]) == (None, None, None)
    assert call("info", run).status == 0


@pytest.mark.parametrize("body", [b"", b"short", None])
def test_a_damaged_checkpoint_is_named(body, runs, tmp_path):
    run = shutil.copytree(runs["vae on images"], tmp_path / "run")
    state = run / "checkpoints" / "step-00000003" / "state.safetensors"
    if body is None:
        state.unlink()
    else:
        state.write_bytes(body)
    answer = call("info", run)
    assert (answer.status, answer.out) == (2, "")
    assert str(state.parent) in answer.message
    assert "not a readable checkpoint" in answer.message
