"""A run made longer: the shorter plan's steps, then the longer plan's from the same weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ancestral.config import DataConfig, RunConfig
from ancestral.experiments.runs import RunFolder, fit, resume_run, train_run
from ancestral.training import CheckpointError, TrainingState, gradient, train
from commands import call
from tiny import MODELS, TRAINING, built, images, saved_images

SHORT = replace(TRAINING, steps=4, warmup=1, log_every=1, evaluate_every=0, precision="fp32")
LONG = replace(SHORT, steps=9)


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run of the shorter plan."""
    config = RunConfig(DataConfig(saved_images(tmp_path), validation=0.2), MODELS["vae-mlp"], SHORT)
    train_run(config, tmp_path / "run", device="cpu")
    return tmp_path / "run"


def rates(run: Path) -> list[float]:
    return [r["learning_rate"] for r in RunFolder.open(run).records() if r["kind"] == "train"]


def test_from_its_last_step_on_the_rate_is_the_longer_plans(run):
    assert resume_run(run, steps=9, device="cpu").finished
    folder = RunFolder.open(run)
    assert (folder.step, folder.training) == (9, LONG)
    assert folder.extended == [{"step": 4, "steps": 4}]
    short, long = (TrainingState(built(MODELS["vae-mlp"], images()), plan) for plan in (SHORT, LONG))
    expected = [short.learning_rate(step) for step in range(4)] + [long.learning_rate(s) for s in range(4, 9)]
    assert rates(run) == expected
    # Called again it is the same run, and nothing is noted twice.
    assert resume_run(run, steps=9, device="cpu").finished
    assert RunFolder.open(run).extended == [{"step": 4, "steps": 4}]


def test_it_is_a_state_that_goes_on(tmp_path):
    """The same weights as of a state that is taken over by hand; also for a chain built in Python."""
    data, out = images(), tmp_path / "run"

    def chain():
        torch.manual_seed(0)
        return built(MODELS["vae-mlp"], data)

    fit(chain(), data, SHORT, out=out, device="cpu")
    state = TrainingState(chain(), SHORT)
    for _ in train(state, data):
        pass
    state.config = LONG
    for _ in train(state, data):
        pass
    RunFolder.open(out).extend(9)
    longer = fit(chain(), data, LONG, out=out, device="cpu").chain
    state.release()
    for ours, theirs in zip(longer.parameters(), state.chain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_only_steps_that_were_taken_are_noted(run):
    folder = RunFolder.open(run)
    for steps in (6, 9):
        folder.extend(steps)
    assert RunFolder.open(run).extended == [{"step": 4, "steps": 4}]
    # Killed between the note and the plan: the note is none.
    (run / "extended.json").write_text(json.dumps([{"step": 4, "steps": 4}, {"step": 9, "steps": 9}]))
    assert RunFolder.open(run).extended == [{"step": 4, "steps": 4}]


def test_steps_taken_again_are_the_longer_plans(run):
    """A checkpoint that is lost takes what was noted at it along."""
    assert [path.name for path in RunFolder.open(run).checkpoints] == ["step-00000002", "step-00000004"]
    weights = run / "checkpoints" / "step-00000004" / "state.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    before = (run / "config.json").read_bytes()
    with pytest.raises(CheckpointError):
        resume_run(run, steps=9, device="cpu")
    assert (run / "config.json").read_bytes() == before
    assert not (run / "extended.json").exists()
    shutil.rmtree(weights.parent)
    resume_run(run, steps=9, device="cpu", should_stop=lambda: RunFolder.open(run).records()[-1]["step"] == 3)
    assert RunFolder.open(run).extended == [{"step": 2, "steps": 4}]
    for path in RunFolder.open(run).checkpoints[1:]:
        shutil.rmtree(path)
    RunFolder.open(run).extend(12)
    (run / "extended.json").write_text(json.dumps([{"step": 3, "steps": 4}]))
    assert resume_run(run, device="cpu").finished
    assert RunFolder.open(run).extended == [{"step": 2, "steps": 4}]


def test_a_longer_run_is_worth_compiling_or_not_by_itself(run):
    """What "auto" decided for the shorter plan was for that one."""
    decided = lambda: json.loads((RunFolder.open(run).checkpoints[-1] / "state.json").read_text())  # noqa: E731
    assert decided()["decisions"]["compiled"] is False
    asked: list[int] = []

    def decide(self, x):
        asked.append(self.state.config.steps)
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradient.Gradient, "_worth_compiling", decide)
        resume_run(run, steps=6, device="cpu")
        assert asked == [6]
        resume_run(run, device="cpu")
        assert asked == [6]


def test_a_run_cannot_be_made_shorter(run):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"steps is 3 and .*run is planned over 4; a run can be made longer"):
        resume_run(run, steps=3, device="cpu")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "text", ["[4]", "4", "?", '[{"step": 4}]', '[{"step": 4.0, "steps": 4}]', '[{"step": 5, "steps": 4}]']
)
def test_a_note_that_is_none(text, run):
    (run / "extended.json").write_text(text)
    with pytest.raises(ValueError, match=r"extended.json cannot be read .*only says where"):
        _ = RunFolder.open(run).extended


def test_the_command(run):
    answer = call("train", "--resume", str(run), "--steps", "6")
    assert answer.status == 0
    assert "trained to step 6" in answer.err
    facts = json.loads(call("info", str(run), "--json").out)
    assert (facts["steps"], facts["step"]) == (6, 6)
    assert facts["extended"] == [{"step": 4, "steps": 4}]
    assert "extended             at 4 of 4\n" in call("info", str(run)).out
