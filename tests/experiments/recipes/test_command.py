"""``ancestral recipe``."""

from __future__ import annotations

import json
import signal

import pytest

from commands import call, finished, start, wait_for


def test_the_list_shows_targets_and_results(shelf, source, tmp_path):
    answer = call("recipe", "list", "--recipes", shelf)
    assert (answer.status, answer.err) == (0, "")
    head, vae, ddpm, later = answer.out.splitlines()
    assert head.split() == ["recipe", "must", "reach", "aim", "recorded"]
    assert vae.split() == ["bits-vae", "30.00", "nats", "20.00", "nats", "not", "run", "yet"]
    assert ddpm.split() == ["grey-ddpm", "–", "–", "not", "run", "yet"]
    assert later.endswith("not run yet (needs model.wings = on)")
    run = ("recipe", "run", "bits-vae", "--recipes", shelf, "--data", source, "--device", "cpu")
    answer = call(*run, "--out", tmp_path / "run", "--steps", 4, "--record")
    assert answer.status == 0, answer.err
    for name in ("result.json", "weights.safetensors"):
        assert f"written: {shelf / 'bits-vae' / name}" in answer.err
    line = call("recipe", "list", "--recipes", shelf).out.splitlines()[1]
    assert "nats, n = 12, shortened: 4 of 8 steps, 6 of 6 samples" in line
    facts = json.loads(call("recipe", "list", "--recipes", shelf, "--json").out)
    assert list(facts) == ["bits-vae", "grey-ddpm", "later"]
    assert facts["bits-vae"]["result"] == json.loads((tmp_path / "run" / "result.json").read_text())
    assert facts["grey-ddpm"]["result"] is None
    assert [facts[name]["status"] for name in facts] == ["recorded", "not run yet", "not run yet"]


def test_a_recipe_that_is_not_run_here_says_so(shelf):
    path = shelf / "grey-ddpm" / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "not_here": "it takes days."}))
    line = call("recipe", "list", "--recipes", shelf).out.splitlines()[2]
    assert line.split() == ["grey-ddpm", "–", "–", "not", "run", "here"]
    facts = json.loads(call("recipe", "list", "--recipes", shelf, "--json").out)
    assert (facts["grey-ddpm"]["status"], facts["grey-ddpm"]["not_here"]) == (
        "not run here",
        "it takes days.",
    )
    assert (facts["bits-vae"]["status"], facts["bits-vae"]["not_here"]) == ("not run yet", "")


def test_the_result_is_printed(shelf, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = ("recipe", "run", "grey-ddpm", "--recipes", shelf, "--data", source, "--device", "cpu", "--json")
    answer = call(*run)
    assert answer.status == 0, answer.err
    # In runs/NAME where --out is not given.
    there = json.loads((tmp_path / "runs" / "grey-ddpm" / "result.json").read_text())
    assert json.loads(answer.out) == there
    assert not (shelf / "grey-ddpm" / "result.json").exists()


def test_a_killed_run_goes_on_with_the_same_command(shelf, source, tmp_path):
    log, out = tmp_path / "log", tmp_path / "run"
    run = ("recipe", "run", "bits-vae", "--recipes", shelf, "--data", source, "--device", "cpu")
    assert finished(start(*run, "--out", tmp_path / "whole", log=log)) == 0, log.read_text()
    process = start(*run, "--out", out, log=log)
    assert wait_for(process, lambda: any((out / "checkpoints").glob("step-*"))), log.read_text()
    process.kill()
    assert finished(process) in (-signal.SIGKILL, 0)
    assert finished(start(*run, "--out", out, log=log)) == 0, log.read_text()
    ours, theirs = (json.loads((place / "result.json").read_text()) for place in (out, tmp_path / "whole"))
    assert ours["value"] == theirs["value"]


MISTAKES = [
    ("recipe lst", "'list'"),
    ("recipe run", "--data"),
    ("recipe run bits-vae --recipes {shelf}", "--data"),
    ("recipe run bit-vae --recipes {shelf} --data {source}", "Did you mean 'bits-vae'?"),
    ("recipe run bits-vae --recipes {shelf} --data {source} --share 2", "share is 2"),
    ("recipe run bits-vae --recipes {shelf} --data {source} --samples 0", "samples is 0"),
    ("recipe run bits-vae --recipes {shelf} --data nowhere.npz", "'nowhere.npz'"),
    ("recipe run later --recipes {shelf} --data {source}", "model.wings = on"),
    ("recipe list --recipes {source}", "there are no recipes in"),
    ("recipe run bits-vae --recipes {shelf} --data {source} --out {shelf}", "a folder that is not empty"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES)
def test_a_mistake_is_one_message(arguments, message, shelf, source, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    answer = call(*arguments.format(shelf=shelf, source=source).split())
    assert answer.status == 2
    assert message in answer.message
    assert "Traceback" not in answer.err
    assert answer.out == ""
    assert not list((tmp_path / "empty").iterdir())


def test_help():
    for arguments in ((), ("--help",)):
        answer = call("recipe", *arguments)
        assert answer.status == 0
        assert "recipe run NAME" in answer.out
    answer = call("recipe", "run", "--help")
    assert all(f"--{name} " in answer.out for name in ("data", "out", "share", "steps", "samples", "device"))
