"""TensorBoard's events say what metrics.jsonl says."""

from __future__ import annotations

import json
import sys

import pytest

from commands import call
from tiny import saved_images

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def events(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return {tag: {e.step: e.value for e in found.Scalars(tag)} for tag in found.Tags()["scalars"]}


def test_a_run_and_going_on_with_it(tmp_path):
    run = tmp_path / "run"
    common = (
        "--batch-size",
        8,
        "--device",
        "cpu",
        "--log-every",
        1,
        "--evaluate-every",
        2,
        "--validation",
        0.2,
    )
    small = ("--model.network", "mlp", "--model.hidden", 8)
    data = saved_images(tmp_path)
    answer = call(
        "train", "vae", "--data", data, "--out", run, "--steps", 4, *common, *small, "--tensorboard"
    )
    assert answer.status == 0, answer.err
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = events(run)
    for record in records:
        if record["kind"] == "train":
            assert found["train/loss"][record["step"]] == pytest.approx(record["loss"], rel=1e-6)
            assert found["train/prior"][record["step"]] == pytest.approx(record["terms"]["prior"], rel=1e-6)
            assert found["train/gradient_norm"][record["step"]] == pytest.approx(
                record["gradient_norm"], rel=1e-6
            )
        elif record["kind"] == "validation":
            assert found["validation/elbo"][record["step"]] == pytest.approx(record["elbo"]["mean"], rel=1e-6)
            assert record["step"] in found["validation/bits_per_dim"]
    assert sorted(found["train/loss"]) == [1, 2, 3, 4]


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    answer = call("train", "vae", "--data", "moons", "--out", tmp_path / "run", "--tensorboard", "--steps", 1)
    assert answer.status == 2
    assert "ancestral[tensorboard]" in answer.message
    assert not (tmp_path / "run").exists()
